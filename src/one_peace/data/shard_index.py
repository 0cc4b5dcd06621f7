"""An index of shards: a JSON file that says how many pairs each of them holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from one_peace.errors import InputError

MOST_PAIRS = 1 << 32  # of one shard


def lengths_by_index(urls: Sequence[str], place: str, content: bytes) -> list[int]:
    """How many pairs each shard holds, by the content of the index at `place`.

    Raises:
        InputError: it is damaged, lacks a shard, or has several numbers for one.
    """
    try:
        values = json.loads(content)
        if isinstance(values.get("shardlist"), list):
            values = {entry["url"]: entry["nsamples"] for entry in values["shardlist"]}
        counts: dict[tuple[str, ...], list[Any]] = {}
        for name, count in values.items():
            for end in _ends(name):
                counts.setdefault(end, []).append(count)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(place, f"is no JSON that says how many pairs each shard holds ({error})") from error
    return [_length(url, place, counts) for url in urls]


def _length(url: str, place: str, counts: dict[tuple[str, ...], list[Any]]) -> int:
    """By as many of the last parts of its path as are in the index: folders may hold shards of one name."""
    ends = _ends(url)
    numbers = next((counts[end] for end in ends if end in counts), [])
    if not numbers:
        raise InputError(place, f"has no number of pairs for {ends[-1][0]!r}")
    if any(number != numbers[0] for number in numbers):
        raise InputError(place, f"has several numbers of pairs for {url}; write its folder before its name")
    # A truth value is an integer, too.
    if type(numbers[0]) is not int or not 0 <= numbers[0] <= MOST_PAIRS:
        raise InputError(place, f"says that a shard holds {numbers[0]!r} pairs")
    return numbers[0]


def _ends(url: str) -> list[tuple[str, ...]]:
    """The path of an address from each of its parts on, the whole first, the name of the file last."""
    parts = urlsplit(url).path.split("/")
    return [tuple(parts[first:]) for first in range(len(parts))]
