"""How messages of this process begin: as the settings say, with or without a schema registry."""

from __future__ import annotations

from flowgauge.bus import project_topics
from flowgauge.settings import Effective
from producers.config import BusSettings, topic_name
from producers.security.tls import tls_context
from schemas.codec import use_framing
from schemas.registry import Registry, subject_of
from streams.config import StreamsSettings


def check_registry(effective: Effective) -> None:
    """Raise BusError where the settings name a registry that does not answer."""
    bus = effective.get("bus", BusSettings)
    if bus.registry_url:
        _registry(bus).check()


def _registry(bus: BusSettings) -> Registry:
    account = bus.registry_username, bus.reveal("registry_password")
    context = tls_context(bus) if bus.registry_url.startswith("https") else None
    return Registry(bus.registry_url, bus.registry_timeout_s, account, context)


def start_framing(effective: Effective) -> None:
    """Frame the messages of this process; every command that touches the bus does this first.

    Raises:
        BusError: the registry that the settings name cannot be reached in time, or refuses a schema.
        SettingsError: ``bus.registry_url`` is no URL.
    """
    bus = effective.get("bus", BusSettings)
    if not bus.registry_url:
        use_framing(None)
        return
    registry = _registry(bus)
    topics = project_topics(effective.get("streams", StreamsSettings)).values()
    subjects = {subject_of(topic_name(bus, topic.name)): topic.schema for topic in topics}
    registry.start(subjects, bus.registry_register)
    use_framing(registry)
