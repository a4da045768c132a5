"""The largest flows of a run, kept while batches pass by, for a table on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flowgauge.messages import duration, endpoints, short
from flowgauge.records import record_columns
from schemas.features import FeatureBatch

if TYPE_CHECKING:
    from rich.table import Table


_FLOW_WIDTH = 24
"""Room for an IPv4 address with its port on each of two lines, as a terminal of 80 columns shows them."""
_REASON_WIDTH = 14


class LargestFlows:
    """Keeps the ``count`` rows with the most octets of all batches added."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._kept: list[tuple[int, dict[str, Any]]] = []

    def add(self, batch: FeatureBatch) -> None:
        """Take the batch's rows into account."""
        octets = (batch.columns["octets_fwd"] + batch.columns["octets_rev"]).astype(np.int64)
        top = np.argsort(-octets, kind="stable")[: self.count]
        columns = {name: c if name == "texts" else c[top] for name, c in batch.columns.items()}
        part = FeatureBatch(batch.probe, batch.representation, batch.partition, batch.feature_names, columns)
        listed = {k: c.tolist() if isinstance(c, np.ndarray) else c for k, c in record_columns(part).items()}
        rows = [dict(zip(listed, row, strict=True)) for row in zip(*listed.values(), strict=True)]
        self._kept += zip(octets[top].tolist(), rows, strict=True)
        # The start decides between flows of equal size, so that a run prints the same table each time.
        self._kept.sort(key=lambda kept: (-kept[0], kept[1]["start_ns"], kept[1]["flow_id"]))
        del self._kept[self.count :]

    def rows(self) -> list[dict[str, Any]]:
        """Return the kept rows as records, largest first."""
        return [record for _, record in self._kept]

    def table(self, flows: int) -> Table:
        """Return the rows as a table; ``flows`` is how many there were in all."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        title = f"The {len(self._kept)} largest of {flows} flows (sent + received)"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("flow", overflow="fold", min_width=_FLOW_WIDTH)
        for name in ("packets", "octets", "duration"):
            table.add_column(name, justify="right", overflow="fold")
        table.add_column("ended by", overflow="fold", min_width=_REASON_WIDTH)
        for r in self.rows():
            packets, octets = (
                f"{short(r[k + '_fwd'])} + {short(r[k + '_rev'])}" for k in ("packets", "octets")
            )
            table.add_row(
                Text(endpoints(r)), packets, octets, duration(r["duration_ns"]), r["flow_end_reason"]
            )
        return table
