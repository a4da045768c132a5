"""Who may do what on the bus: the ACLs that each kind of process needs, and no more."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from flowgauge.bus import TIMEOUT_S, admin, broker_topics, project_topics
from flowgauge.recording.config import RecordSettings
from flowgauge.settings import Effective
from models.flow.config import CascadeSettings
from models.online.config import OnlineSettings
from models.packet.config import PacketModelSettings
from producers.config import BusSettings, PayloadSettings, topic_name
from producers.probe.config import ProbeSettings
from producers.security.clients import said
from schemas.errors import BusError, SettingsError
from schemas.topics import (
    DEAD_LETTERS,
    FEATURES_PATH,
    FLOWS_STATE,
    LABELS,
    MODELS,
    PACKETS,
    PACKETS_FIELDS,
    PAYLOADS,
    PREDICTIONS_FLOW,
    PREDICTIONS_PACKET,
    TELEMETRY_COST,
)
from streams.config import StreamsSettings

READ, WRITE = "Read", "Write"
_OWN_GROUP = "\0"
"""Stands for the name of the principal in the name of a group."""
_TOLD = (DEAD_LETTERS, TELEMETRY_COST)


@dataclass(frozen=True)
class Grant:
    """One thing that a role may do; Kafka lets whoever may read or write a topic also see that it is there."""

    kind: str
    """``topic``, ``group`` or ``cluster``."""
    name: str
    """Full name, or what names begin with."""
    operation: str
    prefixed: bool = False


def _topics(effective: Effective, read: Sequence[str] = (), write: Sequence[str] = ()) -> Iterator[Grant]:
    bus = effective.get("bus", BusSettings)
    for operation, names in ((READ, read), (WRITE, write)):
        yield from (Grant("topic", topic_name(bus, name), operation) for name in names)


def roles(effective: Effective) -> dict[str, tuple[Grant, ...]]:
    """Return what each role needs under these settings: their prefix, groups, representations and models."""
    bus, streams = effective.get("bus", BusSettings), effective.get("streams", StreamsSettings)
    online, packet = (
        effective.get("models", OnlineSettings),
        effective.get("packet_models", PacketModelSettings),
    )
    cascade = effective.get("cascade", CascadeSettings)
    early = [f"features.{r.name}" for r in streams.computed if r.kind == "early"]
    features = [f"features.{r.name}" for r in streams.computed]
    if streams.path_join != "off":
        features.append(FEATURES_PATH)
    fields = [PACKETS_FIELDS] if effective.get("probe", ProbeSettings).tshark_fields else []
    payloads = [PAYLOADS] if effective.get("payloads", PayloadSettings).mode != "off" else []
    rows = [f"features.{name}" for name in online.representations]
    patterns = effective.get("record", RecordSettings).topics
    recorded = [name for name in project_topics(streams) if any(fnmatchcase(name, p) for p in patterns)]

    def group(name: str, prefixed: bool = False) -> tuple[Grant, ...]:
        return (Grant("group", f"{bus.topic_prefix}{name}", READ, prefixed),)

    def topics(read: Sequence[str] = (), write: Sequence[str] = ()) -> tuple[Grant, ...]:
        return tuple(_topics(effective, read, write))

    return {
        "probe": topics(write=[PACKETS, *fields, *payloads, TELEMETRY_COST]),
        "replay": topics(write=[PACKETS, *payloads, LABELS, TELEMETRY_COST]),
        "flows": topics([PACKETS, FLOWS_STATE], [*features, FLOWS_STATE, *_TOLD]) + group(streams.group),
        "models": topics([*rows, LABELS], [PREDICTIONS_FLOW, *_TOLD]) + group(online.group),
        "packet-models": topics([PAYLOADS, LABELS, MODELS], [PREDICTIONS_PACKET, PREDICTIONS_FLOW, *_TOLD])
        + group(f"{packet.group}.", prefixed=True),
        "cascade": topics(
            [*early, *payloads, LABELS, MODELS, FLOWS_STATE], [PREDICTIONS_FLOW, FLOWS_STATE, *_TOLD]
        )
        + group(f"{cascade.group}.", prefixed=True),
        "publisher": topics([MODELS], [MODELS]),
        "labels": topics(write=[LABELS]),
        "record": topics(recorded, _TOLD),
        "costs": topics([TELEMETRY_COST]),
        "subscriber": (
            *topics([PREDICTIONS_FLOW, PREDICTIONS_PACKET]),
            Grant("group", _OWN_GROUP, READ, prefixed=True),
        ),
        "operator": (
            *(
                Grant("topic", topic_name(bus, name), operation)
                for name in project_topics(streams)
                for operation in ("Create", "Describe", "DescribeConfigs")
            ),
        ),
    }


@dataclass(frozen=True)
class Holder:
    """A principal, ``User:name``, and the role that it has."""

    role: str
    principal: str

    def grants(self, grants: Sequence[Grant]) -> Iterator[Grant]:
        """Yield the role's grants; consumer groups of one's own begin with the principal's name."""
        own = self.principal.partition(":")[2]
        for grant in grants:
            yield Grant(grant.kind, grant.name.replace(_OWN_GROUP, own), grant.operation, grant.prefixed)


def parse_holders(texts: Sequence[str], known: Sequence[str]) -> list[Holder]:
    """Return the holders that ``ROLE=User:NAME`` or ``ROLE=NAME`` name.

    Raises:
        SettingsError: not of this form, or no such role.
    """
    out = []
    for text in texts:
        role, equals, name = text.partition("=")
        principal = name if ":" in name else f"User:{name}"
        if not equals or not name or principal.endswith(":"):
            raise SettingsError(f"{text}: write it as ROLE=NAME, as probe=gateway-a")
        if role not in known:
            raise SettingsError(f"{text}: there is no role {role}; there is {', '.join(known)}")
        if not principal.startswith("User:") or principal == "User:*":
            raise SettingsError(f"{text}: a principal is a name, or User: and a name")
        out.append(Holder(role, principal))
    return out


def as_command(holder: Holder, grant: Grant, bootstrap: str) -> str:
    """Return the command of Kafka's own tool that gives a grant."""
    words = ["kafka-acls.sh", "--bootstrap-server", bootstrap, "--add", "--allow-principal", holder.principal]
    words += [
        "--operation",
        grant.operation,
        *([] if grant.kind == "cluster" else [f"--{grant.kind}"]),
        grant.name,
    ]
    words += ["--resource-pattern-type", "prefixed"] if grant.prefixed else []
    return shlex.join(words)


def create(bus: BusSettings, holders: Sequence[Holder], found: dict[str, tuple[Grant, ...]]) -> int:
    """Give every holder what its role needs; return how many ACLs that are.

    Raises:
        BusError: the broker cannot be reached or refuses, as one without an authorizer does.
    """
    # One who has several roles may be given the same by each of them; the broker's client refuses repeats.
    wanted = list(dict.fromkeys(_binding(h.principal, g) for h in holders for g in h.grants(found[h.role])))
    client = admin(bus)
    broker_topics(client, bus)  # tells who refuses this process, and why
    for binding, future in client.create_acls(wanted, request_timeout=TIMEOUT_S).items():
        try:
            future.result(timeout=TIMEOUT_S + 5)
        except (KafkaException, TimeoutError) as error:
            raise BusError(f"bus {bus.bootstrap}: no ACL for {binding.principal}: {said(error)}") from error
    return len(wanted)


def _binding(principal: str, grant: Grant) -> AclBinding:
    pattern = ResourcePatternType.PREFIXED if grant.prefixed else ResourcePatternType.LITERAL
    operation = {
        READ: AclOperation.READ,
        WRITE: AclOperation.WRITE,
        "Create": AclOperation.CREATE,
        "Describe": AclOperation.DESCRIBE,
        "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
    }[grant.operation]
    return AclBinding(
        ResourceType[grant.kind.upper()],
        grant.name,
        pattern,
        principal,
        "*",
        operation,
        AclPermissionType.ALLOW,
    )
