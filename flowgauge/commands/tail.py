"""``flowgauge tail``: any topic, decoded for a person."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated

import typer

from flowgauge import options


class Start(StrEnum):
    """Where reading begins."""

    BEGINNING = "beginning"
    END = "end"


def command(
    topic: Annotated[str, typer.Argument(help="A topic, with or without the prefix, as predictions.flow.")],
    start: Annotated[
        Start | None,
        typer.Option("--from", help="Where to begin; the end by default, with --no-follow the beginning."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many messages.")] = None,
    follow: Annotated[
        bool, typer.Option(help="Wait for more messages, or end where the topic ends now.")
    ] = True,
    rows: Annotated[
        bool,
        typer.Option("--rows", help="Each packet of a batch of packets or payloads instead of one line."),
    ] = False,
    join: Annotated[
        bool,
        typer.Option(
            "--join", help="Of a feature topic: flows that several probes saw, joined, with the gap."
        ),
    ] = False,
    bus: options.Bus = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.JsonLines = False,
) -> int:
    """Decode the messages of a topic: packets, payloads, feature rows, predictions, labels, costs, dead letters.

    A message that cannot be decoded is told in one line on stderr, with topic, partition and offset; reading
    goes on.
    """
    from flowgauge.framing import start_framing
    from flowgauge.interrupt import stopping
    from flowgauge.joining import Joiner
    from flowgauge.messages import line_of, records_of
    from flowgauge.settings import load
    from flowgauge.tailing import messages
    from producers.config import BusSettings, topic_name
    from schemas.errors import CodecError
    from schemas.topics import BY_NAME
    from streams.config import StreamsSettings

    effective = load(config, {"bus.bootstrap": bus}, settings or ())
    start_framing(effective)
    found = effective.get("bus", BusSettings)
    name = topic_name(found, topic) if topic in BY_NAME or topic.startswith("features.") else topic
    joiner = Joiner(topic, effective.get("streams", StreamsSettings)) if join else None
    beginning = start is Start.BEGINNING or (start is None and not follow)
    with stopping() as stop:
        for count, message in enumerate(messages(found, name, beginning, follow, stop), 1):
            # A record may have a topic, partition and offset of its own: a dead letter has.
            place = {
                "kafka_topic": name,
                "kafka_partition": message.partition(),
                "kafka_offset": message.offset(),
            }
            head = f"{name}[{message.partition()}]@{message.offset()}"
            try:
                value = message.value() or b""
                schema, records = (
                    records_of(value, rows) if joiner is None else joiner.records(message.partition(), value)
                )
            except CodecError as error:
                print(f"flowgauge: {head}: cannot be decoded: {error}", file=sys.stderr, flush=True)
                records, schema = [], ""
            for record in records:
                print(
                    json.dumps({**place, "schema": schema, **record})
                    if as_json
                    else f"{head} {line_of(schema, record)}"
                )
            sys.stdout.flush()
            if limit is not None and count >= limit:
                break
    return stop.exit_code
