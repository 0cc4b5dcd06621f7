from __future__ import annotations

import math
import pickle
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_encoder import FakeEncoder, write_picture
from one_peace.search.filter_words import filters_from_words
from one_peace.search.filters import Filters
from one_peace.search.library import Library
from one_peace.search.queries import ITEM, Part, Query, QueryError, mix

MODALITIES = ("text", "image", "audio")
A = Part("text", "a")


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        (Query(()), "parts: nothing to search by"),
        (Query((A,) * 65), "at most 64"),
        (Query((Part("text", "a", math.nan),)), "weight: expected a finite number, got nan"),
        (Query((Part("text", "a", math.inf),)), "finite"),
        (Query((Part("text", "a", True),)), "finite"),
        (Query((Part("text", "a", "2"),)), "finite"),  # type: ignore[arg-type]
        (Query((Part("text", "a", 0.0),)), "weight: is 0"),
        (Query((Part("text", "a", -1.0),)), "negative; say also what is wanted"),
        (Query((Part("text", " \n"),)), "text: is empty"),
        (Query((Part("imgae", "a"),)), "did you mean 'image'"),
        (Query((Part("zzz", "a"),)), "known: text, image, audio, item"),
        (Query((A,), k=0), "k: must be a whole number from 1"),
        (Query((A,), k=10**9), "k: "),
        (Query((A,), k=2.5), "k: "),  # type: ignore[arg-type]
        (Query((A,), rerank=-1), "rerank: "),
    ],
)
def test_queries_that_make_no_sense(query: Query, problem: str) -> None:
    with pytest.raises(QueryError) as caught:
        query.check(MODALITIES)
    assert problem in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_queries_that_do() -> None:
    Query((A, Part("audio", object()), Part("text", "b", -0.5), Part(ITEM, "id"))).check(MODALITIES)
    Query((Part("text", "a", np.float32(0.5)), Part("text", "b", np.int64(2)))).check(MODALITIES)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"prats": []}, "did you mean 'parts'"),
        ({"parts": "text"}, "expected a list"),
        ({"parts": [{"modality": "text"}]}, "has no 'source'"),
        ({"parts": ["a"]}, "expected modality, source and weight"),
        ({"parts": [{"modality": "text", "source": "a", "wieght": 2}]}, "did you mean 'weight'"),
        ({"parts": [], "filters": {"modalty": "image"}}, "did you mean 'modality'"),
        ({"parts": [], "filters": ["image"]}, "expected names with values"),
        ({"parts": [], "filters": {"min_size": "big"}}, "size"),
        ({"parts": [], "filters": {"max_duration": math.nan}}, "duration"),
        ({"parts": [], "filters": {"min_size": 2, "max_size": 1}}, "no value lies between"),
    ],
)
def test_plain_values_that_make_no_query(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(QueryError, match=problem):
        Query.from_dict(values)


def test_a_query_of_plain_values() -> None:
    parts = [{"modality": "text", "source": "a"}, {"modality": "item", "source": "x", "weight": -1}]
    query = Query.from_dict({"parts": parts, "k": 3, "filters": {"modality": "image", "tag": ["a", "b"]}})
    assert [(p.modality, p.source, p.weight) for p in query.parts] == [("text", "a", 1.0), ("item", "x", -1)]
    assert query.filters == Filters(modality=("image",), tag=("a", "b")) and query.k == 3


def test_weights_are_shared_out_among_inputs() -> None:
    query = Query.of({"text": ["a", "b"], "image": "c", "audio": None}, {"text": 3})
    assert [(part.source, part.weight) for part in query.parts] == [("a", 1.5), ("b", 1.5), ("c", 1.0)]
    several = Query.of({"text": iter(["a", "b"])}, {"text": np.float32(3)}, k=np.int64(2))
    assert [(part.source, part.weight) for part in several.parts] == [("a", 1.5), ("b", 1.5)]
    several.check(["text"])
    for wrong in ({"audio": 1.0}, {"text": math.nan}):
        with pytest.raises(QueryError, match="weights"):
            Query.of({"text": "a"}, wrong)
    with pytest.raises(QueryError, match="did you mean 'rerank'"):
        Query.of({"text": "a"}, rernak=3)


@given(st.lists(st.floats(-5, 5).filter(lambda x: abs(x) > 0.01), min_size=1, max_size=5), st.integers(0, 99))
def test_a_mix_is_the_direction_of_the_sum(weights: list[float], seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((len(weights), 7)).astype(np.float32)
    mixed = mix(list(zip(weights, vectors, strict=True)))
    total = (np.array(weights)[:, None] * vectors).sum(0)
    np.testing.assert_allclose(mixed, total / np.linalg.norm(total), atol=1e-4)
    with pytest.raises(QueryError, match="cancel"):
        mix([(weights[0], vectors[0]), (-weights[0], vectors[0])])


def test_filters_in_words(tmp_path: Path) -> None:
    words = ["modality=image,audio", "tag=a", "tag=b , c", f"folder={tmp_path}", "caption=x=y"]
    words += ["max-size=1.5MB", "min_size=2kiB", "max_duration=1:01:05", "min_duration=7.5s"]
    found = filters_from_words([*words, "after=2024-05-01", "before=2024-05-02"])
    day = round(datetime(2024, 5, 1).timestamp()) * 10**9
    assert found == Filters(
        modality=("image", "audio"),
        tag=("a", "b", "c"),
        folder=str(tmp_path),
        caption="x=y",
        min_size=2048,
        max_size=1_500_000,
        min_duration=7.5,
        max_duration=3665.0,
        after=day,
        before=round(datetime(2024, 5, 3).timestamp()) * 10**9 - 1,
    )
    far = filters_from_words(["after=0003-01-01", "before=9999-12-31"])  # beyond what files' times can be
    assert (far.after, far.before) == (1 - 2**63, 2**63 - 1)
    moment = filters_from_words(["before=2024-05-01T10:00:00.7+00:00"]).before
    assert moment == 1_714_557_600_700 * 10**6
    assert filters_from_words(["after=1969-12-31T23:59:59.5+00:00"]).after == -(10**9) // 2


@pytest.mark.parametrize(("day", "hours"), [("2024-05-01", 24), ("2024-03-31", 23), ("2024-10-27", 25)])
def test_a_day_is_whole_where_clocks_are_changed(day: str, hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        found = filters_from_words([f"after={day}", f"before={day}"])
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found.after is not None and found.before is not None
    assert found.before + 1 - found.after == hours * 3600 * 10**9


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("tga=x", "did you mean 'tag'"),
        ("tag", "expected name=value"),
        ("tag=", "expected name=value"),
        ("tag=,", "names nothing"),
        ("max_size=big", "is no size"),
        pytest.param("max_size=" + 400 * "9", "larger than any file", id="a very large size"),
        pytest.param("max_duration=" + 5000 * "9" + ":00", "number", id="a very long duration"),
        ("max_size=-1", "is no size"),
        ("min_duration=1:2:3:4", "is no duration"),
        ("after=yesterday", "is no date"),
        ("before=2024-13-01", "is no date"),
    ],
)
def test_words_that_are_no_filter(word: str, problem: str) -> None:
    with pytest.raises(QueryError, match=problem):
        filters_from_words([word])


@pytest.fixture
def opened(folder: Path, tmp_path: Path, encoder: FakeEncoder) -> Library:
    write_picture(folder / "yellow.png", (200, 200, 0))
    library = Library(tmp_path / "library", encoder)
    library.index(folder)
    return library


def names(results: list) -> list[str]:
    return [result.path.name for result in results]


def test_minus_what_is_not_wanted(opened: Library) -> None:
    both = (Part("text", "red"), Part("text", "green"))
    assert names(opened.search(Query(both, k=1))) == ["yellow.png"]
    assert names(opened.search(Query((*both, Part("text", "green", -1.5)), k=1))) == ["red.png"]
    with pytest.raises(QueryError, match="cancel"):
        opened.search(Query((A, Part("text", "a", -1.0))))
    with pytest.raises(TypeError, match="put k, text into it"):
        opened.search(Query((A,)), k=10, text="red")
    with pytest.raises(TypeError, match="inputs by name such as text='a dog'"):
        opened.search("a dog")  # type: ignore[call-overload]


def test_more_like_this_leaves_itself_out(opened: Library, folder: Path) -> None:
    red = opened.find(folder / "red.png")
    assert red is not None
    found = opened.search(item=red.id, modality="image", k=5)
    assert names(found) == ["yellow.png", "green.jpg"]
    with pytest.raises(QueryError, match="no item 'unknown'"):
        opened.search(item="unknown")


def test_each_answer_says_why(opened: Library) -> None:
    query = Query((Part("text", "red"), Part("text", "green", -0.5)), k=2, filters=Filters(modality=("image",)))
    for found in opened.search(query):
        red, green = found.why
        length = np.linalg.norm([1, -0.5])
        assert found.score == pytest.approx((red - 0.5 * green) / length, abs=1e-5)


def test_filters_of_every_sort(opened: Library, folder: Path) -> None:
    def found(**filters: Any) -> set[str]:
        return set(names(opened.search(text="red", k=50, filters=Filters(**filters))))

    everything = found()
    assert everything == {"red.png", "green.jpg", "yellow.png", "tone.wav", "notes.md"}
    assert found(modality=("audio", "text")) == {"tone.wav", "notes.md"}
    assert found(folder=str(folder / "animals")) == {"green.jpg", "tone.wav"}
    assert found(min_duration=0.4) == {"tone.wav"} and found(max_duration=0.4) == set()
    size = (folder / "animals" / "tone.wav").stat().st_size
    assert found(min_size=size) == {"tone.wav"} and "tone.wav" not in found(max_size=size - 1)
    assert found(caption="ANIMAL") == {"green.jpg"}
    now = (folder / "red.png").stat().st_mtime_ns
    assert "red.png" in found(before=now) and "red.png" not in found(before=now - 1) and found(after=2 * now) == set()
    ids = {item.path.name: item.id for item in opened.items()}
    assert found(item=(ids["red.png"], ids["notes.md"]), exclude=(ids["red.png"],)) == {"notes.md"}
    with pytest.raises(QueryError, match="did you mean 'image'"):
        opened.search(text="red", modality="images")
