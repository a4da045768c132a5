"""What a probe hides, put together: shown each block of packets before anything that leaves the machine sees it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from producers.columns import PacketColumns
from producers.config import PayloadSettings
from producers.decoder.kernel import writable
from producers.names.told import ADDRESSES, EVENTS, Told
from producers.privacy.addresses import AddressAnonymiser
from producers.privacy.config import PrivacySettings
from producers.privacy.cryptopan import CryptoPan
from producers.privacy.heads import mask_heads
from producers.privacy.keys import Key, find_key
from producers.privacy.names import NameHasher
from schemas.errors import SettingsError


class Privacy:
    """Hides what the settings say, with one key; one for all captures or rings of a process."""

    def __init__(self, settings: PrivacySettings, key: Key) -> None:
        pan = CryptoPan(key, settings.only, settings.keep) if settings.anonymise else None
        self.addresses = None if pan is None else AddressAnonymiser(pan)
        self.hasher = NameHasher(key) if settings.names == "hash" else None
        self._with_payload = settings.payload

    @property
    def computed(self) -> int:
        """Return how many addresses were computed anew so far, not found among those known."""
        return 0 if self.addresses is None else self.addresses.computed

    def rows(self, columns: PacketColumns, start: int, stop: int) -> None:
        """Anonymise rows of a block in place; their addresses are words (``producers.decoder.kernel.writable``)."""
        if self.addresses is None:
            return
        self.addresses.rows(columns, start, stop)
        if len(columns.head_length):
            mask_heads(columns, start, stop, self._with_payload)

    def columns(self, columns: PacketColumns) -> None:
        """Anonymise all rows in place."""
        self.rows(writable(columns), 0, columns.packets)

    def answers(self, told: Told, first: int, columns: PacketColumns) -> None:
        """Anonymise, in place, the addresses of the events from number ``first`` on, so that answers fit the flows.

        ``columns``: the block that the events' rows are in.
        """
        events = int(told.filled[EVENTS])
        if self.addresses is None or first == events:
            return
        clients, versions = told.client[first:events], columns.ip_version[told.row[first:events]]
        start = int(told.address_stop[first - 1]) if first else 0
        stop = int(told.filled[ADDRESSES])
        servers, server_versions = told.address[start:stop], told.version[start:stop]
        for version in (4, 6):
            for words, of in ((clients, versions), (servers, server_versions)):
                chosen = np.flatnonzero(of == version)
                if len(chosen):
                    words[chosen] = self.addresses.words(words[chosen], version)

    def names(self, told: Told) -> Told:
        """Return what was told with names as they may leave."""
        return told if self.hasher is None or not len(told.row) else self.hasher.told(told)


def check_payloads(settings: PrivacySettings, payloads: PayloadSettings) -> None:
    """Raise SettingsError where payloads are published while addresses are hidden, unless that was said to be meant."""
    if settings.anonymise and payloads.mode != "off" and not settings.payload:
        raise SettingsError(
            f"payloads.mode = {payloads.mode!r} together with privacy.anonymise: payloads may tell addresses and "
            "names; set privacy.payload = true to publish them all the same"
        )


def open_privacy(settings: PrivacySettings, environment: Mapping[str, str] | None = None) -> Privacy | None:
    """Return what hides as the settings say, None where nothing is to be hidden.

    Raises:
        SettingsError: there is no key, or it cannot be used.
    """
    return Privacy(settings, find_key(settings, environment)) if settings.hides else None
