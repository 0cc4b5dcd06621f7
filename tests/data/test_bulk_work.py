"""Bulk work: what fails in a worker is told by the parent."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from one_peace.data.bulk_work import BulkError, Load, work_here
from one_peace.data.bulk_work_ray import _Actor
from one_peace.errors import InputError


def failing(device: str, threads: int) -> Callable[[int, object], object]:
    raise InputError("cloud.py", "no such file")


class TwoArgumentsError(Exception):
    """Is pickled, and cannot be unpickled."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place} {problem}")


def failing_with_two_arguments(device: str, threads: int) -> Callable[[int, object], object]:
    raise TwoArgumentsError("cloud", "has rained")


def working_with_two_arguments(device: str, threads: int) -> Callable[[int, object], object]:
    return fail_with_two_arguments


def fail_with_two_arguments(number: int, content: object) -> object:
    raise TwoArgumentsError("cloud", "has rained")


def test_an_error_of_a_worker_is_the_error() -> None:
    with pytest.raises(InputError, match="cloud.py: no such file") as caught:
        list(work_here(failing, [(0, "a"), (1, "b")], 1))
    assert caught.value.source == "cloud.py"


@pytest.mark.parametrize("load", [failing_with_two_arguments, working_with_two_arguments])
def test_an_error_that_cannot_be_unpickled_is_told_in_words(load: Load) -> None:
    with pytest.raises(BulkError, match="TwoArgumentsError: cloud has rained"):
        list(work_here(load, [(0, "a"), (1, "b")], 1))
    made = _Actor(load, "cpu")({"number": np.array([0]), "content": np.array([pickle.dumps("a")], dtype=object)})
    (error,) = map(pickle.loads, made["result"])
    assert isinstance(error, BulkError) and "cloud has rained" in str(error)


def test_an_actor_answers_with_its_error() -> None:
    made = _Actor(failing, "cpu")({"number": np.array([0]), "content": np.array([pickle.dumps("a")], dtype=object)})
    (error,) = map(pickle.loads, made["result"])
    assert isinstance(error, InputError) and error.source == "cloud.py"
