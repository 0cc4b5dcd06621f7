"""A small encoder in place of a trained model, and folders with real files."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from fake_encoder import FakeEncoder, write_picture, write_sound
from store_servers import ObjectStore, object_store

_SERVER = pytest.StashKey[ObjectStore]()


@pytest.fixture(scope="module")
def _object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    pytest.importorskip("lancedb")
    with object_store(tmp_path_factory.mktemp("objects")) as store:
        yield store


@pytest.fixture
def bucket(_object_store: ObjectStore, request: pytest.FixtureRequest) -> str:
    """The URL of a bucket on a real S3 server."""
    request.node.stash[_SERVER] = _object_store
    return _object_store.url()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """A test that failed while its S3 server ended by itself is skipped: it says nothing about our code."""
    try:
        return (yield)
    except Exception:
        store = pyfuncitem.stash.get(_SERVER, None)
        if store is not None and not store.runs():
            pytest.skip(f"the S3 server ended by itself: {store.last_words()}")
        raise


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
