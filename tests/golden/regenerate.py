"""Writes the golden files anew: ``python -m tests.golden.regenerate``; then review the difference.

A golden message of a schema that has changed since is kept under a name with its fingerprint: readers go on
reading it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flowgauge.messages import payload_records
from schemas.codec import HEADER_BYTES, NAMES, decode, schema
from schemas.columns import columns_of
from streams.config import RepresentationSettings, StreamsSettings
from streams.services.config import ServiceSettings
from tests.conftest import ROOT
from tests.golden.captures import CAPTURES, records
from tests.producers.payloads.test_replay import replayed
from tests.schemas.messages import message, readable

HERE = Path(__file__).parent
MESSAGES = HERE / "messages"
COLUMNS = HERE / "columns.json"
DEMO = ROOT / "infra" / "lab" / "data" / "demo.pcap.gz"
DEMO_RECORDS = 50
PAYLOAD_DIGITS = 96
SERVICES = StreamsSettings(
    representations=(RepresentationSettings(name="flow", kind="flow", features=("totals",)),),
    services=(
        ServiceSettings(name="web", ports=("tcp/80", "tcp/8080"), collect=("size_statistics",), every_s=5),
        ServiceSettings(name="node", prefixes=("198.18.0.12/32", "fd00:18::b/128"), collect=("totals",)),
        ServiceSettings(name="lab", domains=("lab",), prefixes=("198.18.0.10/31",)),
        ServiceSettings(name="resolver", ports=("udp/53",), probes=("golden",)),
        ServiceSettings(name="elsewhere", ports=("1-65535",), probes=("another",)),
    ),
)


def as_text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def columns_table() -> dict[str, dict[str, str]]:
    """Return what consumers rely on about each column: type, width, unit and row count field."""
    return {
        name: {
            c.name: " ".join(
                [c.element.str, "x".join(map(str, c.width or (c.width_field or 1,))), c.unit, c.rows]
            )
            for c in columns_of(schema(name))
        }
        for name in NAMES
    }


def summary_of(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return a capture's counts, and its rows."""
    summary, lines = records(path)
    told = summary.as_dict()
    told.pop("duration_s")
    return told, lines


def write_lines(path: Path, head: dict[str, Any], lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in [json.dumps(head), *lines]), encoding="utf-8")


def made(name: str) -> tuple[dict[str, Any], list[str]]:
    """Return counts and rows of a capture made by hand."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.pcap"
        path.write_bytes(CAPTURES[name]())
        return summary_of(path)


def demo() -> tuple[dict[str, Any], list[str]]:
    """Return the demo capture's counts with a digest of all rows, and its first flow records."""
    told, lines = summary_of(DEMO)
    told["sha256"] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    flows = [line for line in lines if line.startswith('{"representation": "flow"')]
    return told, flows[:DEMO_RECORDS]


def demo_services() -> tuple[dict[str, Any], list[str]]:
    """Return the demo capture's counts with services named, a digest of their rows, and the first of these."""
    summary, lines = records(DEMO, SERVICES)
    told = {"services": summary.services, "rules_without_match": summary.rules_without_match}
    told["rows"] = dict(summary.rows)
    told["sha256"] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return told, lines[:DEMO_RECORDS]


def demo_payloads() -> tuple[dict[str, Any], list[str]]:
    """Return what a replay of the demo capture with payloads counts, a digest of them, and the first few cut short."""
    batches, summary, _ = replayed([str(DEMO)], {"mode": "first"})
    rows = [row for batch in batches for row in payload_records(batch)]
    for row in rows:
        del row["sequence"]  # says how rows were cut into batches
    rows.sort(key=lambda row: (row["time_ns"], row["flow_id"], row["packet_number"]))
    whole = "\n".join(map(json.dumps, rows))
    counts = {name: n for name, n in sorted(summary.payloads.items()) if not name.startswith("message")}
    told: dict[str, Any] = {"payloads": counts, "packets": summary.packets_acked}
    told["sha256"] = hashlib.sha256(whole.encode()).hexdigest()
    shown = [{**row, "payload": row["payload"][:PAYLOAD_DIGITS]} for row in rows[:DEMO_RECORDS]]
    return told, [json.dumps(row) for row in shown]


def write_messages() -> None:
    MESSAGES.mkdir(exist_ok=True)
    for name in NAMES:
        data, path = message(name), MESSAGES / f"{name}.avro"
        if path.exists() and path.read_bytes()[:HEADER_BYTES] != data[:HEADER_BYTES]:
            fingerprint = path.read_bytes()[2:HEADER_BYTES].hex()
            for old in (path, path.with_suffix(".json")):
                old.rename(old.with_name(f"{name}.{fingerprint}{old.suffix}"))
        path.write_bytes(data)
        text = as_text(readable(name, decode(name, data)))
        path.with_suffix(".json").write_text(text, encoding="utf-8")


def main() -> None:
    write_messages()
    COLUMNS.write_text(as_text(columns_table()), encoding="utf-8")
    for name in CAPTURES:
        write_lines(HERE / f"{name}.jsonl", *made(name))
    if DEMO.is_file():
        write_lines(HERE / "demo.jsonl", *demo())
        write_lines(HERE / "demo_services.jsonl", *demo_services())
        write_lines(HERE / "demo_payloads.jsonl", *demo_payloads())


if __name__ == "__main__":
    main()
