"""``encode``: decoded packets into the messages of the ``packets`` topic, on one core."""

from __future__ import annotations

import time
from collections.abc import Iterator

from flowgauge.bench.corpus import Corpus
from flowgauge.bench.results import Result, measure
from producers.batcher import Batcher
from producers.columns import PacketColumns
from producers.sources.capture import open_capture
from schemas.columns import Array
from schemas.packets import PacketBatch

KEPT_PACKETS = 1 << 19
"""Packets held decoded, or in messages, by the stages that begin behind the decoder."""


def encode(corpus: Corpus, partitions: int, min_seconds: float) -> Result:
    """Measure the batcher and the codec on packets decoded before."""
    blocks = kept_blocks(corpus)
    packets = sum(block.packets for block in blocks)
    octets = sum(len(value) for value in messages(blocks, partitions))

    def run() -> int:
        for _ in messages(blocks, partitions):
            pass
        return packets

    rate = measure(run, min_seconds)
    return Result.of_rate("encode", rate, bytes_per_packet=round(octets / packets, 2))


def kept_blocks(corpus: Corpus) -> list[PacketColumns]:
    """Return the corpus's first packets, decoded."""
    blocks: list[PacketColumns] = []
    packets = 0
    for path in corpus.paths:
        with open_capture(str(path)) as capture:
            for block in capture.blocks():
                blocks.append(PacketColumns(*(column.copy() for column in block)))  # type: ignore[arg-type]
                packets += block.packets
                if packets >= KEPT_PACKETS:
                    return blocks
    return blocks


def messages(blocks: list[PacketColumns], partitions: int) -> Iterator[bytes]:
    """Yield the messages that a probe makes of the packets."""
    batcher = Batcher(partitions)
    sequences = [0] * partitions
    for block in blocks:
        for partition, columns in batcher.add(block):
            yield _message(partition, partitions, sequences, columns)
    for partition, columns in batcher.flush():
        yield _message(partition, partitions, sequences, columns)


def _message(partition: int, partitions: int, sequences: list[int], columns: dict[str, Array]) -> bytes:
    sequences[partition] += 1
    return PacketBatch(
        probe="bench",
        epoch=1,
        partition=partition,
        partitions=partitions,
        sequence=sequences[partition] - 1,
        sent_time_ns=time.time_ns(),
        columns=columns,
        replayed=True,
    ).encode()
