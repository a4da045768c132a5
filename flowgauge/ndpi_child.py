"""NFStream in a process of its own, whose flows come over a pipe; started by ``flowgauge.ndpi``.

NFStream forks its meter and waits for it without end. A fork of a process with other threads (TensorFlow's, a
Kafka client's) may hang, and the wait for a meter that crashed does; so it forks this process, which has no other
threads, and a meter that is gone ends it.
"""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

END = None
"""Sent behind the last flow of a capture; before it come lists of flows, or the text of an error."""
_BATCH_FLOWS = 256

Row = tuple[str, int, str, int, int, int, int, str, bool]
"""Source and its port, destination and its port, protocol, first and last ms, label, whether it is guessed."""


def serve(pipe: Connection) -> None:
    """Read the captures that are asked for until there is nobody who asks."""
    signal.signal(signal.SIGCHLD, _look_at_meter)
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            return
        try:
            _answer(pipe, question)
        except ValueError as error:
            pipe.send(" ".join(str(error).split()))


def _answer(pipe: Connection, question: dict[str, Any]) -> None:
    from nfstream import NFStreamer

    batch: list[Row] = []
    for flow in NFStreamer(**question):
        batch.append(_row(flow))
        if len(batch) == _BATCH_FLOWS:
            pipe.send(batch)
            batch.clear()
    pipe.send(batch)
    pipe.send(END)


def _row(flow: Any) -> Row:
    return (
        flow.src_ip,
        flow.src_port,
        flow.dst_ip,
        flow.dst_port,
        flow.protocol,
        flow.bidirectional_first_seen_ms,
        flow.bidirectional_last_seen_ms,
        flow.application_name,
        bool(flow.application_is_guessed),
    )


def _look_at_meter(_signal: int, _frame: object) -> None:
    """End this process if a child has failed; the child's status is left for NFStream to take."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # NFStream was faster
        return
    if ended is None or ended.si_status == 0:
        return
    how = f"failed with code {ended.si_status}"
    if ended.si_code != os.CLD_EXITED:
        if ended.si_status == signal.SIGTERM:  # with which NFStream ends a meter that told an error
            return
        how = f"was ended by {signal.Signals(ended.si_status).name}"
    os.write(sys.stderr.fileno(), f"its meter {how}\n".encode())
    os._exit(1)  # an exception might cut a list in the pipe in two


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
