"""Makes the capture of the attack task: four attackers and two others, who all use the same servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from infra.lab.app import TCP, UDP, App, load_apps
from infra.lab.attacks import beacon, brute_force, flood, scan
from infra.lab.labels import Flow, Judge, label_of
from infra.lab.make import Course, Summary, make, truth_of
from infra.lab.plan import CLIENTS, client_address

BENIGN = "web,quic,dns,ssh,mqtt,rpc,syslog"
_LOGIN = "attacks.login"
ATTACKERS = {0: scan.APP.name, 1: flood.APP.name, 2: brute_force.APP.name, 3: beacon.APP.name}
"""Client to what it does. The one that beacons is somebody's computer: it does what the others do, too."""


def make_attacks(
    benign: list[App],
    out: Path,
    name: str,
    *,
    seconds: float,
    seed: int,
    snap_length: int,
    tell: Callable[[str], None],
) -> Summary:
    """Write ``out/name.pcap.gz`` and ``out/name.labels.csv``: every flow's attack, or ``benign``.

    Raises:
        FlowgaugeError: the lab cannot run here.
    """
    attacks = load_apps([_LOGIN, *ATTACKERS.values()])
    usual = [_LOGIN, *(app.name for app in benign)]
    names = {client: [attack] for client, attack in ATTACKERS.items()}
    names[3] += usual
    names |= dict.fromkeys(range(len(ATTACKERS), CLIENTS), usual)
    apps = [*attacks, *benign]
    course = Course(names=names, judge=lambda folder, flows: judge_of(apps))
    summary = make(
        apps, out, name, seconds=seconds, seed=seed, snap_length=snap_length, tell=tell, course=course
    )
    for label, made in sorted(summary.made.items()):
        if made != summary.flows.get(label, 0):
            tell(f"{label}: {made} were made, {summary.flows.get(label, 0)} flows are in the capture")
    return summary


def judge_of(apps: list[App]) -> Judge:
    """Return what labels a flow: by the attacker it comes from, by the controller it goes to, else ``benign``."""
    truth = truth_of(apps)
    by_client = {
        client_address(client, version): (client, version) for client in range(CLIENTS) for version in (4, 6)
    }

    def judge(flow: Flow) -> str | None:
        client = next(
            (by_client[end[0]][0] for end in (flow.source, flow.destination) if end[0] in by_client), None
        )
        if client == 0:
            return scan.LABEL
        if client == 1:
            return {TCP: flood.SYN_LABEL, UDP: flood.UDP_LABEL}[flow.protocol]
        if client == 2:
            return brute_force.LABEL
        label = label_of(flow, truth)
        return label if label in (None, beacon.LABEL) else "benign"

    return judge
