"""Settings by which every process reaches a bus that asks who it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from schemas.errors import SettingsError
from schemas.settings import Settings

Secret = Literal["tls_key_password", "sasl_password", "oauth_client_secret", "registry_password"]
SECRETS: tuple[Secret, ...] = (
    "tls_key_password",
    "sasl_password",
    "oauth_client_secret",
    "registry_password",
)
"""Settings that are never shown; each may lie in a file that the setting ``<name>_file`` names."""


def _secret(what: str) -> Any:
    return Field(
        default=None,
        description=f"{what} Never shown, and not taken from the command line; better in a file.",
    )


def _file(what: str) -> Any:
    return Field(default="", description=what)


class SecuritySettings(Settings):
    """Where the bus is, what it is trusted by, and who this process is to it."""

    bootstrap: str = Field(
        default="127.0.0.1:9092", min_length=1, description="Brokers to start from, host:port,…"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT",
        description="How the brokers are spoken to: SSL is TLS, SASL_… with an account. In Kafka's own words.",
    )
    tls_ca: str = _file(
        "PEM file of the authorities that servers are trusted by; empty: those of the system."
    )
    tls_certificate: str = _file("PEM file of this process's certificate (mutual TLS), its chain behind it.")
    tls_key: str = _file("PEM file of the certificate's private key.")
    tls_key_password: SecretStr | None = _secret("Password of the private key.")
    tls_key_password_file: str = _file("File whose first line is the password of the private key.")
    tls_verify_hostname: bool = Field(
        default=True, description="Whether a server's certificate must be for the name it was reached by."
    )
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        default="", description="How the account is proved, where security_protocol says SASL."
    )
    sasl_username: str = Field(default="", description="Name of the account (PLAIN, SCRAM).")
    sasl_password: SecretStr | None = _secret("Password of the account.")
    sasl_password_file: str = _file("File whose first line is the password of the account.")
    oauth_token_url: str = Field(
        default="",
        description="Where tokens are asked for with client credentials (OAUTHBEARER): http[s]://…",
    )
    oauth_client_id: str = Field(default="", description="Client that tokens are asked for as.")
    oauth_client_secret: SecretStr | None = _secret("Secret of the client.")
    oauth_client_secret_file: str = _file("File whose first line is the secret of the client.")
    oauth_scope: str = Field(default="", description="Scope that tokens are asked for, if any.")
    oauth_token_file: str = _file("File that holds the token (OAUTHBEARER), read again before it expires.")
    oauth_token_command: tuple[str, ...] = Field(
        default=(), description="Program and arguments that print the token (OAUTHBEARER)."
    )
    oauth_timeout_s: float = Field(
        default=10.0, gt=0, le=300, description="How long getting a token may take, in s."
    )
    registry_username: str = Field(default="", description="Account at the schema registry (HTTP Basic).")
    registry_password: SecretStr | None = _secret("Password of the account at the schema registry.")
    registry_password_file: str = _file(
        "File whose first line is the password of the account at the registry."
    )

    @field_validator("security_protocol", "sasl_mechanism", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for problem in self._contradictions():
            raise ValueError(problem)
        return self

    def _contradictions(self) -> list[str]:
        """Return what cannot be meant, the gravest first."""
        sasl, mechanism = self.sasl, self.sasl_mechanism
        tokens = [bool(self.oauth_token_url), bool(self.oauth_token_file), bool(self.oauth_token_command)]
        rules = [
            (sasl and not mechanism, f"security_protocol {self.security_protocol} needs sasl_mechanism"),
            (bool(mechanism) and not sasl, f"sasl_mechanism {mechanism} needs security_protocol SASL_SSL"),
            (bool(self.tls_key) and not self.tls_certificate, "tls_key is given without tls_certificate"),
            (bool(self.tls_certificate) and not self.tls_key, "tls_certificate is given without tls_key"),
            (
                sasl and mechanism != "OAUTHBEARER" and not self.sasl_username,
                f"sasl_mechanism {mechanism} needs sasl_username",
            ),
            (
                sasl and mechanism != "OAUTHBEARER" and not self.has("sasl_password"),
                f"sasl_mechanism {mechanism} needs sasl_password_file, or sasl_password in the environment",
            ),
            (
                mechanism == "OAUTHBEARER" and sum(tokens) != 1,
                "sasl_mechanism OAUTHBEARER needs one of oauth_token_url, oauth_token_file, oauth_token_command",
            ),
            (
                bool(self.oauth_token_url) and not (self.oauth_client_id and self.has("oauth_client_secret")),
                "oauth_token_url needs oauth_client_id and oauth_client_secret_file",
            ),
        ]
        rules += [
            (
                getattr(self, name) is not None and bool(getattr(self, f"{name}_file")),
                f"{name} is given twice",
            )
            for name in SECRETS
        ]
        return [text for broken, text in rules if broken]

    @property
    def sasl(self) -> bool:
        """Return whether an account is asked for."""
        return self.security_protocol.startswith("SASL")

    @property
    def tls(self) -> bool:
        """Return whether the brokers are reached over TLS."""
        return self.security_protocol.endswith("SSL")

    def has(self, name: Secret) -> bool:
        """Return whether a secret was given, in either way."""
        return getattr(self, name) is not None or bool(getattr(self, f"{name}_file"))

    def reveal(self, name: Secret) -> str:
        """Return a secret, "" where none was given; a file is read anew each time, so that it may be replaced.

        Raises:
            SettingsError: its file cannot be read or is empty.
        """
        given: SecretStr | None = getattr(self, name)
        if given is not None:
            return given.get_secret_value()
        path = str(getattr(self, f"{name}_file"))
        return first_line(path, f"bus.{name}_file") if path else ""


def first_line(path: str, key: str) -> str:
    """Return the first line of a file that a setting names.

    Raises:
        SettingsError: it cannot be read, or is empty.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{key} = {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{key} = {path}: not a text") from None
    lines = text.splitlines()
    if not lines or not lines[0].strip():
        raise SettingsError(f"{key} = {path}: its first line is empty")
    return lines[0].strip()
