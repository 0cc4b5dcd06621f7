from __future__ import annotations

from pathlib import Path

import pytest

from fake_encoder import FakeEncoder, write_picture, write_sound
from one_peace.search.library import Library
from one_peace.search.manifest import LibraryError
from one_peace.search.rebuilding import begin_anew


@pytest.mark.parametrize(("damaged", "store"), [(False, None), (True, None), (False, "own")])
def test_what_was_sent_to_a_library_survives_a_new_beginning(
    folder: Path,
    tmp_path: Path,
    encoder: FakeEncoder,
    damaged: bool,
    store: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = tmp_path / "library"
    sent = place / "uploads" / "ab" / "ab12" / "blue_one.png"
    sent.parent.mkdir(parents=True)
    write_picture(sent, (0, 0, 250))
    opened = Library(place, encoder, store=store and str(place / store))
    opened.index(folder)
    id = opened.add([(sent, "Something blue", ["sky"])]).items[str(sent)]
    if damaged:
        (place / "library.json").write_text("{")
    monkeypatch.setattr("one_peace.models.loading.load_embedder", lambda name, device: FakeEncoder(name))
    with pytest.raises(LibraryError, match="a folder of their own"):
        begin_anew(place, "fake-2", store=str(place))
    anew, report = begin_anew(place, "fake-2")
    assert not (place / "own").exists()
    assert anew.model.fingerprint == "fake-2" and list(report.items) == [str(sent)]
    [item] = anew.items()
    assert (item.caption, item.tags) == (("blue_one", ()) if damaged else ("Something blue", ("sky",)))
    assert (item.id == id) is not damaged
    assert anew.index(folder).added == 4 and len(Library(place)) == 5
    _, nothing = begin_anew(place.parent / "new", "fake-2")
    assert not nothing.items and not (place.parent / "new").exists()


def test_captions_survive_a_beginning_that_was_ended_and_a_move(
    tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, place = tmp_path / "before" / "library", tmp_path / "now" / "library"
    sent = before / "uploads" / "ab" / "ab12" / "blue_one.png"
    sent.parent.mkdir(parents=True)
    write_picture(sent, (0, 0, 250))
    [id] = Library(before, encoder).add([(sent, "Something blue", ["sky"])]).items.values()
    (tmp_path / "before").rename(tmp_path / "now")
    monkeypatch.setattr("one_peace.models.loading.load_embedder", lambda name, device: FakeEncoder(name))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FakeEncoder, "encode_modality", interrupt)
        begin_anew(place, "fake-2")
    anew, _ = begin_anew(place, "fake-2")
    assert [(item.id, item.caption, item.tags) for item in anew.items()] == [(id, "Something blue", ("sky",))]
    assert not list(place.glob("*described*"))


def test_captions_wait_for_a_model_that_takes_the_files(
    tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(FakeEncoder):
        modalities = ("text", "image")

    place = tmp_path / "library"
    (place / "uploads" / "ab" / "ab12").mkdir(parents=True)
    tone, hum = (place / "uploads" / "ab" / "ab12" / name for name in ("tone.wav", "hum.wav"))
    write_sound(tone, 440)
    write_sound(hum, 110)
    Library(place, encoder).add([(tone, "A tone", ["high"]), (hum, "A hum", ["low"])])
    kinds: dict[str, type[FakeEncoder]] = {"deaf": Deaf}
    monkeypatch.setattr(
        "one_peace.models.loading.load_embedder", lambda name, device: kinds.get(name, FakeEncoder)(name)
    )
    for _ in range(2):  # what waits is not forgotten by another such run
        anew, report = begin_anew(place, "deaf")
        assert len(anew) == 0 and report.left_out == {".wav": 2}
        assert not report.items and not report.problems
    hum.unlink()
    anew, report = begin_anew(place, "fake-2")
    assert [(item.caption, item.tags) for item in anew.items()] == [("A tone", ("high",))]
    assert not report.left_out and not list(place.glob("*described*"))


def test_notes_without_ids_are_read(tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uploads").mkdir()
    write_picture(tmp_path / "uploads" / "a.png", (0, 0, 250))
    (tmp_path / "described.json").write_text('{"uploads/a.png": ["Blue", ["sky"]]}')
    monkeypatch.setattr("one_peace.models.loading.load_embedder", lambda name, device: encoder)
    anew, _ = begin_anew(tmp_path)
    assert [(item.caption, item.tags) for item in anew.items()] == [("Blue", ("sky",))]


@pytest.mark.parametrize("contents", ["{", "[]", '{"uploads/a.png": 3}'])
def test_what_waits_is_not_dropped_for_damage(
    tmp_path: Path, encoder: FakeEncoder, contents: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("one_peace.models.loading.load_embedder", lambda name, device: encoder)
    (tmp_path / "described.json").write_text(contents)
    with pytest.raises(LibraryError, match=r"described.json, captions .* is damaged .* remove it"):
        begin_anew(tmp_path)
    assert (tmp_path / "described.json").read_text() == contents


def interrupt(*arguments: object, **named: object) -> None:
    raise KeyboardInterrupt
