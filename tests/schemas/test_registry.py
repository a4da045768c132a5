from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from copy import deepcopy

import pytest

from schemas import codec
from schemas.codec import NAMES, decode, encode, name_of, schema, use_framing
from schemas.errors import BusError, CodecError, SettingsError
from schemas.registry import Registry, subject_of
from tests.schemas.messages import RECORDS, message
from tests.schemas.registry_server import RegistryServer

SUBJECTS = {
    "packets-value": "PacketBatch",
    "features.early-value": "FeatureBatch",
    "features.flow-value": "FeatureBatch",
    "labels-value": "Label",
    "predictions.flow-value": "Prediction",
}


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _framing_ends_with_the_test() -> Iterator[None]:
    yield
    use_framing(None)


@pytest.fixture
def registry(server: RegistryServer) -> Registry:
    """A registry that all messages of the test are framed for."""
    registry = Registry(server.url)
    registry.start(SUBJECTS)
    use_framing(registry)
    return registry


def test_subjects_are_named_after_topics(server: RegistryServer, registry: Registry) -> None:
    assert subject_of("my.packets") == "my.packets-value"
    assert set(server.subjects) == set(SUBJECTS)
    for subject, name in SUBJECTS.items():
        assert [json.loads(server.schemas[n]) for n in server.subjects[subject].values()] == [schema(name)]


def test_a_message_begins_with_zero_and_the_id(server: RegistryServer, registry: Registry) -> None:
    plain = encode_plain("Label")
    framed = encode("Label", RECORDS["Label"])
    (number,) = server.subjects["labels-value"].values()
    assert framed == b"\x00" + number.to_bytes(4, "big") + plain[10:]
    assert name_of(framed) == "Label"
    assert decode("Label", framed) == RECORDS["Label"]


def encode_plain(name: str) -> bytes:
    framing, codec._framing = codec._framing, None
    try:
        return encode(name, RECORDS[name])
    finally:
        use_framing(framing)


@pytest.mark.parametrize("name", NAMES)
def test_both_framings_are_read(registry: Registry, name: str) -> None:
    plain = message(name)
    record = decode(name, plain)
    assert decode(name, encode(name, record)) == record


def test_registering_again_gives_the_same_ids_and_one_version(server: RegistryServer) -> None:
    first, second = Registry(server.url), Registry(server.url)
    first.start(SUBJECTS)
    second.start(SUBJECTS)
    assert first.heads == second.heads
    assert {len(versions) for versions in server.subjects.values()} == {1}


def test_ids_are_looked_up_where_nothing_may_be_registered(
    server: RegistryServer, registry: Registry
) -> None:
    looking = Registry(server.url)
    looking.start(SUBJECTS, register=False)
    assert looking.heads == registry.heads
    assert not any(line.endswith("/versions") for line in server.requests[len(SUBJECTS) :])


def test_a_schema_that_nobody_registered_is_named(server: RegistryServer) -> None:
    with pytest.raises(BusError, match=r"subject labels-value has no schema Label as it is now.*register"):
        Registry(server.url).start({"labels-value": "Label"}, register=False)
    assert server.subjects == {}


def test_an_unknown_id_is_asked_for_once(server: RegistryServer, registry: Registry) -> None:
    later = deepcopy(schema("Label"))
    later["fields"].append({"name": "added", "type": "int", "default": 7, "doc": "New."})
    number = server.add(later)
    data = codec.registry_head(number) + encode_plain("Label")[10:] + b"\x0e"
    asked = len(server.requests)
    for _ in range(3):
        assert decode("Label", data) == RECORDS["Label"]
    assert server.requests[asked:] == [f"GET /schemas/ids/{number}"]


def test_an_id_that_nobody_knows_is_a_codec_error_and_asked_for_once(
    server: RegistryServer, registry: Registry
) -> None:
    asked = len(server.requests)
    for _ in range(3):
        with pytest.raises(CodecError, match=r"schema id 77, which is none of ours at registry http://127"):
            decode("Label", codec.registry_head(77) + b"x")
    assert server.requests[asked:] == ["GET /schemas/ids/77"]


@pytest.mark.parametrize(
    "foreign",
    [
        {"type": "record", "name": "Label", "namespace": "com.example", "fields": []},
        {"type": "record", "name": "Other", "namespace": "org.flowgauge", "fields": []},
        {"type": "string"},
        {"type": "record", "name": "org.flowgauge.Label", "fields": [{"name": "a", "type": "nonsense"}]},
    ],
)
def test_a_schema_of_somebody_else_is_a_codec_error(
    server: RegistryServer, registry: Registry, foreign: dict[str, object]
) -> None:
    number = server.add(foreign)
    with pytest.raises(CodecError, match="none of ours"):
        name_of(codec.registry_head(number) + b"x")


def test_without_a_registry_such_a_message_says_what_is_missing() -> None:
    with pytest.raises(CodecError, match=r"schema id 258 .*bus\.registry_url is not set"):
        decode("Label", b"\x00\x00\x00\x01\x02abc")


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_message_is_a_codec_error(registry: Registry, name: str) -> None:
    data = encode(name, decode(name, message(name)))
    for size in {*range(min(len(data), 40)), len(data) - 1}:
        with pytest.raises(CodecError):
            decode(name, data[:size])


def test_a_registry_that_goes_away_is_no_fault_of_the_message(server: RegistryServer) -> None:
    with RegistryServer() as other:
        registry = Registry(other.url)
        registry.start({"labels-value": "Label"})
        use_framing(registry)
    assert decode("Label", encode("Label", RECORDS["Label"])) == RECORDS["Label"]
    with pytest.raises(BusError, match="cannot be reached"):
        decode("Label", codec.registry_head(5) + b"x")


def test_nothing_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BusError, match=rf"^schema registry {url}: cannot be reached: .*refused"):
            Registry(url).start(SUBJECTS)


@pytest.mark.parametrize("drip", [False, True])
def test_a_registry_that_does_not_answer_is_given_up(drip: bool) -> None:
    over = threading.Event()

    def trickle(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while not over.wait(0.05):
                try:
                    connection.sendall(b"X-A: b\r\n")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        if drip:
            threading.Thread(target=trickle, args=(listening,), daemon=True).start()
        registry = Registry(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_s=0.3)
        with pytest.raises(BusError, match=r"timed out|no answer within 0\.3 s"):
            registry.start({"labels-value": "Label"})
        over.set()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (409, r"subject labels-value refuses the schema Label: HTTP 409 Conflict \(not compatible\)"),
        (500, "HTTP 500 Internal Server Error"),
        (401, "HTTP 401 Unauthorized"),
        (404, "HTTP 404 Not Found"),
        (302, "HTTP 302 Found"),
    ],
)
def test_refusals_are_told_with_the_registrys_words(server: RegistryServer, status: int, said: str) -> None:
    server.refusal = status, {"error_code": status, "message": "not\ncompatible"}
    with pytest.raises(BusError, match=said) as caught:
        Registry(server.url).start({"labels-value": "Label"})
    assert server.url in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_of_the_registry_is_not_taken_for_an_unknown_id(
    server: RegistryServer, registry: Registry
) -> None:
    server.refusal = 500, {"message": "the store is away"}
    with pytest.raises(BusError, match="asked for schema id 5, it answers HTTP 500"):
        decode("Label", codec.registry_head(5) + b"x")


@pytest.mark.parametrize("answer", [{}, {"id": "7"}, {"id": -1}, {"id": 1 << 31}])
def test_an_answer_without_a_usable_id_is_an_error(server: RegistryServer, answer: dict[str, object]) -> None:
    server.refusal = 200, answer
    with pytest.raises(BusError, match="HTTP 200"):
        Registry(server.url).start({"labels-value": "Label"})


def test_an_account_given_beside_the_url_comes_first(server: RegistryServer) -> None:
    Registry(server.url.replace("//", "//bob:other@"), account=("ann", "p:w")).check()
    assert server.authorizations == [f"Basic {base64.b64encode(b'ann:p:w').decode()}"]


def test_user_and_password_are_sent_and_never_told(server: RegistryServer) -> None:
    registry = Registry(server.url.replace("//", "//ann:s%3Ax@"))
    registry.start({"labels-value": "Label"})
    assert server.authorizations == [f"Basic {base64.b64encode(b'ann:s:x').decode()}"]
    server.refusal = 500, {}
    with pytest.raises(BusError) as caught:
        registry.start({"labels-value": "Label"})
    assert "ann" not in str(caught.value)
    assert "s%3Ax" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["registry:8081", "ftp://registry", "http://", "http://host:port", "http://[::1"]
)
def test_what_is_no_url_is_a_settings_error(url: str) -> None:
    with pytest.raises(SettingsError, match=r"bus\.registry_url: not a URL"):
        Registry(url)


def test_a_check_registers_nothing(server: RegistryServer) -> None:
    Registry(server.url).check()
    assert server.requests == ["GET /subjects"]
    server.refusal = 503, {"message": "no leader"}
    with pytest.raises(BusError, match=r"it answers HTTP 503 Service Unavailable \(no leader\)"):
        Registry(server.url).check()


def test_a_path_before_the_interface_is_kept(server: RegistryServer) -> None:
    with pytest.raises(BusError, match="HTTP 404"):
        Registry(f"{server.url}/apis/ccompat/v7/").start({"a.b/c-value": "Label"})
    assert server.requests == ["POST /apis/ccompat/v7/subjects/a.b%2Fc-value/versions"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestConfluentsOwnClient:
    """Messages cross between Confluent's serializer and this codec both ways."""

    def test_it_reads_what_we_write(self, server: RegistryServer, registry: Registry) -> None:
        client, field, _, deserializer = self.confluent(server)
        data = encode("Prediction", RECORDS["Prediction"])
        assert deserializer(client)(data, field("predictions.flow")) == RECORDS["Prediction"]

    def test_we_read_what_it_writes(self, server: RegistryServer, registry: Registry) -> None:
        client, field, serializer, _ = self.confluent(server)
        write = serializer(client, json.dumps(schema("Label")))
        data = write(RECORDS["Label"], field("labels"))
        assert data == encode("Label", RECORDS["Label"])
        assert decode("Label", data) == RECORDS["Label"]

    @staticmethod
    def confluent(server: RegistryServer):  # type: ignore[no-untyped-def]
        """Return their client, a context maker, their serializer and deserializer."""
        avro = pytest.importorskip("confluent_kafka.schema_registry.avro")
        from confluent_kafka.schema_registry import SchemaRegistryClient
        from confluent_kafka.serialization import MessageField, SerializationContext

        def field(topic: str) -> SerializationContext:
            return SerializationContext(topic, MessageField.VALUE)

        client = SchemaRegistryClient({"url": server.url})
        return client, field, avro.AvroSerializer, avro.AvroDeserializer
