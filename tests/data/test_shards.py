"""Webdataset shards, local and remote."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from one_peace.data import shards
from one_peace.data.opening import SourceRecipe, open_source
from one_peace.data.shard_cache import ShardCache, expand_braces
from one_peace.data.shard_index import lengths_by_index
from one_peace.data.shards import ShardSource, media_endings
from one_peace.data.source import UnusablePair
from one_peace.errors import InputError
from one_peace.modalities.video import Video
from pair_files import caption, png, serving, wav, write_shards, write_tar

IMAGE, AUDIO = media_endings("image"), media_endings("audio")


def cache(tmp_path: Path, **settings: object) -> ShardCache:
    return ShardCache(tmp_path / "cache", longest_pause=0.0, timeout=5.0, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("a-{9..11}.tar", ["a-9.tar", "a-10.tar", "a-11.tar"]),
        ("{0..1}/a-{3..4}.tar", ["0/a-3.tar", "0/a-4.tar", "1/a-3.tar", "1/a-4.tar"]),
    ],
)
def test_braces(pattern: str, expected: list[str]) -> None:
    assert expand_braces(pattern) == expected


def test_a_range_that_runs_backwards() -> None:
    with pytest.raises(InputError, match="backwards"):
        expand_braces("a-{3..1}.tar")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_local_shards(tmp_path: Path, scheme: str) -> None:
    source = ShardSource(scheme + write_shards(tmp_path, 3, 5), IMAGE, cache(tmp_path))
    assert source.blocks.tolist() == [0, 5, 10, 15]
    for number in (14, 0, 7):
        pair = source.read(number)
        assert (pair.text, pair.partner) == (caption(number), png(number))
        assert pair.key == f"{source.urls[number // 5]}, {number:05d}.png"
    assert source.sizes(np.array([8]))[0].tolist() == [len(caption(8)), len(png(8))]
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read(3).text == caption(3)


def test_what_a_pair_can_consist_of(tmp_path: Path) -> None:
    members = {
        "set/a.flac": b"fLaC",
        "set/a.json": json.dumps({"caption": "from json", "id": 3}).encode(),
        "set/b.WAV": wav(0.1),
        "set/b.cls": b"1",
        "set/b.json": b"{}",  # .json comes before .cls
        "set/c.wav": wav(0.1),
        "set/c.cls": b"1\n",
        "set/alone.txt": b"no sound",
        "set/d.txt": b"text first",
        "set/d.seg.npy": b"something else",
        "set/d.ogg": b"OggS",
        "other/d.txt": b"not with the sound in the other folder",
        "set/e.wav": wav(0.1),
        "set/e.cls": b"-1",
    }
    source = ShardSource(str(write_tar(tmp_path / "s.tar", members)), AUDIO, cache(tmp_path), labels=["cat", "dog"])
    assert len(source) == 5
    assert [source.read(n).text for n in (0, 2, 3)] == ["from json", "dog", "text first"]
    assert source.read(3).partner == b"OggS"
    for number, reason in ((1, "bad .json"), (4, "bad .cls")):
        with pytest.raises(UnusablePair) as caught:
            source.read(number)
        assert caught.value.reason == reason
    assert ShardSource(source.urls, AUDIO, cache(tmp_path)).read(2).text == "1"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"caption": "a dog", "text": "b"}, "a dog"),
        ({"caption": None, "text": "a dog"}, "a dog"),
        ({"caption": " ", "text": "a dog"}, "a dog"),
        ({"caption": ["one dog", "two dogs"]}, "one dog"),
        ({"caption": None}, None),
        ({"caption": []}, None),
        ({"caption": [None]}, None),
        ({"caption": 3, "text": {"en": "a dog"}}, None),
        (["caption"], None),
        ("caption", None),
        (None, None),
    ],
)
def test_only_texts_are_captions(tmp_path: Path, values: object, expected: str | None) -> None:
    shard = write_tar(tmp_path / "s.tar", {"a.png": png(1), "a.json": json.dumps(values).encode()})
    source = ShardSource(str(shard), IMAGE, cache(tmp_path))
    if expected is not None:
        assert source.read(0).text == expected
        return
    with pytest.raises(UnusablePair, match=r"a.png: its .json holds no caption") as caught:
        source.read(0)
    assert caught.value.reason == "bad .json"


def test_other_modalities_say_their_endings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = str(write_tar(tmp_path / "s.tar", {"a.las": b"points", "a.txt": b"a tree"}))
    assert ShardSource(shard, [".LAS"], cache(tmp_path)).read(0).partner == b"points"
    monkeypatch.setattr(Video, "endings", "")
    with pytest.raises(ValueError, match="endings"):
        media_endings("video")
    with pytest.raises(InputError, match="hold no pair of txt/json/cls and jpg"):
        ShardSource(shard, IMAGE, cache(tmp_path))


@pytest.mark.parametrize("labels", [["cat", "dog"], "labels.txt"])
def test_a_recipe_says_labels_and_endings(tmp_path: Path, labels: list[str] | str) -> None:
    members = {"a.las": b"points", "a.cls": b"1", "b.xyz": b"others", "b.cls": b"0", "c.xyz": b"none", "c.cls": b"2"}
    shard = str(write_tar(tmp_path / "s.tar", members))
    (tmp_path / "labels.txt").write_text("cat\ndog\n", encoding="utf-8")
    named = str(tmp_path / labels) if isinstance(labels, str) else tuple(labels)
    source = open_source("mine", SourceRecipe(shard, labels=named, endings=("las", "xyz")), "points", cache(tmp_path))
    assert [(source.read(n).text, source.read(n).partner) for n in (0, 1)] == [("dog", b"points"), ("cat", b"others")]
    with pytest.raises(UnusablePair, match=r"its .cls holds no caption"):
        source.read(2)
    with pytest.raises(InputError, match="nowhere.txt: no list of labels"):
        open_source("mine", SourceRecipe(shard, labels="nowhere.txt", endings=("las",)), "points", cache(tmp_path))


def test_addresses_with_a_signature_and_endings_in_capitals(tmp_path: Path) -> None:
    shard = Path(write_shards(tmp_path, 1, 5).replace("{000..000}", "000"))
    shard = shard.rename(shard.with_suffix(".TAR"))
    with serving(tmp_path) as server:
        for path in (f"{server.url}/{shard.name}?signature=a.b/c", str(shard)):
            source = open_source("web", SourceRecipe(path), "image", cache(tmp_path))
            assert len(source) == 5 and source.read(3).text == caption(3)


@pytest.mark.parametrize(
    "path", ["s3://bucket/a.tar", "https://host/a.tsv?name=.tar", "file:///a/b.jsonl", "ftp://host/a-{0..3}.tar"]
)
def test_other_addresses_are_refused_as_they_are_written(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError, match=r"only .tar files can be read from an address") as caught:
        open_source("web", SourceRecipe(path), "image", cache(tmp_path))
    assert caught.value.source == path.replace("{0..3}", "0")


def test_a_shard_that_changed_is_indexed_anew(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path, 1, 5)
    assert len(ShardSource(pattern, IMAGE, cache(tmp_path))) == 5
    write_shards(tmp_path, 1, 3)
    assert len(ShardSource(pattern, IMAGE, cache(tmp_path))) == 3


def test_a_shard_that_breaks_off_is_used_up_to_there(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path, 2, 5)
    shard = tmp_path / "train-000.tar"
    os.truncate(shard, 3 * 2048 + 100)
    source = ShardSource(pattern, IMAGE, cache(tmp_path))
    assert 3 <= source.blocks[1] < 5 and len(source) == source.blocks[1] + 5
    assert source.read(2).partner == png(2)


def damaged(name: bytes, size: bytes) -> bytes:
    """A header that tells of a size."""
    header = bytearray(name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size.ljust(12, b"\0"))
    header += b"0" * 12 + b" " * 8 + (b"L" if name == b"././@LongLink" else b"0")
    header = header.ljust(512, b"\0")
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize(
    "end",
    [
        damaged(b"9.txt", b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7),
        damaged(b"9.txt", b"\x80" + b"\xff" * 11),
        damaged(b"9.txt", b"\xff" * 10 + b"\x00\x00"),
        damaged(b"././@LongLink", b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7),
        damaged(b"././@LongLink", b"\x80" + bytes(5) + b"\x7f" + b"\xff" * 5),
        damaged(b"././@LongLink", b"\xff" * 10 + b"\x00\x00"),
        damaged(b"././@LongLink", b"\0") * 2000,
    ],
    ids=["beyond 64 bits", "beyond all", "before itself", "long name", "longer than memory", "negative", "chain"],
)
def test_a_shard_with_a_damaged_header_is_used_up_to_there(tmp_path: Path, end: bytes) -> None:
    shard = write_tar(tmp_path / "s.tar", {"1.png": png(1), "1.txt": b"one", "2.png": png(2), "9.png": png(9)})
    content = shard.read_bytes().rstrip(b"\0")
    shard.write_bytes(content + bytes(-len(content) % 512) + end + bytes(1024))
    source = ShardSource(str(shard), IMAGE, cache(tmp_path))
    assert source.read(0).text == "one"
    for number in range(1, len(source)):  # the header itself may be whole, what it tells of is not
        with pytest.raises(UnusablePair, match="breaks off"):
            source.read(number)
    shard.write_bytes(end)
    with pytest.raises(InputError, match=r"s\.tar|hold no pair"):
        ShardSource(str(shard), IMAGE, cache(tmp_path))


def test_a_shard_that_cannot_be_indexed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ShardSource(write_shards(tmp_path, 2, 5), IMAGE, cache(tmp_path), pairs_per_shard=5)

    def write_pairs(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shards, "write_pairs", write_pairs)
    with pytest.raises(UnusablePair, match=r"train-001.tar: its index cannot be made: Input/output error") as caught:
        source.read(7)
    assert caught.value.reason == "shard not available"


def test_missing_and_foreign_local_shards_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pattern = write_shards(tmp_path, 3, 5)
    (tmp_path / "train-000.tar").unlink()
    (tmp_path / "train-002.tar").write_bytes(b"<html>not found</html>" * 100)
    source = ShardSource(pattern, IMAGE, cache(tmp_path))
    assert source.blocks.tolist() == [0, 0, 5, 5] and source.read(0).text == caption(5)
    assert "train-000.tar: no such file" in caplog.text and "train-002.tar: is not an uncompressed tar" in caplog.text
    (tmp_path / "train-001.tar").unlink()
    with pytest.raises(InputError, match=r"none of its 3 shards can be used.*train-000.tar: no such file"):
        ShardSource(pattern, IMAGE, cache(tmp_path))


def test_remote_shards_over_connections_that_are_cut(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path, 3, 5)
    with serving(tmp_path, cuts=2) as server:
        source = ShardSource(pattern.replace(str(tmp_path), server.url), IMAGE, cache(tmp_path))
        assert len(source) == 15
        assert [source.read(n).text for n in (0, 6, 14)] == [caption(n) for n in (0, 6, 14)]
        asked = [span for path, span in server.requests if path == "/train-002.tar"]
        assert asked[0] is None and all(span and span.startswith("bytes=") for span in asked[1:]) and len(asked) == 3
    # The server is gone; what was fetched is at hand, in other processes too.
    again = ShardSource(source.urls, IMAGE, cache(tmp_path))
    assert [again.read(n).text for n in range(15)] == [caption(n) for n in range(15)]


def test_several_readers_fetch_a_shard_once(tmp_path: Path) -> None:
    write_shards(tmp_path, 2, 5)
    with serving(tmp_path) as server:
        sources = [
            ShardSource(f"{server.url}/train-001.tar", IMAGE, cache(tmp_path), pairs_per_shard=5) for _ in range(4)
        ]
        threads = [threading.Thread(target=source.read, args=(2,)) for source in sources]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.requests) == 1


def test_threads_that_read_side_by_side_share_the_open_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those do that read held-out pairs: every thread kept a shard open that it had asked for at the same time."""
    source = ShardSource(write_shards(tmp_path, 20, 6), IMAGE, cache(tmp_path))
    monkeypatch.setattr(shards, "OPEN_SHARDS", 3)
    monkeypatch.setattr(source.cache, "open", partial(_slowly, source.cache.open))
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(6) as pool:
        read = list(pool.map(source.read, range(len(source))))
    assert [(pair.text, pair.partner) for pair in read] == [(caption(n), png(n)) for n in range(120)]
    assert len(os.listdir("/proc/self/fd")) <= before + 3


def _slowly(work: Callable[[str], int], url: str) -> int:
    time.sleep(0.01)
    return work(url)


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_members_are_left_out(tmp_path: Path, form: str) -> None:
    """What stands at their place are their pieces, and then the next member."""
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
        (tmp_path / f"{number}.txt").write_text(caption(number))
    with open(tmp_path / "1.png", "ab") as file:
        file.truncate(1 << 20)
    names = [f"{number}.{ending}" for number in range(3) for ending in ("png", "txt")]
    subprocess.run(["tar", "-S", f"--format={form}", "-cf", "x.tar", *names], cwd=tmp_path, check=True)
    source = ShardSource(str(tmp_path / "x.tar"), IMAGE, cache(tmp_path))
    assert [source.read(number).partner for number in range(len(source))] == [png(0), png(2)]


@pytest.mark.parametrize(
    ("form", "size"),
    [(tarfile.USTAR_FORMAT, 3 << 30), (tarfile.GNU_FORMAT, 9 << 30), (tarfile.PAX_FORMAT, 9 << 30)],
    ids=["octal size", "GNU size of 64 bits", "pax record of the size"],
)
def test_a_huge_member_is_passed_over_and_those_after_it_are_read(tmp_path: Path, form: int, size: int) -> None:
    """In a file of 3 or 9 GiB, almost all of it a hole."""
    huge = tarfile.TarInfo("2.png")
    huge.size = size
    shard = write_tar(tmp_path / "s.tar", {"1.png": png(1), "1.txt": b"one"})
    end = write_tar(tmp_path / "end.tar", {"2.txt": b"two", "3.png": png(3), "3.txt": b"three"}).read_bytes()
    content = shard.read_bytes()[: 4 * 512]  # two headers, each with a block of contents
    with open(shard, "wb") as file:
        file.write(content + huge.tobuf(form))
        file.seek(size, os.SEEK_CUR)
        file.write(end)
    source = ShardSource(str(shard), IMAGE, cache(tmp_path))
    assert [source.read(0).text, source.read(2).text, source.read(2).partner] == ["one", "three", png(3)]
    assert source.sizes(np.array([1]))[0].tolist() == [3, size]
    tracemalloc.start()
    try:
        with pytest.raises(UnusablePair, match=rf"2\.png: takes {size >> 30}\.0 GiB") as error:
            source.read(1)
        assert error.value.reason == "too large" and tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_dead_addresses_are_skipped_and_named(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path, 4, 5)
    (tmp_path / "train-000.tar").unlink()
    (tmp_path / "train-002.tar").unlink()
    with serving(tmp_path) as server:
        source = ShardSource(pattern.replace(str(tmp_path), server.url), IMAGE, cache(tmp_path))
        assert len(source) == 20  # the number of pairs comes from the second shard
        for number in (0, 1, 12, 13):
            with pytest.raises(UnusablePair, match=r"train-00[02]\.tar: the server answers 404") as caught:
                source.read(number)
            assert caught.value.reason == "shard not available"
        assert source.sizes(np.array([0, 7]))[:, 0].tolist() == [0, len(caption(7))]
        assert [path for path, _ in server.requests].count("/train-002.tar") == 1  # not asked for again and again
        assert source.read(19).text == caption(19)


def test_a_dead_shard_is_tried_again_later(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path, 2, 5)
    hidden = (tmp_path / "train-001.tar").rename(tmp_path / "hidden")
    with serving(tmp_path) as server:
        url = pattern.replace(str(tmp_path), server.url)
        source = ShardSource(url, IMAGE, cache(tmp_path, retry_after=0.0))
        with pytest.raises(UnusablePair):
            source.read(5)
        hidden.rename(tmp_path / "train-001.tar")
        assert source.read(5).text == caption(5)


def test_nothing_left_is_one_error(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        pattern = f"{server.url}/none-{{00..02}}.tar"
        with pytest.raises(InputError, match=r"none of its 3 shards can be used.*none-00.tar: the server answers 404"):
            ShardSource(pattern, IMAGE, cache(tmp_path))


def uneven(tmp_path: Path) -> None:
    """Shards of 5, 1 and 7 pairs."""
    write_shards(tmp_path, 1, 5)
    write_tar(tmp_path / "train-001.tar", {"00005.png": png(5), "00005.txt": b"alone"})
    members = {f"{n}.{ending}": made for n in range(7) for ending, made in (("png", png(n)), ("txt", b"many"))}
    write_tar(tmp_path / "train-002.tar", members)


def test_every_pair_of_uneven_remote_shards_is_there_once(tmp_path: Path) -> None:
    uneven(tmp_path)
    with serving(tmp_path) as server:
        source = ShardSource(f"{server.url}/train-{{000..002}}.tar", IMAGE, cache(tmp_path))
        assert source.blocks.tolist() == [0, 5, 6, 13]
        assert source.read(5).text == "alone" and source.read(12).text == "many"
        asked = len(server.requests)
        # the numbers are kept: no later run, nor any other process of this one, counts again
        (tmp_path / "train-002.tar").unlink()
        again = ShardSource(f"{server.url}/train-{{000..002}}.tar", IMAGE, cache(tmp_path))
        assert again.blocks.tolist() == [0, 5, 6, 13] and len(server.requests) == asked


@pytest.mark.parametrize(
    "index",
    [
        {"train-000.tar": 5, "train-001.tar": 1, "train-002.tar": 7, "other.tar": 3},
        {"shardlist": [{"url": f"train-00{n}.tar", "nsamples": k} for n, k in enumerate((5, 1, 7))]},
    ],
)
@pytest.mark.parametrize("place", ["sizes.json", "elsewhere.json"])
def test_an_index_saves_the_counting(tmp_path: Path, index: dict[str, object], place: str) -> None:
    uneven(tmp_path)
    (tmp_path / place).write_text(json.dumps(index))
    with serving(tmp_path) as server:
        named = None if place == "sizes.json" else f"{server.url}/{place}"
        source = ShardSource(f"{server.url}/train-{{000..002}}.tar", IMAGE, cache(tmp_path), index=named)
        assert [path for path, _ in server.requests] == [f"/{place}"]
        assert source.blocks.tolist() == [0, 5, 6, 13] and source.read(12).text == "many"


@pytest.mark.parametrize("named", [False, True])
def test_an_index_that_was_mended_is_read_anew(tmp_path: Path, named: bool) -> None:
    """Such as that of shards that have become more; the one before is kept with the shards."""
    uneven(tmp_path)
    with serving(tmp_path) as server:

        def pairs_of(shards: str, sizes: str) -> int:
            (tmp_path / "sizes.json").write_text(sizes)
            index = f"{server.url}/sizes.json" if named else None
            return len(ShardSource(f"{server.url}/train-{shards}.tar", IMAGE, cache(tmp_path), index=index))

        with pytest.raises(InputError, match="is no JSON"):
            pairs_of("000", "<html>")
        assert pairs_of("000", '{"train-000.tar": 5}') == 5
        assert pairs_of("{000..001}", '{"train-000.tar": 5, "train-001.tar": 1}') == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "i.json.*is no JSON that says"),
        ("[1]", "i.json.*is no JSON that says"),
        ('{"b.tar": 1}', "i.json.*no number of pairs for 'a.tar'"),
        ('{"a.tar": -1}', "i.json.*says that a shard holds -1"),
        ('{"a.tar": "x"}', "i.json.*says that a shard holds 'x'"),
        ('{"a.tar": true}', "i.json.*says that a shard holds True"),
        ('{"a.tar": 100000000000000000000}', "i.json.*says that a shard holds 100000000000000000000"),
        pytest.param("[" * 100_000, "i.json.*is no JSON that says", id="nested"),
    ],
)
def test_damaged_indexes(content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lengths_by_index(["http://host/a.tar"], "i.json", content.encode())


def test_shards_of_one_name_in_two_folders_have_each_its_number() -> None:
    urls = ["http://host/a/0.tar?key=1", "http://host/b/0.tar"]
    for names in (("a/0.tar", "b/0.tar"), ("http://host/a/0.tar", "http://host/b/0.tar"), ("./a/0.tar", "x/b/0.tar")):
        index = json.dumps(dict(zip(names, (1000, 20), strict=True))).encode()
        assert lengths_by_index(urls, "i.json", index) == [1000, 20]
    with pytest.raises(InputError, match=r"several numbers of pairs for http://host/b/0.tar; write its folder"):
        lengths_by_index(urls[1:], "i.json", b'{"c/0.tar": 1000, "d/0.tar": 20}')


@pytest.mark.parametrize("both", [True, False])
def test_sizes_beside_shards_count_for_their_folder_alone(tmp_path: Path, both: bool) -> None:
    """Where one folder has none, all are counted."""
    for folder, pairs in (("0", 3), ("1", 5)):
        (tmp_path / folder).mkdir()
        write_shards(tmp_path / folder, 1, pairs)
        if both or folder == "0":
            (tmp_path / folder / "sizes.json").write_text(json.dumps({"train-000.tar": pairs}))
    with serving(tmp_path) as server:
        source = ShardSource(f"{server.url}/{{0..1}}/train-000.tar", IMAGE, cache(tmp_path))
        assert source.blocks.tolist() == [0, 3, 8]
        assert any(path.endswith(".tar") for path, _ in server.requests) is not both


@pytest.mark.parametrize("number", [-5, 0, 10**20])
def test_impossible_numbers_of_pairs(tmp_path: Path, number: int) -> None:
    with pytest.raises(InputError, match=f"pairs_per_shard={number}; give a number from 1"):
        ShardSource(write_shards(tmp_path, 1, 1), IMAGE, cache(tmp_path), pairs_per_shard=number)


def test_a_number_that_is_too_large_says_so(tmp_path: Path) -> None:
    uneven(tmp_path)
    with serving(tmp_path) as server:
        url = f"{server.url}/train-{{000..001}}.tar"
        source = ShardSource(url, IMAGE, cache(tmp_path), pairs_per_shard=5)
        with pytest.raises(UnusablePair, match="holds only 1 pairs") as caught:
            source.read(6)
        assert caught.value.reason == "shard smaller than said"


def test_the_cache_is_bounded_and_what_was_thrown_out_is_fetched_again(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path, 6, 5)
    size = (tmp_path / "train-000.tar").stat().st_size
    with serving(tmp_path) as server:
        url = pattern.replace(str(tmp_path), server.url)
        bounded = cache(tmp_path, max_bytes=2 * size)
        source = ShardSource(url, IMAGE, bounded)
        for number in [*range(30), *range(30)]:
            assert source.read(number).text == caption(number)
        kept = list((tmp_path / "cache" / "shards").glob("*.tar"))
        assert len(kept) <= 3
        # Another process, with none of the files open, finds most of them gone.
        other = ShardSource(url, IMAGE, bounded)
        assert [other.read(n).text for n in range(30)] == [caption(n) for n in range(30)]
        assert len(server.requests) > 6
