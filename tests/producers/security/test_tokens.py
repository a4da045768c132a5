"""Tokens from a file, a program and a token endpoint; when they are renewed; and what is said where there is none."""

from __future__ import annotations

import json
import threading
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.config import BusSettings
from producers.security.tokens import UNKNOWN_LIFE_S, Tokens, _claims
from schemas.errors import BusError

NOW_S = 1_000_000.0


def settings(**how: Any) -> BusSettings:
    return BusSettings(security_protocol="SASL_SSL", sasl_mechanism="OAUTHBEARER", **how)


def jwt(**claims: Any) -> str:
    def part(value: object) -> str:
        return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'RS256'})}.{part(claims)}.c2ln"


class Endpoint(BaseHTTPRequestHandler):
    answers: list[tuple[int, bytes]] = []
    asked: list[tuple[str, str]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.asked.append((self.headers["Authorization"], body))
        status, text = self.answers.pop(0)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    Endpoint.answers, Endpoint.asked = [], []
    with HTTPServer(("127.0.0.1", 0), Endpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/oauth/token"
        server.shutdown()


def test_client_credentials_are_asked_for_again_before_the_token_expires(url: str) -> None:
    now = [NOW_S]
    Endpoint.answers = [
        (200, json.dumps({"access_token": f"opaque{n}", "expires_in": 100}).encode()) for n in range(2)
    ]
    how = {"oauth_client_id": "c:1", "oauth_client_secret": "s s", "oauth_scope": "kafka"}
    tokens = Tokens(settings(oauth_token_url=url, **how), clock_s=lambda: now[0])
    first = tokens.get()
    assert first == ("opaque0", NOW_S + 100, "c:1")
    now[0] += 79
    assert tokens.get() is first
    now[0] += 2
    assert tokens.get() == ("opaque1", NOW_S + 181, "c:1")
    # RFC 6749, 2.3.1: id and secret are encoded as in a form before Basic joins them.
    assert Endpoint.asked[0] == ("Basic YyUzQTE6cytz", "grant_type=client_credentials&scope=kafka")


@pytest.mark.parametrize(
    ("status", "answer", "complaint"),
    [
        (401, b'{"error": "invalid_client"}', "HTTP 401, no token for client c: invalid_client"),
        (200, b"{}", "HTTP 200, no token for client c: no access_token"),
        (502, b"<html>", "HTTP 502 without a JSON object"),
        (200, b'["a"]', "HTTP 200 without a JSON object"),
    ],
)
def test_an_endpoint_that_gives_none(url: str, status: int, answer: bytes, complaint: str) -> None:
    Endpoint.answers = [(status, answer)]
    tokens = Tokens(settings(oauth_token_url=url, oauth_client_id="c", oauth_client_secret="geheim"))
    with pytest.raises(BusError, match=complaint) as caught:
        tokens.get()
    assert url in str(caught.value) and "geheim" not in str(caught.value)


def test_an_endpoint_that_is_not_there() -> None:
    how = {"oauth_client_id": "c", "oauth_client_secret": "s"}
    with pytest.raises(BusError, match=r"cannot be reached: .*refused"):
        Tokens(settings(oauth_token_url="http://127.0.0.1:1/t", **how)).get()


def test_a_file_is_read_again_and_may_have_expired(tmp_path: Path) -> None:
    file, now = tmp_path / "token", [NOW_S]
    tokens = Tokens(settings(oauth_token_file=str(file)), clock_s=lambda: now[0])
    file.write_text(jwt(sub="gateway", exp=NOW_S + 10) + "\n", encoding="utf-8")
    assert tokens.get()[1:] == (NOW_S + 10, "gateway")
    now[0] += 11
    with pytest.raises(BusError, match="the token for gateway expired 1 s ago"):
        tokens.get()
    file.write_text("opaque", encoding="utf-8")
    assert tokens.get() == ("opaque", now[0] + UNKNOWN_LIFE_S, "flowgauge")


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["sh", "-c", "echo half; echo no vault >&2; exit 3"], "exit code 3, no vault"),
        (["true"], "exit code 0, nothing said"),
        (["/nowhere/program"], "No such file"),
        (["sleep", "20"], "no token within 0.2 s"),
    ],
)
def test_a_program_that_prints_none(command: list[str], complaint: str) -> None:
    with pytest.raises(BusError, match=complaint):
        Tokens(settings(oauth_token_command=command, oauth_timeout_s=0.2)).get()


@given(st.text(max_size=60) | st.builds(lambda *p: ".".join(p), st.text(), st.text(), st.text()))
def test_a_token_may_be_anything(token: str) -> None:
    assert isinstance(_claims(token), dict)
