from __future__ import annotations

import pytest

from flowgauge.outcome import EXIT_CODES, run
from schemas.errors import BusError, CodecError, FlowgaugeError, InputError, SettingsError


def fails_with(error: BaseException) -> int:
    def work() -> int:
        raise error

    return run(work)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("x.pcap: gone"), 3, "flowgauge: error: x.pcap: gone"),
        (SettingsError("bad key"), 2, "flowgauge: error: bad key"),
        (BusError("no broker"), 4, "flowgauge: error: no broker"),
        (CodecError("no message"), 5, "flowgauge: error: no message"),
        (FlowgaugeError("other"), 1, "flowgauge: error: other"),
        (KeyboardInterrupt(), 130, "flowgauge: interrupted"),
        (PermissionError(13, "Permission denied", "f.txt"), 3, "flowgauge: error: f.txt: Permission denied"),
        (
            ModuleNotFoundError("No module named 'faust'", name="faust"),
            2,
            "flowgauge: error: this needs faust, which is not installed: pip install 'flowgauge[streams]'",
        ),
        (
            ModuleNotFoundError("No module named 'river.tree'", name="river.tree"),
            2,
            "flowgauge: error: this needs river.tree, which is not installed: pip install 'flowgauge[models]'",
        ),
        (
            ZeroDivisionError("division\nby zero"),
            70,
            "flowgauge: error: unexpected ZeroDivisionError: division by zero (FLOWGAUGE_DEBUG=1 shows where)",
        ),
    ],
)
def test_every_error_is_one_line_and_a_documented_code(
    error: BaseException,
    code: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FLOWGAUGE_DEBUG", raising=False)
    assert fails_with(error) == code
    assert capsys.readouterr() == ("", line + "\n")
    assert code in EXIT_CODES


def test_work_that_returns_nothing_is_done() -> None:
    assert run(lambda: None) == 0
    assert run(lambda: 1) == 1
    assert fails_with(SystemExit(7)) == 7
