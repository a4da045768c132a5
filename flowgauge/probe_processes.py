"""Several processes that share a probe's interfaces: started, watched, started anew, and stopped in order.

The parent opens every ring and keeps it open, so that a process that was killed is replaced without any right, and
its successor goes on with what waits in its ring.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from flowgauge.interrupt import Stop
from flowgauge.outcome import run as run_and_tell
from producers.probe.log import LOGGER

_PR_SET_PDEATHSIG = 1
_RESTART_S = 1.0
_POLL_S = 0.05

log = logging.getLogger(LOGGER)

Work = Callable[[int, bool, Stop], dict[str, Any]]
"""Does the work of a process, given its number and whether it takes over from one that died; returns its summary."""


@dataclass
class _Worker:
    pid: int
    pipe: int
    """End to read the summary from."""


class ProcessFailed(Exception):
    """A process ended with this code; it has told why itself."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a process ended with code {code}")
        self.code = code


def run_processes(
    count: int, work: Work, stop: Stop, hangup: threading.Event
) -> tuple[list[dict[str, Any]], int]:
    """Run ``work`` in so many processes until stopped; return their summaries, and how many were started anew.

    Threads must not have been started. A SIGHUP, told by ``hangup``, is passed on. A process that was killed by a
    signal is started anew a second later.

    Raises:
        ProcessFailed: one ended by itself, having told why; the others were stopped.
    """
    workers = {number: _start(number, work, taking_over=False) for number in range(count)}
    summaries: dict[int, dict[str, Any]] = {}
    restarts, failed, told = 0, 0, False
    while workers:
        if hangup.is_set():
            hangup.clear()
            _signal(workers.values(), signal.SIGHUP)
        if stop.event.is_set() and not told:
            told = True
            _signal(workers.values(), signal.SIGTERM)
        for number, worker in list(workers.items()):
            status = _ended(worker.pid)
            if status is None:
                continue
            del workers[number]
            text = _rest_of(worker.pipe)
            if text:
                summaries[number] = json.loads(text)
            if os.WIFSIGNALED(status) and not stop.event.is_set():
                log.error(
                    "process %d was killed by signal %d; another takes over", number, os.WTERMSIG(status)
                )
                restarts += 1
                stop.event.wait(_RESTART_S)
                if not stop.event.is_set():
                    workers[number] = _start(number, work, taking_over=True)
            elif os.WIFSIGNALED(status) or os.WEXITSTATUS(status):
                failed = failed or (os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)
                stop.event.set()
        time.sleep(_POLL_S)
    if failed:
        raise ProcessFailed(failed)
    return [summaries[number] for number in sorted(summaries)], restarts


def _start(number: int, work: Work, *, taking_over: bool) -> _Worker:
    reading, writing = os.pipe()
    # A stop that comes before the process listens for it would kill it, or be taken by its copy of our handler.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _be_a_worker(number, work, taking_over, writing, before)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(writing)
    return _Worker(pid, reading)


def _be_a_worker(number: int, work: Work, taking_over: bool, pipe: int, signals: Iterable[int]) -> NoReturn:
    """Do the work in this process, and end it without what the parent would do at its end.

    ``signals`` are those to block once this process listens for the others.
    """
    parent = os.getppid()
    os.setpgid(0, 0)  # Ctrl-C goes to the parent alone, which passes it on in order
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    stop = Stop()

    def end(number: int, _frame: object) -> None:
        stop.signal = number
        stop.event.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, signals)
    if os.getppid() != parent:
        stop.event.set()

    def do() -> int:
        os.write(pipe, json.dumps(work(number, taking_over, stop)).encode())
        return 0

    code = run_and_tell(do)
    sys.stdout.flush()
    os._exit(code)


def _signal(workers: Sequence[_Worker] | Any, number: int) -> None:
    for worker in workers:
        os.kill(worker.pid, number)


def _ended(pid: int) -> int | None:
    done, status = os.waitpid(pid, os.WNOHANG)
    return status if done else None


def _rest_of(pipe: int) -> bytes:
    with os.fdopen(pipe, "rb") as end:
        return end.read()
