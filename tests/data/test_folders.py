"""Folders with a list."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from one_peace.data.folders import FolderSource, ManifestSource
from one_peace.data.manifest import Item, split_of, write_manifest
from one_peace.data.opening import SourceRecipe, open_source, sample_texts
from one_peace.data.row_index import LONGEST_QUOTED, _rows
from one_peace.data.shard_cache import ShardCache
from one_peace.data.source import UnusablePair
from one_peace.errors import InputError
from pair_files import png, wav

TEXTS = ["a cow", 'a "big", old\nhorse', "Straße"]


def write_list(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [(f"pictures/{n}.png", text) for n, text in enumerate(TEXTS)]
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        if name.endswith(".csv"):
            writer = csv.writer(file)
            writer.writerows([("text", "licence", "path"), *((text, "CC0", path) for path, text in rows)])
        else:
            file.writelines(json.dumps({"path": path, "text": text}) + "\n" for path, text in rows)
    return folder


@pytest.mark.parametrize("name", ["pairs.csv", "metadata.jsonl"])
def test_lists(tmp_path: Path, name: str) -> None:
    source = FolderSource(write_list(tmp_path / "set", name), tmp_path / "cache")
    assert [source.read(n).text for n in range(len(source))] == TEXTS
    assert source.read(1).partner == tmp_path / "set" / "pictures/1.png"
    assert "entry 2 (pictures/1.png)" in source.read(1).key
    assert source.sizes(np.array([2]))[0].tolist() == [len(TEXTS[2].encode()), 0]


def test_sounds_are_weighed(tmp_path: Path) -> None:
    for number, seconds in enumerate((0.1, 0.3)):
        (tmp_path / f"{number}.wav").write_bytes(wav(seconds))
    lines = [json.dumps({"file_name": f"{n}.wav", "caption": "x"}) for n in range(3)]  # the third does not exist
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    sizes = FolderSource(tmp_path / "list.jsonl", tmp_path / "cache", weigh=True).sizes(np.arange(3))
    assert sizes[:, 1].tolist() == [44 + 3200, 44 + 9600, 0]


@pytest.mark.parametrize("row", ['{"path": "a.png"}', '{"path": 3, "text": "x"}', "[1]", "{", "[" * 5000])
def test_damaged_entries(tmp_path: Path, row: str) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"path": "a.png", "text": "x"}\n' + row + "\n")
    source = FolderSource(tmp_path, tmp_path / "cache")
    assert source.read(0).text == "x"
    with pytest.raises(UnusablePair, match="entry 2") as caught:
        source.read(1)
    assert caught.value.reason == "bad entry"


@pytest.mark.parametrize(
    ("rows", "texts"),
    [
        (['a.png,a 5" disk', "b.png,next"], ['a 5" disk', "next"]),
        (['a.png,"a ""big""\nold, ""grey\n"" horse"', "b.png,next"], ['a "big"\nold, "grey\n" horse', "next"]),
        (['"a.png","a\n\n""', '"', "b.png,next"], ['a\n\n"\n', "next"]),
        (['a.png,"5" disk', 'b.png,""', "c.png,next"], ["5 disk", "", "next"]),
        (['a.png,"5 disk', "b.png,next", "c.png,last"], [None, "next", "last"]),
        (['a.png,"5 disk', *["b.png,long" * 500] * 40, "c.png,last"], [None, *[None] * 40, "last"]),
    ],
    ids=["mid-field", "line end in quotes", "line of a quote", "closed early", "never closed", "not closed in time"],
)
def test_quotes_count_at_the_start_of_a_field_alone(tmp_path: Path, rows: list[str], texts: list[str | None]) -> None:
    (tmp_path / "pairs.csv").write_text("\n".join(["path,text", *rows, ""]), encoding="utf-8", newline="")
    source = FolderSource(tmp_path, tmp_path / "cache")
    assert len(source) == len(texts)
    for number, text in enumerate(texts):
        if text is None:
            with pytest.raises(UnusablePair, match=f"entry {number + 1}: is no entry") as caught:
                source.read(number)
            assert caught.value.reason == "bad entry"
        else:
            assert source.read(number).text == text


def test_quotes_that_never_close_cost_no_second_pass_over_the_list() -> None:
    class Counted(io.BytesIO):
        read_so_far = 0

        def readline(self, size: int | None = -1, /) -> bytes:
            line = super().readline(size)
            self.read_so_far += len(line)
            return line

    lines = [b'a.png,"5 disk\n' if number % 10_000 == 7 else b"a.png,a clean row\n" for number in range(40_000)]
    file = Counted(b"".join(lines))
    assert [row for _, row in _rows(file, False, True)] == lines
    assert file.read_so_far <= len(file.getvalue()) + 5 * LONGEST_QUOTED


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no list of pairs; expected one of pairs.csv"),
        ({"pairs.csv": "path,title\n"}, "no column 'text' or 'caption'; its columns are 'path', 'title'"),
        ({"pairs.jsonl": '{"text": "x"}\n'}, "no column 'path' or 'file_name'; its columns are 'text'"),
        ({"pairs.jsonl": "path,text\n"}, "first line is no JSON"),
        ({"pairs.jsonl": "3\n"}, "no JSON object"),
        pytest.param({"pairs.jsonl": "[" * 100_000}, "first line is no JSON", id="nested"),
    ],
)
def test_wrong_lists(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        FolderSource(tmp_path, tmp_path / "cache")


def test_a_vocabulary_is_trained_on_the_usable_texts(tmp_path: Path) -> None:
    """Captions that were cut within an emoji once ended a run, without a word of which."""
    texts = ["one", "cut \ud83d", "three"]
    rows = [json.dumps({"path": f"{text[:3]}.png", "text": text}) for text in texts]
    (tmp_path / "pairs.jsonl").write_text("\n".join([*rows, "{}"]))
    sources = {"mine": SourceRecipe(str(tmp_path))}
    assert sample_texts(sources, "image", ShardCache(tmp_path / "cache")) == ["one", "three"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "first line is no JSON"),
        (b'{"kind": "image", "group": "a", "split": "train"}\n\xff\n', "is no manifest, it is not UTF-8"),
    ],
    ids=["nested", "not UTF-8"],
)
def test_a_damaged_list_or_manifest_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"manifest.jsonl: .*{message}"):
        open_source("mine", SourceRecipe(str(path)), "image", ShardCache(tmp_path / "cache"))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        FolderSource(tmp_path / "none", tmp_path / "cache")


def test_the_manifest_of_a_sample_library(tmp_path: Path) -> None:
    """Training items alone, each caption a pair; the other modality is left out."""
    items = []
    for number in range(30):
        path = tmp_path / f"{number}.png"
        path.write_bytes(png(number))
        group = f"thing {number}"
        texts = {"en": [group, f"{group}\u2028again"], "fr": [f"chose\x85{number}"]}  # a manifest's lines go on there
        items.append(Item(str(number), "image", path, group, split_of(group), "drawings", "1", "CC0-1.0", texts))
    manifest = tmp_path / "library" / "v1" / "manifest.jsonl"
    manifest.parent.mkdir(parents=True)
    write_manifest(items, manifest, tmp_path)
    source = ManifestSource(manifest, "image")
    train = [i for i in items if i.split == "train"]
    assert 0 < len(train) < 30 and len(source) == 2 * len(train)
    assert (source.read(1).text, source.read(1).partner) == (train[0].texts["en"][1], train[0].path)
    with pytest.raises(InputError, match="no training pairs of audio"):
        ManifestSource(manifest, "audio")
