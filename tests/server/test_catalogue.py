"""The service's list of items: looked up again after changes, and only then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_encoder import FakeEncoder
from one_peace.search.library import Library
from one_peace.server import catalogue
from one_peace.server.catalogue import Catalogue


def test_is_looked_up_after_changes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, other = (Library(tmp_path / ".one-peace", FakeEncoder()) for _ in range(2))
    commits = 0
    looks: list[str] = []

    def counted(name: str, look: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: (looks.append(name), look())[1]

    for name in ("items", "statistics"):
        monkeypatch.setattr(library, name, counted(name, getattr(library, name)))
    known = Catalogue(library, lambda: commits)
    assert known.page(0, 2) == ([], 0) and known.statistics() == {}  # nothing has been indexed yet

    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(f"the text {name}", encoding="utf-8")
    other.index(tmp_path, progress=False)  # as another process would
    looks.clear()
    for _ in range(3):
        shown, total = known.page(1, 2)
        assert ([item.path.name for item in shown], total) == (["b.txt", "c.txt"], 3)
        assert shown == other.items()[1:] and known.statistics() == {"text": 3}
    assert sorted(looks) == ["items", "statistics"]
    assert known.page(7, 2) == ([], 3)

    commits += 1
    known.page(0, 1)
    assert len(looks) == 3
    monkeypatch.setattr(catalogue, "_SECONDS", 0.0)
    known.page(0, 1)
    assert len(looks) == 4
