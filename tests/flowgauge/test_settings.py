from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from flowgauge.settings import Effective, load, section_classes
from flowgauge.settings_print import as_object, as_toml
from producers.config import BusSettings
from schemas.errors import InputError, SettingsError
from tests.flowgauge.sections import CLASSES, Alpha, Beta, Part

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.name.removesuffix(".in.toml") for path in GOLDEN.glob("*.in.toml"))


def read(path: Path | None = None, **kwargs: object) -> Effective:
    kwargs.setdefault("environment", {})
    return load(path, classes=CLASSES, **kwargs)  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "s.toml"


@pytest.mark.parametrize("case", CASES)
def test_golden_settings(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    environment = {"FLOWGAUGE_ALPHA__TIMEOUT_S": "9"} if case == "environment" else {}
    try:
        got = as_toml(read(Path(f"{case}.in.toml"), environment=environment))
    except SettingsError as error:
        got = f"{error}\n"
    expected = GOLDEN / f"{case}.expected"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        expected.write_text(got, encoding="utf-8")
    assert got == expected.read_text(encoding="utf-8")


def test_there_are_golden_cases() -> None:
    assert len(CASES) >= 8


def test_what_check_prints_is_a_settings_file_with_the_same_effect(file: Path) -> None:
    flags = {"alpha.partitions": 9, "beta.extra": {"a.b": 'quo"te'}, "beta.parts": [{"name": "x", "size": 3}]}
    first = read(flags=flags)
    file.write_text(as_toml(first), encoding="utf-8")
    assert read(file).sections == first.sections


def test_the_projects_own_settings_survive_the_same_round_trip(file: Path) -> None:
    first = load(environment={})
    file.write_text(as_toml(first), encoding="utf-8")
    second = load(file, environment={})
    assert second.sections == first.sections
    assert set(tomllib.loads(file.read_text(encoding="utf-8"))) == set(section_classes())


def test_every_setting_of_the_project_says_what_it_is() -> None:
    for section, kind in section_classes().items():
        for key, field in kind.model_fields.items():
            assert field.description, f"{section}.{key} has no description"


def test_flags_beat_the_environment_beats_the_file_beats_the_default(file: Path) -> None:
    file.write_text("[alpha]\npartitions = 2\nmode = 'slow'\ntimeout_s = 3\n", encoding="utf-8")
    environment = {"FLOWGAUGE_ALPHA__PARTITIONS": "3", "FLOWGAUGE_ALPHA__TIMEOUT_S": "4.5"}
    effective = read(file, flags={"alpha.partitions": 5, "alpha.limit": None}, environment=environment)
    assert effective.get("alpha", Alpha) == Alpha(partitions=5, mode="slow", timeout_s=4.5)
    kinds = {key: effective.origin(f"alpha.{key}").kind for key in Alpha.model_fields}
    assert kinds == {
        "bootstrap": "default",
        "partitions": "flag",
        "mode": "file",
        "timeout_s": "environment",
        "limit": "default",
    }


def test_set_takes_any_key() -> None:
    effective = read(assignments=["alpha.partitions=7", "beta.names=x, y", 'beta.extra={"a.b" = "c=d"}'])
    assert effective.get("alpha", Alpha).partitions == 7
    assert effective.get("beta", Beta) == Beta(names=("x", "y"), extra={"a.b": "c=d"})
    assert str(effective.origin("alpha.partitions")) == "flag --set"


@pytest.mark.parametrize(
    ("text", "names"),
    [("a, b", ("a", "b")), ('["a", "b"]', ("a", "b")), ("a", ("a",)), ('"a", "b"', ("a", "b"))],
)
def test_lists_in_the_environment(text: str, names: tuple[str, ...]) -> None:
    assert read(environment={"FLOWGAUGE_BETA__NAMES": text}).get("beta", Beta).names == names


def test_tables_in_the_environment() -> None:
    environment = {"FLOWGAUGE_BETA__PARTS": '[{name = "p", size = 2}]'}
    assert read(environment=environment).get("beta", Beta).parts == (Part(name="p", size=2),)


@pytest.mark.parametrize(
    ("assignment", "complaint"),
    [
        ("alpha.partitions", "write it as section.key=value"),
        ("alpha.no_such=1", "there is no key alpha.no_such ([alpha] has bootstrap, limit, mode"),
        ("gamma.x=1", "there is no key gamma.x"),
        ("alpha=1", "there is no key alpha"),
        ("alpha.partitions=0", "flag --set: alpha.partitions = '0': should be greater than or equal to 1"),
    ],
)
def test_a_bad_assignment_is_named(assignment: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match="--set") as caught:
        read(assignments=[assignment])
    assert complaint in str(caught.value)


def test_unknown_environment_variables_are_errors() -> None:
    with pytest.raises(
        SettingsError, match="environment variable FLOWGAUGE_ALPHA__PARTITION: there is no key"
    ):
        read(environment={"FLOWGAUGE_ALPHA__PARTITION": "3"})
    with pytest.raises(SettingsError, match="FLOWGAUGE_PARTITIONS"):
        read(environment={"FLOWGAUGE_PARTITIONS": "3"})
    assert (
        read(environment={"FLOWGAUGE_DEBUG": "1", "FLOWGAUGE_CACHE_DIR": "/x", "PATH": "/bin"}).origins == {}
    )


def test_a_bad_value_in_the_environment_names_the_variable() -> None:
    with pytest.raises(SettingsError) as caught:
        read(environment={"FLOWGAUGE_ALPHA__MODE": "medium"})
    expected = "environment FLOWGAUGE_ALPHA__MODE: alpha.mode = 'medium': should be 'fast' or 'slow'"
    assert str(caught.value) == expected


def test_a_bad_flag_is_named() -> None:
    with pytest.raises(
        SettingsError, match=r"^flag --timeout-s: alpha.timeout_s = -1.0: should be greater than 0"
    ):
        read(flags={"alpha.timeout_s": -1.0})


def test_a_missing_file_is_an_input_error_that_says_who_asked_for_it(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no\.toml: cannot read the settings file \(--config\): No such file"
    ):
        read(tmp_path / "no.toml")
    with pytest.raises(InputError, match=r"\(FLOWGAUGE_CONFIG\)"):
        read(environment={"FLOWGAUGE_CONFIG": str(tmp_path / "no.toml")})


def test_binary_and_broken_files_are_named(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"s\.toml: not UTF-8 text"):
        read(file)
    file.write_text("[alpha\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"s\.toml: not TOML: .*line 1"):
        read(file)


def test_the_file_in_the_current_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flowgauge.toml").write_text("[alpha]\npartitions = 6\n", encoding="utf-8")
    assert read().get("alpha", Alpha).partitions == 6
    assert str(read().origin("alpha.partitions")) == "file flowgauge.toml"


def test_json_holds_values_and_origins(file: Path) -> None:
    file.write_text("[alpha]\npartitions = 2\n", encoding="utf-8")
    found = as_object(read(file))
    assert found["config_file"] == str(file)
    assert found["settings"]["alpha"]["partitions"] == 2
    assert found["settings"]["beta"]["parts"] == [{"name": "one", "size": 1}]
    assert found["origins"] == {"alpha.partitions": f"file {file}"}


def test_secrets_are_hidden_wherever_they_stand(file: Path) -> None:
    file.write_text(
        '[bus]\nregistry_url = "https://u:geheim@h:1/p"\n[bus.client]\n"ssl.key.password" = "geheim"\nlinger = "1"\n',
        encoding="utf-8",
    )
    effective = load(file, environment={"FLOWGAUGE_BUS__REGISTRY_PASSWORD": "geheim"})
    assert effective.get("bus", BusSettings).reveal("registry_password") == "geheim"
    told = as_toml(effective) + str(as_object(effective))
    assert "geheim" not in told
    assert "# registry_password is set, and hidden  # environment FLOWGAUGE_BUS__REGISTRY_PASSWORD" in told
    assert 'registry_url = "https://***@h:1/p"' in told
    assert 'client = { "ssl.key.password" = "***", linger = "1" }' in told
    assert as_object(effective)["settings"]["bus"]["registry_password"] == "***"


def test_a_secret_is_not_taken_from_the_command_line_nor_told_when_it_is_wrong() -> None:
    with pytest.raises(
        SettingsError, match=r"bus.sasl_password_file names a file, FLOWGAUGE_BUS__SASL_PASSWORD is"
    ):
        load(assignments=["bus.sasl_password=geheim"], environment={})
    with pytest.raises(SettingsError, match=r"bus.sasl_password = \(hidden\): ") as caught:
        load(flags={"bus.sasl_password": ["geheim"]}, environment={})
    assert "geheim" not in str(caught.value)
