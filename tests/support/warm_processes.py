"""Processes that start in milliseconds: forked from one that has imported PyTorch and the package already.

A test of a training run needs several processes one after the other; most of its time would go to their imports.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_PLACES = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]


class WarmProcess:
    """One process that calls `target(*arguments)` with `environment` added to its own."""

    def __init__(self, target: Callable[..., None], arguments: tuple, environment: dict[str, str]) -> None:
        handle, self._errors = tempfile.mkstemp(suffix=".stderr")
        os.close(handle)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["training_runs"])
        with _python_path():  # of the process that the others are forked from, where this is the first one
            self._process = context.Process(target=_call, args=(target, arguments, environment, self._errors))
            self._process.start()
        assert self._process.pid
        self.pid = self._process.pid
        self.kill, self.terminate = self._process.kill, self._process.terminate

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = 180) -> int:
        """The exit status; the negative number of the signal that ended it."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(f"still running after {timeout:.0f} s: {self.errors()[-3000:]}")
        return self._process.exitcode

    def errors(self) -> str:
        """What it wrote to its standard error so far."""
        return Path(self._errors).read_text(errors="replace")


def start_together(target: Callable[..., None], arguments: tuple, count: int) -> list[WarmProcess]:
    """`count` processes in the environment that torchrun would give them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        WarmProcess(target, arguments, place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)
    ]


def finish(started: list[WarmProcess]) -> None:
    """Waits for processes, which must end well."""
    for process in started:
        assert process.wait() == 0, process.errors()[-3000:]


def run_command(words: list[str]) -> None:
    """`one-peace WORDS`, in a process of its own."""
    from one_peace.cli.main import app

    app(words)


def _call(target: Callable[..., None], arguments: tuple, environment: dict[str, str], errors: str) -> None:
    written = os.open(errors, os.O_WRONLY | os.O_APPEND)
    os.dup2(written, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)  # as in conftest: sums over several threads differ in their last digits
    target(*arguments)


class _python_path:
    """PYTHONPATH as this process finds its modules, for as long as it is needed."""

    def __enter__(self) -> None:
        self._before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([*_PLACES, *sys.path])

    def __exit__(self, *_: Any) -> None:
        if self._before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = self._before
