"""Command line of the traffic lab: ``python -m infra.lab list``, ``make``, ``video`` and ``attacks``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from infra.lab.app import load_apps
from infra.lab.attacks.make import BENIGN, make_attacks
from infra.lab.ladder.make import make_video
from infra.lab.make import Summary, make
from infra.lab.network import can_make_namespaces
from schemas.errors import FlowgaugeError

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code (0, 1 for failures, 130 for Ctrl-C)."""
    parser = argparse.ArgumentParser(prog="python -m infra.lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show the applications, and what is missing for them here")
    maker = commands.add_parser("make", help="make a labelled capture of applications (needs root)")
    video = commands.add_parser(
        "video", help="make a capture of adaptive video, with its resolution (needs root)"
    )
    attacks = commands.add_parser(
        "attacks", help="make a capture of attacks among other traffic (needs root)"
    )
    for command, name in ((maker, "lab"), (video, "video"), (attacks, "attacks")):
        command.add_argument("-o", "--out", type=Path, required=True, help="folder for the files")
        command.add_argument("--name", default=name, help=f"NAME.pcap.gz and so on (default: {name})")
        command.add_argument("--seed", type=int, default=1, help="of all behaviour (default: 1)")
        command.add_argument("--snaplen", type=int, default=160, help="octets kept of a frame (default: 160)")
    for command in (maker, attacks):
        what = "how long clients begin visits (default: 60)"
        command.add_argument("--seconds", type=_positive, default=60, help=what)
    maker.add_argument("--apps", help="comma-separated; default: all that can run here")
    attacks.add_argument("--apps", default=BENIGN, help=f"of the traffic around them (default: {BENIGN})")
    video.add_argument("--sessions", type=_count, default=12, help="videos watched (default: 12)")
    video.add_argument("--seconds", type=_positive, default=30, help="playing time of each (default: 30)")
    arguments = parser.parse_args(argv)
    try:
        return _list() if arguments.command == "list" else _make(arguments)
    except FlowgaugeError as error:
        print(f"infra.lab: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("infra.lab: interrupted; namespaces and programs are gone", file=sys.stderr)
        return INTERRUPTED


def _list() -> int:
    for app in load_apps():
        missing = app.missing()
        state = f"missing {', '.join(missing)}: {app.remedy()}" if missing else "ready"
        print(f"{app.name:<11} {app.label:<13} {state}")
    return 0


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _make(arguments: argparse.Namespace) -> int:
    apps = load_apps(arguments.apps.split(",")) if getattr(arguments, "apps", None) else load_apps()
    if (why := can_make_namespaces()) is not None:
        raise FlowgaugeError(why)
    common: dict[str, Any] = {
        "seconds": arguments.seconds,
        "seed": arguments.seed,
        "snap_length": arguments.snaplen,
        "tell": lambda line: print(line, file=sys.stderr),
    }
    if arguments.command == "video":
        summary = make_video(arguments.out, arguments.name, sessions=arguments.sessions, **common)
    elif arguments.command == "attacks":
        summary = make_attacks(apps, arguments.out, arguments.name, **common)
    else:
        summary = make(apps, arguments.out, arguments.name, **common)
    _show(summary)
    return 1 if summary.lost else 0


def _show(summary: Summary) -> None:
    print(f"{summary.packets} packets, {summary.lost} lost; {sum(summary.flows.values())} flows labelled, "
          f"{summary.unlabelled} without label")  # fmt: skip
    for label, count in summary.flows.items():
        print(f"  {label:<13} {count:>6} flows")
    for what, count in sorted(summary.made.items()):
        print(f"  {what:<13} {count:>6} made")
    for name in sorted(summary.failures):
        print(f"  {name}: {summary.failures[name]} of {summary.visits[name]} visits failed, "
              f"the last with: {summary.errors[name]}")  # fmt: skip
    for name, why in summary.skipped.items():
        print(f"  {name}: skipped, {why}")


if __name__ == "__main__":
    sys.exit(main())
