"""librdkafka's mock cluster as a broker inside this process: to try Flowgauge out with nothing but Python.

The mock speaks the Kafka protocol on a port of 127.0.0.1, so other processes connect to it as to any
broker. It is not a log to rely on: it keeps 5 MiB per partition and drops the oldest without a word, it has
no disk and no admin requests, it does not honour transactions, and a produce batch over 1 MB may be lost or
hide the next one. Who uses it must bound what is in flight and check sequence numbers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from confluent_kafka import cimpl

from schemas.errors import BusError

PARTITION_BYTES = 5 * 1024 * 1024
"""What the mock keeps per partition before it drops the oldest batch (fixed in librdkafka)."""

_RD_KAFKA_PRODUCER = 0
_MESSAGE_BYTES = 512

_POINTER = ctypes.c_void_p
_PROTOTYPES: dict[str, tuple[type | None, list[type]]] = {
    "rd_kafka_conf_new": (_POINTER, []),
    "rd_kafka_conf_set": (
        ctypes.c_int,
        [_POINTER, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t],
    ),
    "rd_kafka_new": (_POINTER, [ctypes.c_int, _POINTER, ctypes.c_char_p, ctypes.c_size_t]),
    "rd_kafka_destroy": (None, [_POINTER]),
    "rd_kafka_err2str": (ctypes.c_char_p, [ctypes.c_int]),
    "rd_kafka_mock_cluster_new": (_POINTER, [_POINTER, ctypes.c_int]),
    "rd_kafka_mock_cluster_destroy": (None, [_POINTER]),
    "rd_kafka_mock_cluster_bootstraps": (ctypes.c_char_p, [_POINTER]),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [_POINTER, ctypes.c_int32]),
    "rd_kafka_mock_topic_create": (ctypes.c_int, [_POINTER, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]),
}


def load_librdkafka(path: str | None = None) -> ctypes.CDLL:
    """Return the librdkafka that confluent-kafka brought, with the mock cluster's functions declared.

    A symbol looked up in the extension module is searched in the libraries it is linked with, so the name
    under which a wheel hides librdkafka does not matter. ``path`` names another library.

    Raises:
        BusError: the library cannot be loaded or lacks the mock cluster.
    """
    path = path or str(cimpl.__file__)
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise BusError(f"the embedded broker cannot load librdkafka from {path}: {error}") from error
    for name, (result, arguments) in _PROTOTYPES.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise BusError(
                f"the embedded broker needs {name}, which the librdkafka of {path} does not export: "
                "install confluent-kafka from its wheel (pip install confluent-kafka)"
            ) from None
        function.restype, function.argtypes = result, arguments
    return library


class EmbeddedBroker:
    """A one-broker mock cluster that lives as long as this object; a context manager.

    ``topics`` gives the partitions of each topic created at the start. A topic that nobody created springs
    up with 4 partitions at its first use, so create all of them. Needs no thread: librdkafka runs it on one
    of its own, outside the interpreter lock.
    """

    def __init__(self, topics: Mapping[str, int] | None = None) -> None:
        self._topics = dict(topics or {})
        self._library: ctypes.CDLL | None = None
        self._client: int | None = None
        self._cluster: int | None = None
        self._bootstrap = ""

    @property
    def bootstrap(self) -> str:
        """Address for ``bootstrap.servers``, as ``host:port``; another port at every start."""
        if not self._bootstrap:
            raise BusError("the embedded broker is not running")
        return self._bootstrap

    def start(self, topics: Mapping[str, int] | None = None) -> Self:
        """Start the cluster; create the topics of the constructor and of ``topics`` (name to partitions)."""
        if self._cluster:
            raise BusError("the embedded broker is running already")
        library = self._library = load_librdkafka()
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        # The cluster hangs on a client handle that never connects anywhere: no need to warn about that.
        settings = library.rd_kafka_conf_new()
        library.rd_kafka_conf_set(settings, b"log_level", b"0", message, _MESSAGE_BYTES)
        self._client = library.rd_kafka_new(_RD_KAFKA_PRODUCER, settings, message, _MESSAGE_BYTES)
        if not self._client:
            raise BusError(f"the embedded broker cannot start: {message.value.decode(errors='replace')}")
        self._cluster = library.rd_kafka_mock_cluster_new(self._client, 1)
        if not self._cluster:
            self.stop()
            raise BusError("the embedded broker cannot start: librdkafka made no mock cluster")
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        self._bootstrap = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        try:
            for name, partitions in {**self._topics, **(topics or {})}.items():
                self.create_topic(name, partitions)
        except BusError:
            self.stop()
            raise
        return self

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic.

        Raises:
            BusError: it exists already, or ``partitions`` is not positive.
        """
        if not self._library or not self._cluster:
            raise BusError("the embedded broker is not running")
        if partitions < 1:
            raise BusError(f"topic {name} needs at least one partition, not {partitions}")
        code = self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
        if code:
            reason = self._library.rd_kafka_err2str(code).decode()
            raise BusError(f"the embedded broker cannot create topic {name}: {reason}")

    def stop(self) -> None:
        """End the cluster; everything in it is gone. Does nothing when it is not running."""
        cluster, client, library = self._cluster, self._client, self._library
        self._cluster = self._client = None
        self._bootstrap = ""
        if library and cluster:
            library.rd_kafka_mock_cluster_destroy(cluster)
        if library and client:
            library.rd_kafka_destroy(client)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
