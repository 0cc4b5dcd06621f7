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


class ObjectStore:
    """A SeaweedFS process, started again, empty and on other ports, when it has ended by itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: subprocess.Popen | None = None
        self._starts = 0

    def url(self) -> str:
        """Of a bucket on a server that runs; the environment is set to reach it."""
        if not self.runs():
            self.stop()
            self._start()
        return "s3://vectors"

    def runs(self) -> bool:
        return self._server is not None and self._server.poll() is None

    def last_words(self) -> str:
        return self._log().read_text(errors="replace")[-300:]

    def stop(self) -> None:
        if self._server is not None:
            with suppress(ProcessLookupError):  # it may have ended by itself
                # The wheel's program starts another one: both are ended by their group.
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            self._server = None

    def _start(self) -> None:
        scripts = sysconfig.get_path("scripts")
        program = shutil.which("weed", path=os.pathsep.join([scripts, os.environ.get("PATH", "")]))
        if program is None:
            pytest.skip("no S3 server to test with; pip install 'one-peace[servers]'")
        for _ in range(_ATTEMPTS):
            self._starts += 1
            place = self._folder / str(self._starts)
            place.mkdir()
            ports = _free_ports(4)
            command = [
                program,
                "server",
                f"-dir={place}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-s3",
                "-s3.iam=false",
            ]
            command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # on fixed ports, and its end where one is taken
            names = ("master", "volume", "filer", "s3")
            command += [f"-{name}.port={port}" for name, port in zip(names, ports, strict=True)]
            command += ["-volume.max=50", "-master.volumeSizeLimitMB=64"]
            with open(self._log(), "wb") as log:
                # With credentials in its environment, it refuses everybody else.
                clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
                self._server = subprocess.Popen(command, stdout=log, stderr=log, env=clean, start_new_session=True)
            endpoint = f"http://127.0.0.1:{ports[-1]}"
            if _make_bucket(f"{endpoint}/vectors", self._server):
                os.environ.update(_CREDENTIALS | {"AWS_ENDPOINT": endpoint})
                return
            self.stop()
        pytest.skip(f"the S3 server of the wheel did not start in {_ATTEMPTS} attempts: {self.last_words()}")

    def _log(self) -> Path:
        return self._folder / f"log-{self._starts}.txt"


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    store = ObjectStore(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in (*_CREDENTIALS, "AWS_ENDPOINT"):
            patch.setenv(name, "")  # what stood there comes back at the end
        try:
            yield store
        finally:
            store.stop()


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
