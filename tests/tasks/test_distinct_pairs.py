"""Pairs as distinct media and texts."""

from __future__ import annotations

from pathlib import Path

from one_peace.tasks.distinct_pairs import DistinctPairs, identity_of


def test_media_and_captions_that_repeat_are_one() -> None:
    pairs = DistinctPairs[int]()
    for identity, medium, caption in (("a", 1, "A dog."), ("b", 2, "a cat"), ("a", 3, "the CAT"), ("b", 4, "a cat")):
        pairs.add(identity, medium, caption)
    assert (pairs.media, pairs.texts) == ([1, 2], ["A dog.", "a cat"])
    assert pairs.relevant().tolist() == [[True, True], [False, True]]


def test_no_pairs() -> None:
    assert DistinctPairs[int]().relevant().shape == (0, 0)


def test_identities() -> None:
    assert identity_of(b"one") == identity_of(b"one") != identity_of(b"two")
    assert identity_of(Path("a.png")) == "a.png"
    assert identity_of({"image": Path("a.png"), "audio": b"x"}) != identity_of({"image": Path("a.png"), "audio": b"y"})
