"""The attack task: what is sent raw, what labels a flow, and a tiny run."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from infra.lab.app import load_apps
from infra.lab.attacks import login
from infra.lab.attacks.make import judge_of, make_attacks
from infra.lab.attacks.raw import checksum, syn_segment
from infra.lab.labels import Flow, label_of, parse, split_flows
from infra.lab.make import truth_of
from infra.lab.network import can_make_namespaces
from infra.lab.pcap import read_capture
from infra.lab.plan import client_address, server_address

ALL = ["attacks.login", "attacks.scan", "attacks.flood", "attacks.brute_force", "attacks.beacon"]


@pytest.mark.parametrize("version", [4, 6])
def test_a_syn_has_its_checksum_right(version: int) -> None:
    ends = [client_address(0, version), server_address(1, version)]
    segment = syn_segment(ends[0], ends[1], 4000, 80, 0xDEADBEEF)
    import ipaddress

    packed = b"".join(ipaddress.ip_address(end).packed for end in ends)
    length = struct.pack("!HH", 6, len(segment)) if version == 4 else struct.pack("!II", len(segment), 6)
    assert checksum(packed + length + segment) == 0
    assert struct.unpack("!HHI", segment[:8]) == (4000, 80, 0xDEADBEEF)
    assert segment[13] == 2 and len(segment) == (segment[12] >> 4) * 4 == 24


def test_checksums_of_odd_lengths_and_carries() -> None:
    # The example of RFC 1071, section 3.
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
    assert checksum(b"\xff\xff\xff") == checksum(b"\xff\xff\xff\0")


def test_labels_come_from_the_attacker_or_the_controller() -> None:
    judge = judge_of(load_apps([*ALL, "rpc", "ssh"]))

    def label(client: int, server: int, port: int, protocol: int = 6, version: int = 4) -> str | None:
        ends = (client_address(client, version), 50_000), (server_address(server, version), port)
        there, back = (judge(Flow(a, b, protocol, 0, 1)) for a, b in (ends, ends[::-1]))
        assert there == back
        return there

    assert label(0, 3, 9999) == label(0, 0, 21) == label(0, 1, 77, 17, 6) == "scan"
    assert (label(1, 0, 21), label(1, 0, 21, 17)) == ("syn-flood", "udp-flood")
    assert label(2, 0, 22) == "brute-force"
    assert label(3, 1, 4443) == label(3, 2, 53, 17) == "beacon"
    assert label(3, 0, 21) == label(4, 0, 21) == label(5, 0, 22) == "benign"
    assert label(4, 0, 9999) is None


def test_attackers_and_others_meet_at_the_same_endpoints() -> None:
    truth = truth_of(load_apps([*ALL, "web", "quic", "dns", "ssh", "mqtt", "rpc", "syslog"]))
    assert {"benign", "beacon"} < set(truth.values())
    assert sum(label == "benign" for label in truth.values()) == 2 * len(login.ENDPOINTS)


def test_logins_let_the_right_password_in_and_no_other() -> None:
    async def ftp(*lines: str) -> list[bytes]:
        async with asyncio.timeout(10):
            server = await asyncio.start_server(login._ftp, "127.0.0.1", 0)
            async with login.connected("127.0.0.1", server.sockets[0].getsockname()[1]) as (reader, writer):
                out = [await reader.readline()] + [
                    await login.say(reader, writer, line + "\r\n") for line in lines
                ]
            server.close()
        return [line[:3] for line in out]

    async def web(*tries: tuple[str, str]) -> list[bytes]:
        async with asyncio.timeout(10):
            server = await asyncio.start_server(login._web, "127.0.0.1", 0)
            async with login.connected("127.0.0.1", server.sockets[0].getsockname()[1]) as (reader, writer):
                out = [await login.submit(reader, writer, *one) for one in tries]
            server.close()
        return [line[9:12] for line in out]

    assert asyncio.run(ftp("FEAT", "USER user1", "PASS right1", "QUIT")) == [
        b"220",
        b"530",
        b"331",
        b"230",
        b"221",
    ]
    wrong = ["USER user1", "PASS x"]
    assert asyncio.run(ftp(*wrong * 3, "USER user1")) == [b"220", *[b"331", b"530"] * 3, b""]
    assert asyncio.run(web(("user2", "right2"), ("user2", "right1"), ("", ""))) == [b"200", b"401", b"200"]


@pytest.mark.root
def test_a_tiny_run_has_every_attack_and_every_flow_that_was_made(tmp_path: Path) -> None:
    why = can_make_namespaces()
    if why is not None:
        pytest.skip(why)
    told: list[str] = []
    benign = load_apps(["rpc", "syslog"])
    summary = make_attacks(benign, tmp_path, "a", seconds=6, seed=2, snap_length=100, tell=told.append)
    assert (summary.lost, summary.skipped, summary.unlabelled) == (0, {}, 0)
    assert {"scan", "brute-force", "beacon", "benign"} <= set(summary.flows)
    assert set(summary.flows) & {"syn-flood", "udp-flood"}
    # Whatever an attacker counted as made is a flow of the capture, one for one.
    assert dict(summary.made) == {label: n for label, n in summary.flows.items() if label != "benign"}
    packets = list(read_capture(tmp_path / "a.pcap.gz"))
    assert len(packets) == summary.packets
    assert len(split_flows(packets)) == sum(summary.flows.values())
    ours = {client_address(i, v) for i in range(6) for v in (4, 6)} | {
        server_address(i, v) for i in range(4) for v in (4, 6)
    }
    seen = {
        end[0]
        for packet in packets
        if (s := parse(packet.frame)) is not None
        for end in (s.source, s.destination)
    }
    assert seen <= ours  # nothing went anywhere else
    truth = truth_of(benign)
    assert any(label_of(flow, truth) == "rpc" for flow in split_flows(packets))
