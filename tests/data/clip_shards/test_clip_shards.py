"""Videos to shards of clips: cuts, HD-VILA's metadata, captions, maps, what is dropped, killed runs, training."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import signal
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from one_peace.data.bulk_work import BulkError
from one_peace.data.clip_shards import ClipSettings, prepare_clips, preparing
from one_peace.data.clip_shards.captions import CaptionTable
from one_peace.data.clip_shards.cutting import ClipRules
from one_peace.data.clip_shards.scene_cuts import scene_cuts
from one_peace.data.clip_shards.videos import seconds, videos_in, videos_of_hdvila
from one_peace.data.depth_to_normals import depth_to_normals
from one_peace.data.shard_cache import ShardCache
from one_peace.data.shards import ShardSource, media_endings
from one_peace.errors import InputError
from one_peace.media.sounds import decode_sound
from one_peace.media.videos import open_video
from one_peace.modalities import get_modality
from one_peace.modalities.depth import read_depth
from one_peace.modalities.normals import read_normals
from video_files import film
from warm_processes import WarmProcess, run_command

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30)]
RATE = 10  # frames a second

ESTIMATORS = """
import numpy as np
from PIL import Image

def slope(picture):
    return np.broadcast_to(np.linspace(1, 3, picture.width), (picture.height, picture.width))

def inverse_slope(picture):
    return 500 / slope(picture)

def colour(pictures, waveform):
    red, green, blue = (int(c) for c in np.asarray(pictures[0]).mean(axis=(0, 1)))
    return ["red", "green", "blue"][int(np.argmax([red, green, blue]))] + ("" if waveform is None else " with sound")

def silent(*given):
    return None

def failing(*given):
    raise RuntimeError("out of order")

class Loaded:
    made = 0
    def __init__(self):
        Loaded.made += 1
        assert Loaded.made == 1, "loaded once per process"
    def __call__(self, pictures, waveform):
        return "something"
"""


def scenes(*frames: int) -> np.ndarray:
    """Scenes of these many frames, each of a colour of its own, with noise."""
    parts = [np.broadcast_to(np.array(COLOURS[n % 4], np.int16), (count, 48, 64, 3)) for n, count in enumerate(frames)]
    video = np.concatenate(parts)
    return (video + np.random.default_rng(0).integers(-9, 10, video.shape)).clip(0, 255).astype(np.uint8)


@functools.cache
def silent_film() -> bytes:
    return film(scenes(20, 25, 16), codec="mpeg4", rate=RATE)


@functools.cache
def sound_film() -> bytes:
    """Two scenes, with a sound in the first second alone."""
    av = pytest.importorskip("av")
    wave = np.zeros(45 * 1600, np.float32)
    wave[:16_000] = 0.5 * np.sin(np.arange(16_000) / 5)
    made = io.BytesIO()
    with av.open(made, "w", format="mp4") as output:
        pictures, sound = output.add_stream("mpeg4", rate=RATE), output.add_stream("aac", rate=16_000, layout="mono")
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        for number, frame in enumerate(scenes(20, 25)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = number
            output.mux(pictures.encode(picture))
        output.mux(pictures.encode())
        for start in range(0, len(wave), 1024):
            block = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
            block.rate, block.pts = 16_000, start
            output.mux(sound.encode(block))
        output.mux(sound.encode())
    return made.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos of 3 and 2 scenes, one of them with sound in its first second alone, and a broken one."""
    videos = tmp_path / "videos"
    (videos / "more").mkdir(parents=True)
    (videos / "a.mp4").write_bytes(silent_film())
    (videos / "more" / "b.x.mp4").write_bytes(sound_film())
    (videos / "broken.mp4").write_bytes(b"nothing")
    (tmp_path / "estimators.py").write_text(ESTIMATORS)
    return videos


@pytest.fixture(autouse=True)
def forget_estimators() -> Any:
    yield
    sys.modules.pop("estimators", None)


def function(folder: Path, name: str) -> str:
    return f"{folder.parent}/estimators.py:{name}"


def members(out: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for shard in sorted(out.glob("clips-*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                assert member.name not in found
                found[member.name] = archive.extractfile(member).read()  # type: ignore[union-attr]
    return found


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


# --- cuts and metadata ------------------------------------------------------------------------------------------


def cuts(video: np.ndarray, **rules: Any) -> list[tuple[int, int]]:
    return scene_cuts((Image.fromarray(frame) for frame in video), **rules)


def test_scenes_end_where_colours_change_at_once() -> None:
    assert cuts(scenes(20, 25, 16)) == [(0, 20), (20, 45), (45, 61)]
    assert cuts(scenes(20, 5, 20)) == [(0, 20), (20, 45)]  # the next cut comes too soon
    assert cuts(scenes(20, 5, 20), shortest=5) == [(0, 20), (20, 25), (25, 45)]
    assert cuts(scenes(20, 25), threshold=200) == [(0, 45)] and cuts(scenes(1)) == [(0, 1)]
    fade = np.linspace(0, 255, 60)[:, None, None, None] * np.ones((1, 32, 32, 3))
    assert cuts(fade.astype(np.uint8)) == [(0, 60)]
    grain = np.random.default_rng(0).integers(100, 140, (40, 32, 32, 1)) + np.zeros((1, 1, 1, 3), int)
    assert cuts(grain.astype(np.uint8), threshold=20) == [(0, 40)]
    reds = np.zeros((40, 8, 8, 3), np.uint8)
    reds[..., 0], reds[::2, ..., 1], reds[1::2, ..., 2] = 255, 6, 6  # hues on both ends of the circle
    assert cuts(reds) == [(0, 40)]


def test_hdvila_is_read_as_it_is(tmp_path: Path, folder: Path) -> None:
    line = {"video_id": "a", "url": "u", "clip": [{"clip_id": "a.0.mp4", "span": ["00:00:00.500", "00:00:03.000"]}]}
    other = {"video_id": "lost", "url": "v", "clip": [{"span": ["01:02:03.004", "01:02:04.005"]}]}
    file = tmp_path / "hdvila_part0.jsonl"
    file.write_text(json.dumps(line) + "\n\n" + json.dumps(other) + "\n")
    first, second = videos_of_hdvila([file], folder, tmp_path / "out")
    assert (first.key, first.path, first.spans, first.url) == ("a", str(folder / "a.mp4"), ((0.5, 3.0),), "u")
    assert second.path == "" and second.spans == ((3723.004, 3724.005),)
    assert seconds("00:00:01.5") == 1.005 and seconds("00:00:01") == 1
    report = prepare_clips(folder, tmp_path / "out", ClipSettings(metadata=(str(file),)))
    assert report.clips == 1 and report.dropped == {"missing video": 1} and report.clip_seconds == pytest.approx(2.5)
    assert rows(tmp_path / "out" / "manifest.jsonl")[0]["url"] == "u"
    for bad in ("{}", "[1]", "{", json.dumps({**line, "clip": [{"span": ["0", "1"]}]}), f"{file.read_text()}"):
        (tmp_path / "bad.jsonl").write_text(bad)
        with pytest.raises(InputError, match=r"bad\.jsonl|twice"):
            videos_of_hdvila([file, tmp_path / "bad.jsonl"], folder, tmp_path / "out")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    video = tmp_path / "videos" / os.fsdecode(b"caf\xe9.mp4")
    video.write_bytes(silent_film())
    assert prepare_clips(tmp_path / "videos", tmp_path / "out", ClipSettings()).clips == 3
    assert [row["video"] for row in rows(tmp_path / "out" / "manifest.jsonl")] == 3 * [str(video)]


def test_videos_of_one_name_have_keys_of_their_own(tmp_path: Path) -> None:
    for name in ("x.mp4", "x.webm", "d/x.mp4", ".hidden.mp4", ".trash/x.mp4", "out/y.mp4", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    keys = [video.key for video in videos_in(tmp_path, tmp_path / "out")]
    assert len(set(keys)) == len(keys) == 3 and all("." not in key and "/" not in key for key in keys)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no video"):
        videos_in(tmp_path / "empty", tmp_path)


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "tsv"])
def test_captions_come_in_many_tables(tmp_path: Path, form: str) -> None:
    broken = {"jsonl": "any\u2028clip", "csv": "any\nclip"}.get(form, "any clip")  # what ends no row
    table = [{"video_id": "a-0001", "desc": "one  clip"}, {"video_id": "a", "desc": broken}]
    file = tmp_path / f"captions.{form}"
    if form == "json":
        file.write_text(json.dumps([*table, {"id": "c", "caption": ["x", "y"], "audio_captions": ["z"]}]))
    elif form == "jsonl":
        file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in table), encoding="utf-8")
    else:
        with file.open("w", newline="") as opened:
            writer = csv.writer(opened, delimiter={"csv": ",", "tsv": "\t"}[form])
            writer.writerows([["path", "text"], *(list(row.values()) for row in table)])
    captions = CaptionTable(file)
    assert captions.of("a-0001", "a", "/v/a.mp4") == {"caption": ["one clip"]}
    assert captions.of("v_a-0001", "v_a", "/v/a.mp4") == {"caption": ["one clip"]}, "as the file is called"
    assert captions.of("a-0002", "a_1", "/v/a.mp4") == {"caption": ["any clip"]} and not captions.of(
        "b-0", "b", "b.mp4"
    )
    if form == "json":
        assert captions.of("c", "", "") == {"caption": ["x", "y"], "audio_captions": ["z"]}
    for bad in ("{", "{}", "[1]", '[{"id": "a"}]', '[{"desc": "x"}]', '[{"id": "a", "desc": 7}]'):
        (tmp_path / "bad.json").write_text(bad)
        with pytest.raises(InputError, match=r"bad\.json"):
            CaptionTable(tmp_path / "bad.json")


# --- shards -----------------------------------------------------------------------------------------------------


def test_clips_have_all_that_belongs_to_them(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "out"
    settings = ClipSettings(captioner=function(folder, "colour"), depth=function(folder, "slope"), normals="depth")
    report = prepare_clips(folder, out, settings)
    assert (report.videos, report.clips, report.dropped) == (3, 5, {"unreadable video": 1})
    assert report.lacking == {"sound: no sound track": 3, "sound: silence": 1}
    assert report.members == {"mp4": 5, "jpg": 5, "depth.png": 5, "normals.png": 5, "txt": 5, "flac": 1}
    files = members(out)
    texts = {name: text.decode() for name, text in files.items() if name.endswith(".txt")}
    assert list(texts.values()) == ["red", "green", "blue", "red with sound", "green"]
    with open_video(files["a-0001.mp4"]) as clip:
        times, length = clip.timing()
        assert clip.count == 25 and times[1] == pytest.approx(0.1) and length == pytest.approx(2.5, abs=0.06)
        assert np.asarray(next(clip.pick([12]))).mean(axis=(0, 1)) == pytest.approx(COLOURS[1], abs=12)
    assert len(decode_sound(files["more_b_x-0000.flac"])) == 2 * 16_000
    depth = read_depth(files["a-0000.depth.png"])  # millimetres
    assert depth[0] == pytest.approx(1000 * np.linspace(1, 3, depth.shape[1]), abs=1)
    expected = depth_to_normals(np.broadcast_to(np.linspace(1, 3, depth.shape[1]), depth.shape))
    assert read_normals(files["a-0000.normals.png"]) == pytest.approx(expected, abs=0.02)
    info = json.loads(files["a-0001.json"])
    assert (info["start"], info["end"], info["caption"]) == (pytest.approx(2), pytest.approx(4.5), "green")
    (dropped,) = rows(out / "dropped.jsonl")
    assert dropped["key"] == "broken" and "not a video" in dropped["detail"]
    assert [row["key"] for row in rows(out / "manifest.jsonl")] == [name[:-4] for name in texts]


def test_what_is_lost_and_why(tmp_path: Path, folder: Path) -> None:
    table = tmp_path / "captions.json"
    table.write_text(json.dumps([{"id": "a-0001", "desc": "the second"}, {"id": "b.x", "desc": "both"}]))
    rules = ClipRules(min_seconds=1.8)
    maps = tmp_path / "maps"
    maps.mkdir()
    np.save(maps / "a-0001.disparity.npy", 1 / np.full((8, 8), 2.0))
    settings = ClipSettings(rules=rules, captions=str(table), depth=str(maps), normals="depth")
    report = prepare_clips(folder, tmp_path / "out", settings)
    assert report.clips == 3 and report.dropped == {"no caption": 1, "too short": 1, "unreadable video": 1}
    assert report.lacking["normals: there is no depth"] == 2 and report.members["mp4"] == 3
    assert "a-0001.disparity.npy" in members(tmp_path / "out") and "a-0001.normals.png" in members(tmp_path / "out")
    (maps / "a-0001.disparity.npy").rename(maps / "a-0001.npy")  # no word of the kind: of the kind that is asked for
    report = prepare_clips(folder, tmp_path / "short", settings)
    assert "a-0001.depth.npy" in members(tmp_path / "short") and report.members["normals.png"] == 1
    failing = ClipSettings(captioner=function(folder, "failing"), depth=function(folder, "failing"))
    report = prepare_clips(folder, tmp_path / "failing", failing)
    assert report.clips == 0 and report.dropped["captioner failed"] == 5
    assert "RuntimeError: out of order" in (tmp_path / "failing" / "dropped.jsonl").read_text()
    report = prepare_clips(folder, tmp_path / "silent", ClipSettings(captioner=function(folder, "silent")))
    assert report.clips == 0 and report.dropped["captioner failed"] == 5
    report = prepare_clips(folder, tmp_path / "plain", ClipSettings(ClipRules(max_seconds=1.7)))
    assert report.clips == 9 and "txt" not in report.members  # scenes of 2, 2.5, 1.6, 2 and 2.5 s, most in two


def test_settings_that_cannot_work_are_refused_before_the_work(tmp_path: Path, folder: Path) -> None:
    for bad, problem in (
        (ClipSettings(normals="depth"), "no depth is given"),
        (ClipSettings(depth="nowhere"), "neither a folder"),
        (ClipSettings(captioner="nothing"), "is no function"),
        (ClipSettings(captioner=function(folder, "missing")), "has no function missing"),
        (ClipSettings(captions=str(tmp_path / "none.json")), "cannot be read"),
        (ClipSettings(videos_per_shard=0), "at least 1 video"),
    ):
        with pytest.raises(ValueError, match=problem):
            prepare_clips(folder, tmp_path / "out", bad)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="leave nothing"):
        ClipRules(min_seconds=5, max_seconds=2)
    prepare_clips(folder, tmp_path / "out", ClipSettings())
    with pytest.raises(BulkError, match="was begun with disparity False, not True"):
        prepare_clips(folder, tmp_path / "out", ClipSettings(disparity=True))


def _stop_at_the_third_shard(words: list[str]) -> None:
    """`one-peace WORDS`, until it is killed."""
    write = preparing.write_shard

    def stopping(maker: Any, out: Path, number: int, videos: Any) -> Any:
        time.sleep(0 if number < 2 else 60)
        return write(maker, out, number, videos)

    preparing.write_shard = stopping  # type: ignore[assignment]
    run_command(words)


def test_killed_and_run_again_every_clip_is_there_once(tmp_path: Path, folder: Path) -> None:
    for number in range(6):
        (folder / f"c{number}.mp4").write_bytes((folder / "a.mp4").read_bytes())
    out, settings = tmp_path / "out", ClipSettings(videos_per_shard=1)
    words = ["clips", str(folder), str(out), "--videos-per-shard", "1", "--workers", "1"]
    process = WarmProcess(_stop_at_the_third_shard, (words,), {})
    while not list(out.glob("shard-*.json")):
        assert process.poll() is None, process.errors()
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    there = {file.name: file.stat().st_mtime_ns for file in out.glob("shard-*.json")}
    assert 1 <= len(there) <= 2
    (out / f".clips-000008.tar.elsewhere.{os.getpid()}").write_bytes(b"half a shard")
    report = prepare_clips(folder, out, settings)
    assert report.shards == 9 - len(there) and report.clips == 3 * 7 + 2
    assert all((out / name).stat().st_mtime_ns == moment for name, moment in there.items())
    keys = Counter(row["key"] for row in rows(out / "manifest.jsonl"))
    assert set(keys.values()) == {1} and set(keys) == {name[:-4] for name in members(out) if name.endswith(".mp4")}
    before = (out / "clips-000003.tar").read_bytes()
    (out / "shard-000003.json").unlink()  # killed between the shard and its note
    assert prepare_clips(folder, out, settings).shards == 1
    assert (out / "clips-000003.tar").read_bytes() == before
    assert json.loads((out / "sizes.json").read_text())["clips-000003.tar"] == 3


def test_training_reads_every_modality_of_the_shards(tmp_path: Path, folder: Path) -> None:
    settings = ClipSettings(
        captioner=function(folder, "Loaded"), depth=function(folder, "inverse_slope"), disparity=True, normals="depth"
    )
    prepare_clips(folder, tmp_path / "out", settings)
    shards = str(tmp_path / "out" / "clips-000000.tar")
    for name, count in (("image", 5), ("video", 5), ("depth", 5), ("normals", 5), ("audio", 1)):
        source = ShardSource(shards, media_endings(name), ShardCache(tmp_path / "cache", 1 << 20))
        assert len(source) == count
        pair = source.read(0)
        assert pair.text == "something"
        modality = get_modality(name)
        assert modality.processor(modality.preset(32), None)(pair.partner)
    files = members(tmp_path / "out")
    near = read_depth(files["a-0000.depth.png"])[0]
    assert near[-1] / near[0] == pytest.approx(3, abs=0.01) and np.median(near) == pytest.approx(4000, abs=2)
    assert soundfile.info(io.BytesIO(files["more_b_x-0000.flac"])).samplerate == 16_000
