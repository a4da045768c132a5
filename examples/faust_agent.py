"""A Faust agent that counts predictions by class.

    BUS=127.0.0.1:9092 python faust_agent.py worker -l info

Faust's codecs turn bytes into values, so Avro comes in as one; the record is a plain dict.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import faust
from consume_predictions import PredictionReader
from faust.serializers import codecs

_reader = PredictionReader()


class Prediction(codecs.Codec):  # type: ignore[misc]
    """Decodes only: this program writes none."""

    def _loads(self, s: bytes) -> Any:
        return _reader.read(s)


codecs.register("prediction", Prediction())

app = faust.App(
    "example-predictions",
    broker=f"kafka://{os.environ.get('BUS', '127.0.0.1:9092')}",
    datadir=tempfile.mkdtemp(prefix="example-faust-"),
    web_enabled=False,
    # The topics are there: nothing is created.
    topic_allow_declare=False,
    topic_disable_leader=True,
    consumer_auto_offset_reset="earliest",
)
predictions = app.topic(
    os.environ.get("TOPIC", "predictions.flow"), value_serializer="prediction", key_serializer="raw"
)
by_class: Counter[str] = Counter()


@app.agent(predictions)
async def count(stream: AsyncIterator[dict[str, Any]]) -> None:
    """Count the class of each prediction; an agent that raised would skip the message and go on."""
    async for record in stream:
        by_class[record["label"] or "(none yet)"] += 1


@app.timer(interval=1.0)
async def tell() -> None:
    """Print the classes, the most frequent first."""
    print(dict(by_class.most_common()), flush=True)


if __name__ == "__main__":
    app.main()
