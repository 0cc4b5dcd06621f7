from __future__ import annotations

import base64
import io
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from one_peace.errors import InputError
from one_peace.media.sources import describe, is_stored, looks_like_text, open_source

DATA = b"\x00moo\xff" * 3


def read(source: object, **options: int) -> bytes:
    with open_source(source, **options) as stream:  # type: ignore[arg-type]
        return stream.read()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a cow #1 100% \N{COW}.bin"
    path.write_bytes(DATA)
    return path


def test_all_forms(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    encoded = base64.b64encode(DATA).decode()
    sources = [
        path,
        str(path),
        path.name,
        path.as_uri(),
        path.as_uri().replace("file:///", "file://localhost/"),
    ]
    sources += [
        path.as_uri().replace("file:///", "FILE:/"),
        DATA,
        bytearray(DATA),
        memoryview(DATA),
        io.BytesIO(DATA),
    ]
    sources += [
        f"data:image/png;base64,{encoded}",
        f"data:image/png; base64,{encoded[:9]}\r\n {encoded[9:].rstrip('=')}\n",
        "data:,%00moo%ff%00moo%ff%00moo%ff",
        io.BufferedReader(io.BytesIO(DATA)),
    ]
    for source in sources:
        assert is_stored(source)
        assert read(source) == DATA


def test_a_file_object_is_read_from_where_it_stands_and_left_open(path: Path) -> None:
    with open(path, "rb") as opened:
        opened.seek(5)
        assert read(opened) == DATA[5:]
        assert not opened.closed
        with pytest.raises(InputError, match="seek"):
            read(opened)
        opened.seek(0)
        assert read(opened) == DATA


def test_what_cannot_be_opened(path: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    closed = io.BytesIO(DATA)
    closed.close()
    released = memoryview(DATA)
    released.release()
    with open(path, encoding="utf-8") as text:  # which the bytes in it are not
        for source, message in [
            (tmp_path / "missing.png", "no such file"),
            (tmp_path, "directory"),
            (fifo, "not a regular file"),
            ("/dev/null", "not a regular file"),
            ("", "path is empty"),
            ("a\0b.png", "cannot be opened"),
            ("x" * 5000, "cannot be opened"),
            ("\ud800.png", "cannot be opened|no such file"),
            (f"{path}/x", "cannot be opened"),
            ("http://cow.example/cow.png", "http:// is not fetched"),
            ("s3://cows/cow.png", "s3:// is not fetched"),
            ("file://barn/cow.png", "names the host 'barn'"),
            ("file:cow.png", "absolute path"),
            ("file://[cow", "malformed file URL"),
            ("file:///missing.png", "no such file"),
            ("data:image/png;base64", "no comma"),
            ("data:image/png;base64,@@@@", "malformed data URL"),
            ("data:image/png;base64,\N{COW}", "malformed data URL"),
            (closed, "failed"),
            (released, "released"),
            (text, "opened as text"),
            (io.StringIO("moo"), "opened as text"),
            (io.BytesIO(), "nothing left"),
            (7, "expected a path"),
            (None, "expected a path"),
        ]:
            with pytest.raises(InputError, match=message) as caught:
                read(source)
            assert caught.value.source == describe(source) and describe(source) not in caught.value.problem
            assert pickle.loads(pickle.dumps(caught.value)).source == caught.value.source


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read every file")
def test_no_permission(path: Path) -> None:
    path.chmod(0)
    with pytest.raises(InputError, match="permission"):
        read(path)


def test_what_is_held_in_memory_is_limited() -> None:
    encoded = base64.b64encode(bytes(99)).decode()
    makers = [lambda: io.BytesIO(bytes(99)), lambda: f"data:;base64,{encoded}", lambda: "data:," + "a" * 99]
    for make in makers:
        assert len(read(make(), max_bytes=99)) == 99
        with pytest.raises(InputError, match="more than 98 B"):
            read(make(), max_bytes=98)
    # Contents that are in memory already are not counted.
    assert len(read(bytes(99), max_bytes=98)) == 99


def test_odd_file_objects() -> None:
    class Wrong:
        def read(self, size: int) -> object:
            return 7

    class Failing:
        def read(self, size: int) -> bytes:
            raise KeyError("no connection")

    for source, message in ((Wrong(), "returned int"), (Failing(), "no connection")):
        with pytest.raises(InputError, match=message):
            read(source)


def test_file_objects_that_share_a_stream_are_read_one_at_a_time() -> None:
    shared = io.BytesIO(b"".join(bytes([number]) * 9 for number in range(8)))

    class Member:
        def __init__(self, number: int) -> None:
            self.place, self.left = 9 * number, 9

        def read(self, size: int) -> bytes:
            shared.seek(self.place + 9 - self.left)
            time.sleep(1e-3)
            piece = shared.read(min(size, self.left, 5))
            self.left -= len(piece)
            return piece

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, map(Member, range(8)))) == [bytes([number]) * 9 for number in range(8)]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("farm/cow.png", "farm/cow.png"),
        (Path("farm/cow.png"), "farm/cow.png"),
        ("", "''"),
        ("two\nlines", "'two\\nlines'"),
        (b"1234", "<bytes, 4 B>"),
        (io.BytesIO(), "<BytesIO>"),
        (np.zeros((3, 4), np.float32), "array of shape (3, 4), float32"),
        (torch.zeros(2, 5), "array of shape (2, 5), float32"),
        ((np.zeros(9, np.int16), 44_100), "(array of shape (9,), int16, 44100)"),
        (Image.new("RGBA", (6, 4)), "picture of 6 x 4, RGBA"),
        (None, "None"),
        (1.5, "1.5"),
        ([1, 2], "<list>"),
        (object(), "<object>"),
    ],
)
def test_descriptions(source: object, name: str) -> None:
    assert describe(source) == name


def test_descriptions_are_short_and_keep_the_end() -> None:
    name = describe("/" + "very-long/" * 500 + "cow.png")
    assert len(name) < 250 and name.endswith("cow.png")


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.binary(), st.none(), st.integers(), st.floats(), st.tuples(st.text(), st.integers())))
def test_anything_has_a_printable_description(source: object) -> None:
    name = describe(source)
    assert name.isprintable() and len(name) < 1000
    name.encode("utf-8")


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.text().map(lambda t: f"file://{t}"), st.text().map(lambda t: f"data:;base64,{t}")))
def test_any_string_opens_or_is_an_input_error(source: str) -> None:
    try:
        read(source)
    except InputError as error:
        assert error.source == describe(source)


def test_text_is_recognised() -> None:
    assert looks_like_text("a \N{COW}\nand 'm\u00fch'".encode())
    assert looks_like_text("\N{COW}".encode() * 9 + "\N{COW}".encode()[:2])
    assert not looks_like_text(b"\x89PNG\r\n")
    assert not looks_like_text(b"moo\x00")
    assert not looks_like_text("ein K\u00e4lbchen".encode("latin-1")) and not looks_like_text(b"caf\xe9s")
    # a byte-order mark, joiners of Persian letters and of emoji, soft hyphens, marks of direction
    assert looks_like_text(
        "\ufeff\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f468\u200d\U0001f467 so\u00adft \u200e!".encode()
    )
