"""Videos for a library: frames that differ from each other, and the sound track."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from one_peace.errors import InputError
from one_peace.media.containers import NO_SOUND
from one_peace.media.frame_choice import frames_at
from one_peace.media.sounds import SAMPLE_RATE, decode_sound
from one_peace.media.videos import open_video
from one_peace.search.contents import Content, Piece, clock, sound_pieces, thumbnail_of

MOST_FRAMES = 16
SPACING = 2.0  # seconds between frames that are looked at, if not so many
_MOST_LOOKED_AT = 3 * MOST_FRAMES
_DIFFERENT = 0.06  # mean difference of grey values, of 1, above which a frame shows something new
_LONGER_SIDE = 512  # pixels that are kept of a frame: more than any model of ours sees


def read_video(path: Path, branches: Collection[str]) -> Content:
    """The pieces of a video file for a model with these branches: frames for `image`, the sound track for `audio`,
    and all of it at once for `video`.

    Raises:
        InputError: neither pictures nor sound can be read.
        MissingExtraError: PyAV is not installed.
    """
    pieces: list[Piece] = []
    problems: list[str] = []
    duration: float | None = None
    try:
        frames, duration = _key_frames(path)
    except InputError as error:
        frames = []
        problems.append(error.problem)
    if "image" in branches:
        for start, frame in frames:
            nbytes = 3 * frame.width * frame.height
            label = f"frame at {clock(start)}"
            pieces.append(Piece("image", frame, nbytes, label=label, start=start, thumbnail=thumbnail_of(frame)))
    if "video" in branches and frames:
        pieces.append(Piece("video", path, path.stat().st_size, label="all frames"))
    if "audio" in branches:
        try:
            waveform = decode_sound(path)
        except InputError as error:
            if error.problem != NO_SOUND:
                problems.append(error.problem)
        else:
            duration = max(duration or 0.0, len(waveform) / SAMPLE_RATE)
            pieces += [_of_sound_track(piece) for piece in sound_pieces(waveform)]
    if not pieces:
        raise InputError(str(path), problems[0] if problems else NO_SOUND)
    thumbnail = thumbnail_of(frames[len(frames) // 2][1]) if frames else None
    problem = f"taken in without a part of it, which {problems[0]}" if problems else ""
    return Content(pieces, duration=duration, thumbnail=thumbnail, problem=problem)


def _key_frames(path: Path) -> tuple[list[tuple[float, Image.Image]], float]:
    """Frames (seconds, RGB) that show something new, at most `MOST_FRAMES`, and the length of the video in seconds."""
    with open_video(path) as video:
        times, seconds = video.timing()
        count = min(max(3, round(seconds / SPACING)), _MOST_LOOKED_AT)
        places = sorted(set(frames_at(times, [(i + 0.5) * seconds / count for i in range(count)])))
        return _distinct(zip((times[place] for place in places), video.pick(places), strict=True)), seconds


def _distinct(frames: Iterable[tuple[float, Image.Image]]) -> list[tuple[float, Image.Image]]:
    """Without those that look like one before them; if too many are left, evenly spread ones."""
    kept: list[tuple[float, Image.Image]] = []
    looks: list[np.ndarray] = []
    for start, frame in frames:
        frame.thumbnail((_LONGER_SIDE, _LONGER_SIDE), Image.Resampling.BICUBIC)
        look = np.asarray(frame.convert("L").resize((16, 16), Image.Resampling.BOX), np.float32) / 255
        if all(np.abs(look - other).mean() > _DIFFERENT for other in looks):
            kept.append((start, frame))
            looks.append(look)
    if len(kept) > MOST_FRAMES:
        kept = [kept[round(i)] for i in np.linspace(0, len(kept) - 1, MOST_FRAMES)]
    return kept


def _of_sound_track(piece: Piece) -> Piece:
    label = f"sound {piece.label}" if piece.label else "sound track"
    return Piece("audio", piece.source, piece.nbytes, label=label, start=piece.start or 0.0)
