"""A small encoder in place of a trained model, and folders with real files."""

from __future__ import annotations

from pathlib import Path

import pytest

from fake_encoder import FakeEncoder, write_picture, write_sound


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, one of them captioned, a sound, a text and what is to be left alone."""
    top = tmp_path / "media"
    (top / "animals").mkdir(parents=True)
    (top / ".hidden").mkdir()
    write_picture(top / "red.png", (230, 20, 20))
    write_picture(top / "animals" / "green.jpg", (20, 200, 40))
    (top / "animals" / "green.txt").write_text("A green animal.\nfr=Un animal vert.\n", encoding="utf-8")
    write_sound(top / "animals" / "tone.wav", 440)
    (top / "notes.md").write_text("# Notes\nAbout \u043a\u043e\u0442 and \u732b.\n", encoding="utf-8")
    write_picture(top / ".hidden" / "secret.png", (0, 0, 0))
    write_picture(top / ".secret.png", (0, 0, 0))
    (top / "program.py").write_text("print()", encoding="utf-8")
    return top
