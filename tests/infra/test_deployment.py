"""The Compose file, the image and the dashboards, as far as they can be held against the code without Docker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from flowgauge.settings import load
from producers.config import BusSettings
from producers.metrics import MeterCollector
from producers.telemetry import StageMeter
from tests.commandline import parse

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
DOCKERFILE = (ROOT / "infra/docker/Dockerfile").read_text(encoding="utf-8")
DASHBOARDS = sorted((ROOT / "infra/grafana/dashboards").glob("*.json"))


def test_the_compose_file_is_one() -> None:
    # compose-spec.json is schema/compose-spec.json of github.com/compose-spec/compose-spec (Apache-2.0), 170098b.
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(schema).validate(COMPOSE)


def test_without_a_profile_there_is_kafka_with_its_topics() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {"kafka", "topics"}


def test_every_profile_brings_what_its_services_depend_on() -> None:
    for name, service in SERVICES.items():
        for needed in service.get("depends_on", {}):
            theirs, others = set(service.get("profiles", [])), SERVICES[needed].get("profiles")
            assert others is None or theirs <= set(others), f"{name} needs {needed}"


def test_images_have_versions() -> None:
    for name, service in SERVICES.items():
        if name not in OURS:
            assert re.search(r":v?\d+\.\d+", service["image"]), f"{name}: {service['image']}"


def test_ports_are_published_on_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", OURS)
def test_the_command_takes_what_the_service_gives_it(name: str) -> None:
    parse(OURS[name]["command"])


@pytest.mark.parametrize("name", OURS)
def test_the_environment_is_settings(name: str) -> None:
    environment = {
        key: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value)
        for key, value in {**image_environment(), **OURS[name]["environment"]}.items()
    }
    origins = load(environment=environment).origins
    assert len(origins) == len([key for key in environment if key.startswith("FLOWGAUGE_")])


def image_environment() -> dict[str, str]:
    return dict(re.findall(r"(FLOWGAUGE_\w+)=(\S+)", DOCKERFILE))


def test_mounted_files_are_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
            else:
                assert source in COMPOSE["volumes"]
    captures = {part for part in OURS["replay"]["command"] if "/captures/" in part}
    for capture in captures:
        assert (ROOT / "infra/lab/data" / capture.rpartition("/")[2]).is_file()


def stages() -> dict[str, str]:
    """Return the Dockerfile's stages: name to the stage or image it begins from."""
    return {name: source for source, name in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)}


def test_every_service_is_a_target_of_the_dockerfile() -> None:
    assert {service["build"]["target"] for service in OURS.values()} <= set(stages())
    assert all((ROOT / service["build"]["dockerfile"]).is_file() for service in OURS.values())


@pytest.mark.parametrize("target", ["probe", "gateway", "streams", "models", "packets", "all"])
def test_targets_do_not_run_as_root_and_have_the_health_check(target: str) -> None:
    body = DOCKERFILE.split(f"AS {target}\n")[1].split("\nFROM ")[0]
    assert body.strip().splitlines()[-1] == "USER flowgauge"
    assert stages()[target] == "base"
    base = DOCKERFILE.split("AS base\n")[1].split("\nFROM ")[0]
    assert "HEALTHCHECK" in base
    assert 'ENTRYPOINT ["flowgauge"]' in base
    built = {"gateway": "probe"}.get(target, target)
    assert re.search(rf"--from=build-{built} ", body)


def test_what_the_image_copies_is_there_and_reaches_the_builder() -> None:
    let_in = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in let_in, source


def test_the_image_names_no_package_index() -> None:
    assert not re.search(r"https?://|--index-url \S", DOCKERFILE)


def test_an_installed_package_has_its_data_files() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    patterns = project["package-data"]["*"]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    rooms = tuple(room.rstrip("*") for room in project["packages"]["find"]["include"])
    not_for_use = ("infra/docker/", "infra/grafana/", "infra/prometheus/")
    for name in tracked.stdout.splitlines():
        if name.split("/")[0] not in rooms or name.endswith((".py", ".md")) or name.startswith(not_for_use):
            continue
        assert any(Path(name).match(pattern) for pattern in patterns), f"{name} is in no wheel"


def test_extras_installed_in_the_image_exist() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"'\.\[(\w+)\]'", DOCKERFILE):
        assert re.search(rf"^{extra} = \[", text, re.MULTILINE), extra


@pytest.mark.parametrize(("status", "body", "code"), [(200, "ok", 0), (503, "9 messages wait", 1)])
def test_the_health_check_asks_whether_the_process_gets_on(status: int, body: str, code: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        done = health_check(server.server_address[1])
    assert (done.returncode, done.stdout) == (code, f"{body}\n")


def test_the_health_check_fails_where_nothing_answers() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_address[1]
    done = health_check(port)
    assert done.returncode == 1
    assert "does not answer" in done.stdout


def health_check(port: int) -> subprocess.CompletedProcess[str]:
    script = ROOT / "infra/docker/healthcheck.py"
    return subprocess.run(
        [sys.executable, str(script), str(port)], capture_output=True, text=True, timeout=30
    )


def test_the_health_check_asks_the_port_that_the_image_opens() -> None:
    script = (ROOT / "infra/docker/healthcheck.py").read_text(encoding="utf-8")
    (port,) = re.findall(r"^PORT = (\d+)$", script, re.MULTILINE)
    assert {value for key, value in image_environment().items() if key.endswith("_PORT")} == {port}
    assert f"EXPOSE {port}" in DOCKERFILE
    scraped = yaml.safe_load((ROOT / "infra/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    (found,) = scraped["scrape_configs"][0]["dns_sd_configs"]
    assert found["port"] == int(port)
    assert set(found["names"]) == set(OURS)


def known_metrics() -> set[str]:
    """Return every name that a scrape of our processes may hold."""
    meter = StageMeter("flows", "packets")
    meter.lag_records = 1
    families = list(MeterCollector([meter]).collect())
    names = {"up", "process_resident_memory_bytes"}
    for family in families:
        suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}[
            family.type
        ]
        names |= {family.name + suffix for suffix in suffixes}
    return names


def metrics_in(expression: str) -> set[str]:
    """Return the metric names of a PromQL expression."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(?:by|without) \([^)]*\)", "", expression)
    return set(re.findall(r"\b(?:flowgauge|process)_\w+|\bup\b", bare))


def expressions() -> list[tuple[str, str]]:
    found = [
        (f"{path.name}: {panel['title']}", target["expr"])
        for path in DASHBOARDS
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]
        for target in panel["targets"]
    ]
    rules = yaml.safe_load((ROOT / "infra/prometheus/alerts.yml").read_text(encoding="utf-8"))
    return found + [(rule["alert"], rule["expr"]) for group in rules["groups"] for rule in group["rules"]]


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_dashboards_and_alerts_ask_for_metrics_that_exist(where: str, expression: str) -> None:
    used = metrics_in(expression)
    assert used, where
    assert used <= known_metrics()


def test_dashboards_use_the_provisioned_data_source() -> None:
    assert len(DASHBOARDS) == 2
    source = yaml.safe_load(
        (ROOT / "infra/grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8")
    )
    (uid,) = (found["uid"] for found in source["datasources"])
    ids = set()
    for path in DASHBOARDS:
        board = json.loads(path.read_text(encoding="utf-8"))
        ids.add(board["uid"])
        assert {panel["datasource"]["uid"] for panel in board["panels"]} == {uid}
        places = [panel["gridPos"] for panel in board["panels"]]
        assert len({(p["x"], p["y"]) for p in places}) == len(places)
        assert all(p["x"] + p["w"] <= 24 for p in places)
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert len(ids) == len(DASHBOARDS)
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.rpartition("/")[2] in {path.name for path in DASHBOARDS}


def test_the_secure_overlay_is_one_and_its_variables_are_settings(tmp_path: Path) -> None:
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text(encoding="utf-8"))
    overlay = yaml.safe_load((ROOT / "examples/compose.secure.yml").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(schema).validate(overlay)
    assert set(overlay["services"]) <= set(OURS)
    for service in overlay["services"].values():
        bus = load(Path("/dev/null"), environment=service["environment"]).get("bus", BusSettings)
        assert bus.sasl and bus.tls
        assert {Path(bus.tls_ca).name, Path(bus.sasl_password_file).name} == set(service["secrets"])
        assert set(service["secrets"]) <= set(overlay["secrets"])
