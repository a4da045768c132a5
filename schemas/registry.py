"""A schema registry with Confluent's HTTP interface: messages begin with a schema's number there.

Where one is used, a message is a zero byte, the schema's id as four big-endian bytes, and the Avro body (Confluent's
wire format), in place of the single-object encoding. Subjects are named after topics: ``<topic>-value``. Only a few
requests are made, once at the start and once per unknown id, so this talks plain HTTP by the standard library.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from schemas import codec
from schemas.errors import BusError, CodecError, SettingsError

CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
MAX_ANSWER_BYTES = 4 * 1024 * 1024
ASK_AGAIN_S = 30.0
"""How long an id that the registry does not know stays unknown: a registry's replica may lag behind."""
MAX_UNKNOWN_IDS = 10_000

_T = TypeVar("_T")


def subject_of(topic: str) -> str:
    """Return the subject of a topic's values (Confluent's TopicNameStrategy); ``topic`` has its prefix."""
    return f"{topic}-value"


class Registry:
    """A registry by its URL: ``http[s]://[user:password@]host[:port][/path]``.

    It is the ``Framing`` of ``schemas.codec`` once ``start`` is through.

    Args:
        url: where it is.
        timeout_s: how long it may take to answer.
        account: (name, password) for HTTP Basic, before one in the URL; the name may be empty for none.
        context: what TLS trusts and shows; by default what the system trusts, or the file that SSL_CERT_FILE names.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float = 5.0,
        account: tuple[str, str] = ("", ""),
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Take the URL apart; raises SettingsError where it is none."""
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError as error:
            raise SettingsError(f"bus.registry_url: not a URL: {error}") from error
        if parts.scheme not in ("http", "https") or not self._host:
            raise SettingsError("bus.registry_url: not a URL of the form http://host:port")
        self._tls = parts.scheme == "https"
        self._path = parts.path.rstrip("/")
        self._headers = {"Accept": f"{CONTENT_TYPE}, application/json", "Content-Type": CONTENT_TYPE}
        if not account[0] and parts.username is not None:
            account = unquote(parts.username), unquote(parts.password or "")
        if account[0]:
            named = ":".join(account).encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(named).decode()}"
        self._context = context
        # What errors name: without the password.
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{self._path}"
        self.timeout_s = timeout_s
        self.heads: dict[str, bytes] = {}
        """What a message begins with, by the name of its schema."""
        self._by_id: dict[int, tuple[str, Any]] = {}
        self._unknown_until: dict[int, float] = {}

    def start(self, subjects: Mapping[str, str], register: bool = True) -> None:
        """Register the current schema of each subject, or look it up, and keep the ids.

        Args:
            subjects: name of the schema by subject.
            register: False asks for the id of a schema that somebody else has registered.

        Raises:
            BusError: the registry did not answer all of it within ``timeout_s``, refuses a schema or lacks it.
        """

        def ids() -> list[tuple[str, int]]:
            return [(name, self._id_of(subject, name, register)) for subject, name in subjects.items()]

        for name, schema_id in self._bounded(ids):
            # A registry gives equal schemas one id, whatever the subject; where one does not, each id is right.
            self.heads.setdefault(name, codec.registry_head(schema_id))
            self._by_id[schema_id] = codec.reader_of(codec.schema(name))

    def check(self) -> None:
        """Raise BusError unless the registry answers; nothing is registered."""
        status, answer = self._bounded(lambda: self._request("GET", "/subjects"))
        if status != 200:
            raise self._error(f"asked for its subjects, it answers {_what(status, answer)}")

    def written_with(self, schema_id: int) -> tuple[str, Any]:
        """Return (name, parsed schema) of what messages with this id were written with; asks once per id.

        Raises:
            CodecError: the registry does not know the id, or it is not of one of our messages.
            BusError: the registry does not answer; the message may be a good one.
        """
        found = self._by_id.get(schema_id)
        if found is not None:
            return found
        if self._unknown_until.get(schema_id, 0.0) <= time.monotonic():
            try:
                found = self._by_id[schema_id] = codec.reader_of(self._bounded(lambda: self._ask(schema_id)))
            except CodecError:
                if len(self._unknown_until) >= MAX_UNKNOWN_IDS:
                    self._unknown_until.clear()
                self._unknown_until[schema_id] = time.monotonic() + ASK_AGAIN_S
            else:
                return found
        raise CodecError(f"written with schema id {schema_id}, which is none of ours at registry {self.url}")

    def _id_of(self, subject: str, name: str, register: bool) -> int:
        path = f"/subjects/{quote(subject, safe='')}" + ("/versions" if register else "")
        status, answer = self._request("POST", path, {"schema": json.dumps(codec.schema(name))})
        schema_id = answer.get("id")
        if status == 200 and isinstance(schema_id, int) and 0 <= schema_id < 1 << 31:
            return schema_id
        if status == 404 and not register:
            raise self._error(
                f"subject {subject} has no schema {name} as it is now; register it, or set bus.registry_register"
            )
        raise self._error(f"subject {subject} refuses the schema {name}: {_what(status, answer)}")

    def _ask(self, schema_id: int) -> codec.Schema:
        status, answer = self._request("GET", f"/schemas/ids/{schema_id}")
        if status == 404:
            raise CodecError(f"schema id {schema_id} is unknown")
        if status != 200:
            raise self._error(f"asked for schema id {schema_id}, it answers {_what(status, answer)}")
        if answer.get("schemaType", "AVRO") != "AVRO" or answer.get("references"):
            raise CodecError(f"schema id {schema_id} is not of ours")
        try:
            raw = json.loads(answer["schema"])
        except (KeyError, TypeError, ValueError) as error:
            raise CodecError(f"schema id {schema_id} is not JSON") from error
        if not isinstance(raw, dict):
            raise CodecError(f"schema id {schema_id} is not a record")
        return raw

    def _request(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """Return status and answer, empty where that is a list; proxies and redirections are not followed."""
        connection: http.client.HTTPConnection
        if self._tls:
            context = self._context or ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self.timeout_s, context=context
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self.timeout_s)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, self._path + path, sent, self._headers)
            answer = connection.getresponse()
            text = answer.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise self._error(f"cannot be reached: {str(error) or type(error).__name__}") from error
        finally:
            connection.close()
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            if answer.status == 200 and not isinstance(found, list):
                raise self._error(f"{method} {path} is not answered as a schema registry answers")
            found = {}
        return answer.status, found

    def _bounded(self, work: Callable[[], _T]) -> _T:
        """Return what ``work`` returns, in ``timeout_s`` at most, whatever it hangs on: names, connections, answers."""
        done: list[_T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                done.append(work())
            except BaseException as error:  # raised again where it was asked for
                failed.append(error)

        thread = threading.Thread(target=run, name="registry", daemon=True)
        thread.start()
        thread.join(self.timeout_s)
        if failed:
            raise failed[0]
        if not done:
            raise self._error(f"no answer within {self.timeout_s:g} s")
        return done[0]

    def _error(self, text: str) -> BusError:
        return BusError(f"schema registry {self.url}: {text}")


def _what(status: int, answer: Mapping[str, Any]) -> str:
    said = " ".join(str(answer.get("message", "")).split())[:300]
    return f"HTTP {status} {http.client.responses.get(status, '')}".rstrip() + (f" ({said})" if said else "")
