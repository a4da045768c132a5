"""TLS for clients in Python (Faust's, the schema registry's), and what is wrong with files before any uses them."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from producers.security.config import SecuritySettings
from schemas.errors import SettingsError


def tls_context(settings: SecuritySettings) -> ssl.SSLContext:
    """Return how servers are trusted and which certificate is shown to them.

    Raises:
        SettingsError: a file cannot be used; names the setting and why.
    """
    context = ssl.create_default_context()
    if settings.tls_ca:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(_readable(settings.tls_ca, "bus.tls_ca"))
        except ssl.SSLError:
            raise SettingsError(f"bus.tls_ca = {settings.tls_ca}: no PEM file of certificates") from None
    context.check_hostname = settings.tls_verify_hostname
    if settings.tls_certificate:
        _show(context, settings)
    return context


def _show(context: ssl.SSLContext, settings: SecuritySettings) -> None:
    certificate, key = settings.tls_certificate, settings.tls_key
    _check_dates(_readable(certificate, "bus.tls_certificate"))
    _readable(key, "bus.tls_key")
    password = settings.reveal("tls_key_password")
    try:
        # An empty password, not None: OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, lambda: password)
    except ssl.SSLError as error:
        raise SettingsError(f"bus.tls_key = {key}: {_why(error, certificate, bool(password))}") from None


def _why(error: ssl.SSLError, certificate: str, with_password: bool) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"not the key of the certificate {certificate}"
    if with_password:
        return "cannot be opened with bus.tls_key_password_file"
    return "no PEM file of a private key, or one that needs bus.tls_key_password_file"


def _check_dates(path: str) -> None:
    """Raise SettingsError unless a certificate is valid today: a broker would just hang up."""
    key = f"bus.tls_certificate = {path}"
    try:
        found = x509.load_pem_x509_certificate(Path(path).read_bytes())
    except ValueError:
        raise SettingsError(f"{key}: no PEM file of a certificate") from None
    now = datetime.now(UTC)
    if now > found.not_valid_after_utc:
        raise SettingsError(f"{key}: expired at {found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if now < found.not_valid_before_utc:
        raise SettingsError(f"{key}: not valid before {found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")


def _readable(path: str, key: str) -> str:
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise SettingsError(f"{key} = {path}: cannot be read: {error.strerror}") from None
    return path
