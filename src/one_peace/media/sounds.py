"""Sounds: decoding any usual input to a mono waveform at 16 kHz, and the published preprocessing."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from one_peace.errors import InputError
from one_peace.media.arrays import native_order, plain_values
from one_peace.media.containers import check_ogg_ends, decode_container, too_long
from one_peace.media.signatures import container_of, file_type
from one_peace.media.sources import Source, describe, is_stored, looks_like_text, open_source

Waveform: TypeAlias = np.ndarray | Tensor
SoundSource: TypeAlias = Source | Waveform | tuple[Waveform, float]

SAMPLE_RATE = 16_000
# One hour: 220 MiB as decoded. Longer recordings are to be cut by the caller, who knows what matters in them.
MAX_SECONDS = 3600.0

_RATES = (
    1_000,
    1_000_000,
)  # Hz; no recording is outside, and absurd rates make absurd lengths
_LOUDEST = 1e9  # float32 still holds the variance of these; integer values given as floats are below
_MOST_CHANNELS = 64
_BLOCK = 1 << 18  # samples (of all channels together) decoded at a time


def decode_sound(source: SoundSource, *, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """Any sound as a mono waveform, (n,) float32 at 16 kHz.

    Accepted:
      * a path, file:// or data: URL, bytes or binary file object holding what libsndfile reads (WAV, FLAC,
        Ogg Vorbis and Opus, MP3, AIFF, CAF, AU, ...) or, with the extra `video`, the sound track of an MP4,
        M4A, MOV, WebM, MKV, AAC, WMA, AVI, AMR or MPEG file;
      * (waveform, rate in Hz), a NumPy array or torch tensor of any rate;
      * a bare waveform (n,), taken to be at 16 kHz already.
    A waveform is (n,), (channels, n) or (n, channels): of two axes **the shorter one is the channels**, and
    equal ones are refused. Floats are taken as they are (full scale is 1), int8, int16, int32 and uint8 are
    scaled to [-1, 1] by their full scale.

    Channels are averaged, then resampled (soxr, high quality), in this order, as the published demo does.

    Raises:
        InputError: not a sound, damaged or truncated, no samples, NaN or infinite samples, wrong rank, or
            longer than `max_seconds`, by its header (before decoding) or by what comes (while decoding).
        MissingExtraError: a container that needs the extra `video`, which is not installed.
    """
    return _decode(source, _Form(SAMPLE_RATE, max_seconds))[0]


def decode_first_channel(source: SoundSource) -> tuple[np.ndarray, float]:
    """The first channel of a sound as it is stored, (n,) float32, and its rate in Hz: nothing is averaged or resampled.

    Accepts and raises what `decode_sound` does.
    """
    return _decode(source, _Form(None, MAX_SECONDS, first_channel=True))


@dataclass(frozen=True)
class _Form:
    """What a sound is brought to: a rate (None: its own), a length in seconds, one channel."""

    sample_rate: int | None
    max_seconds: float
    first_channel: bool = False


def _decode(source: Any, form: _Form) -> tuple[np.ndarray, float]:
    name = describe(source)
    if isinstance(source, tuple):
        rate, blocks = _from_pair(source, name)
    elif isinstance(source, np.ndarray | Tensor):
        if source.ndim != 1:
            raise InputError(
                name,
                f"has rank {source.ndim}; a bare waveform is (n,), for others pass (waveform, rate)",
            )
        rate, blocks = float(SAMPLE_RATE), iter([_waveform(source, name)])
    elif is_stored(source):
        return _decode_file(source, name, form)
    else:
        raise InputError(name, "expected a sound: a path, bytes, a file, (waveform, rate) or a waveform (n,)")
    return _collect(rate, blocks, name, form)


def prepare_waveform(waveform: np.ndarray | Tensor, *, max_seconds: float | None = 15.0) -> Tensor:
    """The model's input from a mono waveform (n,) at 16 kHz: (m,) float32.

    Zero mean and unit variance over the whole waveform, before anything is cut off; then the first
    `max_seconds` (all if None); a clip of under one second is repeated to fill exactly one.
    """
    samples = torch.as_tensor(waveform, dtype=torch.float32, device="cpu")
    samples = F.layer_norm(samples, samples.shape)
    if max_seconds is not None:
        samples = samples[: int(SAMPLE_RATE * max_seconds)]
    if len(samples) < SAMPLE_RATE:
        samples = samples.repeat(math.ceil(SAMPLE_RATE / len(samples)))[:SAMPLE_RATE]
    return samples


def frame_count(samples: int, convs: Iterable[Sequence[int]]) -> int:
    """Frames that unpadded convolutions (channels, kernel, stride) makes of `samples`; 0 if too few."""
    for _, kernel, stride in convs:
        if samples < kernel:
            return 0
        samples = (samples - kernel) // stride + 1
    return samples


def windows(waveform: Tensor, window: int) -> list[Tensor]:
    """Cover a clip beyond the model's limit with windows of equal length, whose features are then averaged.

    Windows of `window` samples follow each other; the last one is aligned to the end and overlaps the one
    before, so that it is not a short remnant. A clip of at most `window` samples is its own only window.

    Args:
        waveform: (n,), already normalised as a whole.
    """
    n = len(waveform)
    if n <= window:
        return [waveform]
    starts = [*range(0, n - window, window), n - window]
    return [waveform[start : start + window] for start in starts]


def _decode_file(source: Any, name: str, form: _Form) -> tuple[np.ndarray, float]:
    import soundfile  # imports in 70 ms, which users of texts and pictures need not wait for

    with open_source(source) as stream:
        head = stream.read(4096)
        if not head:
            raise InputError(name, "the file is empty")
        if head.startswith(b"OggS"):
            check_ogg_ends(stream, name)
        try:
            sound = soundfile.SoundFile(_fastest(stream), closefd=False)
        except soundfile.LibsndfileError as error:
            container = container_of(head)
            if container is None:
                raise InputError(name, f"is not a sound we can read: {_what_it_is(head)}") from error
        else:
            with sound:
                if sound.frames < _UNKNOWN_FRAMES:
                    return _decode_open(sound, name, form)
            # A FLAC of unstated length (from a pipe): soundfile seeks as it reads, libsndfile cannot there.
            container = container_of(head) or "flac"
        stream.seek(0, os.SEEK_END)  # drops what is buffered: libsndfile moved the descriptor
        stream.seek(0)
        rate, blocks = decode_container(stream, container, name, form.max_seconds)
        _check_rate(rate, name)
        return _collect(rate, blocks, name, form)


def _decode_open(sound: Any, name: str, form: _Form) -> tuple[np.ndarray, float]:
    rate = sound.samplerate
    _check_rate(rate, name)
    if sound.frames > form.max_seconds * rate:
        raise too_long(name, form.max_seconds, sound.frames / rate)
    try:
        return _collect(rate, _blocks(sound, name), name, form)
    except (RuntimeError, OSError, EOFError) as error:  # soundfile's errors are RuntimeErrors
        raise InputError(name, f"is a damaged or truncated sound file ({error})") from error


def _fastest(stream: BinaryIO) -> BinaryIO | int:
    """What to hand to libsndfile, at its start: of a file the descriptor, which needs no callbacks."""
    if isinstance(stream, io.BytesIO):
        return _Contents(stream.getvalue())
    os.lseek(stream.fileno(), 0, os.SEEK_SET)
    return stream.fileno()


class _Contents(io.BytesIO):
    """Seeks before the start, which damaged files cause, stop there: an error would print a traceback."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return super().seek(max(offset, 0) if whence == os.SEEK_SET else offset, whence)


_UNKNOWN_FRAMES = 1 << 62  # libsndfile counts a stream of unstated length as 2**63 - 1
_SHORT_DATA = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_SHORT_FILE = re.compile(r"^\s*(?:riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)  # of W64 and RF64
_SIZE_SLACK = 64  # bytes by which writers of these differ on what counts
_OPEN_ENDED = 0x7FFF_0000  # a recorder that could not seek back leaves the largest size there: no fault


def _blocks(sound: Any, name: str) -> Iterator[np.ndarray]:
    """(samples, channels) float32 blocks of an open file, refused if it is shorter than its header says."""
    for pattern, slack in ((_SHORT_DATA, 0), (_SHORT_FILE, _SIZE_SLACK)):
        said = pattern.search(sound.extra_info)
        if said and int(said[2]) + slack < int(said[1]) < _OPEN_ENDED:
            raise InputError(name, f"is truncated: its header promises {said[1]} B, {said[2]} are there")
    frames = max(1, _BLOCK // sound.channels)
    decoded = 0
    while len(block := sound.read(frames, dtype="float32", always_2d=True)):
        decoded += len(block)
        yield block
    # Lossy formats count in packets and trim encoder delay, hence the slack.
    if decoded < 0.98 * sound.frames - 5_000:
        raise InputError(name, f"is truncated: its header promises {sound.frames} samples, {decoded} came")


def _from_pair(pair: tuple[Any, ...], name: str) -> tuple[float, Iterator[np.ndarray]]:
    if len(pair) != 2:
        raise InputError(name, f"is a tuple of {len(pair)}; expected (waveform, rate)")
    waveform, rate = pair
    if isinstance(waveform, int | float) and isinstance(rate, np.ndarray | Tensor):
        raise InputError(name, "is (rate, waveform); expected (waveform, rate)")
    if not isinstance(waveform, np.ndarray | Tensor):
        raise InputError(name, "the waveform must be a NumPy array or a torch tensor")
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.integer | np.floating):
        raise InputError(name, f"the sample rate must be a number in Hz, got {type(rate).__name__} {describe(rate)}")
    _check_rate(rate, name)
    array = _waveform(waveform, name)
    if array.ndim == 2:
        short, long = sorted(array.shape)
        if short == long and short > 1:
            raise InputError(name, "has as many channels as samples, so which is which is unknown; pass (n,)")
        if short > _MOST_CHANNELS:
            raise InputError(name, f"has {short} channels or more; at most {_MOST_CHANNELS} are accepted")
        array = array if array.shape[1] == short else array.T
    return float(rate), iter([array])


def _check_rate(rate: Any, name: str) -> None:
    if not _RATES[0] <= rate <= _RATES[1]:
        raise InputError(name, f"has a sample rate of {rate} Hz; expected {_RATES[0]} to {_RATES[1]}")


def _waveform(waveform: Any, name: str) -> np.ndarray:
    """(n,) or two axes, float32 with integers scaled to [-1, 1]."""
    if waveform.ndim not in (1, 2):
        raise InputError(name, f"has rank {waveform.ndim}; a waveform has rank 1, or 2 with channels")
    if 0 in waveform.shape:
        raise InputError(name, "holds no samples")
    waveform = plain_values(waveform, name) if isinstance(waveform, Tensor) else native_order(waveform)
    if waveform.dtype.kind == "f":
        with np.errstate(over="ignore"):  # to infinity, which is refused with the rest
            return waveform.astype(np.float32)
    if waveform.dtype == np.uint8:
        return (waveform.astype(np.float32) - 128) / 128
    if waveform.dtype in (np.int8, np.int16, np.int32):
        return (waveform / -float(np.iinfo(waveform.dtype).min)).astype(np.float32)
    raise InputError(name, f"holds {waveform.dtype} samples; expected floats, int8, int16, int32 or uint8")


def _collect(rate: float, blocks: Iterator[np.ndarray], name: str, form: _Form) -> tuple[np.ndarray, float]:
    """Average channels, resample. By blocks, so that memory follows the result and not the source's rate."""
    resampler, sample_rate = None, rate if form.sample_rate is None else form.sample_rate
    if rate != sample_rate:
        import soxr

        resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
    most = int(form.max_seconds * rate)
    done: list[np.ndarray] = []
    total = 0
    for block in blocks:
        total += len(block)
        if total > most:
            raise too_long(name, form.max_seconds)
        if form.first_channel:
            mono = block if block.ndim == 1 else block[:, 0].copy()
        else:
            mono = block if block.ndim == 1 else block.mean(axis=1, dtype=np.float32)
        if not np.isfinite(mono).all():
            raise InputError(name, "holds NaN or infinite samples")
        if len(mono) and np.abs(mono).max() > _LOUDEST:
            raise InputError(name, f"holds samples up to {np.abs(mono).max():g}; full scale is 1")
        done.append(mono if resampler is None else resampler.resample_chunk(mono))
    if not total:
        raise InputError(name, "holds no samples")
    if resampler is not None:
        done.append(resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
    waveform = np.ascontiguousarray(np.concatenate(done), dtype=np.float32)
    if not len(waveform):
        raise InputError(name, f"is too short: {total} samples at {rate:g} Hz are none at {sample_rate} Hz")
    return waveform, float(sample_rate)


def _what_it_is(head: bytes) -> str:
    kind = file_type(head)
    if kind is not None and kind.family == "image":
        return "it is a picture"
    if looks_like_text(head):
        return "it is text"
    return "unknown or damaged format"
