"""Runs the demo: embedded broker, two workers, a replay of labelled traffic, and a view of it all."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import infra.lab
from flowgauge.bus import project_topics
from flowgauge.demo.account import Check, checks
from flowgauge.demo.children import Children
from flowgauge.demo.flow_control import FlowControl
from flowgauge.demo.screen import Progress, Screen, as_object, show_summary, status_line
from flowgauge.demo.tally import Tally
from flowgauge.demo.watch import Commits, Watcher
from flowgauge.interrupt import Stop, stopping
from flowgauge.outcome import FAILED, tell
from flowgauge.settings import Effective
from flowgauge.wanted import replay_settings, wanted_columns
from infra.broker.embedded import EmbeddedBroker
from models.online.config import OnlineSettings
from producers.batcher import Batcher
from producers.config import BusSettings, ReplaySettings
from producers.labels import read_labels
from producers.probes import ProbeSpec
from producers.replay import ReplayOptions, run_replay
from producers.sources.capture import open_capture
from producers.summary import ReplaySummary
from schemas import topics
from schemas.errors import FlowgaugeError, InputError
from schemas.packets import Extra
from streams.config import StreamsSettings

PROBE = "demo"
PARTITIONS = 4
READY_TIMEOUT_S = 90.0
DRAIN_TIMEOUT_S = 20.0
_POLL_S = 0.05
_QUIET_S = 0.3
_FETCH_WAIT_S = 0.02
_COMMIT_INTERVAL_S = 0.2

BANNER = (
    "Flowgauge demo: {packets}labelled traffic, replayed {speed:.1f} times as fast as it was captured. The broker is "
    "embedded, for trying out only: it lives in this process and forgets everything with it."
)


@dataclass(frozen=True)
class Traffic:
    """What is replayed."""

    capture: Path
    labels: Path
    speed: float


class Replaying(threading.Thread):
    """The replay in a thread of its own; ``summary`` or ``error`` is there when it has ended."""

    def __init__(
        self, traffic: Traffic, bus: BusSettings, settings: ReplaySettings, control: FlowControl, progress: Progress,
        stop: threading.Event, extra: Extra,
    ) -> None:  # fmt: skip
        super().__init__(name="replay", daemon=True)
        self.summary: ReplaySummary | None = None
        self.error: BaseException | None = None
        self._traffic, self._bus, self._settings = traffic, bus, settings
        self._control, self._progress, self._halt, self._extra = control, progress, stop, extra

    def run(self) -> None:
        """Replay, and keep what comes of it."""
        try:
            self.summary = run_replay(
                (ProbeSpec(PROBE, (str(self._traffic.capture),)),),
                self._bus,
                ReplayOptions(self._traffic.speed, 1, str(self._traffic.labels), self._settings, self._extra),
                on_progress=self._told,
                stop=self._halt,  # not _stop: threads have a method of that name
                admit=self._control.admit,
            )
        except BaseException as error:  # the main thread raises it
            self.error = error

    def _told(self, packets: int, _octets: int, share: float | None) -> None:
        self._progress.packets = packets
        self._progress.share = share or 0.0


def traffic(seconds: float) -> Traffic:
    """Return the capture that ships, at the speed that replays it in so many seconds (never slower than captured)."""
    data = Path(infra.lab.__file__).parent / "data"
    found = Traffic(data / "demo.pcap.gz", data / "demo.labels.csv", 1.0)
    for path in (found.capture, found.labels):
        if not path.is_file():
            raise InputError(
                f"{path}: the demo's traffic is missing; the traffic lab makes it (python -m infra.lab)"
            )
    labels = read_labels(str(found.labels))
    span_s = (int(labels.end_ns.max()) - int(labels.start_ns.min())) / 1e9 if labels.rows else seconds
    return replace(found, speed=max(1.0, span_s / seconds))


class Demo:
    """One run of the demo; ``run`` returns the exit code."""

    def __init__(self, effective: Effective, arguments: Sequence[str], seconds: float, as_json: bool) -> None:
        """Prepare; ``arguments`` are the settings flags that the workers get too."""
        self.streams = effective.get("streams", StreamsSettings)
        self.models = effective.get("models", OnlineSettings)
        self.replay = replay_settings(effective)
        self.extra = wanted_columns(effective)
        self.arguments = list(arguments)
        self.as_json = as_json
        self.traffic = traffic(seconds)
        self.progress = Progress()
        self.tally = Tally()
        self.found: list[Check] = []

    def run(self) -> int:
        """Run it all; everything started is ended when this returns or raises."""
        wanted = {t.name: t.partitions(PARTITIONS) for t in project_topics(self.streams).values()}
        banner = BANNER.format(packets="", speed=self.traffic.speed)
        with ExitStack() as stack:
            stop = stack.enter_context(stopping())
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flowgauge-demo-")))
            broker = stack.enter_context(EmbeddedBroker(wanted))
            bus = BusSettings(bootstrap=broker.bootstrap, partitions=PARTITIONS)
            commits = Commits(bus)
            stack.callback(commits.close)
            control = FlowControl(self._groups(), commits, stop)
            read = {
                name: count
                for name, count in wanted.items()
                if name not in (topics.PACKETS, topics.FLOWS_STATE)
            }
            watcher = Watcher(bus, read, self.tally, control.note)
            stack.callback(watcher.close)
            children = stack.enter_context(Children(directory))
            screen = stack.enter_context(Screen(self.progress, self.tally, banner, quiet=self.as_json))
            replaying = Replaying(
                self.traffic, bus, self.replay, control, self.progress, stop.event, self.extra
            )
            self._start(children, bus)
            self._until_ready(children, watcher, screen, stop)
            self._replay(replaying, children, watcher, screen, stop)
            self._drain(control, children, watcher, screen, stop)
            self._end(children, watcher, screen, stop)
            if not stop() and replaying.summary is not None:
                self.found = checks(
                    replaying.summary, self.tally, self.models.representations, watcher.missing
                )
        return self._conclude(stop)

    def _groups(self) -> dict[str, str]:
        groups = {topics.PACKETS: self.streams.group, topics.LABELS: self.models.group}
        return groups | {f"features.{name}": self.models.group for name in self.models.representations}

    def _start(self, children: Children, bus: BusSettings) -> None:
        on_bus = [f"bus.bootstrap={bus.bootstrap}", f"bus.partitions={bus.partitions}", "bus.topic_prefix="]
        for name in ("streams", "models"):
            own = [f"{name}.fetch_wait_s={_FETCH_WAIT_S}", f"{name}.commit_interval_s={_COMMIT_INTERVAL_S}"]
            if name == "models":
                # Each demo begins with a model that knows nothing.
                own.append("models.checkpoint_interval_s=0")
            flags = [part for assignment in (*on_bus, *own) for part in ("--set", assignment)]
            children.start(name, [*self.arguments, *flags, "--json"])

    def _until_ready(self, children: Children, watcher: Watcher, screen: Screen, stop: Stop) -> None:
        """Wait until both workers have told their first costs; compile the replay's kernels meanwhile."""
        warming = threading.Thread(target=_warm_up, args=(self.traffic.capture,), daemon=True)
        warming.start()
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not stop() and (warming.is_alive() or not {"flows", "models"} <= set(self.tally.costs)):
            if time.monotonic() > deadline:
                said = "; ".join(f"{child.name}: {child.last_words()}" for child in children.running)
                raise FlowgaugeError(f"the workers are not ready after {READY_TIMEOUT_S:.0f} s: {said}")
            self._look(children, watcher, screen)

    def _replay(
        self, replaying: Replaying, children: Children, watcher: Watcher, screen: Screen, stop: Stop
    ) -> None:
        if stop():
            return
        self.progress.phase, self.progress.replay_began = "replaying", time.monotonic()
        replaying.start()
        try:
            while replaying.is_alive():
                self._look(children, watcher, screen)
        except BaseException:
            # Whatever went wrong here, the replay must not go on into a bus that goes away.
            stop.event.set()
            replaying.join(2.0)
            raise
        self.progress.replay_s = self.progress.running_s
        if replaying.error is not None:
            raise replaying.error

    def _drain(
        self, control: FlowControl, children: Children, watcher: Watcher, screen: Screen, stop: Stop
    ) -> None:
        """Wait until every message has been worked off and every row predicted on."""
        self.progress.phase = "finishing"
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while not stop() and time.monotonic() < deadline:
            self._look(children, watcher, screen)
            if not any(control.in_flight().values()) and self.tally.predictions >= self._rows():
                return

    def _rows(self) -> int:
        return sum(self.tally.rows[name] for name in self.models.representations)

    def _end(self, children: Children, watcher: Watcher, screen: Screen, stop: Stop) -> None:
        """End the workers, then read their last words on the bus."""
        self.progress.phase = "stopping"
        screen.update()
        killed = children.stop()
        if killed and not stop():
            raise FlowgaugeError(f"{' and '.join(killed)} did not stop by themselves and had to be killed")
        while not stop() and watcher.poll(_QUIET_S):
            screen.update()

    def _look(self, children: Children, watcher: Watcher, screen: Screen) -> None:
        watcher.poll(_POLL_S)
        children.check()
        screen.update()

    def _conclude(self, stop: Stop) -> int:
        self.progress.phase = "interrupted" if stop() else "done"
        problems = [check.problem for check in self.found if not check.holds]
        if self.as_json:
            outcome = {"interrupted": stop(), **as_object(self.progress, self.tally, self.found)}
            print(json.dumps(outcome), flush=True)
        elif stop():
            print(status_line(self.progress, self.tally).strip(), flush=True)
        else:
            show_summary(self.progress, self.tally, self.found)
        for problem in problems:
            tell(f"flowgauge: error: {problem}")
        return stop.exit_code or (FAILED if problems else 0)


def _warm_up(capture: Path) -> None:
    """Compile, or load from the cache, the kernels that the replay needs."""
    batcher = Batcher(PARTITIONS)
    with open_capture(str(capture)) as opened:
        for block in opened.blocks():
            for _ in batcher.add(block):
                pass
            for _ in batcher.flush():
                pass
            return
