"""The wire and the generator of packets: what is sent arrives, and the namespaces are gone afterwards."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from infra.lab.generator import BURST, frame, receive_in_batches
from infra.lab.network import can_make_namespaces, inside
from infra.lab.wire import SEEING, SENDING, Wire, entered
from tests.infra.test_lab_capture import namespaces


def test_frames_are_udp_packets_as_long_as_asked_for() -> None:
    made = frame(60)
    assert len(made) == 60 and made[12:14] == b"\x08\x00" and made[23] == 17
    assert int.from_bytes(made[16:18], "big") == 46 and int.from_bytes(made[38:40], "big") == 26


@pytest.mark.root
def test_what_the_generator_sends_arrives_at_the_rate_asked_for() -> None:
    why = can_make_namespaces()
    if why is not None:
        pytest.skip(why)
    before = namespaces()
    with Wire() as wire:
        with entered(wire.probe):
            held = receive_in_batches(SEEING)
        command = [sys.executable, "-m", "infra.lab.generator", SENDING, "--rate", "50000", "--seconds", "1"]
        done = subprocess.run(inside(wire.sender, *command), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        sent = json.loads(done.stdout)
        assert held > 0 and sent["packets"] >= 3 * BURST
        arrived, lost = wire.arrived()
        assert (arrived, lost) == (sent["packets"], 0)
    assert namespaces() <= before
