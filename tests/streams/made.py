"""Made-up packets, cut into batches and run through the core; rows in a form that can be compared."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from producers.columns import PacketColumns, allocate
from schemas.columns import Array
from schemas.features import ROW_COLUMNS, FeatureBatch
from schemas.flow_key import hash_five_tuple
from schemas.packets import COLUMNS, PacketBatch, decode_packet_batch, empty_columns
from streams import checkpoint
from streams.config import RepresentationSettings, StreamsSettings
from streams.partition import Partition
from streams.plan import Plan
from streams.probe_flows import Rows

SECOND = 1_000_000_000
START_NS = 1_700_000_000 * SECOND + 123_456_789
FIN, SYN, RST, ACK = 1, 2, 4, 16
TCP, UDP, ICMP = 6, 17, 1


class Flow(NamedTuple):
    """A canonical five-tuple (the smaller address first)."""

    a: str
    b: str
    port_a: int
    port_b: int
    protocol: int = TCP

    @property
    def ip_version(self) -> int:
        return ipaddress.ip_address(self.a).version

    def address(self, which: str) -> bytes:
        return ipaddress.ip_address(self.a if which == "a" else self.b).packed.ljust(16, b"\0")


@cache
def flow_hash(flow: Flow) -> int:
    a, b = (np.frombuffer(flow.address(which), np.uint8) for which in "ab")
    return int(hash_five_tuple(a, b, flow.port_a, flow.port_b, flow.protocol, flow.ip_version))


FLOWS = (
    Flow("10.0.0.1", "10.0.0.2", 40000, 443),
    Flow("10.0.0.1", "10.0.0.2", 40001, 443),
    Flow("2001:db8::1", "2001:db8::2", 50000, 22),
    Flow("10.0.0.1", "192.0.2.53", 5353, 53, UDP),
    Flow("2001:db8::1", "2001:db8::2", 50000, 22, UDP),
    Flow("10.0.0.1", "10.0.0.3", 8, 0, ICMP),
    # Addresses that differ in their second half only.
    Flow("2001:db8::1", "2001:db8::3", 50000, 22),
)


class Made(NamedTuple):
    """A packet; ``direction`` 0 is from the flow's endpoint a to b."""

    time_ns: int
    flow: Flow = FLOWS[0]
    direction: int = 0
    octets: int = 100
    flags: int = ACK
    header_octets: int = 40
    tcp_window: int = 1000
    ttl: int = 64


def columns_of(packets: Sequence[Made], hashes: dict[Flow, int] | None = None) -> dict[str, Array]:
    """Return the columns of a batch; ``hashes`` overrides the flows' hashes."""
    if not packets:
        return empty_columns()
    flows = list(dict.fromkeys(p.flow for p in packets))
    places = {flow: i for i, flow in enumerate(flows)}
    lists: dict[str, list[Any]] = {
        "flow_hash": [(hashes or {}).get(f) or flow_hash(f) for f in flows],
        "address_a": [list(f.address("a")) for f in flows],
        "address_b": [list(f.address("b")) for f in flows],
        "port_a": [f.port_a for f in flows],
        "port_b": [f.port_b for f in flows],
        "protocol": [f.protocol for f in flows],
        "ip_version": [f.ip_version for f in flows],
        "flow_index": [places[p.flow] for p in packets],
        "tcp_flags": [p.flags for p in packets],
        **{
            name: [getattr(p, name) for p in packets]
            for name in ("time_ns", "octets", "header_octets", "tcp_window", "ttl", "direction")
        },
    }
    return {c.name: np.array(lists[c.name], dtype=c.dtype.base) for c in COLUMNS}


def decoded(packets: Sequence[Made]) -> PacketColumns:
    """Return packets as the decoder gives them."""
    out = allocate(len(packets))
    for i, p in enumerate(packets):
        out.flow_hash[i] = flow_hash(p.flow)
        out.address_a[i], out.address_b[i] = (list(p.flow.address(which)) for which in "ab")
        out.port_a[i], out.port_b[i] = p.flow.port_a, p.flow.port_b
        out.protocol[i], out.ip_version[i], out.tcp_flags[i] = p.flow.protocol, p.flow.ip_version, p.flags
        for name in ("time_ns", "octets", "header_octets", "tcp_window", "ttl", "direction"):
            getattr(out, name)[i] = getattr(p, name)
    return out


def batch(
    packets: Sequence[Made],
    sequence: int = 0,
    *,
    probe: str = "p",
    epoch: int = 1,
    partition: int = 0,
    hashes: dict[Flow, int] | None = None,
    **more: Any,
) -> PacketBatch:
    """Return a batch as an agent gets it: encoded, decoded, checked."""
    made = PacketBatch(probe, epoch, partition, 4, sequence, 0, columns_of(packets, hashes), **more)
    return decode_packet_batch(made.encode())


@dataclass(frozen=True, order=True)
class Row:
    """A row of a representation, as bytes: equal if and only if every value is."""

    probe: str
    representation: str
    identity: tuple[bytes, ...]
    features: bytes

    def __getitem__(self, name: str) -> Any:
        """Return an identity column's value by its name."""
        for column, raw in zip(ROW_COLUMNS, self.identity, strict=True):
            if column.name == name:
                return raw if column.dtype.shape else int(np.frombuffer(raw, column.dtype)[0])
        raise KeyError(name)

    @property
    def values(self) -> list[float]:
        return [float(v) for v in np.frombuffer(self.features, "<f4")]


def rows_of(batches: Iterable[FeatureBatch]) -> list[Row]:
    """Return the rows of feature batches, in order; each batch goes through its encoding's columns."""
    return [
        Row(
            b.probe,
            b.representation,
            tuple(b.columns[c.name][i].tobytes() for c in ROW_COLUMNS),
            b.columns["features"][i].tobytes(),
        )
        for b in batches
        for i in range(b.rows)
    ]


def named(plan: Plan, row: Row) -> dict[str, float]:
    """Return a row's features by name."""
    names = next(r.names for r in plan.representations if r.name == row.representation)
    return dict(zip(names, row.values, strict=True))


def cut(packets: Sequence[Made], size: int) -> Iterator[Sequence[Made]]:
    for start in range(0, len(packets), size):
        yield packets[start : start + size]


class Run:
    """A partition fed batch by batch; keeps the rows."""

    def __init__(self, plan: Plan, number: int = 0) -> None:
        self.plan = plan
        self.partition = Partition(plan, number)
        self.rows: list[Row] = []
        self.sequences: dict[tuple[str, int], int] = {}

    def feed(
        self, packets: Sequence[Made], probe: str = "p", epoch: int = 1, now_ns: int = 0, **more: Any
    ) -> list[Row]:
        """Apply one batch; return the rows it made."""
        sequence = self.sequences.get((probe, epoch), 0)
        self.sequences[probe, epoch] = sequence + 1
        made = batch(packets, sequence, probe=probe, epoch=epoch, **more)
        return self.take(self.partition.apply(made, 0, now_ns))

    def take(self, batches: Iterable[FeatureBatch]) -> list[Row]:
        rows = rows_of(batches)
        self.rows += rows
        return rows

    def take_rows(self, probe: str, emitted: Iterable[Rows]) -> list[Row]:
        """Take what a probe's table emitted without a batch."""
        state = self.partition.probes[probe]
        return self.take(self.partition._feature_batch(probe, state, rows, None, 0) for rows in emitted)

    def sweep(self) -> None:
        """Close what is due in every probe's table, all of it."""
        for name, probe in self.partition.probes.items():
            self.take_rows(name, probe.flows.sweep())

    def reload(self) -> None:
        """Go on from the saved state, as another worker would."""
        self.partition = checkpoint.load(checkpoint.save(self.partition), self.plan, 0, 0)

    def end(self) -> list[Row]:
        return self.take(self.partition.end_all(0))

    @property
    def counts(self) -> Counter[str]:
        return self.partition.counts()


def run(plan: Plan, packets: Sequence[Made], size: int = 2048) -> Run:
    """Feed packets in batches of ``size``, end all flows."""
    done = Run(plan)
    for part in cut(packets, size):
        done.feed(part)
    done.end()
    return done


ALL_FEATURES = (
    "flag_sequence",
    "gap_statistics",
    "packet_sequence",
    "protocol",
    "size_statistics",
    "tcp_window",
    "totals",
    "ttl",
)
REPRESENTATIONS = (
    RepresentationSettings(
        name="early",
        kind="early",
        depth=3,
        features=("protocol", "packet_sequence", "flag_sequence", "ttl", "tcp_window"),
    ),
    RepresentationSettings(
        name="deep", kind="early", depth=10, features=("packet_sequence", "size_statistics")
    ),
    RepresentationSettings(
        name="steps", kind="early", depths=(1, 2, 3, 5), ends=True, features=("packet_sequence", "ttl")
    ),
    RepresentationSettings(name="later", kind="early", depths=(4,), ends=True, features=("protocol",)),
    RepresentationSettings(
        name="window", kind="window", every_s=1.0, features=("totals", "size_statistics", "gap_statistics")
    ),
    RepresentationSettings(name="short", kind="window", every_s=0.25, features=("totals", "packet_sequence")),
    RepresentationSettings(name="flow", kind="flow", features=ALL_FEATURES),
)


def brisk(**changes: Any) -> StreamsSettings:
    """Return settings with short timeouts and every kind of representation."""
    given: dict[str, Any] = {
        "idle_timeout_s": 2.0,
        "active_timeout_s": 5.0,
        "tcp_linger_s": 0.5,
        "lateness_s": 0.2,
        "silence_s": 5.0,
        "max_flows": 1024,
        "representations": REPRESENTATIONS,
    }
    return StreamsSettings(**{**given, **changes})
