"""``python -m infra.broker.certificates DIR NAME…``: an authority of one's own and certificates by it, as PEM files.

For trying out and for tests. A key is readable by its owner alone; ``DIR/ca.key`` signs more names later.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from schemas.errors import FlowgaugeError, InputError

_SKEW = timedelta(minutes=5)
"""Certificates begin a little earlier than now, for clocks that are behind."""


class Authority:
    """Signs certificates; lies in a folder as ``ca.pem`` and ``ca.key``."""

    def __init__(self, folder: Path, days: float = 825) -> None:
        """Load the authority of a folder, or make one.

        Raises:
            InputError: the folder cannot be written, or holds no usable authority.
        """
        self.folder, self._days = folder, days
        self.ca = folder / "ca.pem"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not self.ca.exists():
                self._create()
            self._certificate = x509.load_pem_x509_certificate(self.ca.read_bytes())
            key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
        except OSError as error:
            raise InputError(f"{error.filename or folder}: {error.strerror}") from None
        except ValueError as error:
            raise InputError(f"{folder}: ca.pem and ca.key are no authority: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InputError(f"{folder / 'ca.key'}: no key on an elliptic curve")
        self._key = key

    def issue(
        self, name: str, hosts: tuple[str, ...] = (), password: str = "", days: float | None = None
    ) -> tuple[Path, Path]:
        """Write ``name.pem`` and ``name.key``; return both.

        Args:
            name: common name, by which brokers know a client.
            hosts: names and addresses a server is reached by; none for a client.
            password: encrypts the key.
            days: how long it is valid, negative for one that has expired; the authority's by default.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH] + [ExtendedKeyUsageOID.SERVER_AUTH] * bool(hosts)
        builder = _builder(name, self._certificate.subject, key, self._days if days is None else days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False
            )
        certificate = builder.sign(self._key, hashes.SHA256())
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        _write_key(paths[1], key, BestAvailableEncryption(password.encode()) if password else NoEncryption())
        return paths

    def _create(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "flowgauge authority")])
        builder = _builder("flowgauge authority", name, key, self._days)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        _write_key(self.folder / "ca.key", key, NoEncryption())
        self.ca.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - _SKEW)
        .not_valid_after(end)
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey, encryption: KeySerializationEncryption) -> None:
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)


def main(arguments: list[str] | None = None) -> int:
    """Make what the command line names; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m infra.broker.certificates", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a client, or NAME=HOST,HOST for a server")
    parser.add_argument("--days", type=float, default=825, help="how long they are valid (default 825)")
    options = parser.parse_args(arguments)
    try:
        authority = Authority(options.folder, options.days)
        for text in options.names:
            name, _, hosts = text.partition("=")
            for path in authority.issue(name, tuple(filter(None, hosts.split(",")))):
                print(path)
    except FlowgaugeError as error:
        print(f"flowgauge: error: {error}", file=sys.stderr)
        return error.exit_code
    except (OSError, ValueError) as error:
        print(f"flowgauge: error: {error}", file=sys.stderr)
        return InputError.exit_code
    print(authority.ca)
    return 0


if __name__ == "__main__":
    sys.exit(main())
