"""A schema registry small enough for a test: what Confluent's clients and ours ask of one, in memory."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit


class RegistryServer:
    """Serves on a free port of 127.0.0.1 while it is entered."""

    def __init__(self) -> None:
        self.schemas: dict[int, str] = {}
        self.subjects: dict[str, dict[int, int]] = {}
        """Schema id by version, by subject."""
        self.requests: list[str] = []
        self.authorizations: list[str | None] = []
        self.refusal: tuple[int, dict[str, Any]] | None = None
        """What every request gets instead of its answer."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, schema: dict[str, Any]) -> int:
        """Register a schema under no subject; return its id."""
        return self._id_of(json.dumps(schema))

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _id_of(self, text: str) -> int:
        for number, known in self.schemas.items():
            if json.loads(known) == json.loads(text):
                return number
        number = 100_000 + len(self.schemas)  # more than two bytes, so that their order shows
        self.schemas[number] = text
        return number

    def answer(self, method: str, target: str, body: Any) -> tuple[int, dict[str, Any] | list[str]]:
        """Return status and answer of a request."""
        if self.refusal is not None:
            return self.refusal
        match [method, *(unquote(part) for part in urlsplit(target).path.strip("/").split("/"))]:
            case ["POST", "subjects", subject, "versions"]:
                number = self._id_of(body["schema"])
                versions = self.subjects.setdefault(subject, {})
                if number not in versions.values():
                    versions[len(versions) + 1] = number
                return 200, {"id": number}
            case ["POST", "subjects", subject]:
                wanted = self._id_of(body["schema"])
                for version, number in self.subjects.get(subject, {}).items():
                    if number == wanted:
                        found = {"subject": subject, "version": version, "id": number}
                        return 200, {**found, "schema": self.schemas[number]}
                return 404, {"error_code": 40403, "message": "Schema not found"}
            case ["GET", "subjects"]:
                return 200, list(self.subjects)
            case ["GET", "schemas", "ids", number] if int(number) in self.schemas:
                return 200, {"schema": self.schemas[int(number)]}
        return 404, {"error_code": 40401, "message": "Not found"}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._serve(None)

            def do_POST(self) -> None:
                self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _serve(self, body: Any) -> None:
                registry.requests.append(f"{self.command} {self.path}")
                registry.authorizations.append(self.headers.get("Authorization"))
                status, answer = registry.answer(self.command, self.path, body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler
