"""How the functions are compiled that packets and rows go through.

Numba counts references to arrays. Such a count is an atomic addition, some 5 ns, and a packet met a dozen of them where
a function is handed a tuple of arrays and is not compiled into its caller; which happened or not depended on whether
code had just been compiled or came out of the cache. Among 200,000 flows a worker took 500 ns for a packet, the process
that had compiled the same 150, and both take 100 now. These functions count nothing: whoever calls them from Python
holds the arrays. What allocates an array, or copies a slice into another, does not compile so and needs ``numba.njit``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from numba import njit

compiled: Any = partial(njit, cache=True, nogil=True, _nrt=False)
"""As ``numba.njit``, with or without options; code is kept on disk, and other threads run meanwhile."""
inner: Any = partial(compiled, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""For what only compiled code calls. Leaves out the ways in from Python and C, which cost the compiler much where
arrays of a whole batch come in. Whoever calls such a function from Python crashes."""
