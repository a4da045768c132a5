"""Makes one labelled capture: namespaces, servers, capture, clients, then the truth."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import infra
from infra.lab.app import App
from infra.lab.labels import Flow, Judge, Truth, label_of, split_flows, write_labels
from infra.lab.network import Network, inside
from infra.lab.node import GRACE_S
from infra.lab.pcap import read_capture, write_capture
from infra.lab.plan import CLIENTS, server_address
from infra.lab.shaper import Trace
from infra.lab.switch import MIDDLE
from schemas.errors import FlowgaugeError

START_S = 90
"""How long all servers together may take to stand."""


@dataclass
class Summary:
    """What a run made, and what did not work, by application."""

    packets: int = 0
    lost: int = 0
    flows: dict[str, int] = field(default_factory=dict)
    unlabelled: int = 0
    visits: Counter[str] = field(default_factory=Counter)
    made: Counter[str] = field(default_factory=Counter)
    """What visits counted about themselves."""
    failures: Counter[str] = field(default_factory=Counter)
    errors: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Course:
    """How a run differs from the plain one, in which all clients visit everything and endpoints give the labels."""

    names: Mapping[int, Sequence[str]] | None = None
    """Applications by client; None: all of them visit all."""
    rates: Mapping[int, Trace] = field(default_factory=dict)
    """Rates of the clients' lines, towards them; others are as fast as they come."""
    prepare: Callable[[Path], None] = lambda folder: None
    """Called with the lab's folder before anything starts."""
    judge: Callable[[Path, list[Flow]], Judge] | None = None
    """Called with the lab's folder, before it goes, and the flows; returns what labels them."""


def truth_of(apps: list[App]) -> Truth:
    """Return the label of each endpoint, over IPv4 and IPv6.

    Raises:
        FlowgaugeError: two applications claim the same endpoint.
    """
    truth: dict[tuple[str, int, int], str] = {}
    for app in apps:
        for endpoint in app.endpoints:
            for version in (4, 6):
                key = (server_address(endpoint.server, version), endpoint.port, endpoint.protocol)
                if truth.setdefault(key, app.label) != app.label:
                    raise FlowgaugeError(f"application {app.name}: {key} belongs to {truth[key]} already")
    return truth


def make(
    apps: list[App],
    out: Path,
    name: str,
    *,
    seconds: float,
    seed: int,
    snap_length: int,
    tell: Callable[[str], None],
    clients: int = CLIENTS,
    course: Course = Course(),
) -> Summary:
    """Write ``out/name.pcap.gz`` and ``out/name.labels.csv``.

    Applications whose programs are missing or whose servers do not start are skipped by name.

    Raises:
        FlowgaugeError: no application can run, or the namespaces cannot be made.
    """
    summary = Summary()
    usable = [app for app in apps if not _skip(app, summary, tell)]
    if not usable:
        raise FlowgaugeError(
            "no application of the lab can run here: `python -m infra.lab list` says what is missing"
        )
    out.mkdir(parents=True, exist_ok=True)
    with _terminable(), tempfile.TemporaryDirectory(prefix="flowgauge-lab-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)  # servers that give root up read their files here
        course.prepare(folder)
        with Network(clients) as network:
            usable = _run(network, usable, folder, summary, seconds, seed, snap_length, tell, course)
        packets = sorted(read_capture(folder / "raw.pcap"), key=lambda packet: packet.time_ns)
        flows = split_flows(packets)
        judge: Judge = partial(label_of, truth=truth_of(usable))
        if course.judge is not None:
            judge = course.judge(folder, flows)
    summary.packets = len(packets)
    write_capture(out / f"{name}.pcap.gz", packets, snap_length)
    counts = write_labels(out / f"{name}.labels.csv", flows, judge)
    summary.unlabelled = counts.pop("", 0)
    summary.flows = dict(sorted(counts.items()))
    return summary


def _skip(app: App, summary: Summary, tell: Callable[[str], None]) -> bool:
    missing = app.missing()
    if missing:
        summary.skipped[app.name] = f"{', '.join(missing)} missing: {app.remedy()}"
        tell(f"skipping {app.name}: {summary.skipped[app.name]}")
    return bool(missing)


def _run(
    network: Network,
    apps: list[App],
    folder: Path,
    summary: Summary,
    seconds: float,
    seed: int,
    snap_length: int,
    tell: Callable[[str], None],
    course: Course,
) -> list[App]:
    """Serve, capture and visit; returns the applications whose servers stood."""
    names = ",".join(app.name for app in apps)
    common = [sys.executable, "-m", "infra.lab.node", str(folder)]
    server = _start(network.server, [*common, names, "--seed", str(seed)], folder / "server.err")
    told = _hear(server, START_S, folder / "server.err")
    for name, why in told["failed"].items():
        summary.skipped[name] = why
        tell(f"skipping {name}: {why}")
    standing = [app for app in apps if app.name in told["ready"]]
    if not standing:
        raise FlowgaugeError("no server of the lab started")
    tell(f"{len(standing)} applications for {seconds:g} s: {', '.join(app.name for app in standing)}")

    command = [sys.executable, "-m", "infra.lab.switch", str(len(network.clients)), "--seed", str(seed)]
    if course.rates:
        (folder / "rates.json").write_text(json.dumps(course.rates))
        command += ["--rates", str(folder / "rates.json")]
    switch = _start(network.switch, command, folder / "switch.err")
    if _line(switch, 20) != "ready":
        raise FlowgaugeError(f"the switch did not start: {_tail(folder / 'switch.err')}")
    raw = folder / "raw.pcap"
    command = [sys.executable, "-m", "infra.lab.capture", MIDDLE, str(raw), str(snap_length)]
    recorder = _start(network.switch, command, folder / "capture.err")
    if _line(recorder, 20) != "ready":
        raise FlowgaugeError(f"the capture did not start: {_tail(folder / 'capture.err')}")
    ready: list[str] = told["ready"]
    names_of = [
        ready if course.names is None else [name for name in course.names.get(i, ()) if name in ready]
        for i in range(len(network.clients))
    ]
    visitors = [
        _start(
            namespace,
            [
                *common,
                ",".join(names_of[i]),
                "--seed",
                str(seed),
                "--client",
                str(i),
                "--seconds",
                str(seconds),
            ],
            folder / f"client{i}.err",
        )
        for i, namespace in enumerate(network.clients)
        if names_of[i]
    ]
    deadline = time.monotonic() + seconds + GRACE_S + 30
    for i, visitor in zip((i for i, names in enumerate(names_of) if names), visitors, strict=True):
        report = _hear(visitor, deadline - time.monotonic(), folder / f"client{i}.err")
        summary.visits.update(report["visits"])
        summary.failures.update(report["failures"])
        summary.made.update(report["made"])
        summary.errors.update(report["errors"])
    recorder.send_signal(signal.SIGTERM)
    summary.lost = json.loads(_line(recorder, 20) or "{}").get("lost", 0)
    recorder.wait(10)
    for process in (server, switch):
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    return standing


def _start(namespace: str, command: list[str], log: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(infra.__path__[0]).parent)}
    with log.open("wb") as errors:
        # A session of its own: Ctrl-C reaches the lab alone, which then ends everything in order.
        return subprocess.Popen(
            inside(namespace, *command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            start_new_session=True,
        )


def _line(process: subprocess.Popen[str], timeout_s: float) -> str:
    """Return the next line that a process prints, ``""`` when it ended or stays silent too long."""
    stream: IO[str] | None = process.stdout
    if stream is None or not select.select([stream], [], [], max(timeout_s, 0))[0]:
        return ""
    return stream.readline().strip()


def _hear(process: subprocess.Popen[str], timeout_s: float, log: Path) -> dict[str, Any]:
    line = _line(process, timeout_s)
    if not line:
        raise FlowgaugeError(f"a node of the lab said nothing: {_tail(log)}")
    message: dict[str, Any] = json.loads(line)
    return message


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C unwind once; a second one does not interrupt the clearing away."""
    numbers = (signal.SIGTERM, signal.SIGINT)

    def interrupt(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
