"""Bulk work: what fails in a worker is told by the parent."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from one_peace.data.bulk_work import work_here
from one_peace.data.bulk_work_ray import _Actor
from one_peace.errors import InputError


def failing(device: str, threads: int) -> Callable[[int, object], object]:
    raise InputError("cloud.py", "no such file")


def test_an_error_of_a_worker_is_the_error() -> None:
    with pytest.raises(InputError, match="cloud.py: no such file") as caught:
        list(work_here(failing, [(0, "a"), (1, "b")], 1))
    assert caught.value.source == "cloud.py"


def test_an_actor_answers_with_its_error() -> None:
    made = _Actor(failing, "cpu")({"number": np.array([0]), "content": np.array([pickle.dumps("a")], dtype=object)})
    (error,) = map(pickle.loads, made["result"])
    assert isinstance(error, InputError) and error.source == "cloud.py"
