from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fake_encoder import FakeEncoder, write_picture, write_sound
from one_peace.search.calibration import Calibration
from one_peace.search.filters import Condition
from one_peace.search.library import Library
from one_peace.search.ranking import rank_items
from one_peace.search.records import Entry, Record, Space
from one_peace.search.stores.base import VectorStore
from one_peace.search.stores.engines import open_store

DIM = 24


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def entry(branch: str, number: int, part: int = 0, parts: int = 1) -> Entry:
    item = f"{branch}{number}"
    return Entry(
        id=f"{item}#{part}" if part else item,
        item=item,
        path=f"/{item}",
        modality=branch,
        branch=branch,
        digest="",
        size=0,
        mtime=0,
        part=part,
        parts=parts,
    )


def two_cones(rng: np.random.Generator, rows: int = 200) -> dict[str, np.ndarray]:
    """Pictures and sounds of the same things, each branch shifted by its own direction, as a trained model has them."""
    things = rng.standard_normal((rows, DIM))
    shifts = rng.standard_normal((2, DIM)) * 1.2
    return {
        "image": unit(things + shifts[0] + 0.2 * rng.standard_normal((rows, DIM))),
        "audio": unit(things + shifts[1] + 0.2 * rng.standard_normal((rows, DIM))),
    }


@pytest.fixture
def cones() -> dict[str, np.ndarray]:
    return two_cones(np.random.default_rng(0))


@pytest.fixture
def store(tmp_path: Path, cones: dict[str, np.ndarray]) -> VectorStore:
    opened = open_store(str(tmp_path / "store"), Space("m", "f", DIM))
    for branch, vectors in cones.items():
        opened.add([Record(entry(branch, n), vector) for n, vector in enumerate(vectors)])
    return opened


def test_standings_are_standard_scores(cones: dict[str, np.ndarray], store: VectorStore) -> None:
    calibration = Calibration.measure(store.vectors())
    query = cones["image"][3]
    mean, deviation = calibration.usual(query, "image")
    scores = cones["image"].astype(np.float64) @ query
    share = 200 / 232  # with the prior
    everything = np.concatenate([scores, cones["audio"].astype(np.float64) @ query])
    assert mean == pytest.approx(share * scores.mean() + (1 - share) * everything.mean())
    assert deviation**2 == pytest.approx(share * scores.var() + (1 - share) * everything.var())


def test_right_answers_of_both_branches_come_first(cones: dict[str, np.ndarray], store: VectorStore) -> None:
    calibration = Calibration.measure(store.vectors())
    fair = raw = 0
    for n in range(40):
        for calibrate in (True, False):
            found = {r.row.entry.item for r in rank_items(store, calibration, cones["image"][n], 10, (), calibrate)}
            assert f"image{n}" in found
            fair += calibrate and f"audio{n}" in found
            raw += not calibrate and f"audio{n}" in found
    assert fair >= 28 and raw <= 4


def test_order_within_a_branch_stays(cones: dict[str, np.ndarray], store: VectorStore) -> None:
    calibration = Calibration.measure(store.vectors())
    where = (Condition("branch", "in", ("audio",)),)
    order = [
        [r.row.entry.id for r in rank_items(store, calibration, cones["image"][5], 20, where, calibrate)]
        for calibrate in (True, False)
    ]
    assert order[0] == order[1] and len(order[0]) == 20
    mixed = [r.row.entry for r in rank_items(store, calibration, cones["image"][5], 400, (), True)]
    assert [row.id for row in mixed if row.branch == "audio"][:20] == order[0] and len(mixed) == 400


def test_a_branch_that_is_newer_than_the_statistics_is_found(store: VectorStore, cones: dict) -> None:
    calibration = Calibration.measure(store.vectors())
    new = unit(np.ones(DIM))
    store.add([Record(entry("smell", 0), new)])
    assert rank_items(store, calibration, new, 1, (), True)[0].row.entry.id == "smell0"


def test_few_rows_are_ranked_by_cosine(tmp_path: Path, encoder: FakeEncoder) -> None:
    media = tmp_path / "media"
    media.mkdir()
    write_picture(media / "red.png", (200, 30, 30))
    (media / "a.txt").write_text("red")
    (media / "b.txt").write_text("green")
    opened = Library(tmp_path / "library", encoder)
    opened.index(media)
    found = opened.search(text="red", k=3)
    assert [r.path.name for r in found] == ["a.txt", "red.png", "b.txt"]
    assert [r.standing for r in found] == sorted((r.standing for r in found), reverse=True)


def test_items_of_many_parts_count_once(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), Space("m", "f", DIM))
    rng = np.random.default_rng(1)
    near = unit(np.eye(DIM)[0] + 0.01 * rng.standard_normal((90, DIM)))
    store.add([Record(entry("text", 0, part, 90), vector) for part, vector in enumerate(near)])
    store.add([Record(entry("text", n), unit(np.eye(DIM)[0] + 0.5 * rng.standard_normal(DIM))) for n in (1, 2, 3)])
    calibration = Calibration.measure(store.vectors())
    found = rank_items(store, calibration, unit(np.eye(DIM)[0]), 3, (), True)
    assert [r.row.entry.item for r in found][0] == "text0" and len({r.row.entry.item for r in found}) == 3


def test_saved_and_damaged_statistics(tmp_path: Path, store: VectorStore, cones: dict) -> None:
    calibration = Calibration.measure(store.vectors())
    calibration.save(tmp_path / "c.npz")
    again = Calibration.load(tmp_path / "c.npz")
    assert again is not None and again.rows == 400
    assert again.usual(cones["audio"][0], "image") == calibration.usual(cones["audio"][0], "image")
    whole = (tmp_path / "c.npz").read_bytes()
    method = whole.rindex(b"PK\x01\x02") + 10  # how a file is compressed, in the directory at the end
    for damaged in (whole[:100], b"", whole[:method] + b"\xee" + whole[method + 1 :]):
        (tmp_path / "c.npz").write_bytes(damaged)
        assert Calibration.load(tmp_path / "c.npz") is None
    assert Calibration.load(tmp_path / "no.npz") is None
    mean, deviation = Calibration.measure(iter(())).usual(cones["audio"][0], "image")
    assert mean == 0 and deviation > 0


def test_a_reader_learns_of_what_a_writer_measured(folder: Path, tmp_path: Path, encoder: FakeEncoder) -> None:
    writer = Library(tmp_path / "library", encoder)
    writer.index(folder)
    reader = Library(tmp_path / "library", encoder)
    assert len(reader.search(text="red", k=50)) == 4
    for n in range(30):
        write_picture(folder / f"{n}.png", (n, 2 * n, 200))
    writer.index(folder)
    reader.search(text="red")
    assert reader._folder.calibration.latest(reader.store).rows == 34


def test_a_branch_that_takes_the_place_of_another_is_measured(
    folder: Path, tmp_path: Path, encoder: FakeEncoder
) -> None:
    opened = Library(tmp_path / "library", encoder)
    for n in range(40):
        write_picture(folder / f"{n}.png", (n, 2 * n, 200))
    opened.index(folder)
    for n in range(4):  # as many files as before
        (folder / f"{n}.png").unlink()
        write_sound(folder / f"{n}.wav", 300 + n)
    opened.index(folder)
    assert opened._folder.calibration.latest(opened.store).branches["audio"].count == 5
    for n in range(5, 10):  # one by one, as the service takes them in
        write_sound(folder / f"{n}.wav", 300 + n)
        opened.add([(folder / f"{n}.wav", "")])
    assert opened._folder.calibration.latest(opened.store).branches["audio"].count >= 9
