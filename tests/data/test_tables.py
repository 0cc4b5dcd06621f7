"""The published tables and their index."""

from __future__ import annotations

import base64
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from one_peace.data.row_index import RowFile
from one_peace.data.source import UnusablePair
from one_peace.data.tables import TableSource
from one_peace.errors import InputError
from pair_files import caption, png, write_table


def test_pictures_as_base64(tmp_path: Path) -> None:
    table = write_table(tmp_path / "train.tsv", [png(n) for n in range(20)])
    source = TableSource(table, "image", tmp_path / "cache")
    assert len(source) == 20
    for number in (19, 0, 7):
        pair = source.read(number)
        assert (pair.text, pair.partner) == (caption(number), png(number))
        assert pair.key == f"{table}, row {number + 1} (id{number})"
    assert source.sizes(np.array([3, 1])).tolist() == [[len(caption(3)), 0], [len(caption(1)), 0]]


def test_the_index_costs_one_pass_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_table(tmp_path / "train.tsv", [png(n) for n in range(20)])
    TableSource(table, "image", tmp_path / "cache")

    def never(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr("one_peace.data.row_index._build", never)
    assert TableSource(table, "image", tmp_path / "cache").read(4).text == caption(4)


def test_the_index_is_made_anew_when_the_file_changes(tmp_path: Path) -> None:
    table = write_table(tmp_path / "train.tsv", [png(n) for n in range(20)])
    assert len(TableSource(table, "image", tmp_path / "cache")) == 20
    write_table(table, [png(n) for n in range(5)], ["another text"] * 5)
    source = TableSource(table, "image", tmp_path / "cache")
    assert len(source) == 5 and source.read(4).text == "another text"
    # Of the same size, but written later.
    write_table(table, [png(n) for n in range(5)], ["another word"] * 5)
    os.utime(table, ns=(1, 1))
    assert TableSource(table, "image", tmp_path / "cache").read(0).text == "another word"


def test_a_file_that_is_cut_short_under_a_run_costs_its_rows(tmp_path: Path) -> None:
    """And no more: mapped to memory, it ended the process by SIGBUS."""
    path = write_table(tmp_path / "t.tsv", [png(n) for n in range(300)])
    source = TableSource(path, "image", tmp_path / "cache")
    assert source.read(299).text == caption(299)
    os.truncate(path, 5000)
    with pytest.raises(UnusablePair, match="row 300.*columns"):
        source.read(299)
    assert source.read(3).text == caption(3)


def test_it_travels_to_other_processes(tmp_path: Path) -> None:
    source = TableSource(write_table(tmp_path / "t.tsv", [png(1), png(2)]), "image", tmp_path / "cache")
    source.read(0)
    assert pickle.loads(pickle.dumps(source)).read(1).partner == png(2)


def test_paths_windows_line_ends_and_tabs_in_the_last_column(tmp_path: Path) -> None:
    table = tmp_path / "sounds.tsv"
    table.write_bytes(
        "\ufeffaudio\tduration\tcaption\r\nclips/a.wav\t2.5\ta dog\tbarks\r\n\r\nb.flac\t?\té\r\n".encode()
    )
    source = TableSource(table, "audio", tmp_path / "cache", root=tmp_path / "media")
    first, second = source.read(0), source.read(1)
    assert (first.text, first.partner) == ("a dog\tbarks", tmp_path / "media" / "clips/a.wav")
    assert (second.text, second.partner) == ("é", tmp_path / "media" / "b.flac")
    assert source.sizes(np.array([0, 1])).tolist() == [[len("a dog\tbarks"), 2500], [2, 0]]
    beside = TableSource(table, "audio", tmp_path / "cache").read(0)
    assert beside.partner == tmp_path / "clips/a.wav"


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("padded", [True, False])
def test_both_kinds_of_base64(tmp_path: Path, encode: object, padded: bool) -> None:
    content = bytes(range(250)) + b"\xff\xfe\xfb"
    text = encode(content).decode()  # type: ignore[operator]
    table = tmp_path / "t.tsv"
    table.write_text(f"image\ttext\n{text if padded else text.rstrip('=')}\tbytes\n")
    assert TableSource(table, "image", tmp_path / "cache").read(0).partner == content


@pytest.mark.parametrize(
    ("row", "reason"),
    [("only one", "row too short"), ("\ta text", "no media"), ("not/base64*\ta text", "bad base64")],
)
def test_damaged_rows(tmp_path: Path, row: str, reason: str) -> None:
    table = tmp_path / "t.tsv"
    table.write_text(f"image\ttext\nAAAA\tfine\n{row}\n")
    source = TableSource(table, "image", tmp_path / "cache")
    with pytest.raises(UnusablePair, match="row 2") as caught:
        source.read(1)
    assert caught.value.reason == reason
    assert pickle.loads(pickle.dumps(caught.value)).reason == reason


def test_a_text_that_is_not_utf8(tmp_path: Path) -> None:
    table = tmp_path / "t.tsv"
    table.write_bytes(b"image\ttext\nAAAA\tcaf\xe9\n")
    with pytest.raises(UnusablePair, match="not UTF-8"):
        TableSource(table, "image", tmp_path / "cache").read(0)


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    table = write_table(tmp_path / "train.tsv", [png(1)])
    message = r"train.tsv: has no column 'audio'; its columns are 'uniq_id', 'image', 'text'"
    with pytest.raises(InputError, match=message):
        TableSource(table, "audio", tmp_path / "cache")
    with pytest.raises(InputError, match="has no column 'title'"):
        TableSource(table, "image", tmp_path / "cache", text="title")


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\n"])
def test_files_that_are_none(tmp_path: Path, content: bytes | None) -> None:
    table = tmp_path / "train.tsv"
    if content is not None:
        table.write_bytes(content)
    with pytest.raises(InputError, match=r"train\.tsv"):
        TableSource(table, "image", tmp_path / "cache")


def test_an_interrupted_build_leaves_no_index(tmp_path: Path) -> None:
    table = write_table(tmp_path / "train.tsv", [png(1), png(2)])

    def failing(row: bytes) -> tuple[int, int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RowFile(table, failing, "x", tmp_path / "cache", header=True, quoted=False)
    whole = RowFile(table, lambda row: (1, 1), "x", tmp_path / "cache", header=True, quoted=False)
    assert len(whole) == 2
    assert not list((tmp_path / "cache").rglob(".*"))
