"""Batches: everybody's inputs together, in bounds, and none lost."""

from __future__ import annotations

import threading
import time
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from one_peace.server.batcher import OVERHEAD, Batcher, OverloadedError, _Job, group


def example(length: int) -> dict[str, torch.Tensor]:
    return {"tokens": torch.zeros(length)}


class Model:
    """Counts; its embedding of an example is the example's length. Waits for `go`."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.go = threading.Event()
        self.go.set()
        self.seconds = seconds
        self.batches: list[tuple[str, list[int]]] = []

    def embed(self, modality: str, examples: list[dict[str, torch.Tensor]]) -> np.ndarray:
        self.go.wait()
        time.sleep(self.seconds)
        lengths = [len(one["tokens"]) for one in examples]
        self.batches.append((modality, lengths))
        return np.array(lengths, np.float32)[:, None]


def make(model: Model, **options: float) -> Batcher:
    return Batcher(model.embed, lambda name, one: len(one["tokens"]), **options)


def test_everything_that_waits_shares_a_batch_of_its_modality() -> None:
    model = Model()
    model.go.clear()
    batcher = make(model)
    first = batcher.submit("text", [example(5)])
    while any(batcher.waiting().values()):  # until the thread has taken it
        time.sleep(0.001)
    texts = [batcher.submit("text", [example(5 + i % 3)])[0] for i in range(20)]
    images = batcher.submit("image", [example(16)] * 7)
    model.go.set()
    assert [future.result(60)[0] for future in texts] == [5 + i % 3 for i in range(20)]
    assert all(future.result(60)[0] == 16 for future in images) and first[0].result(60)[0] == 5
    batcher.close()
    assert [(name, len(lengths)) for name, lengths in model.batches] == [("text", 1), ("text", 20), ("image", 7)]


def test_the_oldest_input_goes_first_whatever_its_modality() -> None:
    model = Model()
    model.go.clear()
    batcher = make(model)
    batcher.submit("text", [example(3)])
    while any(batcher.waiting().values()):
        time.sleep(0.001)
    batcher.submit("audio", [example(300)])
    batcher.submit("text", [example(3)] * 50)
    model.go.set()
    batcher.close()
    assert [name for name, _ in model.batches] == ["text", "audio", "text"]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.integers(64, 2048))
def test_a_batch_holds_the_oldest_within_bounds(lengths: list[int], max_tokens: int) -> None:
    queue = deque(_Job("text", {}, length) for length in lengths)
    batch = group(queue, max_tokens)
    taken = [job.length for job in batch]
    assert batch[0] is queue[0] and len(set(map(id, batch))) == len(batch)
    assert len(batch) == 1 or max(taken) * len(taken) <= max_tokens
    # What sharing wastes is less than what batches of their own would cost.
    assert max(taken) * len(taken) - sum(taken) <= OVERHEAD * (len(taken) - 1)


def test_an_error_is_told_to_those_it_concerns() -> None:
    def embed(modality: str, examples: list[dict[str, torch.Tensor]]) -> np.ndarray:
        if modality == "image":
            raise RuntimeError("no memory")
        return np.zeros((len(examples), 2), np.float32)

    batcher = Batcher(embed, lambda name, one: 4)
    bad, good = batcher.submit("image", [example(4)]), batcher.submit("text", [example(4)])
    with pytest.raises(RuntimeError, match="no memory"):
        bad[0].result(60)
    assert good[0].result(60).shape == (2,)
    batcher.close()


def test_too_much_is_refused_with_a_time_to_come_back() -> None:
    model = Model(seconds=0.02)
    batcher = make(model, max_wait=0.2)
    batcher.submit("text", [example(9)])[0].result(60)  # it learns its pace: 2 ms a token
    batcher.admit()
    model.go.clear()
    waiting = batcher.submit("text", [example(9)] * 200)
    with pytest.raises(OverloadedError, match="try again") as caught:
        batcher.admit()
    assert caught.value.retry_after >= 1
    for future in waiting:
        future.cancel()
    model.go.set()
    batcher.close()
    assert batcher.delay() == 0


def test_what_nobody_waits_for_is_not_computed() -> None:
    model = Model()
    model.go.clear()
    batcher = make(model)
    batcher.submit("text", [example(1)])
    while any(batcher.waiting().values()):
        time.sleep(0.001)
    cancelled, kept = batcher.submit("text", [example(2), example(2)])
    assert cancelled.cancel()
    model.go.set()
    assert kept.result(60)[0] == 2
    batcher.close()
    assert model.batches[1] == ("text", [2])


def test_closing_finishes_what_was_accepted() -> None:
    model = Model(seconds=0.01)
    batcher = make(model, max_tokens=8)
    futures = batcher.submit("text", [example(3)] * 10)
    batcher.close()
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="shutting down"):
        batcher.submit("text", [example(3)])
