"""How functions are compiled that only compiled code calls."""

from __future__ import annotations

from numba import njit

inner = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Leaves out the ways in from Python and C, which cost the compiler much where arrays of a whole batch come in.
Whoever calls such a function from Python crashes."""
