"""What ``flowgauge spool show`` prints."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from flowgauge.messages import duration, short
from flowgauge.outcome import FAILED, OK, tell
from producers.spool.records import OtherVersion
from producers.spool.segments import segment_numbers, segment_path, sum_up
from schemas.errors import InputError


def show_spool(folder: Path, as_json: bool) -> int:
    """Print a queue's segments; return 1 where one is not whole.

    Raises:
        InputError: the folder or a segment cannot be read.
    """
    try:
        rows = [row for number in segment_numbers(folder) if (row := _row(folder, number))]
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}") from None
    faults = [row["fault"] for row in rows if row["fault"]]
    total: dict[str, Any] = {
        name: sum(row[name] for row in rows) for name in ("bytes", "messages", "packets")
    }
    oldest_ns = min((row["first_ns"] for row in rows if row["first_ns"]), default=None)
    total["oldest_age_s"] = 0.0 if oldest_ns is None else max(0.0, (time.time_ns() - oldest_ns) / 1e9)
    if as_json:
        print(json.dumps({"folder": str(folder), "segments": rows, **total}))
    else:
        for row in rows:
            print(
                f"{row['file']}  {short(row['bytes'])} bytes, {row['messages']} messages, {row['packets']} packets"
            )
        age = duration(round(total["oldest_age_s"] * 1e9))
        waiting = f", the oldest for {age}" if rows else ""
        print(
            f"{total['messages']} messages with {total['packets']} packets in {short(total['bytes'])} bytes{waiting}"
        )
    for fault in faults:
        tell(f"flowgauge: {fault}")
    return FAILED if faults else OK


def _row(folder: Path, number: int) -> dict[str, Any] | None:
    """Return what a segment holds, acknowledged messages included; None where it was deleted meanwhile."""
    path = segment_path(folder, number)
    try:
        end, contents, fault = sum_up(path, number)
    except FileNotFoundError:
        return None
    except OtherVersion as error:
        return {
            "file": path.name, "bytes": path.stat().st_size, "messages": 0, "packets": 0, "first_ns": None,
            "packets_by_partition": {}, "fault": f"{path}: {error}",
        }  # fmt: skip
    return {
        "file": path.name,
        "bytes": end,
        "messages": contents.records,
        "packets": contents.items,
        "first_ns": contents.first_ns,
        "packets_by_partition": {str(p): n for p, n in sorted(contents.by_partition.items())},
        "fault": None if fault is None else str(fault),
    }
