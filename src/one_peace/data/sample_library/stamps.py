"""The Tux Paint stamps: pictures of things, captions in many languages, sounds, and the captions spoken.

The package's folder tree is the category tree. Beside each caption file `crow.txt` lie `crow.png` or
`crow.svg`, `crow.ogg` (the sound it makes) and `crow_desc_fr.ogg` (the caption, read aloud in French). Among
letters and digits, which make no sound, `a.ogg` and `a_fr.ogg` are spoken too.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from one_peace.data.manifest import Item, Split, normalise_caption, split_of
from one_peace.data.sample_library.packages import Fetched, Package
from one_peace.data.sample_library.rasters import draw_svg, open_raster, prepare, save
from one_peace.errors import InputError

PACKAGE = Package("debian", "tuxpaint-stamps-default", "GPL-2.0-or-later")

# Whole speakers (one volunteer per language) whose recordings no model trains on: Spanish is the large one,
# and English the one that readers can judge by ear.
HELD_OUT_LANGUAGES = frozenset({"es", "en", "en_GB"})

# Sounds that are somebody talking, not what the thing sounds like.
_TALK = frozenset({"dreydl-gimmel", "dreydl-hay", "dreydl-nun", "dreydl-shin", "apollo_lander"})
_SILENCE = 1e-3  # peak of full scale below which a sound is empty

_CAPTION_LINE = re.compile(r"^([a-z]{2,3}(?:_[A-Za-z]+)?(?:@\w+)?)\.utf8=(.*)$")
_SPOKEN = re.compile(r"^(?P<stem>.+?)(?P<desc>_desc)?(?:_(?P<lang>[a-z]{2}(?:_[A-Za-z]{2})?))?$")
_SOUND_ENDINGS = (".ogg", ".wav")


def read_captions(path: Path) -> dict[str, list[str]]:
    """Captions by language of one stamp; the first line of the file is the English one."""
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines()):
        match = _CAPTION_LINE.match(line.strip())
        language, text = match.groups() if match else ("en", line if number == 0 else "")
        text = " ".join(text.split())
        if text and text not in captions.setdefault(language, []):
            captions[language].append(text)
    return {language: texts for language, texts in captions.items() if texts}


def stamp_items(package: Fetched, media: Path) -> list[Item]:
    """Every picture and sound of the package; pictures are prepared into `media`, sounds stay in place."""
    folder = package.files / "usr" / "share" / "tuxpaint" / "stamps"
    if not folder.is_dir():
        raise InputError(str(folder), "the package holds no stamps; remove the package's folder to fetch it anew")
    originals = list(_pictures(package, folder, media))
    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(_made_ready, originals))
    sounds = list(_sounds(package, folder, {item.id: item for item in pictures}))
    return pictures + drop_repeated_recordings(sounds)


def _pictures(package: Fetched, folder: Path, media: Path) -> Iterator[tuple[Item, Path]]:
    """Every stamp with the file that its picture is to be made from."""
    for captions_file in sorted(folder.rglob("*.txt")):
        name = captions_file.relative_to(folder).with_suffix("").as_posix()
        candidates = (captions_file.with_suffix(ending) for ending in (".png", ".svg"))
        original = next((path for path in candidates if path.is_file()), None)
        texts = read_captions(captions_file)
        if original is None or "en" not in texts:
            continue
        group = normalise_caption(texts["en"][0])
        category = name.rpartition("/")[0]
        item = Item(
            id=f"stamps/{name}",
            kind="image",
            path=media / f"{name}.png",
            group=group,
            split=split_of(group),
            source=package.name,
            version=package.version,
            licence=package.licence,
            texts=texts,
            category=category,
            symbol=category.split("/")[0] == "symbols",
        )
        yield item, original


def _made_ready(item_and_original: tuple[Item, Path]) -> Item:
    item, original = item_and_original
    if not item.path.is_file():
        if original.suffix == ".png":
            image = open_raster(original)
        else:
            image = draw_svg(original.read_bytes().decode("utf-8", errors="replace"), item.id)
        save(prepare(image, item.id), item.path)
    return item


def _sounds(package: Fetched, folder: Path, pictures: dict[str, Item]) -> Iterator[Item]:
    import soundfile

    for path in sorted(p for p in folder.rglob("*") if p.suffix in _SOUND_ENDINGS):
        name = path.relative_to(folder).as_posix()
        while name.endswith(_SOUND_ENDINGS):  # one file is called `..._desc_da.ogg.ogg`
            name = name[:-4]
        found = _picture_and_language(f"stamps/{name}", pictures)
        if found is None:
            continue
        picture, language = found
        if language is None:
            if path.stem in _TALK:
                continue
            samples, rate = soundfile.read(path, dtype="float32")
            if len(samples) == 0 or float(np.abs(samples).max()) < _SILENCE:
                continue
            duration = len(samples) / rate
        else:
            duration = clip_seconds(path)
        yield Item(
            id=f"stamps/{name}#{'effect' if language is None else language}",
            kind="audio",
            path=path,
            group=picture.group,
            split=picture.split,
            source=package.name,
            version=package.version,
            licence=package.licence,
            texts=picture.texts,
            category=picture.category,
            symbol=picture.symbol,
            track="effect" if language is None else "speech",
            language=language,
            speaker=None if language is None else f"{package.name}:{language}",
            heldout_speaker=language in HELD_OUT_LANGUAGES,
            item=picture.id,
            duration=round(duration, 3),
        )


def _picture_and_language(name: str, pictures: dict[str, Item]) -> tuple[Item, str | None] | None:
    """The picture a sound file belongs to and the language spoken in it (None: a sound effect)."""
    picture = pictures.get(name)
    if picture is not None:
        return picture, "en" if picture.symbol else None
    match = _SPOKEN.match(name)
    picture = pictures.get(match["stem"]) if match else None
    if match is None or picture is None or not (match["desc"] or picture.symbol):
        return None
    language, _, country = (match["lang"] or "en").partition("_")
    return picture, f"{language}_{country.upper()}" if country else language


def clip_seconds(path: Path) -> float:
    """Length of an Ogg Vorbis or WAV file in seconds.

    Of Ogg files only the first and the last page are looked at: the decoder's own answer takes a hundred
    times longer, and there are thousands of clips.
    """
    data = path.read_bytes()
    header, last_page = data.find(b"\x01vorbis", 0, 256), data.rfind(b"OggS")
    if header < 0 or last_page < 0:
        import soundfile

        return float(soundfile.info(path).duration)
    rate = int.from_bytes(data[header + 12 : header + 16], "little")
    samples = int.from_bytes(data[last_page + 6 : last_page + 14], "little")
    return samples / rate


def drop_repeated_recordings(sounds: list[Item]) -> list[Item]:
    """Keeps one of every set of identical recordings: the held-out one if they lie on both sides."""
    order: dict[Split, int] = {"test": 0, "val": 1, "train": 2}
    same: dict[str, list[Item]] = defaultdict(list)
    for sound in sounds:
        same[recording_hash(sound)].append(sound)
    kept = {min(copies, key=lambda item: (order[item.split], item.id)).id for copies in same.values()}
    return [sound for sound in sounds if sound.id in kept]


def recording_hash(sound: Item) -> str:
    """Identifies a recording: the few effects by their samples, the thousands of spoken clips by their bytes.

    In this package copies of a spoken clip are copies of the file, and decoding three hours of speech would
    be most of the building time.
    """
    if sound.track == "effect":
        import soundfile

        samples, rate = soundfile.read(sound.path, dtype="int16")
        return hashlib.sha256(str(rate).encode() + samples.tobytes()).hexdigest()
    return hashlib.sha256(sound.path.read_bytes()).hexdigest()
