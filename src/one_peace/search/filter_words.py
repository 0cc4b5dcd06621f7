"""Filters in words, as on a command line: `after=2024-05-01`, `tag=red,flower`, `max_size=10MB`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import MAXYEAR, UTC, date, datetime, time
from math import isfinite
from typing import Any

from one_peace.search.filters import Filters
from one_peace.search.queries import QueryError, check_name, filters_from
from one_peace.search.records import moment_of, stored_moment

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_DURATION = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)\s*s?")


def filters_from_words(words: Iterable[str]) -> Filters:
    """`name=value` each, names as in `Filters`; dashes do for underscores. Several tags etc. are joined by commas.

    Sizes have a unit or are bytes, durations are seconds or minutes:seconds, dates are days or moments (ISO 8601, local
    time unless they say otherwise); `before` a day includes it.

    Raises:
        QueryError: an unknown name, with the nearest known one, or a value that cannot be read.
    """
    given: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not value.strip():
            raise QueryError("filters", f"expected name=value, got {word!r}")
        check_name("filters", name, list(_READERS))
        read = _READERS[name](value.strip())
        given[name] = (*given.get(name, ()), *read) if isinstance(read, tuple) else read
    return filters_from(given)


def _several(value: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in value.split(",") if part.strip())
    if not parts:
        raise QueryError("filters", f"{value!r} names nothing; write one name or several with commas between them")
    return parts


def _size(value: str) -> int:
    if not (match := _SIZE.fullmatch(value)):
        raise QueryError("filters", f"{value!r} is no size; write 300kB, 10MB or a number of bytes")
    number, unit, binary = match.groups()
    factor = _UNITS[unit.lower()]
    size = float(number) * (1024 ** list(_UNITS).index(unit.lower()) if binary else factor)
    if not isfinite(size):
        raise QueryError("filters", f"{value[:20]}... is larger than any file")
    return round(size)


def _duration(value: str) -> float:
    if not (match := _DURATION.fullmatch(value)):
        raise QueryError("filters", f"{value!r} is no duration; write seconds or 1:30")
    hours, minutes, seconds = match.groups()
    return 3600 * float(hours or 0) + 60 * float(minutes or 0) + float(seconds)


def _after(value: str) -> int:
    return _moments(value)[0]


def _before(value: str) -> int:
    return _moments(value)[1]


def _with_zone(moment: datetime) -> datetime:
    """In local time unless it says otherwise. Python knows none at the very end of time, where it does not matter."""
    return moment.replace(tzinfo=moment.tzinfo or UTC) if moment.year == MAXYEAR else moment.astimezone()


def _moments(value: str) -> tuple[int, int]:
    """The first and the last of what it names, a day or a moment, in nanoseconds since 1970."""
    try:
        if len(value) <= len("2024-05-01"):
            day = date.fromisoformat(value)  # of 23 or 25 hours where clocks are changed
            first, last = datetime.combine(day, time.min), datetime.combine(day, time.max)
        else:
            first = last = datetime.fromisoformat(value)
        start, end = moment_of(_with_zone(first)), moment_of(_with_zone(last))
    except (ValueError, OverflowError) as error:
        raise QueryError("filters", f"{value!r} is no date; write 2024-05-01 or 2024-05-01T12:30") from error
    return start, end if first == last else stored_moment(end + 999)


_READERS: dict[str, Callable[[str], Any]] = {
    "modality": _several,
    "branch": _several,
    "tag": _several,
    "item": _several,
    "exclude": _several,
    "folder": str,
    "caption": str,
    "min_size": _size,
    "max_size": _size,
    "min_duration": _duration,
    "max_duration": _duration,
    "after": _after,
    "before": _before,
}
