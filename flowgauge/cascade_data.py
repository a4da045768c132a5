"""What ``flowgauge study cascade`` is given, as flow data: captures with labels, or a table of packet sequences."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from flowgauge.dataset_labels import groups_beside, label_captures, read_groups
from models.flow.octets import REPRESENTATION as OCTETS
from models.flow.study.captures import REPRESENTATIONS, LabelledCapture, from_captures
from models.flow.study.data import FlowData
from models.flow.study.table import REPRESENTATION, from_table
from schemas.errors import InputError, SettingsError
from streams.config import StreamsSettings

LABELS_FILE = "labels.csv"
_CAPTURES = (".pcap", ".pcapng", ".cap", ".pcap.gz", ".pcapng.gz", ".cap.gz", ".pcap.zst", ".pcapng.zst")
_FLOW_COLUMNS = ("ip_a", "source_address", "flow_id")
"""One of them in a labels file means that it labels flows, not captures."""
_CLASS_COLUMNS = ("label", "device", "app", "class")


def flow_data(
    dataset: Path,
    labels: str | None,
    settings: StreamsSettings,
    wanted: Sequence[tuple[str, int]],
    least_flows: int,
    least_groups: int,
    tell: Callable[[str, int, int], None],
    stop: Callable[[], bool],
) -> FlowData | None:
    """Return the labelled flows of a data set; None if ``stop`` ended it before.

    Args:
        dataset: a capture or a folder of captures with ``labels.csv`` beside them, or a table of packet sequences.
        labels: another labels file, or ``ndpi``, for captures.
        settings: when flows end.
        wanted: representations, each with a depth in packets.
        least_flows: a class with fewer is left out.
        least_groups: so is one of fewer groups.
        tell: told what is being done, how much of it is done, and out of how much.
        stop: asked between captures.

    Raises:
        InputError: a file that cannot be read, or fewer than two classes.
        SettingsError: options that do not fit the data.
    """
    if is_captures(dataset):
        _check([name for name, _ in wanted if name != OCTETS])
        return _from_folder(dataset, labels, settings, wanted, least_flows, least_groups, tell, stop)
    if not dataset.exists():
        raise InputError(f"{dataset}: No such file or directory")
    names = list(dict.fromkeys(name for name, _ in wanted))
    if OCTETS in names:
        raise SettingsError(
            f"--packet-model: {dataset.name} is a table of packet sequences, which has no payloads"
        )
    if names != [REPRESENTATION]:
        raise SettingsError(
            f"--representations {','.join(names)}: {dataset.name} is a table of packet sequences, of which "
            f"there is only {REPRESENTATION}"
        )
    return from_table(dataset, sorted({depth for _, depth in wanted}), least_flows, least_groups)


def is_captures(dataset: Path) -> bool:
    """Return whether a data set is a folder of captures, or one capture, and no table."""
    return dataset.is_dir() or dataset.name.endswith(_CAPTURES)


def _check(representations: Sequence[str]) -> None:
    for name in representations:
        if name not in REPRESENTATIONS:
            raise SettingsError(f"--representations {name}: there is {', '.join(REPRESENTATIONS)}")


def _from_folder(
    folder: Path,
    labels: str | None,
    settings: StreamsSettings,
    wanted: Sequence[tuple[str, int]],
    least_flows: int,
    least_groups: int,
    tell: Callable[[str, int, int], None],
    stop: Callable[[], bool],
) -> FlowData | None:
    found = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    paths = [str(path) for path in found if path.name.endswith(_CAPTURES)]
    if not paths:
        raise InputError(f"{folder}: no capture in it ({', '.join(_CAPTURES[:2])}, also compressed)")
    file = labels or str((folder if folder.is_dir() else folder.parent) / LABELS_FILE)
    column = _class_of_captures(file)
    if column:
        captures = _labelled_whole(paths, Path(file), column, folder)
    else:
        captures = _labelled_by_flow(paths, file, settings, tell, stop)
    if stop():
        return None
    return from_captures(
        folder.resolve().name.split(".")[0],
        captures,
        settings,
        wanted,
        least_flows,
        least_groups,
        lambda done: tell("captures read", done, len(captures)),
        stop,
    )


def _class_of_captures(file: str) -> str:
    """Return the column that labels whole captures in a labels file; empty where it labels flows."""
    if file.lower() == "ndpi":
        return ""
    try:
        with Path(file).open(encoding="utf-8-sig") as opened:
            head = opened.readline().strip().split(",")
    except UnicodeDecodeError:
        raise InputError(f"{file}: is not UTF-8 text, so not a labels file") from None
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from None
    if "capture" not in head or any(name in head for name in _FLOW_COLUMNS):
        return ""
    found = [name for name in _CLASS_COLUMNS if name in head]
    if not found:
        raise InputError(f"{file}: line 1: no column {' or '.join(_CLASS_COLUMNS)}")
    return found[0]


def _labelled_whole(paths: Sequence[str], file: Path, column: str, folder: Path) -> list[LabelledCapture]:
    of_name: dict[str, str] = {}
    with file.open(encoding="utf-8-sig", newline="") as opened:
        for line, row in enumerate(csv.DictReader(opened), 2):
            if not row.get(column):
                raise InputError(f"{file}: line {line}: no {column}")
            if of_name.setdefault(row["capture"], row[column]) != row[column]:
                raise InputError(f"{file}: line {line}: {row['capture']} has another {column} before")
    table = groups_beside(str(file))
    groups = read_groups(table) if table else {}
    named = [(path, Path(path).name) for path in paths]
    found = [
        LabelledCapture(path, groups.get(name, name), of_name[name])
        for path, name in named
        if name in of_name
    ]
    if not found:
        raise InputError(f"{file}: names none of the captures in {folder}")
    return found


def _labelled_by_flow(
    paths: Sequence[str],
    file: str,
    settings: StreamsSettings,
    tell: Callable[[str, int, int], None],
    stop: Callable[[], bool],
) -> list[LabelledCapture]:
    table = groups_beside(file)
    found = label_captures(
        paths,
        file,
        read_groups(table) if table else {},
        settings,
        1,
        stop,
        lambda done: tell("captures labelled", done, len(paths)),
    )
    return [
        LabelledCapture(
            source.path,
            source.group,
            dict(zip(source.flow_ids.tolist(), (found.labels[i] for i in source.flow_labels), strict=True)),
        )
        for source in found.sources
    ]
