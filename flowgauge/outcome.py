"""How every command ends: errors in one line on stderr, and the exit codes that scripts rely on."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable

from schemas.errors import FlowgaugeError

OK = 0
FAILED = 1
USAGE = 2
INTERNAL = 70
INTERRUPTED = 130
BROKEN_PIPE = 141

EXIT_CODES: dict[int, str] = {
    OK: "done",
    FAILED: "done, but something is wrong: a check failed, a topic is missing, packets got lost",
    USAGE: "a flag, argument or setting that cannot be used",
    3: "a file that cannot be read or written",
    4: "the broker cannot be reached or refuses",
    5: "a message that cannot be decoded",
    INTERNAL: "an error in Flowgauge itself",
    INTERRUPTED: "interrupted (Ctrl-C)",
    143: "stopped (SIGTERM)",
    BROKEN_PIPE: "whoever read the output went away",
}

_EXTRAS = {
    "faust": "streams",
    "aiokafka": "streams",
    "mode": "streams",
    "uvloop": "streams",
    "river": "models",
    "pyarrow": "parquet",
    "nfstream": "label",
    "dpkt": "peers",
    "keras": "study",
    "tensorflow": "study",
    "sklearn": "study",
    "matplotlib": "study",
    "tf2onnx": "study",
    "optuna": "study",
}
"""Module that an extra brings, to the extra's name."""


def run(work: Callable[[], int | None]) -> int:
    """Run a command and return its exit code; what goes wrong is told in one line, never as a traceback.

    ``FLOWGAUGE_DEBUG=1`` adds the traceback of any error.
    """
    try:
        code = work() or OK
        sys.stdout.flush()
    except KeyboardInterrupt:
        tell("flowgauge: interrupted")
        return INTERRUPTED
    except SystemExit as request:
        return request.code if isinstance(request.code, int) else FAILED
    except BaseException as error:  # the last line of defence: everything ends as one line and a code
        return _failed(error)
    return code


def tell(line: str) -> None:
    """Print a line on stderr, if stderr is still there."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        return


def _failed(error: BaseException) -> int:
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        # The interpreter flushes stdout once more at its end; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    if os.environ.get("FLOWGAUGE_DEBUG"):
        traceback.print_exception(error)
    code, message = _explain(error)
    if message:
        tell(f"flowgauge: error: {message}")
    return code


def _explain(error: BaseException) -> tuple[int, str]:
    if isinstance(error, FlowgaugeError):
        return error.exit_code, str(error)
    usage = getattr(error, "format_message", None)  # of the command line parser, whichever typer carries
    if usage is not None:
        text = " ".join(str(usage()).split())  # empty where the parser has shown the help instead
        return USAGE, f"{text} (see flowgauge --help)" if text else ""
    if isinstance(error, ModuleNotFoundError):
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra:
            return USAGE, f"this needs {error.name}, which is not installed: pip install 'flowgauge[{extra}]'"
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename else ""
        return 3, f"{named}{error.strerror}"
    if isinstance(error, MemoryError):
        return INTERNAL, "out of memory"
    text = " ".join(str(error).split())
    return INTERNAL, f"unexpected {type(error).__name__}: {text} (FLOWGAUGE_DEBUG=1 shows where)"
