"""Bulk work in shards that may be killed at any time: a plan, a note of every shard that is done, worker processes.

The plan is written down before the work, and a shard is done when its note is there, which appears whole or not at all,
after what the shard makes. A run does the shards that have no note: so each is done exactly once, whatever was killed.
"""

from __future__ import annotations

import json
import os
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, TypeAlias

from one_peace.atomic_files import write_whole
from one_peace.errors import OnePeaceError
from one_peace.readable_json import readable_json

_PLAN = "plan.json"

Worker: TypeAlias = Callable[[int, Any], Any]
"""Does one shard: (number, what is in it) -> what came of it. All picklable."""

Load: TypeAlias = Callable[[str, int], Worker]
"""Makes a worker in its process, for a device and a number of threads. Picklable."""


class BulkError(OnePeaceError):
    """Bulk work that cannot go on: another plan is there, or a worker died."""


def kept_plan(out: Path, asked: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The plan in `out`, made and written down if there is none. All values are plain.

    Raises:
        BulkError: the plan is damaged, or differs from what is asked.
    """
    try:
        plan = json.loads((out / _PLAN).read_bytes())
    except FileNotFoundError:
        plan = dict(make())
        write_whole(out / _PLAN, json.dumps(plan, indent=1).encode())
        return plan
    except ValueError as error:
        raise damaged_plan(out, error) from error
    for key, value in asked.items():
        if not isinstance(plan, dict) or key not in plan:
            raise damaged_plan(out, f"it says nothing of {key}")
        if plan[key] != value:
            begun = f"was begun with {key} {plan[key]!r}, not {value!r}"
            raise BulkError(f"{out} {begun}; go on with the same, or choose another folder for the output")
    return plan


def damaged_plan(out: Path, why: object) -> BulkError:
    """What to raise for a plan that makes no sense."""
    return BulkError(f"{out / _PLAN} is damaged ({why}); choose another folder for the output")


class Notes:
    """`shard-000012.json` in a folder: shard 12 is done, and this came of it."""

    def __init__(self, out: Path, shards: int) -> None:
        self.out, self.shards = out, shards

    def done(self) -> set[int]:
        """Numbers of the shards that are done."""
        return {number for number in range(self.shards) if self._file(number).is_file()}

    def read(self) -> Iterator[dict[str, Any]]:
        """The notes of all shards that are done, in order."""
        for number in sorted(self.done()):
            yield json.loads(self._file(number).read_bytes())

    def write(self, number: int, note: Mapping[str, Any]) -> None:
        """Says that a shard is done; one that was is so again."""
        write_whole(self._file(number), readable_json(note, indent=1).encode())

    def _file(self, number: int) -> Path:
        return self.out / f"shard-{number:06}.json"


def work_here(load: Load, tasks: Iterable[tuple[int, Any]], workers: int) -> Iterator[Any]:
    """Does tasks in processes of this machine, in any order.

    Each has one thread per core that is its share, and the next of the machine's cards if there are any.

    Raises:
        BulkError: a process was killed. What was written stays; the next run goes on from there.
        Exception: what `load`, or the work, raised in a process.
    """
    context = get_context("spawn")  # threads and CUDA do not survive a fork
    numbers = context.Value("i", 0)
    waiting = iter(tasks)
    with ProcessPoolExecutor(workers, context, _begin, (load, numbers, workers)) as pool:
        running = {pool.submit(_do, *task) for task in islice(waiting, 2 * workers)}
        try:
            while running:
                ready, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield future.result()
                    running |= {pool.submit(_do, *task) for task in islice(waiting, 1)}
        except BrokenProcessPool as error:
            raise BulkError("a worker was killed, for lack of memory perhaps; run it again to go on") from error
        finally:
            for future in running:
                future.cancel()


def sendable(error: Exception) -> Exception:
    """The error, or what stands for it where another process cannot unpickle it, as many that take two arguments.

    Unpickling fails in the parent, where it would look as if the worker had been killed.
    """
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # runs code of the error's own
        return BulkError(f"{type(error).__name__}: {error}")
    return error


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_work: Worker | None = None  # of a worker process
_failure: Exception | None = None  # in place of it


def _begin(load: Load, numbers: Any, workers: int) -> None:
    import torch

    global _work, _failure
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with numbers.get_lock():
        mine, numbers.value = numbers.value, numbers.value + 1
    cards = torch.cuda.device_count()
    device = f"cuda:{mine % cards}" if cards else "cpu"
    try:
        _work = load(device, max(1, cores() // workers))
    except Exception as error:  # raised here it would end the process, as if somebody had killed it
        _failure = sendable(error)


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers, which would wait for work for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(number: int, content: Any) -> Any:
    if _failure is not None:
        raise _failure
    assert _work is not None
    try:
        return _work(number, content)
    except Exception as error:
        raise sendable(error)  # noqa: B904 - mostly the error itself, which is not its own cause
