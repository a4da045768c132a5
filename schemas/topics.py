"""Names and properties of the topics on the bus."""

from __future__ import annotations

from dataclasses import dataclass, field

PACKETS = "packets"
PACKETS_FIELDS = "packets.fields"
PAYLOADS = "payloads"
FEATURES_EARLY = "features.early"
FEATURES_WINDOW = "features.window"
FEATURES_FLOW = "features.flow"
FEATURES_PATH = "features.path"
PREDICTIONS_FLOW = "predictions.flow"
PREDICTIONS_PACKET = "predictions.packet"
LABELS = "labels"
TELEMETRY_COST = "telemetry.cost"
DEAD_LETTERS = "dead-letters"
FLOWS_STATE = "flows.state"
MODELS = "models"

PARTITIONS = 8
"""Of the topics that flows are split over, unless the settings say otherwise."""
DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Topic:
    """A topic: the schema of its messages, whether it is split like ``packets``, and its broker settings."""

    name: str
    schema: str
    doc: str
    by_flow: bool = True
    """Partitioned by the flow (as many partitions as ``packets``), so that joins by flow stay local."""
    config: dict[str, str] = field(default_factory=dict)

    def partitions(self, by_flow: int) -> int:
        """Return how many partitions this topic has when flows are split over ``by_flow``."""
        return by_flow if self.by_flow else 1


TOPICS: tuple[Topic, ...] = (
    Topic(
        PACKETS,
        "PacketBatch",
        "packets of one partition's flows, in columns",
        config={"retention.ms": str(DAY_MS), "max.message.bytes": "1048588"},
    ),
    Topic(
        PACKETS_FIELDS,
        "PacketFields",
        "what tshark says of packets, field by field; off by default",
        config={"retention.ms": str(DAY_MS)},
    ),
    Topic(
        PAYLOADS,
        "PayloadBatch",
        "first octets of chosen packets, masked; off by default",
        config={"retention.ms": str(DAY_MS), "max.message.bytes": "1048588"},
    ),
    Topic(
        FEATURES_EARLY,
        "FeatureBatch",
        "feature rows after packet 1 and packet N of a flow",
        config={"retention.ms": str(DAY_MS)},
    ),
    Topic(
        FEATURES_WINDOW,
        "FeatureBatch",
        "feature rows at the end of each window of a flow",
        config={"retention.ms": str(DAY_MS)},
    ),
    Topic(
        FEATURES_FLOW,
        "FeatureBatch",
        "feature rows at the end of a flow: the flow record",
        config={"retention.ms": str(DAY_MS)},
    ),
    Topic(
        FEATURES_PATH,
        "FlowPath",
        "flows seen at two gateways; off by default",
        config={"retention.ms": str(DAY_MS)},
    ),
    Topic(PREDICTIONS_FLOW, "Prediction", "one record per prediction about a flow"),
    Topic(PREDICTIONS_PACKET, "PacketPrediction", "one record per prediction about a packet"),
    Topic(LABELS, "Label", "ground truth by flow id, which may come late"),
    Topic(
        TELEMETRY_COST,
        "CostTelemetry",
        "what each stage did and what it cost",
        by_flow=False,
        # The broker's clock, with which probes compare their own.
        config={"message.timestamp.type": "LogAppendTime"},
    ),
    Topic(DEAD_LETTERS, "DeadLetter", "messages that could not be used, and why", by_flow=False),
    Topic(
        FLOWS_STATE,
        "FlowState",
        "flow state, from which the next worker goes on",
        # Compaction passes over the newest segment: with the usual 1 GiB a worker would leave that much behind.
        config={
            "cleanup.policy": "compact",
            "max.message.bytes": "1048588",
            "segment.bytes": str(32 << 20),
            "min.cleanable.dirty.ratio": "0.1",
        },
    ),
    Topic(
        MODELS,
        "ModelVersion",
        "which version of each model is live",
        by_flow=False,
        config={"cleanup.policy": "compact"},
    ),
)

BY_NAME: dict[str, Topic] = {t.name: t for t in TOPICS}
