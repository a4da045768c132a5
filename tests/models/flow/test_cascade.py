from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from models.flow.bundle import CASCADES, open_cascade, write_cascade
from models.flow.card import (
    CASCADE_FILE,
    Calibration,
    Ladder,
    Unknown,
    never,
    read_cascade_card,
    read_thresholds,
)
from models.flow.errors import CascadeError
from models.flow.river_tier import MAGIC, river_file
from models.flow.unknown import fit
from models.online.classifier import OnlineClassifier
from models.online.classifiers import FACTORIES, recipe
from models.packet.errors import ModelError
from models.packet.library import Library
from tests.models.flow import made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.cascade_folder(tmp_path_factory.mktemp("cascades"))


def copy(folder: Path, to: Path) -> Path:
    target = to / folder.parent.name / folder.name
    target.mkdir(parents=True)
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def change(folder: Path, to: Path, **keys: object) -> Path:
    target = copy(folder, to)
    path = target / CASCADE_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
    return target


def test_uncertain_answers_go_on_and_the_last_tier_settles_them(folder: Path) -> None:
    cascade = open_cascade(folder)
    classes = np.tile([0, 1, 2], 200)
    fast = cascade.answer(0, made.rows_of(classes, 1, seed=2))
    slow = cascade.answer(1, made.rows_of(classes, 3, seed=2))
    assert not fast.escalate[classes == 0].any() and (fast.classes[classes == 0] == 0).all()
    assert 0.3 < fast.escalate[classes != 0].mean() <= 1
    wrong = fast.classes != classes
    assert wrong.any() and fast.escalate[wrong].mean() > 0.9
    assert (slow.classes == classes).all() and not slow.escalate.any()


def test_shares_move_the_thresholds(folder: Path) -> None:
    cascade = open_cascade(folder)
    rows = made.rows_of(np.tile([0, 1, 2], 200), 1)
    shares = []
    for factor in (0.0, 0.5, 1.0):
        cascade.ease(factor)
        shares.append(cascade.answer(0, rows).escalate.mean())
    assert shares[0] == 0 and shares == sorted(shares) and shares[2] > 0
    cascade.set_shares((1.0,))
    assert cascade.answer(0, rows).escalate.all()
    with pytest.raises(CascadeError, match="2 shares for 1 tiers"):
        cascade.set_shares((0.1, 0.2))


def test_rows_without_numbers_are_answered(folder: Path) -> None:
    cascade = open_cascade(folder)
    rows = np.array([[np.nan, np.inf], [-np.inf, 64], [60, 64]], np.float32)
    answer = cascade.answer(0, rows)
    zero = cascade.answer(0, np.array([[0, 0], [0, 64], [60, 64]], np.float32))
    assert (answer.classes == zero.classes).all() and np.isfinite(answer.confidence).all()
    assert cascade.answer(0, rows[:0]).classes.shape == (0,)


def test_columns_are_found_by_name(folder: Path) -> None:
    (fast, _) = open_cascade(folder).tiers
    assert fast is not None
    assert fast.places(["ttl", "x", "octets_1"]).tolist() == [2, 0]
    with pytest.raises(CascadeError, match="representation early has no column octets_1 and 1 more"):
        fast.places(["x"])


def test_a_damaged_tier_is_refused_or_gone_without(folder: Path, tmp_path: Path) -> None:
    target = copy(folder, tmp_path)
    (target / "fast.onnx").write_bytes(b"nothing")
    with pytest.raises(CascadeError, match=r"fast\.onnx: is damaged"):
        open_cascade(target)
    cascade = open_cascade(target, skip_broken=True)
    assert cascade.tiers[0] is None and "fast.onnx" in cascade.problems[0]
    with pytest.raises(CascadeError, match="is damaged"):
        cascade.answer(0, made.rows_of([0], 1))
    assert cascade.answer(1, made.rows_of([0, 1, 2], 3)).classes.tolist() == [0, 1, 2]
    (target / "slow.onnx").unlink()
    with pytest.raises(CascadeError, match=r"slow\.onnx: No such file"):
        open_cascade(target, skip_broken=True)


def test_the_wrong_announcement_is_refused(folder: Path) -> None:
    assert open_cascade(folder, read_cascade_card(folder).sha256).title == "services/1"
    with pytest.raises(CascadeError, match="is damaged: its SHA-256"):
        open_cascade(folder, "0" * 64)


def test_thresholds_of_another_version_are_refused(folder: Path, tmp_path: Path) -> None:
    card = read_cascade_card(folder)
    path = tmp_path / "thresholds.json"
    path.write_text(card.thresholds.model_dump_json())
    assert read_thresholds(path, card) == card.thresholds
    other = card.thresholds.model_copy(update={"of": "1" * 64})
    path.write_text(other.model_dump_json())
    with pytest.raises(CascadeError, match=r"of another cascade than services/1: .*another version"):
        read_thresholds(path, card)
    with pytest.raises(CascadeError, match="tuned with other tiers"):
        open_cascade(folder).use(other)
    target = change(folder, tmp_path, thresholds=other.model_dump(mode="json"))
    with pytest.raises(CascadeError, match=r"cascade\.json: .*tuned with other tiers"):
        open_cascade(target)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"classes": ["a", "a", "b"]}, "a class is listed twice"),
        ({"classes": ["a", "b"]}, "classes that are not the cascade's"),
        ({"unknown": []}, "unknown and reference are needed for each tier"),
        ({"tiers": []}, "tiers"),
        ({"name": "../x"}, "name"),
        ({"format": 2}, "format"),
    ],
)
def test_a_card_that_cannot_be_is_told_by_key(
    folder: Path, tmp_path: Path, keys: dict[str, object], message: str
) -> None:
    with pytest.raises(CascadeError, match=message):
        open_cascade(change(folder, tmp_path, **keys))


def test_files_that_are_no_cascade(tmp_path: Path) -> None:
    with pytest.raises(CascadeError, match="No such file"):
        open_cascade(tmp_path)
    (tmp_path / CASCADE_FILE).write_text("{")
    with pytest.raises(CascadeError, match="not JSON"):
        open_cascade(tmp_path)
    (tmp_path / CASCADE_FILE).write_text("[]")
    with pytest.raises(CascadeError, match="not a JSON object"):
        open_cascade(tmp_path)


def test_a_model_of_other_columns_is_refused(tmp_path: Path) -> None:
    data = made.tree(1)
    slow = made.tier("slow", 3, data)
    folder = write_cascade(tmp_path, made.card([slow]), {"slow.onnx": data})
    with pytest.raises(CascadeError, match="it takes 2 columns, the cascade has 4"):
        open_cascade(folder)


def test_published_versions_are_found_and_never_changed(folder: Path, tmp_path: Path) -> None:
    library = Library(tmp_path, CASCADES)
    assert library.add(folder) == library.add(library.root / "services" / "1") == read_cascade_card(folder)
    assert library.find("services") == tmp_path / "services" / "1"
    with pytest.raises(ModelError, match="no cascade services/2"):
        library.find("services/2")
    with pytest.raises(CascadeError, match="give this one a new version"):
        made.cascade_folder(tmp_path, wait_s=3)


def test_ladders_rise() -> None:
    with pytest.raises(ValueError, match="must not fall"):
        Ladder(shares=(0, 1), values=((0.5,), (0.4,)))
    with pytest.raises(ValueError, match="shares must rise"):
        Ladder(shares=(0, 0), values=((0.5,), (0.6,)))
    assert Ladder(shares=(0, 1), values=((0.0, 0.5), (1.0, 0.5))).at(0.25).tolist() == [0.25, 0.5]


def test_calibrated_confidence() -> None:
    probabilities = np.array([[0.8, 0.2], [0.5, 0.5], [0.0, 1.0]], np.float32)
    top = probabilities.argmax(axis=1)
    for temperature in (0.5, 1.0, 2.0):
        power = probabilities.astype(float) ** (1 / temperature)
        expected = (power / power.sum(axis=1, keepdims=True)).max(axis=1)
        found = Calibration(method="temperature", temperature=temperature).confidence(probabilities, top)
        assert np.allclose(found, expected, atol=1e-6)
    steps = Calibration(method="isotonic", x=(0.5, 1.0), y=(0.4, 0.9))
    assert np.allclose(steps.confidence(probabilities, top), [0.7, 0.4, 0.9])
    with pytest.raises(ValueError, match="must not fall"):
        Calibration(method="isotonic", x=(0.5, 1.0), y=(0.9, 0.4))


def test_rows_unlike_all_learned_are_unknown(folder: Path, tmp_path: Path) -> None:
    learned = made.rows_of(np.tile([0, 1, 2], 100), 1)
    unknown = fit(learned, learned)
    files = {path.name: path.read_bytes() for path in folder.glob("*.onnx")}
    tiers = read_cascade_card(folder).tiers
    again = write_cascade(
        tmp_path, made.card(tiers, unknown=(unknown, Unknown(confidence_floor=0.99))), files
    )
    cascade = open_cascade(again)
    odd = np.array([[1000, 64], [1000, 255], [1e9, 64]], np.float32)
    assert cascade.answer(0, odd).unknown.tolist() == [False, True, True]
    assert not cascade.answer(0, learned).unknown.any()


def test_classes_that_a_tier_does_not_know_are_never_its_answer(tmp_path: Path) -> None:
    data = made.tree(1)
    tiers = (made.tier("fast", 1, data, classes=(3, 0, 1)),)
    classes = ("a", "b", "c", "d")
    card = made.card(tiers, classes=classes, thresholds=never(tiers, 4))
    cascade = open_cascade(write_cascade(tmp_path, card, {"fast.onnx": data}))
    probabilities = cascade.tiers[0].probabilities(made.rows_of([0, 1, 2], 1))  # type: ignore[union-attr]
    assert probabilities.shape == (3, 4) and (probabilities[:, 2] == 0).all()
    assert probabilities.argmax(axis=1)[0] == 3


@pytest.mark.parametrize("algorithm", sorted(FACTORIES))
def test_river_tiers(tmp_path: Path, algorithm: str) -> None:
    classifier = OnlineClassifier(recipe(algorithm, {}, 1))
    classes = np.tile([0, 1, 2], 60)
    for row, number in zip(made.rows_of(classes, 3), classes.tolist(), strict=True):
        classifier.learn(row, made.COLUMNS[3], made.CLASSES[number])
    data = river_file(classifier)
    card = made.tier("slow", 3, data, kind="river", file="slow.river")
    cascade = open_cascade(write_cascade(tmp_path, made.card([card]), {"slow.river": data}))
    rows = made.rows_of(classes, 3, seed=5)
    answer = cascade.answer(0, rows)
    assert (answer.classes == classes).mean() > 0.9
    asked = classifier.predict(rows, made.COLUMNS[3])
    assert [cascade.classes[c] for c in answer.classes] == [label for label, _ in asked]
    assert np.allclose(answer.confidence, [confidence for _, confidence in asked], atol=1e-6)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.mkdir, ("evil",)


def test_a_river_file_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for data in (
        MAGIC + pickle.dumps(Evil()),
        MAGIC + b"criver.base\nos.mkdir\n(Vevil\ntR.",
        MAGIC + b"criver.base.base\ninspect\n.",
    ):
        card = made.tier("slow", 3, data, kind="river", file="slow.river")
        folder = write_cascade(tmp_path / str(len(data)), made.card([card]), {"slow.river": data})
        with pytest.raises(CascadeError, match="which no classifier is made of"):
            open_cascade(folder)
        assert not (tmp_path / "evil").exists()
    for data in (b"x", MAGIC + b"x", MAGIC + pickle.dumps([1])):
        card = made.tier("slow", 3, data, kind="river", file="slow.river")
        folder = write_cascade(tmp_path / f"d{len(data)}", made.card([card]), {"slow.river": data})
        with pytest.raises(CascadeError, match=r"slow\.river"):
            open_cascade(folder)
