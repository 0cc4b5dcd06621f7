"""Reading videos: every form and container gives the frames that were put in, and nothing else comes through."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from one_peace.errors import InputError, MissingExtraError
from one_peace.media import clip, videos
from one_peace.media.frame_choice import even_frames, frames_at
from one_peace.media.videos import open_video
from video_files import LEVEL, animation, film, film_with_sound, grey_frames, hide_pyav

CONTAINERS = [
    ("mp4", "libx264"),
    ("mov", "mpeg4"),
    ("webm", "libvpx-vp9"),
    ("matroska", "libx264"),
    ("avi", "mpeg4"),
    ("avi", "libx264"),
    ("mpegts", "libx264"),
]


def greys(source: Any, indices: list[int] | None = None) -> list[int]:
    """The grey of each frame."""
    with open_video(source) as clip:
        pictures = list(clip.pick(range(clip.count) if indices is None else indices))
    assert all(picture.mode == "RGB" for picture in pictures)
    return [round(float(np.asarray(picture).mean())) for picture in pictures]


# --- choosing frames --------------------------------------------------------------------------------------------


@given(st.integers(1, 400), st.integers(1, 40), st.integers(0, 2**31))
def test_even_frames_come_one_from_each_run(count: int, wanted: int, seed: int) -> None:
    runs = [part.tolist() for part in np.array_split(np.arange(count), min(count, wanted))]  # the first ones are longer
    middle = even_frames(count, wanted)
    assert middle == [run[(len(run) + 1) // 2 - 1] for run in runs]
    drawn = even_frames(count, wanted, torch.Generator().manual_seed(seed))
    assert len(drawn) == len(runs) and all(index in run for index, run in zip(drawn, runs, strict=True))


def test_random_frames_reach_every_frame() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = {index for _ in range(60) for index in even_frames(10, 4, generator)}
    assert seen == set(range(10))


def test_repeating_the_last_frame_gives_the_rule_of_mico() -> None:
    def padded(count: int, wanted: int) -> list[int]:
        return (even_frames(count, wanted) + [count - 1] * wanted)[:wanted]

    assert padded(5, 3) == [0, 2, 4] and padded(3, 8) == [0, 1, 2, 2, 2, 2, 2, 2] and padded(4, 1) == [1]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.lists(st.floats(-5, 105), max_size=10))
def test_the_frame_on_screen_is_the_last_one_that_appeared(times: list[float], instants: list[float]) -> None:
    times = sorted(times)
    for instant, index in zip(instants, frames_at(times, instants), strict=True):
        appeared = [number for number, time in enumerate(times) if time <= instant]
        assert index == (appeared[-1] if appeared else 0)


@pytest.mark.parametrize(("count", "wanted"), [(0, 4), (4, 0), (-1, 1)])
def test_no_frames_cannot_be_chosen(count: int, wanted: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        even_frames(count, wanted)


# --- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
def test_containers_give_the_frames_that_were_put_in(container: str, codec: str) -> None:
    data = film(grey_frames(30), container, codec)
    expected = [n * LEVEL for n in range(30)]
    assert greys(data) == pytest.approx(expected, abs=4)
    some = [0, 1, 11, 12, 13, 13, 26, 29]  # around key frames, and one twice
    assert greys(data, some) == pytest.approx([n * LEVEL for n in some], abs=4)
    assert greys(data, [29]) == pytest.approx([29 * LEVEL], abs=4)
    with open_video(data) as clip:
        times, seconds = clip.timing()
    assert list(times) == pytest.approx([n / 10 for n in range(30)], abs=0.011)
    assert seconds == pytest.approx(3.0, abs=0.11)


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "PNG"])
def test_animations_give_the_frames_that_were_put_in(kind: str) -> None:
    data = animation(grey_frames(8), kind, [100, 200, 300, 100, 100, 100, 100, 50])
    assert greys(data) == [n * LEVEL for n in range(8)]
    assert greys(data, [2, 2, 6]) == [2 * LEVEL, 2 * LEVEL, 6 * LEVEL]
    with open_video(data) as clip:
        times, seconds = clip.timing()
    assert list(times) == pytest.approx([0, 0.1, 0.3, 0.6, 0.7, 0.8, 0.9, 1.0]) and seconds == pytest.approx(1.05)


def test_what_is_transparent_is_white() -> None:
    clear = [Image.new("RGBA", (8, 8), (0, 0, 0, 0)), Image.new("RGBA", (8, 8), (90, 90, 90, 255))]
    buffer = io.BytesIO()
    clear[0].save(buffer, "WEBP", save_all=True, append_images=clear[1:], lossless=True)
    assert greys(buffer.getvalue()) == [255, 90]


def test_every_source_gives_the_same_frames(tmp_path: Path) -> None:
    frames = grey_frames(5)
    data = animation(frames)
    path = tmp_path / "a cow #1 100%.webp"
    path.write_bytes(data)
    tensor = torch.from_numpy(frames)
    pictures = [Image.fromarray(frame) for frame in frames]
    sources = [path, str(path), path.as_uri(), data, bytearray(data), memoryview(data), io.BytesIO(data)]
    sources += [frames, tensor, tensor.permute(0, 3, 1, 2), frames / 255.0, pictures, tuple(pictures), (frames, 25)]
    sources += [
        (pictures, 12.5),
        (frames, np.int64(5)),
        list(frames),
        frames[::-1][::-1],
        frames[::-1].copy()[::-1] / 255,
    ]
    with open(path, "rb") as opened:
        for source in [*sources, opened]:
            assert greys(source) == [n * LEVEL for n in range(5)]


def test_the_rate_of_given_frames_is_theirs() -> None:
    with open_video((grey_frames(5), 2.0)) as clip:
        assert clip.timing() == ([0, 0.5, 1.0, 1.5, 2.0], 2.5)
    with open_video(grey_frames(5)) as clip, pytest.raises(InputError, match="no times"):
        clip.timing()


def test_an_avi_whose_picture_stays_for_a_while_is_whole() -> None:
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as output:
        stream = output.add_stream("mpeg4", rate=10, width=32, height=16, pix_fmt="yuv420p")
        for number, frame in enumerate(grey_frames(6)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = number if number < 3 else number + 5
            output.mux(stream.encode(picture))
        output.mux(stream.encode())
    assert greys(buffer.getvalue()) == pytest.approx([n * LEVEL for n in range(6)], abs=4)
    refused(buffer.getvalue()[: len(buffer.getvalue()) * 2 // 3], "truncated")


def test_a_film_is_turned_upright() -> None:
    frames = grey_frames(3)
    frames[:, :8] = 255  # the upper half is white
    data = film(frames)
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 16 << 16, 0, 1 << 30)  # clockwise
    place = data.index(identity, data.index(b"tkhd"))
    turned = data[:place] + quarter + data[place + len(identity) :]
    with open_video(turned) as clip:
        (picture,) = clip.pick([0])
    assert picture.size == (16, 32)
    assert np.asarray(picture)[:, 8:].mean() > 200 > 100 > np.asarray(picture)[:, :8].mean()


# --- what is refused --------------------------------------------------------------------------------------------


def refused(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message), open_video(source) as clip:
        list(clip.pick(range(clip.count)))


@pytest.mark.parametrize(("container", "codec"), [pair for pair in CONTAINERS if pair[0] != "mpegts"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_truncated_films_are_refused(container: str, codec: str, share: float, tmp_path: Path) -> None:
    options = {"movflags": "+faststart"} if container in ("mp4", "mov") else {}
    data = film(grey_frames(30), container, codec, **options)
    path = tmp_path / "cut.bin"
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, r"cut.bin: (is|has) .*(damaged|truncated|no frames|no video)")


def test_a_film_with_sound_is_whole_if_one_of_both_reaches_the_end() -> None:
    data = film_with_sound(4)
    assert len(greys(data)) == len(greys(film_with_sound(4, sounding=1))) == 40
    for share in (0.3, 0.9):
        refused(data[: int(len(data) * share)], "truncated: its header promises 4.0 s")


def test_truncated_and_damaged_animations_are_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), np.uint8)
    for kind in ("WEBP", "GIF", "PNG"):
        data = animation(noise, kind)
        for share in (0.1, 0.6):
            refused(data[: int(len(data) * share)], "damaged or truncated|truncated animation|still picture")
    gif = animation(noise, "GIF")
    refused(gif[:-1], "truncated animation")
    assert len(greys(gif + b"\0\0")) == 6


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damage_escapes(data: st.DataObject) -> None:
    whole = bytearray(_FILMS[data.draw(st.sampled_from(sorted(_FILMS)))]())
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        with open_video(bytes(whole)) as clip:
            list(clip.pick(even_frames(clip.count, 3)))
    except InputError:
        pass


_FILMS = {
    "mp4": lambda: film(grey_frames(6)),
    "webp": lambda: animation(grey_frames(6)),
    "gif": lambda: animation(grey_frames(6), "GIF"),
}


def test_files_without_moving_pictures_are_refused(tmp_path: Path) -> None:
    still = io.BytesIO()
    Image.new("RGB", (8, 8)).save(still, "PNG")
    refused(still.getvalue(), "still picture")
    refused(b"RIFF\x24\0\0\0WAVEfmt " + bytes(30), "no video stream|damaged")
    refused(_song_with_cover(), "no video stream")
    refused(b"just words", "not a video")
    refused(b"", "empty")
    refused(tmp_path / "missing.mp4", "no such file")
    refused(tmp_path, "directory")
    refused(3, "expected a video")
    refused(None, "expected a video")


def _song_with_cover() -> bytes:
    """FFmpeg's own way to write one: a picture that is attached to an MP4 sound track."""
    av = pytest.importorskip("av")
    from av.stream import Disposition

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        sound, cover = output.add_stream("aac", rate=16000, layout="mono"), output.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 16
        cover.pix_fmt, cover.disposition = "yuvj420p", Disposition.attached_pic
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        samples.rate = 16000
        picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        output.mux([*cover.encode(picture), *cover.encode(None), *sound.encode(samples), *sound.encode(None)])
    return buffer.getvalue()


def test_bad_arrays_and_lists_are_refused() -> None:
    frames = grey_frames(4).astype(np.float32) / 255
    for value in (np.nan, np.inf):
        bad = frames.copy()
        bad[2, 3, 3, 1] = value
        refused(bad, "NaN or infinite")
        refused(torch.from_numpy(bad), "NaN or infinite")
        refused(list(bad), "frame 3 holds NaN")
    refused(frames[:0], "no frames")
    refused([], "no frames")
    refused(frames[0], "rank 3")
    refused(frames * 300, r"frame \d .*expected \[0, 1\]")
    refused(frames[..., :2], "frame 1 has 2 channels")
    refused([Image.new("RGB", (4, 4)), "no such picture"], "frame 2 no such file")
    refused(Image.new("RGB", (4, 4)), "single picture")
    refused(torch.empty(3, 4, 4, 3, device="meta"), "no plain values")
    refused(np.zeros((2, 4, 4, 3), object), "object values")
    for rate in (0, -1, float("nan"), float("inf")):
        refused((frames, rate), "frames per second")


def test_bombs_are_refused_before_they_go_off(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [film(grey_frames(9)), animation(grey_frames(9)), animation(grey_frames(9), "GIF"), grey_frames(9)]
    monkeypatch.setattr(clip, "MAX_FRAMES", 8)
    for source in sources:
        refused(source, "frames or more .*cut it")
    monkeypatch.setattr(clip, "MAX_FRAMES", 9)
    for module in (clip, videos):
        monkeypatch.setattr(module, "MAX_PIXELS", 32 * 16 - 1)
    for source in sources:
        refused(source, "32 x 16")


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = film(grey_frames(2))
    hide_pyav(monkeypatch)
    with pytest.raises(MissingExtraError, match="video"), open_video(data):
        pass
    assert greys(animation(grey_frames(3))) == [0, LEVEL, 2 * LEVEL]
