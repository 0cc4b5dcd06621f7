"""Bulk work on a Ray cluster: shards as a Ray Data set, a worker in each of its actors."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from one_peace.data.bulk_work import Load, Worker, sendable
from one_peace.errors import MissingExtraError


def work_on_ray(load: Load, tasks: Iterable[tuple[int, Any]], workers: int) -> Iterator[Any]:
    """As `bulk_work.work_here`: on the cluster that `RAY_ADDRESS` names or that runs here, else on one started here.

    An actor has a CPU, and a card of its own if the cluster has any. All machines must see the files under the same
    paths, as on a network file system.

    Raises:
        MissingExtraError: Ray is not installed.
        Exception: what `load`, or the work, raised in an actor.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("work on a cluster", "ray") from error
    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING)
    rows = [{"number": number, "content": pickle.dumps(content)} for number, content in tasks]
    if not rows:
        return
    cards = ray.cluster_resources().get("GPU", 0) > 0
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,
        fn_constructor_args=(load, "cuda" if cards else "cpu"),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=1 if cards else 0,
    )
    for row in done.iter_rows():
        result = pickle.loads(row["result"])
        if isinstance(result, Exception):
            raise result
        yield result


class _Actor:
    """Keeps the worker, and what it has loaded, between shards.

    Errors are answers: Ray would start an actor again that raised one, or wrap it in words of its own.
    """

    def __init__(self, load: Load, device: str) -> None:
        self._work: Worker
        try:
            self._work = load(device, 1)
        except Exception as error:
            self._work = partial(_fail, error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        tasks = zip(batch["number"], batch["content"], strict=True)
        results = [self._do(int(number), pickle.loads(content)) for number, content in tasks]
        return {"result": np.array([pickle.dumps(result) for result in results], dtype=object)}

    def _do(self, number: int, content: Any) -> Any:
        try:
            return self._work(number, content)
        except Exception as error:
            return sendable(error)


def _fail(error: Exception, number: int, content: Any) -> Any:
    raise error
