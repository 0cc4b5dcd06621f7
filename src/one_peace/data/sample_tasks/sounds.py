"""Tables of drums and of spoken descriptions."""

from __future__ import annotations

import random
import re
from pathlib import Path

from one_peace.data.published.conversion import Converted, SplitRow
from one_peace.data.published.durations import seconds
from one_peace.data.sample_library.packages import Package, fetch
from one_peace.data.sample_tasks.sources import Sources, side_of

DRUM_KITS = Package("debian", "hydrogen-drumkits", "CC-BY-SA-3.0 AND GPL-2.0-or-later")

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


def spoken_answers(sources: Sources, out: Path) -> Converted:
    """What a recording says, out of four captions: the speech of volunteers, the wrong answers drawn by us."""
    texts = {i.id: i.texts["en"][0].rstrip(".") for i in sources.stamps()}
    clips = [i for i in sources.items if i.kind == "audio" and i.track == "speech" and i.item in texts]
    names = {split: sorted({texts[c.item or ""] for c in clips if side_of(c) == split}) for split in ("train", "test")}
    rng = random.Random(0)
    rows = []
    for clip in clips:
        if clip.heldout_speaker:
            continue
        split, right = side_of(clip), texts[clip.item or ""]
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
