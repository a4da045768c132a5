"""Filters compile with libpcap's words for what does not."""

from __future__ import annotations

import pytest

from producers.decoder.link import ETHERNET, RAW
from producers.probe.ring import filters
from producers.probe.ring.filters import compile_filter
from schemas.errors import SettingsError


@pytest.fixture
def _libpcap() -> None:
    try:
        compile_filter("ip", ETHERNET, 100)
    except SettingsError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("_libpcap")
def test_what_passes_is_cut_to_the_snap_length_and_what_does_not_is_not() -> None:
    found = compile_filter("udp port 53", ETHERNET, 192)
    returns = {k for code, _, _, k in found.instructions if code == 6}
    assert returns == {0, 192}
    assert compile_filter("udp port 53", RAW, 192).instructions != found.instructions


@pytest.mark.usefixtures("_libpcap")
def test_a_filter_that_does_not_compile_is_told_in_libpcaps_words() -> None:
    with pytest.raises(SettingsError, match=r"filter 'udp prot 53' does not compile: .+"):
        compile_filter("udp prot 53", ETHERNET, 192)


def test_no_filter_takes_everything_and_needs_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "_library", lambda: 1 / 0)
    assert compile_filter(" ", ETHERNET, 192).instructions == ((6, 0, 0, 192),)


def test_without_libpcap_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    filters._library.cache_clear()
    monkeypatch.setattr(filters, "_LOADED_AS", ("libnothere.so",))
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    with pytest.raises(SettingsError, match=r"apt install libpcap0\.8"):
        compile_filter("udp", ETHERNET, 192)
    filters._library.cache_clear()
