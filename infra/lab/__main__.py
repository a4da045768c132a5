"""Command line of the traffic lab: ``python -m infra.lab list`` and ``python -m infra.lab make``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from infra.lab.app import load_apps
from infra.lab.make import Summary, make
from infra.lab.network import can_make_namespaces
from schemas.errors import FlowgaugeError

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code (0, 1 for failures, 130 for Ctrl-C)."""
    parser = argparse.ArgumentParser(prog="python -m infra.lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show the applications, and what is missing for them here")
    maker = commands.add_parser("make", help="make a labelled capture (needs root)")
    maker.add_argument("--out", type=Path, required=True, help="folder for the two files")
    maker.add_argument("--name", default="lab", help="NAME.pcap.gz and NAME.labels.csv (default: lab)")
    maker.add_argument(
        "--seconds", type=float, default=60, help="how long clients begin visits (default: 60)"
    )
    maker.add_argument("--apps", help="comma-separated; default: all that can run here")
    maker.add_argument("--seed", type=int, default=1, help="of the clients' behaviour (default: 1)")
    maker.add_argument("--snaplen", type=int, default=160, help="octets kept of a frame (default: 160)")
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


def _make(arguments: argparse.Namespace) -> int:
    apps = load_apps(arguments.apps.split(",") if arguments.apps else None)
    if (why := can_make_namespaces()) is not None:
        raise FlowgaugeError(why)
    summary = make(
        apps,
        arguments.out,
        arguments.name,
        seconds=arguments.seconds,
        seed=arguments.seed,
        snap_length=arguments.snaplen,
        tell=lambda line: print(line, file=sys.stderr),
    )
    _show(summary)
    return 0


def _show(summary: Summary) -> None:
    print(f"{summary.packets} packets, {summary.lost} lost; {sum(summary.flows.values())} flows labelled, "
          f"{summary.unlabelled} without label")  # fmt: skip
    for label, count in summary.flows.items():
        print(f"  {label:<13} {count:>6} flows")
    for name in sorted(summary.failures):
        print(f"  {name}: {summary.failures[name]} of {summary.visits[name]} visits failed, "
              f"the last with: {summary.errors[name]}")  # fmt: skip
    for name, why in summary.skipped.items():
        print(f"  {name}: skipped, {why}")


if __name__ == "__main__":
    sys.exit(main())
