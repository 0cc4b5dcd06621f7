from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file

from one_peace.errors import InputError, MissingExtraError
from one_peace.media.sounds import decode_sound, frame_count, prepare_waveform, windows
from video_files import film_with_sound, hide_pyav

GOLDEN = Path(__file__).parents[1] / "golden" / "one_peace"
META = json.loads((GOLDEN / "fixture8_audio.json").read_text())["meta"]
CASES = [name for name, value in META.items() if isinstance(value, dict) and "samples" in value]
CONVS = [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2


def tone(seconds: float = 0.5, rate: int = 16_000, channels: int = 1) -> np.ndarray:
    """(n,) or (n, channels) float32."""
    t = np.arange(int(seconds * rate)) / rate
    waves = np.stack([0.3 * np.sin(2 * np.pi * 220 * (c + 1) * t) for c in range(channels)], axis=1)
    return (waves[:, 0] if channels == 1 else waves).astype(np.float32)


def encoded(samples: np.ndarray, rate: int, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def av_encoded(samples: np.ndarray, rate: int, container: str, codec: str) -> bytes:
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.rate = rate
        output.mux([*stream.encode(frame), *stream.encode(None)])
    return buffer.getvalue()


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "fixture8_audio.safetensors")


@pytest.mark.parametrize("case", CASES)
def test_preprocessing_is_the_published_one(case: str, golden: dict[str, torch.Tensor]) -> None:
    expected, limits = golden[f"out.{case}"], META[case]
    waveform = golden[f"in.{case}"]
    mono = decode_sound((waveform, 16_000))
    assert len(mono) == limits["samples"]
    prepared = prepare_waveform(mono, max_seconds=limits["max_duration"])
    torch.testing.assert_close(prepared, expected, rtol=0, atol=1e-6)
    assert frame_count(len(prepared), CONVS) == limits["frames"]


def test_frame_counts() -> None:
    for samples, frames in META["frames_by_samples"].items():
        assert frame_count(int(samples), CONVS) == frames
    assert frame_count(399, CONVS) == frame_count(0, CONVS) == 0


def test_every_source_gives_the_same_samples(tmp_path: Path) -> None:
    samples = tone()
    data = encoded(samples, 16_000, subtype="FLOAT")
    path = tmp_path / "a cow.raw"  # the name of a file says nothing
    path.write_bytes(data)
    tensor = torch.from_numpy(samples)
    stereo = np.stack([samples, samples])
    sources: list[Any] = [
        path,
        str(path),
        path.as_uri(),
        data,
        bytearray(data),
        memoryview(data),
        io.BytesIO(data),
    ]
    sources += [samples, tensor, samples.astype(np.float64), (samples, 16_000), (tensor, 16_000.0)]
    sources += [
        (stereo, 16_000),
        (stereo.T, np.int64(16_000)),
        (torch.from_numpy(stereo), 16_000),
        (samples[:, None], 16_000),
    ]
    with open(path, "rb") as opened:
        for source in [*sources, opened]:
            decoded = decode_sound(source)
            assert decoded.dtype == np.float32 and np.array_equal(decoded, samples)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("WAV", "PCM_24"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", None),
        ("AIFF", None),
    ],
)
def test_formats(kind: str, subtype: str | None) -> None:
    decoded = decode_sound(encoded(tone(rate=48_000, channels=2), 48_000, kind, subtype))
    assert abs(len(decoded) - 8_000) < 1_200  # encoders of MP3 pad
    assert 0.15 < np.abs(decoded).max() < 0.4


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "aac"), ("webm", "libopus"), ("matroska", "pcm_f32le"), ("adts", "aac"), ("mov", "pcm_f32le")],
)
def test_containers_through_pyav(container: str, codec: str) -> None:
    decoded = decode_sound(av_encoded(tone(rate=48_000), 48_000, container, codec))
    assert abs(len(decoded) - 8_000) < 1_200
    assert 0.2 < np.abs(decoded).max() < 0.5


def test_a_container_on_disk_is_read_after_libsndfile_gave_up(tmp_path: Path) -> None:
    data = av_encoded(tone(rate=48_000), 48_000, "matroska", "pcm_f32le")
    path = tmp_path / "cow.mka"
    path.write_bytes(data)
    np.testing.assert_array_equal(decode_sound(path), decode_sound(data))


def test_channels_are_averaged_before_resampling() -> None:
    samples = tone(1.3, 44_100, channels=2)
    expected = soxr.resample(samples.mean(axis=1), 44_100, 16_000, quality="HQ")
    for source in ((samples, 44_100), (samples.T, 44_100), encoded(samples, 44_100, subtype="FLOAT")):
        np.testing.assert_allclose(decode_sound(source), expected, rtol=0, atol=1e-6)


def test_one_sample_is_one_channel() -> None:
    assert decode_sound((np.full((1, 1), 0.5), 16_000)).tolist() == [0.5]


def test_decoding_by_blocks_equals_decoding_at_once() -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 700_001).astype(np.float32)
    expected = soxr.resample(samples, 44_100, 16_000, quality="HQ")
    np.testing.assert_array_equal(decode_sound(encoded(samples, 44_100, subtype="FLOAT")), expected)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_integers_are_scaled_by_full_scale(dtype: type) -> None:
    low = np.iinfo(dtype).min
    for ordered in (np.dtype(dtype), np.dtype(dtype).newbyteorder(">")):
        assert decode_sound(np.array([low, 0, low // 2], ordered)).tolist() == [-1, 0, -0.5]
    assert decode_sound(torch.tensor([low, 0, low // 2], dtype=getattr(torch, np.dtype(dtype).name))).tolist() == [
        -1,
        0,
        -0.5,
    ]


def test_unsigned_bytes_are_centred() -> None:
    assert decode_sound(np.array([0, 128, 192], np.uint8)).tolist() == [-1, 0, 0.5]


def test_windows_cover_the_clip_with_equal_lengths() -> None:
    clip = torch.arange(23)
    pieces = windows(clip, 10)
    assert [piece.tolist() for piece in pieces] == [list(range(10)), list(range(10, 20)), list(range(13, 23))]
    assert [len(piece) for piece in windows(clip[:20], 10)] == [10, 10]
    assert [piece.tolist() for piece in windows(clip[:7], 10)] == [list(range(7))]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 500), st.integers(1, 60))
def test_windows_hold_every_sample(n: int, window: int) -> None:
    pieces = windows(torch.arange(n), window)
    assert {len(piece) for piece in pieces} == {min(n, window)}
    assert sorted({int(i) for piece in pieces for i in piece}) == list(range(n))
    assert len(pieces) == max(1, -(-n // window))


def test_preparing_without_a_limit_keeps_everything() -> None:
    samples = np.random.default_rng(0).standard_normal(16_000 * 16).astype(np.float32)
    assert len(prepare_waveform(samples, max_seconds=None)) == 16_000 * 16
    assert len(prepare_waveform(samples)) == 16_000 * 15


def test_a_header_that_claims_hours_is_refused() -> None:
    flac = bytearray(encoded(tone(), 16_000, "FLAC"))
    flac[21:26] = struct.pack(">Q", (int.from_bytes(flac[21:26], "big") & ~0xF_FFFF_FFFF) | 0xF_0000_0000)[3:]
    with pytest.raises(InputError, match="by its header"):
        decode_sound(bytes(flac))
    wav = bytearray(encoded(tone(), 16_000))
    wav[40:44] = struct.pack("<I", 500_000_000)
    with pytest.raises(InputError, match="truncated"):
        decode_sound(bytes(wav))
    long = encoded(np.zeros(16_000 * 20, np.float32), 16_000, "FLAC")
    with pytest.raises(InputError, match=r"lasts 20 s by its header, beyond the 15 s"):
        decode_sound(long, max_seconds=15)


def test_a_small_file_that_expands_is_stopped_while_decoding() -> None:
    flac = bytearray(encoded(np.zeros(16_000 * 60, np.int16), 16_000, "FLAC"))
    flac[21] &= 0xF0  # a stream of unstated length
    flac[22:26] = bytes(4)
    assert len(flac) < 20_000
    assert len(decode_sound(bytes(flac))) == 16_000 * 60
    with pytest.raises(InputError, match="goes on beyond the 30 s"):
        decode_sound(bytes(flac), max_seconds=30)
    webm = av_encoded(np.zeros(48_000 * 20, np.float32), 48_000, "matroska", "pcm_f32le")
    with pytest.raises(InputError, match="beyond the 3 s"):
        decode_sound(webm, max_seconds=3)


def test_an_open_ended_header_is_no_fault() -> None:
    wav = bytearray(encoded(tone(), 16_000))
    wav[4:8] = wav[40:44] = b"\xff" * 4
    assert len(decode_sound(bytes(wav))) == 8_000


@pytest.mark.parametrize(
    ("kind", "subtype", "seconds"),
    [
        *((kind, None, 5.0) for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "W64", "RF64")),
        ("OGG", "OPUS", 5.0),
        ("OGG", "VORBIS", 0.5),  # a single page
    ],
)
@pytest.mark.parametrize("part", [0.001, 0.3, 0.7, 0.9])
def test_truncated_files_are_refused(kind: str, subtype: str | None, part: float, seconds: float) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, int(seconds * 16_000)).astype(np.float32)
    data = encoded(noise, 16_000, kind, subtype)
    assert len(decode_sound(data)) == pytest.approx(len(noise), abs=2_000)
    with pytest.raises(InputError):
        decode_sound(data[: int(part * len(data))])


def test_an_ogg_may_end_without_a_mark_or_with_more_behind_it() -> None:
    data = encoded(np.random.default_rng(0).uniform(-0.5, 0.5, 80_000).astype(np.float32), 16_000, "OGG", "OPUS")
    whole = len(decode_sound(data))
    assert len(decode_sound(data + b"TAG" + bytes(125))) == whole
    assert 0 < len(decode_sound(data[: data.rindex(b"OggS")])) < whole  # as recorders of live streams leave it


@pytest.mark.parametrize("container,codec", [("mp4", "aac"), ("webm", "libopus")])
def test_damaged_containers_are_refused(container: str, codec: str) -> None:
    data = av_encoded(tone(rate=48_000), 48_000, container, codec)
    with pytest.raises(InputError):
        decode_sound(data[:200])


TRUNCATED = {
    "matroska": lambda: av_encoded(tone(5, 48_000), 48_000, "matroska", "pcm_f32le"),
    "with pictures": lambda: film_with_sound(5),
    "avi": lambda: av_encoded(tone(5, 48_000), 48_000, "avi", "pcm_s16le"),
    "caf": lambda: encoded(tone(5), 16_000, "CAF"),
}


@pytest.mark.parametrize("make", TRUNCATED.values(), ids=TRUNCATED)
def test_a_truncated_container_is_refused(make: Callable[[], bytes]) -> None:
    pytest.importorskip("av")
    data = make()
    assert len(decode_sound(data)) == pytest.approx(80_000, abs=100)
    for part in (0.5, 0.8):
        with pytest.raises(InputError, match="truncated"):
            decode_sound(data[: int(part * len(data))])


def test_a_sound_track_shorter_than_its_film_is_whole() -> None:
    assert len(decode_sound(film_with_sound(5, sounding=2))) == 32_000


def test_a_video_without_sound_is_refused() -> None:
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=5, width=32, height=32, pix_fmt="yuv420p")
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
        output.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(InputError, match="no sound track"):
        decode_sound(buffer.getvalue())


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_pyav(monkeypatch)
    with pytest.raises(MissingExtraError, match=r"one-peace\[video\]"):
        decode_sound(b"\x00\x00\x00\x18ftypM4A " + bytes(100))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"moo, said the cow\n" * 9, "it is text"),
        (b"#EXTM3U\nhttp://cow.example/moo.wav\n", "it is text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "it is a picture"),
        (bytes(range(256)), "unknown or damaged"),
    ],
)
def test_what_is_no_sound_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "cow.flac"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        decode_sound(path)
    assert caught.value.source == str(path)
    with pytest.raises(InputError):
        decode_sound(data)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "expected a sound"),
        ([0.1, 0.2], "expected a sound"),
        (np.zeros((2, 16_000), np.float32), "pass \\(waveform, rate\\)"),
        ((np.zeros((2, 3, 4)), 16_000), "rank 3"),
        ((np.zeros(()), 16_000), "rank 0"),
        ((np.zeros((9, 9)), 16_000), "as many channels as samples"),
        ((np.zeros((99, 16_000)), 16_000), "99 channels"),
        ((np.zeros(0), 16_000), "no samples"),
        ((np.zeros((0, 2)), 16_000), "no samples"),
        ((np.zeros((2, 0)), 16_000), "no samples"),
        (np.array([0, np.nan]), "NaN"),
        (torch.tensor([0, torch.inf]), "NaN or infinite"),
        (np.array([1e300]), "NaN or infinite"),
        (np.array([1e30]), "full scale"),
        (np.zeros(9, np.int64), "int64 samples"),
        (np.zeros(9, bool), "bool samples"),
        (np.zeros(9, complex), "complex128 samples"),
        (torch.zeros(9, device="meta"), "no plain values"),
        ((16_000, np.zeros(9)), "is \\(rate, waveform\\)"),
        ((np.zeros(9), "16 kHz"), "must be a number"),
        ((np.zeros(9), True), "must be a number"),
        ((np.zeros(9), "8000"), "must be a number in Hz, got str 8000"),
        ((np.zeros(9), 0), "sample rate of 0"),
        ((np.zeros(9), -16_000), "sample rate of"),
        ((np.zeros(9), float("nan")), "sample rate of nan"),
        ((np.zeros(9), 10**400), "sample rate"),
        ((np.zeros(9), 16_000, 2), "tuple of 3"),
        ((np.zeros(9),), "tuple of 1"),
        (("cow.wav", 16_000), "NumPy array"),
        ((np.zeros(1), 1_000_000), "too short"),
        (encoded(np.zeros(0, np.float32), 16_000), "no samples"),
        (encoded(np.array([0, np.nan, 0], np.float32), 16_000, subtype="FLOAT"), "NaN"),
    ],
    # Encoded files carry the time, and every test process must give a case the same name.
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_wrong_kinds_of_input(source: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode_sound(source)


quick = settings(max_examples=60)


def sound_or_input_error(source: object) -> None:
    try:
        waveform = decode_sound(source, max_seconds=10)
    except InputError:
        return
    assert waveform.ndim == 1 and len(waveform) and waveform.dtype == np.float32 and np.isfinite(waveform).all()
    assert torch.isfinite(prepare_waveform(waveform)).all()


@quick
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    sound_or_input_error(data)


BASES = [encoded(tone(0.05), 16_000, kind) for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF")]


@quick
@given(
    st.sampled_from(BASES),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=8),
    st.integers(0, 99),
)
def test_any_damage_to_a_file(base: bytes, damage: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(base)
    for place, value in damage:
        data[place % len(data)] = value
    sound_or_input_error(bytes(data[: len(data) - cut]))


@quick
@given(
    hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)),
    st.one_of(st.integers(), st.floats(), st.none(), st.just(16_000), st.text(max_size=3)),
)
def test_any_array_and_rate(array: np.ndarray, rate: object) -> None:
    sound_or_input_error(array)
    sound_or_input_error((array, rate))
