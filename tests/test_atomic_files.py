"""Files that appear whole or not at all, under errors that name them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from one_peace.atomic_files import replacing, write_whole


def test_the_target_changes_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_whole(target, b"old")
    umask = os.umask(0o027)
    try:
        with replacing(target) as partial:
            partial.write_bytes(b"new")
            assert target.read_bytes() == b"old"
    finally:
        os.umask(umask)
    assert target.read_bytes() == b"new" and target.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_whole(target, b"old")
    with pytest.raises(KeyboardInterrupt), replacing(target) as partial:
        partial.write_bytes(b"half")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_writers_of_one_target_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    with replacing(target) as first:
        first.write_bytes(b"first")
        write_whole(target, b"second")
    assert target.read_bytes() == b"first"


def test_a_full_disk_is_told_with_the_name_of_the_target(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device: .*a\.json'"), replacing(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
