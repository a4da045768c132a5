"""The lab without root: names, addresses, applications, the switch's lines."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from infra.lab.__main__ import main
from infra.lab.app import load_apps
from infra.lab.make import make, truth_of
from infra.lab.network import inside, lab_names
from infra.lab.plan import CLIENTS, SERVERS, client_address, server_address
from infra.lab.switch import Line, server_of
from schemas.errors import FlowgaugeError, SettingsError
from tests.infra.test_lab_labels import UDP, frame


def test_namespace_names_are_told_apart_between_labs() -> None:
    switch, server, clients = lab_names(3, "ab12cd")
    assert (switch, server) == ("fg-ab12cd-switch", "fg-ab12cd-server")
    assert clients == ["fg-ab12cd-client0", "fg-ab12cd-client1", "fg-ab12cd-client2"]
    first, second = lab_names(1)[0], lab_names(1)[0]
    assert re.fullmatch(r"fg-[0-9a-f]{6}-switch", first) and first != second


def test_commands_run_in_a_namespace_under_another_host_name() -> None:
    assert inside("fg-x-server", "true", "-v") == [
        "ip",
        "netns",
        "exec",
        "fg-x-server",
        "unshare",
        "--uts",
        "true",
        "-v",
    ]


@pytest.mark.parametrize("version", [4, 6])
def test_addresses_are_distinct_and_of_their_version(version: int) -> None:
    addresses = [server_address(i, version) for i in range(SERVERS)]
    addresses += [client_address(i, version) for i in range(CLIENTS)]
    assert len({ip_address(a) for a in addresses}) == SERVERS + CLIENTS
    assert {ip_address(a).version for a in addresses} == {version}


def test_every_application_has_truth_of_its_own_and_says_how_to_get_what_it_needs() -> None:
    apps = load_apps()
    assert len({app.label for app in apps}) >= 10
    for app in apps:
        assert app.endpoints and all(0 <= e.server < SERVERS for e in app.endpoints), app.name
        assert bool(app.debian) or not app.programs, app.name
        assert bool(app.pypi) or not app.modules, app.name
    assert len(truth_of(apps)) == 2 * sum(len(app.endpoints) for app in apps)


def test_a_port_alone_does_not_give_the_label_away() -> None:
    labels: dict[tuple[int, int], set[str]] = {}
    for (_, port, protocol), label in truth_of(load_apps()).items():
        labels.setdefault((port, protocol), set()).add(label)
    assert labels[443, 6] == {"web", "video", "ssh"}
    assert sum(len(found) > 1 for found in labels.values()) >= 4


def test_two_applications_on_one_endpoint_are_refused() -> None:
    rpc = load_apps(["rpc"])[0]
    with pytest.raises(FlowgaugeError, match="belongs to rpc already"):
        truth_of([rpc, replace(rpc, name="other", label="other")])


def test_missing_programs_and_modules_are_named_with_a_remedy() -> None:
    app = replace(
        load_apps(["rpc"])[0],
        programs=("no-such-program",),
        modules=("no_such_module",),
        debian=("x",),
        pypi=("y",),
    )
    assert app.missing() == ["no-such-program", "no_such_module"]
    assert app.remedy() == "apt-get install -y --no-install-recommends x && pip install y"


def test_an_application_that_misses_something_is_skipped_by_name(tmp_path: Path) -> None:
    app = replace(load_apps(["rpc"])[0], programs=("no-such-program",), debian=("some-package",))
    told: list[str] = []
    with pytest.raises(FlowgaugeError, match="no application of the lab can run here"):
        make([app], tmp_path / "out", "x", seconds=1, seed=1, snap_length=100, tell=told.append)
    assert told == [
        "skipping rpc: no-such-program missing: apt-get install -y --no-install-recommends some-package"
    ]
    assert not (tmp_path / "out").exists()


def test_unknown_application_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="unknown application 'nosuch': the lab has bittorrent, dns,"):
        load_apps(["dns", "nosuch"])


def test_without_root_the_lab_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["make", "--out", str(tmp_path), "--apps", "rpc"]) == 1
    assert capsys.readouterr().err == (
        "infra.lab: error: the traffic lab needs root: it makes network namespaces and captures from them\n"
    )


def test_list_shows_every_application(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [app.name for app in load_apps()]
    assert [line.split()[2] for line in lines if line.startswith(("rpc ", "syslog "))] == ["ready", "ready"]


def test_a_line_delays_and_never_reorders() -> None:
    line = Line(20, 10, random.Random(1))
    times = [line.times_s(now_s) for now_s in (0.0, 0.0001, 0.0002, 1.0)]
    assert times == sorted(times) and [due for _, due in times] == sorted(due for _, due in times)
    for now_s, (middle_s, due_s) in zip((0.0, 0.0001, 0.0002, 1.0), times, strict=True):
        assert 0.010 <= middle_s - now_s <= 0.0111 and 0.015 <= due_s - now_s <= 0.0167


@pytest.mark.parametrize("version", [4, 6])
def test_the_switch_knows_the_server_of_a_frame(version: int) -> None:
    client = client_address(0, version)
    for index in range(SERVERS):
        server = server_address(index, version)
        assert server_of(frame(client, 1, server, 2, UDP), up=True) == index
        assert server_of(frame(server, 2, client, 1, UDP), up=False) == index
    assert server_of(bytes(60), up=True) == 0
