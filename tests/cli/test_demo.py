from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import one_peace.models
from fake_encoder import FakeEncoder, write_picture, write_sound
from one_peace.cli import demo
from one_peace.cli.main import app
from one_peace.data.manifest import Item
from one_peace.data.sample_library import building as sample_library


def item(cache: Path, name: str, track: str | None = None, symbol: bool = False) -> Item:
    """A file of the sample library; its contents do not matter."""
    path = cache / name.replace("/", "-").replace("#", "-")
    path = path.with_suffix(".png" if track is None else ".wav")
    if track is None:
        write_picture(path, (len(name), 9, 200))
    else:
        write_sound(path, 300 + 10 * len(name))
    return Item(
        id=name,
        kind="image" if track is None else "audio",
        path=path,
        texts={"en": [f"Caption of {name}."]},
        group=name,
        split="train",
        source="stamps",
        version="1",
        licence="GPL",
        track=track,
        symbol=symbol,
    )


@pytest.fixture
def items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Item]:
    """What the demo finds in the sample library, in place of a download; the encoder has no weights."""
    cache = tmp_path / "cache"
    cache.mkdir()
    asked = [item(cache, query.sound, "speech") for query in demo.QUERIES if query.sound]
    found = [item(cache, "stamps/a/cow"), item(cache, "stamps/a/cow#effect", "effect"), *asked]
    found.append(item(cache, "stamps/letters/b", symbol=True))
    library = SimpleNamespace(items=found)
    monkeypatch.setattr(sample_library, "build_sample_library", lambda root, sources, progress: library)
    monkeypatch.setattr(one_peace.models, "from_pretrained", lambda name: FakeEncoder())
    monkeypatch.chdir(tmp_path)
    return found


def run() -> Result:
    return CliRunner().invoke(app, ["demo", "--no-serve"])


def test_it_indexes_searches_and_draws(items: list[Item]) -> None:
    first = run()
    assert first.exit_code == 0, first.output
    assert "1 pictures and 1 sound effects" in first.output and "2 added" in first.output
    for query in demo.QUERIES:
        with Image.open(demo.FOLDER / query.sheet) as sheet:
            assert sheet.width > 500
        assert query.title in first.output
    assert "one-peace search --library demo/stamps" in first.output
    again = run()
    assert again.exit_code == 0 and "2 unchanged" in again.output


def test_it_has_the_three_kinds_of_search() -> None:
    kinds = [(query.text is not None, query.sound is not None) for query in demo.QUERIES]
    assert kinds == [(True, False), (False, True), (True, True)]


def test_a_clip_that_is_not_there_is_named(items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "QUERIES", (demo.Query("t", "s.png", sound="stamps/none", heard="nothing"),))
    result = run()
    assert result.exit_code == 1 and "error: stamps/none: " in result.output
