"""The map of a library, made while the library is written to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fake_encoder import FakeEncoder, write_picture
from one_peace.search.library import Library
from one_peace.server.projection import Map


def test_the_first_picture_may_come_while_the_map_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(tmp_path / ".one-peace", FakeEncoder())
    (tmp_path / "a.txt").write_text("a text", encoding="utf-8")
    library.index(tmp_path, progress=False)
    passes, vectors = [0], library.vectors

    def late_picture() -> Any:
        passes[0] += 1
        if passes[0] == 2:
            write_picture(tmp_path / "b.png", (200, 0, 0))
            library.index(tmp_path, progress=False)
        return vectors()

    monkeypatch.setattr(library, "vectors", late_picture)
    shown = Map(library, lambda: passes[0])
    assert shown.points().modalities == ["text"]
    assert shown.points().modalities == ["image", "text"]
