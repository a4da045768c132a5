"""What tests of published models share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Return the URL of a bucket on an S3 server in this process."""
    fsspec = pytest.importorskip("fsspec")
    server_of = pytest.importorskip("moto.server", reason="moto is not installed: S3 is not tried")
    pytest.importorskip("s3fs", reason="s3fs is not installed: S3 is not tried")
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    given = {"key": "me", "secret": "mine", "client_kwargs": {"region_name": "eu-west-1"}}
    before = dict(fsspec.config.conf)
    fsspec.config.conf["s3"] = {**given, "endpoint_url": f"http://{host}:{port}"}
    try:
        fsspec.filesystem("s3").makedirs("models", exist_ok=True)
        yield "s3://models"
    finally:
        fsspec.config.conf.clear()
        fsspec.config.conf.update(before)
        server.stop()
