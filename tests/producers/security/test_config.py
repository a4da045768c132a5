"""Settings about who is who: what contradicts itself, what librdkafka is given, and that secrets stay hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from infra.broker.certificates import Authority
from producers.config import BusSettings
from producers.security.clients import client_properties, refusal
from producers.security.tls import tls_context
from schemas.errors import SettingsError

SASL: dict[str, Any] = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "SCRAM-SHA-512",
    "sasl_username": "a",
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_nothing_is_asked_for_by_default() -> None:
    properties = client_properties(BusSettings())
    assert not [name for name in properties if name.startswith(("ssl", "sasl", "security", "oauth"))]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"security_protocol": "SASL_SSL"}, "security_protocol SASL_SSL needs sasl_mechanism"),
        ({"sasl_mechanism": "PLAIN"}, "sasl_mechanism PLAIN needs security_protocol SASL_SSL"),
        ({**SASL, "sasl_username": ""}, "needs sasl_username"),
        (SASL, "needs sasl_password_file"),
        ({**SASL, "sasl_password": "x", "sasl_password_file": "y"}, "sasl_password is given twice"),
        ({"tls_key": "k"}, "tls_key is given without tls_certificate"),
        ({"tls_certificate": "c"}, "tls_certificate is given without tls_key"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}, "needs one of oauth_token_url"),
        (
            {
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "OAUTHBEARER",
                "oauth_token_url": "https://t",
            },
            "oauth_token_url needs oauth_client_id",
        ),
    ],
)
def test_contradictions_are_told(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        BusSettings(**settings)


def test_secrets_are_in_no_text_of_the_settings() -> None:
    settings = BusSettings(**SASL, sasl_password=SecretStr("geheim"))
    assert "geheim" not in repr(settings) + str(settings) + settings.model_dump_json()
    with pytest.raises(ValidationError) as caught:
        BusSettings(sasl_mechanism="SCRAM-SHA-512", sasl_password=SecretStr("geheim"))
    assert "geheim" not in str(caught.value)


def test_an_account_reaches_librdkafka_and_the_users_own_properties_win(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("geheim\nsecond line\n", encoding="utf-8")
    bus = BusSettings(
        **{**SASL, "security_protocol": "sasl_plaintext"},
        sasl_password_file=str(file),
        client={"sasl.username": "b"},
    )
    found = client_properties(bus, {"group.id": "g"})
    expected = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "b",
        "sasl.password": "geheim",
        "group.id": "g",
    }
    # A plaintext protocol has no TLS properties.
    assert {k: v for k, v in found.items() if k.startswith(("s", "g"))} == expected | {
        "security.protocol": "SASL_PLAINTEXT"
    }
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"bus.sasl_password_file = .*: its first line is empty"):
        client_properties(bus)
    file.unlink()
    with pytest.raises(SettingsError, match=r"bus.sasl_password_file = .*: cannot be read: No such file"):
        client_properties(bus)


def mutual(authority: Authority, **more: Any) -> BusSettings:
    certificate, key = authority.issue("gateway", password="pw")
    given = {"tls_ca": str(authority.ca), "tls_certificate": str(certificate), "tls_key": str(key), **more}
    return BusSettings(security_protocol="SSL", **given)


def test_a_certificate_is_shown(authority: Authority) -> None:
    bus = mutual(authority, tls_key_password="pw", tls_verify_hostname=False)
    found = client_properties(bus)
    assert found["ssl.ca.location"] == str(authority.ca)
    assert found["ssl.key.password"] == "pw"
    assert found["ssl.endpoint.identification.algorithm"] == "none"
    assert not tls_context(bus).check_hostname
    assert len(tls_context(bus).get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({}, "gateway.key: no PEM file of a private key, or one that needs bus.tls_key_password_file"),
        ({"tls_key_password": "no"}, "gateway.key: cannot be opened with bus.tls_key_password_file"),
        ({"tls_key": "{other}.key"}, "other.key: not the key of the certificate .*gateway.pem"),
        ({"tls_certificate": "{old}.pem"}, r"old.pem: expired at \d{4}-\d\d-\d\d"),
        ({"tls_certificate": "{other}.key"}, "other.key: no PEM file of a certificate"),
        ({"tls_ca": "{other}.key"}, "bus.tls_ca = .*other.key: no PEM file of certificates"),
        ({"tls_ca": "/nowhere/ca.pem"}, "bus.tls_ca = /nowhere/ca.pem: cannot be read: No such file"),
        ({"tls_key": "/nowhere/k"}, "bus.tls_key = /nowhere/k: cannot be read: No such file"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    authority: Authority, more: dict[str, str], complaint: str
) -> None:
    authority.issue("other")
    authority.issue("old", days=-1)
    places = {name: str(authority.folder / name) for name in ("other", "old")}
    with pytest.raises(SettingsError, match=complaint):
        client_properties(mutual(authority, **{key: value.format(**places) for key, value in more.items()}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "ssl://b:1/bootstrap: SSL handshake failed: error: certificate verify failed: broker …",
            "tls_ca (ca.pem)",
        ),
        (
            "Receive failed: error:0A000412:SSL routines::ssl/tls alert bad certificate: SSL alert number 42",
            "bad cert",
        ),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: Hostname mismatch, certificate …",
            "another name",
        ),
        (
            "SASL authentication error: Authentication failed: Invalid username or password (after 3ms …)",
            "account a",
        ),
    ],
)
def test_refusals_name_the_setting(text: str, expected: str) -> None:
    assert expected in refusal(BusSettings(**SASL, sasl_password=SecretStr("x"), tls_ca="ca.pem"), text)
