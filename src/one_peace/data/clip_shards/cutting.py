"""One video to its clips, each as the files of a shard: frames, picture, sound, captions, depth, normals."""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from PIL import Image

from one_peace.data.clip_shards.annotators import Captioner, MapMaker
from one_peace.data.clip_shards.captions import CaptionTable
from one_peace.data.clip_shards.media import film, fitted, flac, jpeg
from one_peace.data.clip_shards.scene_cuts import scene_cuts
from one_peace.data.clip_shards.videos import Video
from one_peace.errors import InputError
from one_peace.media.clip import Clip
from one_peace.media.containers import NO_SOUND
from one_peace.media.frame_choice import even_frames
from one_peace.media.sounds import SAMPLE_RATE, decode_sound
from one_peace.media.videos import open_video

SHOWN = 8  # frames of a clip that a captioner sees
QUIET = 1e-3  # of full scale: a sound track that is nowhere louder is silence
SHORTEST_SOUND = 0.025  # seconds


@dataclass(frozen=True)
class ClipRules:
    """How videos are cut: `threshold` and `shortest_scene` (frames) of scene cuts, lengths of clips in seconds; scenes
    that are longer are divided evenly. The shorter side of frames is at most `size`."""

    threshold: float = 11.5
    shortest_scene: int = 15
    min_seconds: float = 1.0
    max_seconds: float = 60.0
    size: int = 256

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds < self.max_seconds:
            raise ValueError(f"lengths of clips from {self.min_seconds} to {self.max_seconds} s leave nothing")
        if self.threshold <= 0 or self.shortest_scene < 1 or self.size < 16:
            raise ValueError("threshold must be positive, shortest_scene at least 1 and size at least 16")


@dataclass(frozen=True)
class ClipInfo:
    """A clip in the manifest: where it is from, which files it has, and by kind why it has no others."""

    key: str
    video: str
    url: str
    start: float
    end: float
    frames: int
    captions: dict[str, list[str]]
    members: list[str] = field(default_factory=list)
    lacking: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dropped:
    """A clip, or a whole video, that is not in the output. `reason` is what such are counted by."""

    key: str
    video: str
    reason: str
    detail: str


Made = tuple[ClipInfo, dict[str, bytes]] | Dropped


@dataclass(frozen=True)
class ClipMaker:
    """Makes the clips of videos. Not picklable in general: each worker has its own."""

    rules: ClipRules
    maps: MapMaker
    table: CaptionTable | None = None
    captioner: Captioner | None = None

    def __call__(self, video: Video) -> Iterator[Made]:
        """All clips of a video, in order; contents by ending of the file's name."""
        if not video.path:
            yield Dropped(video.key, video.path, "missing video", "there is no file of this name")
            return
        try:
            with open_video(video.path) as clip:
                times, seconds = clip.timing()
                spans = self._spans(video, clip, times, seconds)
                sound = _Sound(video.path)
                for number, (first, last) in enumerate(spans):
                    end = seconds if last == clip.count else times[last]
                    key = f"{video.key}-{number:04}"
                    yield self._clip(video, key, clip, range(first, last), times, end, sound)
        except InputError as error:
            yield Dropped(video.key, video.path, "unreadable video", error.problem)

    def _spans(self, video: Video, clip: Clip, times: Sequence[float], seconds: float) -> list[tuple[int, int]]:
        """Frames (first, after the last) of each clip; those that are too short or empty are found out later."""
        if video.spans is not None:
            return [(bisect.bisect_left(times, start), bisect.bisect_left(times, end)) for start, end in video.spans]
        parts = []
        scenes = scene_cuts(clip.pick(range(clip.count)), self.rules.threshold, self.rules.shortest_scene)
        for first, last in scenes:
            end = seconds if last == clip.count else times[last]
            pieces = max(1, int(np.ceil((end - times[first]) / self.rules.max_seconds)))
            edges = [first + (last - first) * n // pieces for n in range(pieces + 1)]
            parts += list(zip(edges, edges[1:], strict=False))
        return parts

    def _clip(
        self, video: Video, key: str, clip: Clip, span: range, times: Sequence[float], end: float, sound: _Sound
    ) -> Made:
        if not span:
            return Dropped(key, video.path, "outside of the video", "no frame of the video is in this span")
        start = times[span.start]
        if end - start < self.rules.min_seconds:
            return Dropped(key, video.path, "too short", f"{end - start:.2f} s, less than {self.rules.min_seconds:g}")
        if end - start > 1.001 * self.rules.max_seconds:
            return Dropped(key, video.path, "too long", f"{end - start:.1f} s, more than {self.rules.max_seconds:g}")
        lacking: dict[str, str] = {}
        chosen = {span.start + n for n in even_frames(len(span), SHOWN)}
        middle = span.start + even_frames(len(span), 1)[0]
        kept: dict[int, Image.Image] = {}
        try:
            content = film(
                fitted(_kept(clip, span, chosen | {middle}, kept), self.rules.size), (times[n] - start for n in span)
            )
        except InputError as error:
            return Dropped(key, video.path, "unreadable video", error.problem)
        picture = next(fitted([kept[middle]], self.rules.size))
        waveform = sound.between(start, end, lacking)
        captions = self._captions(key, video, [kept[n] for n in sorted(chosen)], waveform, lacking)
        if not captions and (self.table is not None or self.captioner is not None):
            reason = "no caption" if "captions" not in lacking else "captioner failed"
            return Dropped(key, video.path, reason, lacking.get("captions", "the table has none of it"))
        files = {"mp4": content, "jpg": jpeg(picture)}
        if waveform is not None:
            files["flac"] = flac(waveform)
        files |= self.maps.files(key, picture, lacking)
        if captions:
            files["txt"] = next(iter(captions.values()))[0].encode()
        info = ClipInfo(key, video.path, video.url, start, end, len(span), captions, list(files), lacking)
        files["json"] = json.dumps({**asdict(info), "caption": files.get("txt", b"").decode()}).encode()
        return info, files

    def _captions(
        self,
        key: str,
        video: Video,
        pictures: list[Image.Image],
        waveform: np.ndarray | None,
        lacking: dict[str, str],
    ) -> dict[str, list[str]]:
        """By kind: of the table, or if it has none of the captioner."""
        found = {} if self.table is None else self.table.of(key, video.key, video.path)
        if found or self.captioner is None:
            return found
        try:
            said = self.captioner(pictures, waveform)
            texts = [" ".join(text.split()) for text in ([said] if isinstance(said, str) else said) if text.strip()]
        except Exception as error:  # somebody else's code may raise anything
            lacking["captions"] = f"{type(error).__name__}: {error}"
            return {}
        return {"caption": texts} if texts else {}


class _Sound:
    """The sound track of a video, decoded when it is first asked for."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._waveform: np.ndarray | None = None
        self._problem = ""

    def between(self, start: float, end: float, lacking: dict[str, str]) -> np.ndarray | None:
        """(n,) at 16 kHz, or None with the reason in `lacking`."""
        if self._waveform is None and not self._problem:
            try:
                self._waveform = decode_sound(self._path)
            except InputError as error:
                self._problem = "no sound track" if error.problem == NO_SOUND else error.problem
        if self._waveform is None:
            lacking["sound"] = self._problem
            return None
        piece = self._waveform[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
        if len(piece) < SHORTEST_SOUND * SAMPLE_RATE:
            lacking["sound"] = "the sound track ends before"
        elif np.abs(piece).max() < QUIET:
            lacking["sound"] = "silence"
        return None if "sound" in lacking else piece


def _kept(clip: Clip, span: range, wanted: set[int], kept: dict[int, Image.Image]) -> Iterator[Image.Image]:
    """The frames of a span, on their way past; those that are wanted are kept."""
    for number, picture in zip(span, clip.pick(span), strict=True):
        if number in wanted:
            kept[number] = picture
        yield picture
