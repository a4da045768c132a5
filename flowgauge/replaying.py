"""A replay with its progress and its summary: ``flowgauge replay``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from flowgauge.interrupt import stopping
from flowgauge.messages import duration, short
from flowgauge.progress import progress
from flowgauge.settings import Effective
from flowgauge.wanted import replay_settings, wanted_columns, wanted_packets
from producers.config import BusSettings, PayloadSettings
from producers.privacy.config import PrivacySettings
from producers.probes import ProbeSpec
from producers.replay import ReplayFailed, ReplayOptions, run_replay
from producers.summary import ReplaySummary
from streams.config import StreamsSettings
from streams.flow_rules import flow_rules


def run(
    effective: Effective,
    probes: Sequence[ProbeSpec],
    speed: float | None,
    loops: int,
    labels: str | None,
    as_json: bool,
) -> int:
    """Replay and print what ``flowgauge replay`` prints; the summary comes also when the bus failed."""
    options = ReplayOptions(
        speed,
        loops,
        labels,
        replay_settings(effective),
        wanted_columns(effective),
        effective.get("payloads", PayloadSettings),
        flow_rules(effective.get("streams", StreamsSettings)),
        effective.get("privacy", PrivacySettings),
        wanted_packets(effective),
    )
    bus = effective.get("bus", BusSettings)
    with stopping() as stop:
        try:
            with progress("sent") as update:
                summary = run_replay(
                    probes,
                    bus,
                    options,
                    on_progress=lambda packets, _octets, share: update(packets, share),
                    on_wait=lambda line: print(f"flowgauge: {line}", file=sys.stderr, flush=True),
                    stop=stop.event,
                )
        except ReplayFailed as failure:
            _show(failure.summary, bus.bootstrap, as_json)
            raise
    _show(summary, bus.bootstrap, as_json)
    return stop.exit_code


def _show(summary: ReplaySummary, bootstrap: str, as_json: bool) -> None:
    for warning in summary.warnings:
        print(f"flowgauge: warning: {warning}", file=sys.stderr)
    if as_json:
        print(json.dumps(summary.as_dict()))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, show_header=False, title=_title(summary, bootstrap), title_justify="left"
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(summary):
        table.add_row(name, value)
    Console().print(table)


def _title(summary: ReplaySummary, bootstrap: str) -> str:
    how = "interrupted" if summary.interrupted else "replayed"
    return f"probe {', '.join(summary.probes)}: {how} to {bootstrap} in {summary.duration_s:.2f} s"


def _lines(summary: ReplaySummary) -> list[tuple[str, str]]:
    found: dict[str, Any] = summary.as_dict()
    packets, messages = found["packets"], found["messages"]
    skipped = ", ".join(f"{n} {reason}" for reason, n in sorted(packets["skipped"].items()) if n)
    lines = [
        (
            "read",
            f"{packets['read']} packets, {packets['accepted']} accepted" + _brackets("skipped", skipped),
        ),
        (
            "sent",
            f"{packets['sent']} packets in {found['batches']} batches"
            + _left(packets["left_out"], "left out, behind the first of their flows")
            + _left(packets["unsent"], "not sent"),
        ),
        (
            "acknowledged",
            f"{packets['acked']} packets, {messages['acked']} messages"
            + _left(packets["failed"], "failed")
            + _left(packets["pending"], "without an answer"),
        ),
        (
            "rate",
            f"{short(found['packets_per_s'])} packets/s, {found['mbit_per_s']:.3g} Mbit/s of IP packets",
        ),
    ]
    if summary.payloads:
        lines.append(("payloads", _payloads(summary.payloads)))
    if found["labels"]:
        lines.append(("labels", str(found["labels"])))
    if summary.speed is not None:
        lines.append(("lateness", f"at most {duration(summary.late_max_ns)} after a packet was due"))
    return lines


def _payloads(counts: Mapping[str, int]) -> str:
    left = {
        "without": "empty",
        "not chosen": "not_chosen",
        "fragments": "fragments",
        "cut short": "truncated",
    }
    told = ", ".join(f"{counts[key]} {what}" for what, key in left.items() if counts[key])
    sent = (
        f"{counts['sent']} in {counts['messages']} messages of {short(counts['message_bytes'])} bytes in all"
    )
    return sent + _brackets("packets left out", told)


def _brackets(what: str, text: str) -> str:
    return f" ({what}: {text})" if text else ""


def _left(count: int, what: str) -> str:
    return f", {count} {what}" if count else ""
