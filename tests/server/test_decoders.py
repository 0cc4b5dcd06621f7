"""Decoding apart from the service: right for good input, an error for bad, and no harm by hostile."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import one_peace
from one_peace.errors import InputError
from one_peace.modalities import imports
from one_peace.server.decoders import Decoders
from one_peace.server.settings import Limits
from server import hostile

LIMITS = Limits(pixels=1_000_000, sound_seconds=60, decode_seconds=60)


@pytest.fixture(scope="module")
def model() -> one_peace.OnePeace:
    return one_peace.from_pretrained("one-peace-nano")


@pytest.fixture(scope="module")
def decoders(model: one_peace.OnePeace) -> Iterator[Decoders]:
    opened = Decoders(model.processors, LIMITS, count=1)
    yield opened
    opened.close()


def test_what_comes_out_is_what_the_model_would_make(decoders: Decoders, model: one_peace.OnePeace) -> None:
    for name, data in (("image", hostile.picture()), ("audio", hostile.sound())):
        (view,) = decoders.submit(name, data).result(120).views
        expected = model.processors[name](data)
        assert view.keys() == expected.keys()
        assert all(torch.equal(view[key], expected[key]) for key in view)


@pytest.mark.parametrize(
    ("modality", "data", "problem"),
    [
        ("image", hostile.png_of_size(40_000, 40_000), "pixels"),
        ("image", hostile.png_of_size(1_200, 1_000), "pixels"),
        ("image", hostile.png_of_size(900, 900)[:500], "damaged"),
        ("image", hostile.picture_and_zip(), "zip archive too"),
        ("image", hostile.picture_and_page(), "two files in one"),
        ("image", hostile.script_as_gif(), "not a picture|damaged"),
        ("image", hostile.svg_with_entity(), "SVG"),
        ("image", hostile.sound(), "sound file"),
        ("image", b"", "empty"),
        ("audio", hostile.silent_flac(3600), "beyond the 60 s"),
        ("audio", hostile.playlist(), "it is text"),
        ("audio", hostile.picture(), "it is a picture"),
        ("audio", hostile.sound()[:200], "truncated"),
    ],
)
def test_hostile_input_is_refused(decoders: Decoders, modality: str, data: bytes, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        decoders.submit(modality, data).result(120)


def test_a_compressed_comment_is_not_unpacked(decoders: Decoders) -> None:
    bomb = hostile.text_chunk_bomb()
    decoders.submit("image", hostile.picture()).result(120)
    before = _peak_bytes()
    with contextlib.suppress(InputError):
        decoders.submit("image", bomb).result(120)
    assert _peak_bytes() - before < len(bomb) + (64 << 20)  # of 256 MiB


def _peak_bytes() -> int:
    """What the processes of this one have held together at most."""
    states = [Path(f"/proc/{process.pid}/status").read_text() for process in multiprocessing.active_children()]
    return sum(1024 * int(line.split()[1]) for state in states for line in state.splitlines() if "VmHWM" in line)


def test_a_path_of_a_client_is_no_path_here(decoders: Decoders) -> None:
    with pytest.raises(InputError):
        decoders.submit("image", b"/etc/passwd").result(120)


def test_a_codec_that_hangs_or_crashes_is_replaced() -> None:
    decoders = Decoders({"smell": hostile.Slow()}, replace(LIMITS, decode_seconds=2), count=1)  # type: ignore[dict-item]
    jobs = [decoders.submit("smell", data) for data in (b"hang", b"fine", b"die", b"fine")]
    with pytest.raises(InputError, match="longer than 2 s"):
        jobs[0].result(60)
    assert jobs[1].result(60).views[0]["pixels"].tolist() == [1, 1]
    with pytest.raises(InputError, match="failed"):
        jobs[2].result(60)
    assert len(jobs[3].result(60).views) == 1
    decoders.close()


def test_a_process_that_the_system_ends_between_jobs_costs_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    others = multiprocessing.active_children()
    decoders = Decoders({"smell": hostile.Slow()}, LIMITS, count=1)  # type: ignore[dict-item]
    assert len(decoders.submit("smell", b"fine").result(60).views) == 1

    def end_it() -> None:
        [process] = set(multiprocessing.active_children()) - set(others)
        process.kill()
        process.join()

    end_it()
    assert len(decoders.submit("smell", b"fine").result(60).views) == 1
    end_it()
    with monkeypatch.context() as patch:
        patch.setattr("one_peace.server.decoders._Worker", refuse)
        with pytest.raises(OSError, match="no decoding process can be started.*Cannot allocate"):
            decoders.submit("smell", b"fine").result(60)
    assert len(decoders.submit("smell", b"fine").result(60).views) == 1
    decoders.close()


def test_a_process_that_ends_while_it_starts_is_no_endless_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.spawn._python_exe", os.fsencode(shutil.which("false") or ""))
    processor = hostile.Slow()
    processor.words = "x" * (1 << 20)  # type: ignore[attr-defined]  # as a tokenizer has them
    decoders = Decoders({"smell": processor}, LIMITS, count=1)  # type: ignore[dict-item]
    with pytest.raises(OSError, match="no decoding process can be started"):
        decoders.submit("smell", b"fine").result(60)
    decoders.close()


def refuse(*arguments: Any) -> None:
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


def test_processors_of_a_users_own_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "_imported", [])
    (tmp_path / "scents.py").write_text("from server import hostile\nclass Scent(hostile.Slow):\n    pass\n")
    imports.import_modality(str(tmp_path / "scents.py"))
    decoders = Decoders({"smell": sys.modules["scents"].Scent()}, LIMITS, count=1)
    monkeypatch.delitem(sys.modules, "scents")
    assert len(decoders.submit("smell", b"fine").result(60).views) == 1
    decoders.close()


def test_files_are_read_as_the_library_would(decoders: Decoders, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(hostile.picture())
    assert decoders.submit("image", path).result(120).views == []
    for kind in ("audio", "video", "image"):
        path.write_bytes(hostile.picture()[:90])
        with pytest.raises(InputError) as caught:
            decoders.submit(kind, path).result(120)
        assert str(tmp_path) not in str(caught.value)
