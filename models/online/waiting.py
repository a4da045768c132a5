"""The join buffer: flows whose features wait for a label, or whose label waits for features. Bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

ROW_BYTES = 240
"""Memory of a waiting row beside its features: its tuple, its id, its place in the flow (CPython 3.11)."""
FLOW_BYTES = 750
"""Memory of a waiting flow beside its rows: itself, its id, its place in three tables."""
FORGOTTEN_BYTES = 150
"""Memory of a forgotten flow."""


class Row(NamedTuple):
    """A row that waits for its flow's label, with the prediction that was made on it."""

    representation: str
    names: tuple[str, ...]
    group: str
    features: bytes
    predicted: str | None


class Flow:
    """A flow remembered: its label if known, and its rows by prediction id (None once learned).

    ``label_waits`` is how its label came, while no row has come since: early or late.
    """

    __slots__ = ("flow_id", "label", "label_waits", "last_ns", "probe", "rows")

    def __init__(self, flow_id: int, probe: str, label: str | None) -> None:
        self.flow_id = flow_id
        self.probe = probe
        self.label = label
        self.label_waits: str | None = None
        self.last_ns = 0
        self.rows: dict[str, Row | None] = {}


class _Probe:
    """A probe's event-time watermark and its flows, longest untouched first."""

    __slots__ = ("flows", "watermark_ns")

    def __init__(self) -> None:
        self.watermark_ns = -(1 << 63)
        self.flows: OrderedDict[int, Flow] = OrderedDict()


class WaitingFlows:
    """Flows by id, forgotten ``wait_ns`` of their probe's event time after they were last touched.

    At most ``max_flows`` are remembered, and as many forgotten ones just by id and label, to tell a label
    that comes late or again from one for a flow never heard of.
    """

    def __init__(self, wait_ns: int, max_flows: int) -> None:
        self.wait_ns = wait_ns
        self.max_flows = max_flows
        self.rows_waiting = 0
        self._row_count = 0
        self._feature_bytes = 0
        self._flows: OrderedDict[int, Flow] = OrderedDict()
        self._forgotten: OrderedDict[int, str | None] = OrderedDict()
        self._probes: dict[str, _Probe] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def get(self, flow_id: int) -> Flow | None:
        """Return a flow that is remembered."""
        return self._flows.get(flow_id)

    def was_forgotten(self, flow_id: int) -> bool:
        """Return whether a flow was remembered before."""
        return flow_id in self._forgotten

    def forgotten_label(self, flow_id: int) -> str | None:
        """Return the label of a forgotten flow, if it had one."""
        return self._forgotten.get(flow_id)

    def is_too_old(self, probe: str, event_ns: int) -> bool:
        """Return whether something of this event time would be forgotten at once."""
        known = self._probes.get(probe)
        return known is not None and event_ns + self.wait_ns < known.watermark_ns

    def touch(self, flow_id: int, probe: str, event_ns: int) -> Flow:
        """Return a flow, remembered from now on (a forgotten one with its label), and put its end off."""
        flow = self._flows.get(flow_id)
        if flow is None:
            flow = self._flows[flow_id] = Flow(flow_id, probe, self._forgotten.pop(flow_id, None))
        else:
            self._flows.move_to_end(flow_id)
        # The probe of the first record stands: a label may name another, but the flow id has the probe in it.
        known = self._probes.get(flow.probe)
        if known is None:
            known = self._probes[flow.probe] = _Probe()
        known.flows[flow_id] = flow
        known.flows.move_to_end(flow_id)
        if event_ns > flow.last_ns:
            flow.last_ns = event_ns
        return flow

    def watermark_ns(self, probe: str) -> int | None:
        """Return the latest event time heard from a probe with flows remembered."""
        known = self._probes.get(probe)
        return None if known is None else known.watermark_ns

    def keep(self, flow: Flow, prediction_id: str, row: Row) -> None:
        """Add a row to a flow."""
        flow.rows[prediction_id] = row
        self.rows_waiting += 1
        self._row_count += 1
        self._feature_bytes += len(row.features)

    def take(self, flow: Flow) -> Iterator[Row]:
        """Yield the waiting rows of a flow; their ids stay, so that a repeat is known as one."""
        for prediction_id, row in flow.rows.items():
            if row is not None:
                flow.rows[prediction_id] = None
                self.rows_waiting -= 1
                self._feature_bytes -= len(row.features)
                yield row

    def advance(self, probe: str, event_ns: int) -> Iterator[Flow]:
        """Move a probe's watermark on; yield each flow that has waited long enough, as it is forgotten."""
        known = self._probes.setdefault(probe, _Probe())
        known.watermark_ns = max(known.watermark_ns, event_ns)
        while known.flows:
            flow = next(iter(known.flows.values()))
            if flow.last_ns + self.wait_ns >= known.watermark_ns:
                return
            self._forget(flow)
            yield flow

    def shrink(self) -> Iterator[Flow]:
        """Yield flows longest untouched, as they are forgotten, until no more than ``max_flows`` are left."""
        while len(self._flows) > self.max_flows:
            flow = next(iter(self._flows.values()))
            self._forget(flow)
            yield flow

    def _forget(self, flow: Flow) -> None:
        del self._flows[flow.flow_id]
        del self._probes[flow.probe].flows[flow.flow_id]
        self._row_count -= len(flow.rows)
        for row in flow.rows.values():
            if row is not None:
                self.rows_waiting -= 1
                self._feature_bytes -= len(row.features)
        if flow.rows or flow.label_waits == "late":
            self._forgotten[flow.flow_id] = flow.label
            if len(self._forgotten) > self.max_flows:
                self._forgotten.popitem(last=False)

    @property
    def state_bytes(self) -> int:
        """Return about how much memory all this takes, from what each part measured on CPython 3.11."""
        rows = self._row_count * ROW_BYTES + self._feature_bytes
        return rows + len(self._flows) * FLOW_BYTES + len(self._forgotten) * FORGOTTEN_BYTES
