"""What a probe takes from all settings: columns and names that services and features need, and which packets."""

from __future__ import annotations

import re
import socket

from flowgauge.settings import Effective
from producers.config import PacketsSettings, ReplaySettings
from producers.first_packets import Selection
from producers.probe.config import ProbeSettings
from schemas.packets import Extra
from streams.codegen import needed_columns, resolve
from streams.config import StreamsSettings
from streams.flow_rules import first_packets


def wanted_columns(effective: Effective) -> Extra:
    """Return what packet batches shall hold beyond the usual columns.

    Raises:
        SettingsError: a representation names a feature that there is not.
    """
    chosen = effective.get("packets", PacketsSettings).extra
    streams = effective.get("streams", StreamsSettings)
    return chosen.with_(needed_columns(resolve(streams.computed, streams.feature_files)))


def wanted_packets(effective: Effective) -> Selection | None:
    """Return which packets are sent; None: all."""
    packets, streams = effective.get("packets", PacketsSettings), effective.get("streams", StreamsSettings)
    return first_packets(packets, streams)


def replay_settings(effective: Effective) -> ReplaySettings:
    """Return the settings of the replay, which looks for names of servers where services are told by them."""
    replay = effective.get("replay", ReplaySettings)
    return replay.model_copy(update={"names": replay.names or _has_services(effective)})


def probe_settings(effective: Effective) -> ProbeSettings:
    """Return the settings of the live probe, with its name, which looks for names as the replay does."""
    probe = effective.get("probe", ProbeSettings)
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip("._-")[:100]
    return probe.model_copy(
        update={"names": probe.names or _has_services(effective), "name": probe.name or host or "probe"}
    )


def _has_services(effective: Effective) -> bool:
    return bool(effective.get("streams", StreamsSettings).services)
