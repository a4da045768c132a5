"""What the commands that start a worker share: its log on stderr, its counters at the end."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

from flowgauge.outcome import tell


class _Lines(logging.Formatter):
    """One line a record, begun like every message of the command."""

    def format(self, record: logging.LogRecord) -> str:
        """Return ``flowgauge: warning: …``; plain information comes without its level."""
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"flowgauge: {level}{' '.join(record.getMessage().split())}"


def log_to_stderr() -> None:
    """Put what our own loggers say on stderr; other libraries' only from errors on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.ERROR)
    logging.getLogger("flowgauge").setLevel(logging.INFO)


def waiting(line: str) -> None:
    """Tell that the broker does not answer yet."""
    tell(f"flowgauge: {line}")


def show_counters(
    stage: str, counters: Mapping[str, int], as_json: bool, learned: Mapping[str, Any] | None = None
) -> None:
    """Print what a worker counted (and what a model learned), when it has stopped."""
    if as_json:
        print(
            json.dumps(
                {"stage": stage, "counters": dict(counters), **({"learned": learned} if learned else {})}
            ),
            flush=True,
        )
        return
    counted = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counters.items() if count)
    print(f"{stage} stopped: {counted or 'nothing came in'}", flush=True)
