"""Bulk embedding on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from one_peace.data.bulk_work_ray import work_on_ray
from one_peace.modalities.imports import imported_modalities
from one_peace.search.bulk import Plan, Shard, load_worker
from one_peace.search.walk import Found


def run_on_ray(plan: Plan, shards: Iterable[tuple[int, list[Found]]], workers: int) -> Iterator[Shard]:
    """As `bulk.Runner`, by `work_on_ray`; all machines have the model under the plan's name, and the imports.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    return work_on_ray(partial(load_worker, plan, imported_modalities()), shards, workers)
