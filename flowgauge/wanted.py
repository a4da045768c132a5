"""Which packet columns a probe is to send: those the settings name, and those the chosen features need."""

from __future__ import annotations

from flowgauge.settings import Effective
from producers.config import PacketsSettings
from schemas.packets import Extra
from streams.codegen import needed_columns, resolve
from streams.config import StreamsSettings


def wanted_columns(effective: Effective) -> Extra:
    """Return what packet batches shall hold beyond the usual columns.

    Raises:
        SettingsError: a representation names a feature that there is not.
    """
    chosen = effective.get("packets", PacketsSettings).extra
    streams = effective.get("streams", StreamsSettings)
    return chosen.with_(needed_columns(resolve(streams.representations, streams.feature_files)))
