"""Settings of what a probe hides."""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import Field, field_validator

from schemas.settings import Settings


class PrivacySettings(Settings):
    """What leaves the machine of a probe or replay only in a hidden form. The key comes from `key_file` or from the
    environment variable FLOWGAUGE_PRIVACY_KEY."""

    anonymise: bool = Field(
        default=False,
        description="Anonymise addresses before anything else sees them: prefix-preserving, by Crypto-PAn.",
    )
    key_file: str = Field(
        default="",
        description="File of the key, which only its owner (and group) may read; `flowgauge privacy key` makes one. "
        "Empty: FLOWGAUGE_PRIVACY_KEY holds the key's 64 hexadecimal digits.",
    )
    only: tuple[str, ...] = Field(
        default=(),
        description="Prefixes whose addresses are anonymised; they stay inside their prefix. Empty: all are.",
    )
    keep: tuple[str, ...] = Field(
        default=(),
        description="Prefixes whose addresses stay as they are. Others keep the bits that they share with these, and "
        "one more.",
    )
    names: Literal["clear", "hash"] = Field(
        default="clear",
        description="hash: names of servers are replaced by hashes with the key, domain by domain.",
    )
    payload: bool = Field(
        default=False,
        description="Let payload out although addresses are anonymised: it may tell addresses and names. Without, "
        "heads end at the payload, and the topic payloads cannot be asked for.",
    )

    @property
    def hides(self) -> bool:
        """Return whether anything is hidden, so that a key is needed."""
        return self.anonymise or self.names == "hash"

    @field_validator("only", "keep")
    @classmethod
    def _are_prefixes(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in prefixes:
            ipaddress.ip_network(prefix)  # says in its ValueError what is wrong
        return prefixes
