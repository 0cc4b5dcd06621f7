"""Composed scenes: boxes are exact, and what is said of a scene is true of it."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from one_peace.data.sample_tasks import scene_composition
from one_peace.data.sample_tasks.scene_composition import (
    SIDE,
    Scene,
    Thing,
    compose,
    referring_phrase,
    relation,
    statement,
)

COLOURS = {"red ball": (255, 0, 0), "green box": (0, 255, 0), "blue pen": (0, 0, 255), "black cat": (0, 0, 0)}
CUT_OUTS = {
    name: Image.new("RGBA", (30 + 10 * k, 50 - 8 * k), (*colour, 255))
    for k, (name, colour) in enumerate(COLOURS.items())
}


def scene(seed: int) -> Scene:
    rng = random.Random(seed)
    return compose(CUT_OUTS, rng.sample(sorted(CUT_OUTS), rng.randint(2, 4)), rng)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_boxes_hold_exactly_their_thing(seed: int) -> None:
    made = scene(seed)
    pixels = np.asarray(made.picture)
    assert made.picture.size == (SIDE, SIDE) and made.things
    for thing in made.things:
        x0, y0, x1, y1 = thing.box
        own = (pixels == COLOURS[thing.name]).all(axis=2)
        rows, columns = np.flatnonzero(own.any(axis=1)), np.flatnonzero(own.any(axis=0))
        assert own.sum() > 0.8 * thing.area  # little of it is hidden
        assert (columns[0] >= x0, rows[0] >= y0, columns[-1] < x1, rows[-1] < y1) == (True,) * 4


def test_the_same_seed_gives_the_same_scene() -> None:
    assert scene(3).things == scene(3).things != scene(4).things


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 80, 20, 100), "left of"),
        ((160, 80, 180, 100), "right of"),
        ((80, 0, 100, 20), "above"),
        ((80, 160, 100, 180), "below"),
    ],
)
def test_relations(box: tuple[int, int, int, int], expected: str) -> None:
    middle = Thing("middle", (80, 80, 100, 100))
    assert relation(Thing("x", box), middle) == expected
    assert relation(middle, middle) is None
    assert relation(Thing("x", (0, 0, 20, 20)), middle) is None  # neither clearly left nor clearly above


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_phrases_mean_one_thing(seed: int) -> None:
    made, rng = scene(seed), random.Random(seed)
    for thing in made.things:
        phrase = referring_phrase(made, thing, rng)
        if phrase == f"the {thing.name}":
            continue
        where = next(r for r in scene_composition.RELATIONS if f" {r} the " in phrase)
        other = made.thing(phrase.partition(f" {where} the ")[2])
        assert [t for t in made.things if t is not other and relation(t, other) == where] == [thing]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000))
def test_statements_are_as_true_as_they_say(seed: int) -> None:
    rng = random.Random(seed)
    first, second = scene(seed), scene(seed + 1)
    said, true = statement(first, second, "absent thing", rng)
    names = [{t.name for t in s.things} for s in (first, second)]
    name = next(n for n in [*COLOURS, "absent thing"] if n in said)
    shown = [name in n for n in names]
    expected = {"both pictures": all(shown), "only one": sum(shown) == 1, "the left": shown[0]}
    assert true == next(value for key, value in expected.items() if key in said)


def test_half_of_the_statements_are_true_and_answers_vary() -> None:
    made = [statement(scene(k), scene(k + 500), "absent thing", random.Random(k)) for k in range(300)]
    assert 0.4 < sum(true for _, true in made) / 300 < 0.6
    for kind in ("in both pictures", "only one picture", "the left picture"):
        assert {true for said, true in made if kind in said} == {True, False}
    answers = {scene_composition.question(scene(k), "absent thing", random.Random(k))[1] for k in range(200)}
    assert answers >= {"yes", "no", "2", "3", *scene_composition.RELATIONS}
