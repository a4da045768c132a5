"""Apache Kafka itself, one KRaft node on 127.0.0.1, as a child process: no Docker needed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra.broker.jvm import find_java, install, last_lines
from infra.broker.secured import Secured
from schemas.errors import BusError

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
_FORMAT_TIMEOUT_S = 60.0
_KILL_TIMEOUT_S = 10.0
_POLL_S = 0.1

_HERE = Path(__file__).parent
_CLUSTER_ID = "Zmxvd2dhdWdlLWJyb2tlcg"
# What messages leave in the heap dies young: two threads and much room for it hold the broker up half as long, and a
# third as often, as one thread with the usual room. Concurrent collectors take cores that whoever runs beside it wants.
# What lives on at all lives long (producers' states, indexes): copied once, not up to fifteen times, it takes the
# collector 10 to 30 ms of CPU instead of 40 to 50.
# A broker's classes take 40 MB; made room for at once, they do not stop it twice while it starts.
_JVM_OPTIONS = [
    "-XX:+UseParallelGC",
    "-XX:ParallelGCThreads=2",
    "-XX:MaxTenuringThreshold=1",
    "-XX:InitialTenuringThreshold=1",
    "-XX:MetaspaceSize=64m",
    "-Djava.awt.headless=true",
]
# Java's second compiler takes some ten seconds of a core in the first half minute of load, during which all on the
# machine wait longer, and saves a third of the broker's CPU from then on.
_FIRST_COMPILER_ONLY = "-XX:TieredStopAtLevel=1"
_YOUNG_SHARE = 2 / 3
# One node, two cores: one replica of everything, few threads, and a log cleaner that does not take its usual
# 128 MiB of heap. After a crash the node may register again only when the session of its former life is over.
# Workers may ask for short sessions too, so that tests need not wait for those that were killed.
_SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
log.dirs={log_dir}
auto.create.topics.enable=false
message.max.bytes=2097152
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=1000
num.network.threads=2
num.io.threads=2
background.threads=2
group.coordinator.threads=1
log.cleaner.dedupe.buffer.size=4194304
"""
_OPEN_LISTENERS = """\
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
"""


class KafkaBroker:
    """A Kafka broker that lives as long as this object, never longer than this process; a context manager.

    ``data_dir`` keeps topics and offsets from one run to the next; without it they lie in a temporary
    directory that ``stop`` removes. ``port`` 0 takes a free one. The thread that starts the broker must
    outlive it (Linux ends it with that thread). It is in a process group of its own, so Ctrl-C in the
    terminal leaves it to this process to end it. ``secured`` makes it ask who is there and what they may do.
    ``lasting`` is for one that runs for more than a minute or two: it takes less CPU then, and more before.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        data_dir: Path | None = None,
        cache_dir: Path | None = None,
        heap_mb: int = 384,
        secured: Secured | None = None,
        lasting: bool = False,
    ) -> None:
        self.port = port
        self._lasting = lasting
        self.secured = secured
        self._controller_port = 0
        self._given_data_dir = data_dir
        self._cache_dir = cache_dir
        self._heap_mb = heap_mb
        self._java = ""
        self._lib: Path | None = None
        self._data_dir: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """Address for ``bootstrap.servers``, as ``host:port``; the same after ``restart``."""
        return f"127.0.0.1:{self.port}"

    @property
    def data_dir(self) -> Path:
        """Directory of the broker's settings, log (``kafka.log``) and topics."""
        if self._data_dir is None:
            raise BusError("the Kafka broker has not been started")
        return self._data_dir

    @property
    def pid(self) -> int | None:
        """Process id while the broker runs."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process and running else None

    def start(self) -> Self:
        """Start the broker and wait until it answers.

        Raises:
            BusError: no Java, no jars, or the broker did not come up; then its last log lines follow.
        """
        if self.pid:
            raise BusError(f"the Kafka broker at {self.bootstrap} is running already")
        try:
            self._prepare()
            self._launch()
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the broker: SIGTERM, after 15 s SIGKILL. A temporary data directory goes with it."""
        self._end(signal.SIGTERM)
        if self._data_dir and not self._given_data_dir:
            shutil.rmtree(self._data_dir, ignore_errors=True)
            self._data_dir = None

    def kill(self) -> None:
        """End the broker as a crash would, with SIGKILL; ``restart`` brings it back with its data."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """End the broker if it runs and start it on the same port and data."""
        self.launch()
        self._wait_ready()

    def launch(self) -> None:
        """Do what ``restart`` does, without waiting until it answers."""
        self._end(signal.SIGTERM)
        self._launch()

    def answers(self) -> bool:
        """Return whether it takes connections."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=0.2):
            return True
        return False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _prepare(self) -> None:
        """Find the programs, take ports, write the settings and format the storage."""
        self._java = find_java()
        self._lib = install(self._cache_dir)
        ports = _take_ports(self.port, self.secured.port if self.secured else 0)
        self.port, accounts_port, self._controller_port = ports
        try:
            if self._given_data_dir:
                self._given_data_dir.mkdir(parents=True, exist_ok=True)
                self._data_dir = self._given_data_dir.resolve()
            elif self._data_dir is None:
                self._data_dir = Path(tempfile.mkdtemp(prefix="flowgauge-kafka-"))
            # Java unpacks native libraries there, and leaves them where it is killed.
            shutil.rmtree(self._data_dir / "tmp", ignore_errors=True)
            (self._data_dir / "tmp").mkdir()
            settings = _SERVER_PROPERTIES.format(
                controller_port=self._controller_port, log_dir=self._data_dir / "topics"
            )
            if self.secured:
                settings += self.secured.properties(self.port, accounts_port, self._controller_port)
            else:
                settings += _OPEN_LISTENERS.format(port=self.port, controller_port=self._controller_port)
            (self._data_dir / "server.properties").write_text(settings, encoding="utf-8")
        except OSError as error:
            raise BusError(f"cannot write the Kafka broker's data directory: {error}") from error
        self._format()

    def _command(self, *main: str, lasting: bool = False) -> list[str]:
        # Java, not a shell, expands the star of the class path.
        compilers = [] if lasting else [_FIRST_COMPILER_ONLY]
        options = [*compilers, *_JVM_OPTIONS, f"-Dlog4j2.configurationFile={_HERE / 'log4j2.xml'}"]
        options.append(f"-Djava.io.tmpdir={self.data_dir / 'tmp'}")
        heap = [f"-Xmx{self._heap_mb}m", f"-Xmn{int(self._heap_mb * _YOUNG_SHARE)}m"]
        return [self._java, *heap, *options, "-cp", f"{self._lib}/*", *main]

    def _format(self) -> None:
        command = self._command("kafka.tools.StorageTool", "format", "--ignore-formatted")
        command += ["-t", _CLUSTER_ID, "-c", str(self.data_dir / "server.properties")]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, timeout=_FORMAT_TIMEOUT_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BusError(f"Kafka's storage in {self.data_dir} could not be formatted: {error}") from error
        if done.returncode:
            said = last_lines(done.stdout)
            raise BusError(f"Kafka's storage in {self.data_dir} could not be formatted:\n{said}")

    def _launch(self) -> None:
        guard = [sys.executable, "-I", str(_HERE / "die_with_parent.py"), str(os.getpid())]
        server = self._command("kafka.Kafka", str(self.data_dir / "server.properties"), lasting=self._lasting)
        with (self.data_dir / "kafka.log").open("ab") as log:
            self._process = subprocess.Popen(
                guard + server, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def _wait_ready(self) -> None:
        admin = AdminClient({
            "bootstrap.servers": self.bootstrap, "log_level": 0,
            "reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 200,
            **(self.secured.operator_client() if self.secured else {}),
        })  # fmt: skip
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if not self.pid:
                raise BusError(f"the Kafka broker ended while starting:\n{self._log_tail()}")
            with suppress(KafkaException):
                # A broker is listed once the controller lets it serve, so topics can be created from then on.
                if admin.list_topics(timeout=1).brokers:
                    return
            time.sleep(_POLL_S)
        raise BusError(f"the Kafka broker was not ready after {READY_TIMEOUT_S:.0f} s:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        try:
            return last_lines((self.data_dir / "kafka.log").read_text(encoding="utf-8", errors="replace"))
        except OSError as error:
            return f"(no log: {error})"

    def _end(self, how: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(_KILL_TIMEOUT_S)
        self._process = None


def _take_ports(*wanted: int) -> tuple[int, int, int]:
    """Return two ports (free ones for 0) and a free one for the controller."""
    with ExitStack() as open_sockets:
        taken = [open_sockets.enter_context(socket.socket()) for _ in range(3)]
        for one, number in zip(taken, (*wanted, 0), strict=True):
            try:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(("127.0.0.1", number))
            except OSError as error:
                raise BusError(f"port {number} of 127.0.0.1 cannot be used: {error.strerror}") from error
        first, second, controller = (one.getsockname()[1] for one in taken)
        return first, second, controller
