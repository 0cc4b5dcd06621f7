"""Pairs for pretraining: what is drawn, what never is, and that a batch depends on its seed and step alone."""

from __future__ import annotations

import itertools
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from one_peace.data.manifest import Item, captioned_items, held_out_captions, normalise_caption, split_of
from one_peace.data.pairs import DataRecipe, PairSampler
from one_peace.modalities.audio import AudioConfig, AudioProcessor
from one_peace.modalities.base import Example
from one_peace.modalities.image import ImageConfig, ImageProcessor
from one_peace.modalities.text import TextConfig, TextProcessor
from one_peace.modalities.tokenization import Tokenizer, train_tokenizer

COLOURS = ("red", "green", "blue", "white")
THINGS = ("apple", "tree", "horse", "boat", "lamp", "shoe")
RATE = 16000


@pytest.fixture(scope="module")
def text() -> TextProcessor:
    words = [*COLOURS, *THINGS, "a", "old", "farm", "pomme"]
    return TextProcessor(TextConfig(vocab_size=400), Tokenizer(train_tokenizer([f" {w}" for w in words] * 4, 400)))


def picture(path: Path, shade: int) -> Path:
    Image.new("RGB", (8, 8), (shade, 255 - shade, 40)).save(path)
    return path


def sound(path: Path, seconds: float) -> Path:
    rng = np.random.default_rng(int(seconds * 1000))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((3000 * rng.standard_normal(int(seconds * RATE))).astype("<i2").tobytes())
    return path


def item(id: str, path: Path, caption: str, kind: str = "image", source: str = "drawings", **rest: object) -> Item:
    group = normalise_caption(caption)
    values = {"texts": {"en": [caption]}, "split": split_of(group), **rest}
    return Item(id=id, kind=kind, path=path, group=group, source=source, version="1", licence="CC0-1.0", **values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """One picture of every colour and thing; the tags and longer captions of one could say another's."""
    folder = tmp_path_factory.mktemp("pictures")
    items = []
    for number, (colour, thing) in enumerate((c, t) for c in COLOURS for t in THINGS):
        path = picture(folder / f"{number}.png", 10 * number)
        longer = f"{colour} {thing} old farm"
        texts = {"en": [f"A {colour} {thing}.", longer], "fr": [f"pomme {number}"]}
        items.append(item(str(number), path, f"{colour} {thing}", texts=texts, tags=[colour, *THINGS]))
    return items


def said(sampler: PairSampler, example: Example) -> str:
    return normalise_caption(sampler.text.tokenizer.decode(example["tokens"].tolist()))


def drawn(sampler: PairSampler, steps: int, size: int = 4) -> list[str]:
    return [said(sampler, text) for step in range(steps) for text, _ in sampler.batch(size, 1, step)]


def sampler_of(items: list[Item], text: TextProcessor, withheld: set[str], **recipe: object) -> PairSampler:
    settings = DataRecipe(**{"sources": {"drawings": 1.0}, **recipe})  # type: ignore[arg-type]
    return PairSampler(items, text, settings, "image", ImageProcessor(ImageConfig(16, 1, 1)), withheld)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("sources", {"drawings": -1.0}),
        ("languages", {"en": -1.0}),
        ("own_language", 1.5),
        ("tags", -0.1),
        ("word_dropout", 1.0),
        ("augmentation", 11.0),
        ("takes", -1),
        ("clip_seconds", 0.0),
        ("caption_tokens", 1),
    ],
)
def test_settings_out_of_their_range_are_named(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"data: {setting}"):
        DataRecipe(**{setting: value})  # type: ignore[arg-type]


def test_the_sample_has_both_sides_of_the_split(pictures: list[Item]) -> None:
    assert {i.split for i in pictures} >= {"train"}
    assert 1 <= len([i for i in pictures if i.split != "train"]) <= 12


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"word_dropout": 0.5},
        {"tags": 1.0},
        {"tags": 0.5, "word_dropout": 0.3, "languages": {"en": 1.0, "fr": 1.0}},
        {"caption_tokens": 3},
    ],
    ids=["captions", "word dropout", "tags", "all of it", "cut short"],
)
def test_no_held_out_caption_is_ever_drawn(
    pictures: list[Item], text: TextProcessor, recipe: dict[str, object]
) -> None:
    # In the longer captions and among the tags are held-out captions such as "farm", "red horse" and "horse tree".
    told = ["old farm", "farm", *(f"{c} {t}" for c in COLOURS for t in THINGS[:3])]
    told += [f"{a} {b}" for a in THINGS[:3] for b in THINGS if a != b]
    held_out = held_out_captions(pictures) | set(told)
    heard = drawn(sampler_of(captioned_items(pictures, "image"), text, held_out, **recipe), 60)
    assert not set(heard) & held_out
    assert len(set(heard)) > 5
    # The guard is what does it: without, the same draws say some of them.
    assert set(drawn(sampler_of(captioned_items(pictures, "image"), text, set(), **recipe), 60)) & held_out


def test_a_held_out_caption_is_not_drawn_in_another_language(pictures: list[Item], text: TextProcessor) -> None:
    """`pomme 3` in French for one picture may be what another, held-out one is called in English."""
    chosen = captioned_items(pictures, "image")
    held_out = {normalise_caption(chosen[0].texts["fr"][0])}
    recipe: dict[str, object] = {"languages": {"fr": 1.0}}
    assert held_out <= set(drawn(sampler_of(chosen, text, set(), **recipe), 40))
    assert not held_out & set(drawn(sampler_of(chosen, text, held_out, **recipe), 40))


def test_pictures_with_held_out_captions_only_are_left_out(pictures: list[Item], text: TextProcessor) -> None:
    chosen = captioned_items(pictures, "image")
    withheld = {normalise_caption(t) for some in chosen[0].texts.values() for t in some}
    assert len(sampler_of(chosen, text, withheld).items) == len(chosen) - 1


def test_word_dropout_leaves_words_out(pictures: list[Item], text: TextProcessor) -> None:
    whole = drawn(sampler_of(pictures, text, set(), tags=0.0), 30)
    fewer = drawn(sampler_of(pictures, text, set(), tags=0.0, word_dropout=0.5), 30)
    count = [sum(len(t.split()) for t in texts) for texts in (whole, fewer)]
    assert 0.35 < count[1] / count[0] < 0.75
    assert all(fewer), "never is nothing left of a caption"


def test_tags_stand_in_for_captions_as_often_as_asked(pictures: list[Item], text: TextProcessor) -> None:
    def share(tags: float) -> float:
        texts = drawn(sampler_of(pictures, text, set(), tags=tags), 60)
        names = {normalise_caption(t) for i in pictures for t in i.texts["en"]}
        return sum(t not in names for t in texts) / len(texts)

    assert share(0.0) == 0.0
    assert 0.2 < share(0.4) < 0.55


def test_captions_are_cut_to_the_limit_and_end_with_the_end(pictures: list[Item], text: TextProcessor) -> None:
    sampler = sampler_of(pictures, text, set(), tags=0.0, caption_tokens=4)
    end = text("x")["tokens"][-1]
    for caption, _ in sampler.batch(8, 0, 0):
        assert len(caption["tokens"]) <= 4 and caption["tokens"][-1] == end


def same(a: list[tuple[Example, Example]], b: list[tuple[Example, Example]]) -> bool:
    return all(
        torch.equal(x[key], y[key])
        for first, second in zip(a, b, strict=True)
        for x, y in zip(first, second, strict=True)
        for key in x
        if x[key].shape == y[key].shape or not pytest.fail("shapes differ")
    )


def test_a_batch_depends_on_seed_and_step_alone(pictures: list[Item], text: TextProcessor) -> None:
    one = sampler_of(pictures, text, set(), word_dropout=0.2)
    other = sampler_of(pictures, text, set(), word_dropout=0.2)
    expected = [one.batch(6, 7, step) for step in range(4)]
    torch.manual_seed(123)
    for step in (3, 0, 2, 1):  # another instance, another order, another global seed
        assert same(other.batch(6, 7, step), expected[step])
    pixels = [torch.stack([p["pixels"] for _, p in batch]) for batch in (*expected, one.batch(6, 8, 0))]
    assert all(not torch.equal(a, b) for n, a in enumerate(pixels) for b in pixels[:n])


@pytest.mark.parametrize("world", [2, 4])
def test_processes_draw_slices_of_one_batch(pictures: list[Item], text: TextProcessor, world: int) -> None:
    sampler = sampler_of(captioned_items(pictures, "image"), text, set())
    whole = sampler.batch(8, 1, 5)
    parts = [pair for rank in range(world) for pair in sampler.batch(8, 1, 5, rank, world)]
    for (words, partner), (same_words, same_partner) in zip(parts, whole, strict=True):
        assert torch.equal(words["tokens"], same_words["tokens"])
        assert torch.equal(partner["pixels"], same_partner["pixels"])
    with pytest.raises(ValueError, match="8 pairs cannot be divided among 3"):
        sampler.batch(8, 1, 5, 0, 3)


def test_a_batch_never_holds_a_caption_twice(pictures: list[Item], text: TextProcessor) -> None:
    # The same captions once more from a second source: a pair of it would be the first's negative.
    twins = [item(f"t{i.id}", i.path, i.group, source="copies", texts=i.texts) for i in pictures]
    sampler = sampler_of(pictures + twins, text, set(), sources={"drawings": 1.0, "copies": 1.0})
    for step in range(20):
        chosen = sampler._draw(10, torch.Generator().manual_seed(step))
        groups = [sampler.items[i].group for i in chosen]
        assert len(set(groups)) == len(groups) == 10


def test_a_batch_is_never_smaller_than_asked(pictures: list[Item], text: TextProcessor) -> None:
    sampler = sampler_of(pictures, text, set())
    captions = len(set(sampler.group_names))
    assert len(sampler.batch(captions, 1, 0)) == captions
    with pytest.raises(ValueError, match=f"batch_size={captions + 1}, but there are {captions} different"):
        sampler.batch(captions + 1, 1, 0)


def test_sources_are_drawn_by_weight(pictures: list[Item], text: TextProcessor) -> None:
    twins = [item(f"t{i.id}", i.path, f"other {i.group}", source="rare") for i in pictures]
    unwanted = [item(f"u{i.id}", i.path, f"third {i.group}", source="unnamed") for i in pictures]
    sampler = sampler_of(pictures + twins + unwanted, text, set(), sources={"drawings": 9.0, "rare": 1.0})
    generator = torch.Generator().manual_seed(0)
    sources = [sampler.items[i].source for _ in range(60) for i in sampler._draw(4, generator)]
    assert set(sources) == {"drawings", "rare"}
    assert 0.03 < sources.count("rare") / len(sources) < 0.2
    with pytest.raises(ValueError, match="no item of the sources"):
        sampler_of(pictures, text, set(), sources={"nowhere": 1.0})


def test_unreadable_files_are_named_counted_and_left_out(
    pictures: list[Item], text: TextProcessor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken = item("bad", tmp_path / "broken.png", "broken")
    sampler = sampler_of([*pictures, broken], text, set())
    assert sampler.summary()["unreadable"] == 1 and sampler.dropped.counts == {"unreadable image": 1}
    assert f"left out: {broken.path}: " in caplog.text
    assert len(sampler.items) == len(pictures)
    with pytest.raises(ValueError, match=r"all 2 items of the sources \['drawings'\] are unreadable; .*broken.png: "):
        sampler_of([broken, broken], text, set())
    recording = item("bad", broken.path, "broken", "audio", source="speech", split="train")
    with pytest.raises(ValueError, match=r"all 1 items of the sources \['speech'\] are unreadable; .*broken.png: "):
        PairSampler([recording], text, DataRecipe(sources={"speech": 1.0}), "audio", AudioProcessor(AudioConfig()))


def test_pictures_come_at_the_models_size(pictures: list[Item], text: TextProcessor) -> None:
    for _, partner in sampler_of(pictures, text, set()).batch(3, 0, 0):
        assert partner["pixels"].shape == (3, 16, 16)


# --- sounds ----------------------------------------------------------------------------------------------------

SHORT, LONG = 1.1, 2.9


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """Speakers A (short clips), B (long clips) and C, who is held out, for every colour and thing."""
    folder = tmp_path_factory.mktemp("sounds")
    files = {
        "A": sound(folder / "a.wav", SHORT),
        "B": sound(folder / "b.wav", LONG),
        "C": sound(folder / "c.wav", 2),
    }
    items = []
    for number, caption in enumerate(f"{c} {t}" for c in COLOURS for t in THINGS):
        for speaker, path in files.items():
            items.append(
                item(
                    f"{number}{speaker}",
                    path,
                    caption,
                    "audio",
                    texts={"en": [caption], "fr": [f"pomme {number}"]},
                    split="train",
                    track="speech",
                    language="fr" if speaker == "B" else "en",
                    speaker=speaker,
                    heldout_speaker=speaker == "C",
                )
            )
    return items


def speech_of(items: list[Item], text: TextProcessor, **recipe: object) -> PairSampler:
    settings = DataRecipe(**{"sources": {"speech": 1.0}, "clip_seconds": 4.0, **recipe})  # type: ignore[arg-type]
    processor = AudioProcessor(AudioConfig()).limited(seconds=settings.clip_seconds)
    return PairSampler(captioned_items(items, "audio"), text, settings, "audio", processor)


def test_held_out_speakers_are_never_drawn(sounds: list[Item], text: TextProcessor) -> None:
    speakers = {i.speaker for i in speech_of(sounds, text).items}
    assert speakers == {"A", "B"}


def test_one_language_of_a_source_has_its_own_weight(sounds: list[Item], text: TextProcessor) -> None:
    def french(**sources: float) -> float:
        sampler = speech_of(sounds, text, sources={name.replace("_", "/"): w for name, w in sources.items()})
        chosen = [sampler.items[i] for step in range(40) for i in sampler._draw(3, torch.Generator().manual_seed(step))]
        return sum(item.language == "fr" for item in chosen) / len(chosen)

    assert french(speech_fr=1.0) == 1.0
    assert french(speech=1.0, speech_fr=0.0) == 0.0
    assert french(speech=1.0, speech_fr=0.2) < french(speech=1.0) < french(speech=1.0, speech_fr=5.0)


def test_held_out_captions_are_no_captioned_items(sounds: list[Item], pictures: list[Item]) -> None:
    moved = [replace(i, split="test") if i.group == "red apple" else i for i in sounds]
    assert "red apple" not in {i.group for i in captioned_items(moved, "audio")}
    assert {i.kind for i in captioned_items(sounds + pictures, "audio")} == {"audio"}
    assert {i.kind for i in captioned_items(sounds + pictures, "image")} == {"image"}


def test_a_sound_without_captions_takes_those_of_its_picture(pictures: list[Item], sounds: list[Item]) -> None:
    owner = next(i for i in pictures if i.split == "train")
    bare = [replace(sounds[0], texts={}, item=owner.id), replace(sounds[1], texts={}, item="nobody")]
    chosen = captioned_items([*pictures, *bare], "audio")
    assert [i.texts for i in chosen] == [owner.texts]


def test_a_batch_holds_sounds_of_similar_length(sounds: list[Item], text: TextProcessor, tmp_path: Path) -> None:
    # each caption has a sound of its own length here, from one second to three
    items = []
    for number in range(24):
        path = sound(tmp_path / f"{number}.wav", 1 + number / 12)
        items.append(item(f"s{number}", path, f"thing {number}", "audio", split="train", track="speech"))
    sampler = speech_of(items, text)

    def spread(chosen: list[int]) -> float:
        lengths = [sampler.media[i].shape[0] / RATE for i in chosen]
        return max(lengths) - min(lengths)

    spreads = [spread(sampler._draw(5, torch.Generator().manual_seed(seed))) for seed in range(20)]
    assert max(spreads) < 1.0  # five at random of them span 1.3 s on average
    assert sum(spreads) / 20 < 0.6


def test_of_a_captions_sounds_those_of_the_batchs_length_are_taken(sounds: list[Item], text: TextProcessor) -> None:
    # Four short and four long sounds of each caption: one of the three nearest is taken, so all are of one kind.
    copies = [
        item(
            f"{i.id}{n}",
            i.path,
            i.group,
            "audio",
            texts=i.texts,
            split="train",
            track="speech",
            heldout_speaker=i.heldout_speaker,
        )
        for i in sounds
        for n in range(4)
    ]
    sampler = speech_of(copies, text)
    for seed in range(10):
        lengths = {sampler.media[i].shape[0] for i in sampler._draw(5, torch.Generator().manual_seed(seed))}
        assert len(lengths) == 1


def test_spoken_clips_meet_their_own_language_as_often_as_asked(sounds: list[Item], text: TextProcessor) -> None:
    def french(own: float) -> float:
        sampler = speech_of([i for i in sounds if i.speaker == "B"], text, own_language=own, tags=0.0)
        texts = drawn(sampler, 25)
        return sum(t.startswith("pomme") for t in texts) / len(texts)

    assert french(0.0) == 0.0
    assert french(1.0) == 1.0
    assert 0.3 < french(0.5) < 0.7


def test_clips_are_cut_to_the_limit_and_normalised(sounds: list[Item], text: TextProcessor) -> None:
    sampler = speech_of([i for i in sounds if i.speaker == "B"], text, clip_seconds=1.5)
    for _, partner in sampler.batch(4, 0, 0):
        waveform = partner["waveform"]
        assert waveform.shape == (24000,)
        assert waveform.mean().abs() < 1e-3
        assert waveform.std().item() == pytest.approx(1.0, abs=0.02)


def test_batches_of_sounds_depend_on_seed_and_step_alone(sounds: list[Item], text: TextProcessor) -> None:
    expected = speech_of(sounds, text).batch(4, 3, 5)
    other = speech_of(sounds, text)
    other.batch(4, 3, 4)
    assert same(other.batch(4, 3, 5), expected)


def test_takes_are_heard_once_and_drawn_from_then_on(sounds: list[Item], text: TextProcessor) -> None:
    sampler = speech_of(sounds, text, takes=2, augmentation=0.5)
    heard: list[torch.Tensor] = []
    numbers = itertools.count(1)  # several threads may listen

    def front_end(example: Example) -> Example:
        heard.append(example["waveform"])
        return {"frames": torch.full((len(heard[-1]) // 640, 3), float(next(numbers)))}

    sampler.keep_takes(front_end, 1)
    assert len(heard) == 2 * len(sampler.items) and len({len(clip) for clip in heard}) > len(sampler.items)
    drawn = [partner["frames"] for step in range(600) for _, partner in sampler.batch(2, 1, step)]
    assert all(frames.dtype == torch.float32 and frames.shape[1] == 3 for frames in drawn)
    assert {frames[0, 0].item() for frames in drawn} == set(range(1, len(heard) + 1))
    assert same(sampler.batch(2, 1, 7), sampler.batch(2, 1, 7)) and len(heard) == 2 * len(sampler.items)


def test_sources_without_weight_are_not_even_read(pictures: list[Item], text: TextProcessor, tmp_path: Path) -> None:
    broken = replace(pictures[0], source="elsewhere", path=tmp_path / "missing.png", split="train")
    assert sampler_of([*pictures, broken], text, set()).dropped.total == 0
    assert sampler_of([*pictures, broken], text, set(), sources={"drawings": 1.0, "elsewhere": 0.1}).dropped.total == 1
