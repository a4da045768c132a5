"""The sources of a live probe that are no interfaces: from their settings to what is open."""

from __future__ import annotations

from pathlib import Path

from producers.probe.config import ProbeSettings
from producers.probe.source import LiveSource
from producers.probe.tcp import TcpClient, TcpServer, parse_address
from producers.probe.tshark import TsharkOptions, TsharkSource
from producers.probe.watch import WatchOptions, WatchSource
from schemas.errors import SettingsError


def other_sources(settings: ProbeSettings) -> list[LiveSource]:
    """Open the sources that are no interfaces.

    Raises:
        SettingsError: one that is none, or several processes, which can share an interface's packets only.
        InputError: a file that cannot be read.
    """
    if settings.processes > 1 and (settings.sources or settings.watch):
        raise SettingsError("probe.processes: only interfaces can be shared, not --source and --watch")
    sources: list[LiveSource] = [other_source(text, settings) for text in dict.fromkeys(settings.sources)]
    if settings.watch:
        sources.append(WatchSource(watch_options(settings)))
    return sources


def other_source(text: str, settings: ProbeSettings) -> LiveSource:
    """Return the source that a text of ``probe.sources`` names; raises SettingsError where it names none."""
    kind, _, rest = text.partition("://")
    if kind == "tcp":
        return TcpClient(parse_address(rest, "--source tcp://"))
    if kind == "tcp-listen":
        return TcpServer(parse_address(rest, "--source tcp-listen://"))
    if kind == "tshark" and rest:
        return TsharkSource(TsharkOptions(rest, settings.tshark_fields, settings.filter, settings.user))
    raise SettingsError(
        f"--source {text}: write it as tcp://host:port, tcp-listen://host:port, tshark://IF or tshark:///file"
    )


def watch_options(settings: ProbeSettings) -> WatchOptions:
    """Return how the folder is watched."""
    folder = Path(settings.watch)
    return WatchOptions(
        folder,
        Path(settings.watch_state) if settings.watch_state else folder / f".flowgauge-{settings.name}.json",
        settings.watch_pattern,
        settings.watch_follow,
        settings.watch_quiet_s,
        settings.watch_after,
        Path(settings.watch_move_to) if settings.watch_move_to else None,
    )
