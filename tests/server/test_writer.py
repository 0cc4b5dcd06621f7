"""The one thread that writes: what is committed is told to be, also when the rest of its batch failed."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest

from fake_encoder import FakeEncoder, write_picture
from one_peace.search.library import Library
from one_peace.server.uploads import Uploads
from one_peace.server.writer import Writer


def test_what_was_committed_before_a_failure_is_kept_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(tmp_path / "library", FakeEncoder())
    writer = Writer(library, Uploads(library.path, {}))
    files = [tmp_path / f"{name}.png" for name in ("before", "one", "two")]
    for number, file in enumerate(files):
        write_picture(file, (100 * number, 20, 40))
    add, queued, batches = library.add, threading.Event(), []

    def first_only(items: list[Any], **options: Any) -> Any:
        queued.wait(60)  # so that the other two are one batch
        batches.append(len(items))
        report = add(items[:1], **options)
        if len(items) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return report

    monkeypatch.setattr(library, "add", first_only)
    tasks = [writer.add(file) for file in files]
    queued.set()
    writer.close()
    assert batches in ([1, 2], [3])
    *kept, lost = tasks if batches == [1, 2] else tasks[::2]
    for file, task in zip(files, kept, strict=False):
        found = library.find(file)
        assert found is not None and task.result() == found.id
    with pytest.raises(OSError, match="No space left"):
        lost.result()
