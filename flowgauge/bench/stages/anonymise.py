"""``decode_anonymised``: from a capture to packet columns with anonymised addresses, on one core.

Beside it: plain decoding of the same packets; packets of which each has two addresses never seen before, which is the
worst there can be; and yacryptopan, in Python, on the decoded addresses, with those known in a dict.
"""

from __future__ import annotations

import struct
import tempfile
import time
from pathlib import Path

import numpy as np

from flowgauge.bench.corpus import Corpus
from flowgauge.bench.peers import missing
from flowgauge.bench.results import Result, measure
from flowgauge.bench.stages.decode import decode_all
from flowgauge.bench.stages.encode import kept_blocks
from producers.privacy.addresses import AddressAnonymiser
from producers.privacy.config import PrivacySettings
from producers.privacy.cryptopan import CryptoPan
from producers.privacy.keys import KEY_OCTETS, Key
from producers.privacy.privacy import Privacy

PEER = "yacryptopan"
_NEW_PACKETS = 200_000
_PEER_S = 2.0
_KEY = Key(bytes(range(KEY_OCTETS)))


def anonymise(corpus: Corpus, min_seconds: float) -> Result:
    """Measure all of it."""
    privacy = Privacy(PrivacySettings(anonymise=True), _KEY)
    paths = tuple(map(str, corpus.paths))
    for hides in (None, privacy):
        decode_all(paths, hides)
    plain = measure(lambda: decode_all(paths), min_seconds)
    rate = measure(lambda: decode_all(paths, privacy), min_seconds)
    result = Result.of_rate(
        "decode_anonymised",
        rate,
        plain_packets_per_s=round(plain.value),
        ratio_to_plain=round(rate.value / plain.value, 3),
        all_new_ipv4_packets_per_s=round(_all_new(4, min_seconds)),
        all_new_ipv6_packets_per_s=round(_all_new(6, min_seconds)),
    )
    if not missing((PEER,)):
        result.peer, result.peer_value = PEER, _peer(corpus)
    return result


def _all_new(version: int, min_seconds: float) -> float:
    """Return packets/s where no address was seen before."""
    pan, privacy = CryptoPan(_KEY), Privacy(PrivacySettings(anonymise=True), _KEY)
    with tempfile.TemporaryDirectory(prefix="flowgauge-bench-") as folder:
        path = Path(folder) / "new.pcap"
        path.write_bytes(_capture(version, _NEW_PACKETS))

        def run() -> int:
            privacy.addresses = AddressAnonymiser(pan)
            return decode_all((str(path),), privacy)

        run()
        return measure(run, min_seconds).value


def _capture(version: int, packets: int) -> bytes:
    """Return a capture of UDP packets between addresses that are random, each its own."""
    ip = 20 if version == 4 else 40
    length = 14 + ip + 8
    rows = np.zeros((packets, 16 + length), np.uint8)
    head = struct.pack("<IIII", 1_700_000_000, 0, length, length) + bytes(12)
    if version == 4:
        head += b"\x08\x00" + struct.pack(">BBHHHBBH", 0x45, 0, ip + 8, 0, 0, 64, 17, 0)
        first, octets = 16 + 14 + 12, 8
    else:
        head += b"\x86\xdd" + struct.pack(">IHBB", 0x60000000, 8, 17, 64)
        first, octets = 16 + 14 + 8, 32
    rows[:, : len(head)] = np.frombuffer(head, np.uint8)
    random = np.random.default_rng(1)
    rows[:, first : first + octets] = random.integers(0, 256, (packets, octets), dtype=np.uint8)
    rows[:, -8:] = np.frombuffer(struct.pack(">HHHH", 40000, 53, 8, 0), np.uint8)
    return struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1) + rows.tobytes()


def _peer(corpus: Corpus) -> float:
    """Return packets/s of yacryptopan on addresses decoded before."""
    from yacryptopan import CryptoPAn

    peer = CryptoPAn(_KEY.octets)
    known: dict[tuple[bytes, int], int] = {}
    done, began_s = 0, time.perf_counter()
    for block in kept_blocks(corpus):
        versions = block.ip_version.tolist()
        both = [[row.tobytes() for row in column] for column in (block.address_a, block.address_b)]
        began_s = time.perf_counter() if not done else began_s
        for version, *ends in zip(versions, *both, strict=True):
            for address in ends:
                if (address, version) not in known:
                    number = int.from_bytes(address[: 4 if version == 4 else 16], "big")
                    known[address, version] = peer.anonymize_bin(number, version)
        done += len(versions)
        if time.perf_counter() - began_s > _PEER_S:
            break
    return done / (time.perf_counter() - began_s)
