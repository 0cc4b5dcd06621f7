from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from fake_encoder import FakeEncoder, write_picture
from one_peace.data.lock import FolderBusyError, writer_lock
from one_peace.errors import InputError
from one_peace.modalities import imports
from one_peace.search import bulk
from one_peace.search.bulk import BulkError, embed_folder
from one_peace.search.library import Library

parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for n in range(23):
        write_picture(folder / f"{n:02}.png", (10 * n, 255 - 10 * n, n))
    (folder / "broken.png").write_bytes(b"broken")
    (folder / "07.txt").write_text("A caption.")
    return folder


def rows_in(out: Path) -> list[dict]:
    return [row for file in sorted(out.glob("shard-*.parquet")) for row in parquet.read_table(file).to_pylist()]


def run(many: Path, out: Path, encoder: FakeEncoder | None = None, **options: object) -> bulk.BulkReport:
    return embed_folder(many, out, encoder or FakeEncoder(), "fake", shard_size=5, **options)  # type: ignore[arg-type]


def test_every_file_once(many: Path, tmp_path: Path, encoder: FakeEncoder) -> None:
    report = run(many, tmp_path / "out", encoder)
    assert (report.items, report.rows, report.problems, report.shards) == (24, 23, 1, 5)
    rows = rows_in(tmp_path / "out")
    assert Counter(row["path"] for row in rows) == Counter(str(path) for path in many.glob("[0-9]*.png"))
    assert [row["caption"] for row in rows if row["path"].endswith("07.png")] == ["A caption."]
    opened = Library(tmp_path / "library", encoder)
    opened.index(many)
    known = {entry.path: vectors[i] for entries, vectors in opened.vectors() for i, entry in enumerate(entries)}
    for row in rows:
        assert row["vector"] == pytest.approx(known[row["path"]].tolist(), abs=1e-6)
    encoder.encoded.clear()
    assert run(many, tmp_path / "out", encoder).shards == 0 and not encoder.encoded


def test_what_could_not_be_looked_at_is_told(many: Path, tmp_path: Path) -> None:
    (many / "gone.png").symlink_to(many / "nowhere.png")
    for _ in range(2):
        report = run(many, tmp_path / "out")
        assert (report.items, report.rows, report.problems) == (25, 23, 2)
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["problems"] == {
        str(many / "gone.png"): "No such file or directory"
    }


def test_what_is_missing_is_done_and_nothing_else(many: Path, tmp_path: Path, encoder: FakeEncoder) -> None:
    out = tmp_path / "out"
    run(many, out)
    (out / "shard-000002.json").unlink()  # killed between the file and its note
    before = (out / "shard-000001.parquet").stat().st_mtime_ns
    write_picture(many / "new.png", (1, 2, 3))  # is not in the plan
    report = run(many, out, encoder)
    assert report.shards == 1 and encoder.encoded["image"] == 5 and report.rows == 23
    assert (out / "shard-000001.parquet").stat().st_mtime_ns == before
    (out / "shard-000003.parquet").unlink()  # lost, its note not
    assert (run(many, out).shards, len(rows_in(out))) == (1, 23)
    (many / "03.png").unlink()
    (out / "shard-000000.json").unlink()
    assert run(many, out).problems == 2 and len(rows_in(out)) == 22


def test_plans_do_not_mix(many: Path, tmp_path: Path) -> None:
    run(many, tmp_path / "out")
    with pytest.raises(BulkError, match="begun with fingerprint 'fake-1', not 'fake-2'"):
        run(many, tmp_path / "out", FakeEncoder("fake-2"))
    with pytest.raises(BulkError, match="shard_size 5, not 6"):
        embed_folder(many, tmp_path / "out", FakeEncoder(), "fake", shard_size=6)
    with pytest.raises(BulkError, match="source"):
        run(tmp_path, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BulkError, match="empty holds no file of a kind"):
        embed_folder(tmp_path / "empty", tmp_path / "of empty", FakeEncoder(), "fake")
    assert not (tmp_path / "of empty" / "plan.json").exists()  # what comes later is not left out
    with pytest.raises(BulkError, match="not a folder"):
        run(tmp_path / "nowhere", tmp_path / "other")
    with pytest.raises(BulkError, match="cannot be the output too"):
        run(many, many)
    with writer_lock(tmp_path / "out" / "writer.lock"), pytest.raises(FolderBusyError):
        run(many, tmp_path / "out")
    (tmp_path / "out" / "plan.json").write_text("{")
    with pytest.raises(BulkError, match="damaged"):
        run(many, tmp_path / "out")


def test_a_lance_table(many: Path, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    from one_peace.search.records import Space
    from one_peace.search.stores.engines import open_store

    out = tmp_path / "out"
    assert run(many, out, format="lance").rows == 23
    (out / "shard-000003.json").unlink()  # done again: its rows are replaced
    assert run(many, out, format="lance").shards == 1
    entries = open_store(str(out), Space("fake", "fake-1", 16)).entries()
    assert len(entries) == len({entry.path for entry in entries}) == 23


def test_workers_have_the_modalities_of_a_users_own(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "_imported", [])
    asked = "import multiprocessing\nif multiprocessing.parent_process(): raise RuntimeError('imported by a worker')\n"
    (tmp_path / "only_here.py").write_text(asked)
    monkeypatch.chdir(tmp_path)
    imports.import_modality("only_here.py")
    monkeypatch.delitem(sys.modules, "only_here")
    monkeypatch.chdir(many)
    with pytest.raises(InputError, match="imported by a worker"):
        run(many, tmp_path / "out", workers=2)


_TWO_WORKERS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import one_peace
from fake_encoder import FakeEncoder
one_peace.from_pretrained = lambda name, device: FakeEncoder()
if __name__ == "__main__":
    from one_peace.search.bulk import embed_folder
    def tell(shards, total):
        for shard in shards:
            print(shard.number, flush=True)
            yield shard
    embed_folder(Path(sys.argv[1]), Path(sys.argv[2]), FakeEncoder(), "fake", shard_size=2, workers=2, track=tell)
"""


def test_killed_and_run_again(many: Path, tmp_path: Path) -> None:
    out, script = tmp_path / "out", tmp_path / "two_workers.py"
    script.write_text(_TWO_WORKERS)
    command = [sys.executable, str(script), str(many), str(out), str(Path(__file__).parents[1] / "support")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        for _ in range(4):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    there = {file.name: file.stat().st_mtime_ns for file in out.glob("shard-*.json")}
    assert 3 <= len(there) <= 12
    with pytest.raises(ProcessLookupError):  # the workers do not outlive it
        for _ in range(600):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    report = embed_folder(many, out, FakeEncoder(), "fake", shard_size=2)
    assert (report.rows, report.shards) == (23, 12 - len(there))
    assert all((out / name).stat().st_mtime_ns == moment for name, moment in there.items())
    assert Counter(row["path"] for row in rows_in(out)) == Counter(str(path) for path in many.glob("[0-9]*.png"))
