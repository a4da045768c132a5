"""Tokens for OAUTHBEARER: asked for with client credentials, read from a file, or printed by a program."""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote_plus, urlencode, urlsplit

from producers.security.config import SecuritySettings, first_line
from producers.security.tls import tls_context
from schemas.errors import BusError

UNKNOWN_LIFE_S = 300.0
"""How long a token that does not tell its end is used before it is asked for again."""
_FRESH_SHARE = 0.2
"""A token is replaced once less than this share of its life is left."""
_MAX_ANSWER_BYTES = 1 << 20


class Token(NamedTuple):
    """A bearer token."""

    value: str
    expires_s: float
    """When it expires, in s since the Unix epoch."""
    principal: str
    """Who it is for, as far as it says so."""


class Tokens:
    """Gives a token that is not expired; several threads may ask."""

    def __init__(self, settings: SecuritySettings, clock_s: Callable[[], float] = time.time) -> None:
        self._settings, self._clock_s = settings, clock_s
        self._token: Token | None = None
        self._renew_s = 0.0
        self._asking = threading.Lock()

    def get(self) -> Token:
        """Return a token, the one before as long as it is fresh.

        Raises:
            BusError: none can be had, or it has expired already; says where from.
            SettingsError: a file that the settings name cannot be read.
        """
        with self._asking:
            now_s = self._clock_s()
            if self._token is None or now_s >= self._renew_s:
                token = self._fetch(now_s)
                if token.expires_s <= now_s:
                    ago = now_s - token.expires_s
                    raise BusError(
                        f"{self._where()}: the token for {token.principal} expired {ago:,.0f} s ago"
                    )
                self._token = token
                self._renew_s = token.expires_s - _FRESH_SHARE * (token.expires_s - now_s)
            return self._token

    def _where(self) -> str:
        settings = self._settings
        if settings.oauth_token_file:
            return f"bus.oauth_token_file = {settings.oauth_token_file}"
        if settings.oauth_token_command:
            return f"bus.oauth_token_command ({settings.oauth_token_command[0]})"
        return f"bus.oauth_token_url = {settings.oauth_token_url}"

    def _fetch(self, now_s: float) -> Token:
        settings = self._settings
        if settings.oauth_token_file:
            return self._told(first_line(settings.oauth_token_file, "bus.oauth_token_file"), now_s)
        if settings.oauth_token_command:
            return self._told(self._printed(), now_s)
        answer = self._asked()
        life = answer.get("expires_in")
        token = self._told(str(answer["access_token"]), now_s)
        if isinstance(life, (int, float)) and life > 0:
            token = token._replace(expires_s=now_s + life)
        return token

    def _told(self, value: str, now_s: float) -> Token:
        """Return a token with what it tells about itself, if it is a JWT."""
        claims = _claims(value)
        end = claims.get("exp")
        expires_s = float(end) if isinstance(end, (int, float)) else now_s + UNKNOWN_LIFE_S
        name = claims.get("sub") or self._settings.oauth_client_id or self._settings.sasl_username
        return Token(value, expires_s, str(name or "flowgauge"))

    def _printed(self) -> str:
        try:
            done = subprocess.run(
                self._settings.oauth_token_command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=self._settings.oauth_timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BusError(f"{self._where()}: no token within {self._settings.oauth_timeout_s:g} s") from None
        except (OSError, UnicodeDecodeError) as error:
            raise BusError(
                f"{self._where()}: {getattr(error, 'strerror', None) or 'prints no text'}"
            ) from None
        lines = done.stdout.split()
        if done.returncode or not lines:
            # What it prints on stdout may be half a token; that stays unsaid.
            said = " ".join(done.stderr.split())[-200:]
            raise BusError(f"{self._where()}: exit code {done.returncode}, {said or 'nothing said'}")
        return lines[0]

    def _asked(self) -> dict[str, Any]:
        """Return the answer of the token endpoint (RFC 6749, 4.4) that has a token in it."""
        settings, where = self._settings, self._where()
        form = {"grant_type": "client_credentials"}
        if settings.oauth_scope:
            form["scope"] = settings.oauth_scope
        account = (
            f"{quote_plus(settings.oauth_client_id)}:{quote_plus(settings.reveal('oauth_client_secret'))}"
        )
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
            "Authorization": f"Basic {base64.b64encode(account.encode()).decode()}",
        }
        status, text = _post(settings, where, urlencode(form), headers)
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise BusError(f"{where}: HTTP {status} without a JSON object")
        if status != 200 or not isinstance(answer.get("access_token"), str):
            said = answer.get("error_description") or answer.get("error") or "no access_token"
            raise BusError(
                f"{where}: HTTP {status}, no token for client {settings.oauth_client_id}: "
                f"{' '.join(str(said).split())[:200]}"
            )
        return answer


def _post(settings: SecuritySettings, where: str, body: str, headers: dict[str, str]) -> tuple[int, bytes]:
    parts = urlsplit(settings.oauth_token_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BusError(f"{where}: not a URL of the form https://host/path")
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=settings.oauth_timeout_s, context=tls_context(settings)
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=settings.oauth_timeout_s)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(_MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        why = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)
        raise BusError(f"{where}: cannot be reached: {why or type(error).__name__}") from None
    finally:
        connection.close()


def _claims(token: str) -> dict[str, Any]:
    """Return what a JWT says, without checking its signature (that is the broker's); empty for other tokens."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
