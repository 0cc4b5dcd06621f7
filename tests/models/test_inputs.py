"""Inputs on their way to the network: in order, a few ahead, in parts of bounded memory."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from one_peace.errors import InputError, MissingExtraError, ReadingFault
from one_peace.modalities.base import Example
from one_peace.models import inputs
from one_peace.models.inputs import decode_in_parts, list_inputs


def views(source: Any) -> list[Example]:
    if source < 0:
        raise InputError(str(source), "is negative")
    return [{"values": torch.full((250,), float(source))}]  # 1000 B


@pytest.mark.parametrize("count", [0, 1, 3, 4, 100])
def test_all_come_in_order_with_their_errors(count: int) -> None:
    sources = [-number if number % 7 == 3 else number for number in range(count)]
    found = [one for part in decode_in_parts(iter(sources), views, 8) for one in part]
    assert [one.index for one in found] == list(range(count))
    for source, one in zip(sources, found, strict=True):
        assert one.name == str(source)
        if source < 0:
            assert one.error is not None and not one.views
        else:
            assert one.error is None and one.views[0]["values"][0] == source


def test_what_a_reader_raises_in_its_own_way_is_told_with_the_input() -> None:
    def broken(source: Any) -> list[Example]:
        if source == "video":
            raise MissingExtraError("reading videos", "video")
        raise KeyError("channels")

    [[one]] = [list(part) for part in decode_in_parts([Path("a.trace")], broken, 8)]
    assert isinstance(one.error, ReadingFault) and isinstance(one.error.__cause__, KeyError)
    assert str(one.error) == "a.trace: reading it failed (KeyError: 'channels')"
    with pytest.raises(MissingExtraError):  # no other input will mend that
        list(decode_in_parts(["video"], broken, 8))


def test_parts_are_bounded_by_count_and_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [len(part) for part in decode_in_parts(range(10), views, 4)] == [4, 4, 2]
    monkeypatch.setattr(inputs, "PART_BYTES", 3000)
    assert [len(part) for part in decode_in_parts(range(10), views, 512)] == [3, 3, 3, 1]
    recording = torch.zeros(750)  # 3000 B, of which a view is the beginning
    windows = [{"values": recording[:5]}, {"values": recording[5:]}]
    assert [len(part) for part in decode_in_parts(range(3), lambda _: windows, 512)] == [1, 1, 1]


def test_an_iterator_is_asked_for_a_few_more_than_are_needed() -> None:
    asked = 0

    def endless() -> Iterator[int]:
        nonlocal asked
        while True:
            asked += 1
            yield asked

    parts = decode_in_parts(endless(), views, 10)
    first = next(parts)
    assert len(first) == 10 and asked < 50
    next(parts)
    assert asked < 60 and len(first) == 10 and first[0].index == 10  # the same list, emptied and filled again
    parts.close()


def test_what_counts_as_many() -> None:
    assert list_inputs([1, 2]) == list_inputs(iter([1, 2])) == [1, 2]
    assert list_inputs("ab") == ["ab"] and list_inputs((1, 2)) == [(1, 2)]
    stream = io.BytesIO(b"a\nb\n")
    assert list_inputs(stream) == [stream]
