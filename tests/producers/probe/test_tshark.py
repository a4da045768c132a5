"""tshark beside the decoder: its fields come with the packets that they are about, whatever is skipped between them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from producers.probe.source import Reading
from producers.probe.tshark import Dissects, TsharkOptions, TsharkSource
from schemas.codec import encode
from schemas.errors import InputError, SettingsError
from tests.producers.frames import decode_file, mixed_records, pcap
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")

FIELDS = ("frame.number", "frame.len", "udp.srcport", "ip.src", "dns.qry.name")


def run(source: TsharkSource) -> tuple[list[int], list[dict[str, Any]]]:
    """Read as the probe's loop does; return the packets' times and the records."""
    times: list[int] = []
    records: list[dict[str, Any]] = []

    def done() -> bool:
        for _ in range(10_000):
            block = source.read()
            records.extend(source.dissected())
            if block is None:
                break
            times.extend(block.columns.time_ns.tolist())
        source.tick()
        return source.at_end

    wait_until(done, 120)
    return times, records


def test_fields_are_those_of_their_packets(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    records = mixed_records(600)
    path.write_bytes(pcap(records))
    source = TsharkSource(TsharkOptions(str(path), FIELDS))
    assert isinstance(source, Dissects)
    source.start(Reading(8192))
    times, told = run(source)
    expected = decode_file(path)
    assert times == [row["time_ns"] for row in expected.rows]
    assert [record["time_ns"] for record in told] == times
    by_time = {record.time_ns // 1000 * 1000: record for record in records}
    for record in told:
        fields = record["fields"]
        assert int(fields["frame.len"]) == len(by_time[record["time_ns"]].data)
        if record["protocol"] == 17:
            assert fields["udp.srcport"] == str(record["source_port"])
        if ":" not in record["source_address"]:
            assert fields["ip.src"] == record["source_address"]
    assert len({record["fields"]["frame.number"] for record in told}) == len(told)
    # ARP is no packet of ours; tshark told of it as well.
    assert source.events() == {"packets_dissected": len(told), "fields_without_packet": 600 - len(told)}
    assert source.frames()["read"] == 600
    flow_hash = told[0].pop("flow_hash")
    assert flow_hash and encode("PacketFields", {"probe": "p", **told[0]})
    source.close()


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ((), "name the fields that it shall tell"),
        (("ip.src", "no.such.field"), r"probe\.tshark_fields: .*no\.such\.field"),
    ],
)
def test_fields_that_are_none(tmp_path: Path, fields: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        TsharkSource(TsharkOptions(str(tmp_path / "a.pcap"), fields))


def test_a_file_that_is_missing_or_no_capture(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.pcap: cannot be read: No such file"):
        TsharkSource(TsharkOptions(str(tmp_path / "a.pcap"), ("ip.src",)))
    path = tmp_path / "b.pcap"
    path.write_bytes(b"no capture" * 10)
    source = TsharkSource(TsharkOptions(str(path), ("ip.src",)))
    source.start(Reading(8192))
    with pytest.raises(InputError):
        wait_until(lambda: source.read() is not None, 30)
    source.close()


def test_a_tshark_that_dies_stops_the_source(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap(mixed_records(5000)))
    source = TsharkSource(TsharkOptions(str(path), ("ip.src",)))
    source.start(Reading(8192))
    source._tshark.kill()
    source._tshark.wait()
    with pytest.raises(InputError, match="tshark ended"):
        for _ in range(10_000):
            source.read()
    source.close()
