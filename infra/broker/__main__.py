"""``python -m infra.broker embedded|kafka``: a broker for use by hand, with the project's topics."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from infra.broker.embedded import EmbeddedBroker
from infra.broker.kafka import KafkaBroker
from infra.broker.secured import Secured
from infra.broker.topics import create_topics
from schemas.errors import BusError, FlowgaugeError, SettingsError
from schemas.topics import PARTITIONS, TOPICS

_POLL_S = 0.5


def main(arguments: list[str] | None = None) -> int:
    """Run the broker that the command line names; return the exit code."""
    options = _parser().parse_args(arguments)
    # SIGINT too: a shell starts what it puts in the background with it ignored.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, _interrupt)
    try:
        if options.kind == "embedded":
            _run_embedded(options)
        else:
            _run_kafka(options)
    except KeyboardInterrupt:
        return 0
    except FlowgaugeError as error:
        print(f"flowgauge: error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        if options.file:
            options.file.unlink(missing_ok=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.broker", description=__doc__)
    parser.add_argument(
        "kind", choices=["embedded", "kafka"],
        help="embedded: librdkafka's mock cluster, in memory, to try out; kafka: Apache Kafka, needs Java",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=0, help="port of 127.0.0.1 (kafka; default: a free one)")
    parser.add_argument("--data-dir", type=Path, help="keep topics here (kafka; default: gone at the end)")
    parser.add_argument(
        "--partitions", type=int, default=PARTITIONS, help=f"of topics split by flow (default {PARTITIONS})"
    )
    parser.add_argument(
        "--secure", type=Path, metavar="DIR",
        help="TLS, accounts and ACLs (kafka); certificates and settings files are written there",
    )  # fmt: skip
    parser.add_argument(
        "--account", action="append", default=[], metavar="NAME",
        help="an account for SCRAM, with a password of its own, in the folder of --secure",
    )  # fmt: skip
    parser.add_argument("--file", type=Path, help="write the address there once the broker is ready")
    return parser


def _run_embedded(options: argparse.Namespace) -> None:
    if options.secure or options.account:
        raise SettingsError("the embedded broker asks nobody who they are: no --secure, no --account")
    if options.port or options.data_dir:
        raise SettingsError("the embedded broker picks its port and has no disk: no --port, no --data-dir")
    with EmbeddedBroker({topic.name: topic.partitions(options.partitions) for topic in TOPICS}) as broker:
        limits = "5 MiB a partition, then the oldest goes"
        _announce(f"embedded broker, for trying out: {limits}", broker.bootstrap, options.file)
        while True:
            time.sleep(_POLL_S)


def _run_kafka(options: argparse.Namespace) -> None:
    if options.account and not options.secure:
        raise SettingsError("--account needs --secure DIR")
    secured = Secured(options.secure) if options.secure else None
    with KafkaBroker(port=options.port, data_dir=options.data_dir, secured=secured, lasting=True) as broker:
        wanted = {topic.name: (topic.partitions(options.partitions), topic.config) for topic in TOPICS}
        create_topics(broker.bootstrap, wanted, client=secured.operator_client() if secured else None)
        if secured:
            secured.write_settings(broker.bootstrap, options.account, options.partitions)
            print(f"settings files of the operator and the accounts: {secured.folder}/*.toml", flush=True)
        _announce(f"Apache Kafka, in {broker.data_dir}", broker.bootstrap, options.file)
        while broker.pid:
            time.sleep(_POLL_S)
        raise BusError(f"the Kafka broker ended by itself: see {broker.data_dir / 'kafka.log'}")


def _announce(what: str, bootstrap: str, file: Path | None) -> None:
    print(f"{what}\nbootstrap: {bootstrap}", flush=True)
    print(f"for the tests:  export KAFKA_BOOTSTRAP={bootstrap}\nCtrl-C ends it", flush=True)
    if file:
        # Renamed into place, so that who waits for the file never reads half an address.
        half = file.with_name(f".{file.name}.part")
        try:
            half.write_text(f"{bootstrap}\n", encoding="utf-8")
            half.replace(file)
        except OSError as error:
            raise SettingsError(f"--file {file}: {error.strerror}") from error


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
