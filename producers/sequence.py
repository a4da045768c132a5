"""Epochs and sequence numbers, by which consumers see gaps and duplicates."""

from __future__ import annotations


class Sequencer:
    """Numbers the batches of one probe: 0, 1, 2, … within (epoch, partition).

    Args:
        partitions: how many partitions the probe splits its flows over.
        epoch: when the probe started, in ns since the Unix epoch.
    """

    def __init__(self, partitions: int, epoch: int) -> None:
        self.epoch = epoch
        self._next = [0] * partitions

    def next(self, partition: int) -> int:
        """Return the number of the partition's next batch."""
        number = self._next[partition]
        self._next[partition] = number + 1
        return number

    def restart(self) -> None:
        """Begin a new epoch, later than the last, in which numbers count from 0 again."""
        self.epoch += 1
        self._next = [0] * len(self._next)
