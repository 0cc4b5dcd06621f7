"""A new audio side learns the sounds and words of speech, and nothing else of the model changes."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import torch

from one_peace.data.manifest import Item
from one_peace.data.pairs import DataRecipe
from one_peace.data.sample_library.packages import package_folder
from one_peace.data.shard_cache import ShardCache
from one_peace.data.speech.recorded_speech import Recording, read_recordings
from one_peace.data.speech.speech_synthesis import PACKAGE
from one_peace.data.speech.spoken_captions import SpokenCaptions
from one_peace.errors import CheckpointError
from one_peace.models.one_peace.loading import from_pretrained
from one_peace.tasks.pretraining import AUDIO_TEXT, IMAGE_TEXT
from one_peace.training.distributed import Processes
from one_peace.training.micro_batches import slot_seed
from one_peace.training.pretraining import front_end, speech_lessons
from one_peace.training.pretraining.lesson_batches import batches_of_like_length
from one_peace.training.pretraining.lessons import learn_ahead
from one_peace.training.pretraining.recipe import PretrainRecipe
from one_peace.training.pretraining.run import open_batches, run_pretraining
from one_peace.training.pretraining.speech_lessons import SpeechLessons
from one_peace.training.pretraining.start import plan_model
from one_peace.training.recipe import EngineRecipe
from synthetic_speech import ESPEAK, SYNTHESIZER, spoken, thing
from tiny_models import CONFIG, tiny_model, tiny_processors

PROCESSORS = tiny_processors()
SPOKEN = SpokenCaptions([thing("dog", es="Un perro."), thing("cat", es="Un gato.")], SYNTHESIZER)


@pytest.fixture(autouse=True)
def few_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech_lessons, "BATCH", 4)
    monkeypatch.setattr(speech_lessons, "CLIPS", 4)
    monkeypatch.setattr(speech_lessons, "SPLICED", 4)


def fit(
    sounds: int,
    words: int,
    rows: list[dict[str, Any]] | None = None,
    recordings: Sequence[Recording] = (),
    captions: int = 0,
    folder: Path | None = None,
    drop_path: float = 0.0,
    **others: Any,
) -> tuple[dict[str, torch.Tensor], torch.nn.Module]:
    model = tiny_model(config=dataclasses.replace(CONFIG, drop_path=drop_path))
    stage = dataclasses.replace(
        AUDIO_TEXT, front_end_steps=1, speech_sound_steps=sounds, word_steps=words, caption_steps=captions
    )
    recipe = PretrainRecipe(model="nano", stage=stage, steps=1, batch_size=2, seed=1, **others)
    report = ([] if rows is None else rows).append
    with tempfile.TemporaryDirectory() as own:
        place = Path(own) if folder is None else folder
        return SpeechLessons(model, recipe, PROCESSORS, SPOKEN, recordings, report, place).give(), model


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns_to_recognise_them(precision: str) -> None:
    rows: list[dict[str, Any]] = []
    fitted, _ = fit(300, 150, rows, engine=EngineRecipe(precision))
    assert {value.dtype for value in fitted.values()} == {torch.float32}
    sounds, words = rows[:6], rows[6:]
    assert [row["sounds_step"] for row in sounds] == [50, 100, 150, 200, 250, 300]
    assert [row["words_step"] for row in words] == [50, 100, 150]
    # Always the most frequent sound would be right for a quarter, and the most frequent word for half.
    assert sounds[0]["recognised"] < 0.8 < sounds[-1]["recognised"] and words[-1]["recognised"] > 0.8


def test_recordings_take_part_once_sounds_are_known(tmp_path: Path) -> None:
    items = [spoken(tmp_path), spoken(tmp_path, "Un gato.", name="cat")]
    recordings = read_recordings(items, SYNTHESIZER, SPOKEN.words)
    rows: list[dict[str, Any]] = []
    fit(30, 1, rows, recordings)
    assert [next(iter(row.items())) for row in rows] == [
        ("sounds_step", 10),
        ("recordings", 2),
        ("sounds_step", 20),
        ("words_step", 1),
    ]
    assert rows[1]["aligned"] == 2 and 0 < rows[1]["spliced"] <= 4


def test_recordings_take_no_part_where_no_sound_is_known(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    fit(0, 1, rows, read_recordings([spoken(tmp_path)], SYNTHESIZER, SPOKEN.words))
    assert [next(iter(row)) for row in rows] == ["words_step"]


def test_it_learns_to_tell_captions_apart() -> None:
    rows: list[dict[str, Any]] = []
    before = dict(tiny_model().named_parameters())
    fitted, model = fit(0, 0, rows, captions=100, engine=EngineRecipe("bfloat16"))
    assert [row["captions_step"] for row in rows] == [50, 100]
    assert rows[-1]["recognised"] == 1.0  # of two captions
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if name in fitted)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    blocks = len(model.encoder.fusion.blocks)
    told = {f"encoder.fusion.blocks.{n}.ffn.audio." for n in range(max(0, blocks - 2), blocks)}
    assert all(any(name.startswith(part) for name in changed) for part in told | {"encoder.projections.audio."})
    assert "encoder.logit_scale" not in changed
    assert not any("adapters" in name for name in changed)  # what comes before these blocks stays as it is


@pytest.mark.parametrize("stopped", [1, 3, 5, 6, 9, 12])  # among them the first steps of lessons; a state every other
def test_an_interruption_changes_nothing(tmp_path: Path, stopped: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = read_recordings(
        [spoken(tmp_path), spoken(tmp_path, "Un gato.", name="cat")], SYNTHESIZER, SPOKEN.words
    )
    give = partial(fit, 6, 4, None, recordings, 4, drop_path=0.5, save_every=2)

    def stop(seed: int, step: int, slot: int) -> int:
        if step == stopped:
            raise KeyboardInterrupt
        steps.append(step)
        return slot_seed(seed, step, slot)

    steps: list[int] = []
    monkeypatch.setattr(speech_lessons, "slot_seed", stop)
    with pytest.raises(KeyboardInterrupt):
        give(folder=tmp_path / "stopped")
    assert steps == list(range(stopped))
    stopped, first = -1, stopped - stopped % 2
    voices = (tmp_path / "stopped" / "clips.safetensors").read_bytes()
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "clips.safetensors").write_bytes(voices)  # synthetic voices leave something to chance
    whole, _ = give(folder=tmp_path / "whole")
    steps.clear()
    resumed, _ = give(folder=tmp_path / "stopped")
    assert steps == list(range(first, 14))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_batches_hold_clips_of_like_length() -> None:
    lengths = [3, 90, 5, 60, 4, 63, 88, 95]
    batches = batches_of_like_length(lengths, 2, 0)
    seen = set()
    for batch in itertools.islice(batches, 40):
        spread = [lengths[i] for i in batch]
        assert len(set(batch)) == 2 and max(spread) - min(spread) < 60
        seen.update(batch)
    assert seen == set(range(8))
    assert sorted(next(batches_of_like_length([1, 2], 64, 0))) == [0, 1]


@pytest.mark.parametrize("steps", [(2, 0), (0, 2)])
def test_only_the_audio_side_changes(steps: tuple[int, int]) -> None:
    before = dict(tiny_model().named_parameters())
    fitted, model = fit(*steps)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed and changed <= fitted.keys()
    assert all("audio" in name or name == "encoder.logit_scale" for name in fitted)
    assert not any(".frames." in name for name in changed)  # the fitted front end is kept
    for part in (".ffn.audio.", "adapters.audio.positions"):
        assert any(part in name for name in changed)
    last = f"blocks.{len(model.encoder.fusion.blocks) - 1}."
    assert not any(last in name for name in changed)  # it is left to put words together


def test_only_audio_can_learn_them(tmp_path: Path) -> None:
    stage = dataclasses.replace(IMAGE_TEXT, speech_sound_steps=1)
    recipe = PretrainRecipe(model="nano", stage=stage, steps=1, batch_size=2)
    with pytest.raises(ValueError, match="not image"):
        SpeechLessons(tiny_model(), recipe, PROCESSORS, SPOKEN, [], lambda row: None, tmp_path)


def test_they_need_a_fitted_front_end(tmp_path: Path) -> None:
    stage = dataclasses.replace(AUDIO_TEXT, speech_sound_steps=1)
    recipe = PretrainRecipe(model="nano", stage=stage, steps=1, batch_size=2)
    with pytest.raises(ValueError, match="front_end_steps above 0"):
        SpeechLessons(tiny_model(), recipe, PROCESSORS, SPOKEN, [], lambda row: None, tmp_path)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Item]:
    """Two spoken words, and eSpeak NG in the cache as a package."""
    package = package_folder(PACKAGE, tmp_path / "cache")
    (package / "files").mkdir(parents=True)
    (package / "files" / "espeakng_loader").symlink_to(ESPEAK)
    (package / "package.json").write_text('{"name": "espeakng-loader", "version": "1", "sha256": ""}')
    monkeypatch.setattr(front_end, "BATCH", 2)
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))
    return [spoken(tmp_path), spoken(tmp_path, "Un gato.", name="cat")]


def lessons() -> PretrainRecipe:
    stage = dataclasses.replace(AUDIO_TEXT, front_end_steps=1, speech_sound_steps=2, word_steps=1)
    data = DataRecipe(sources={"speech": 1.0}, takes=2)
    return PretrainRecipe(
        model="nano", stage=stage, steps=1, batch_size=2, vocabulary=270, data=data, log_every=1, save_every=1
    )


def test_a_run_begins_with_lessons(library: list[Item], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "elsewhere"))
    rows: list[dict[str, Any]] = []
    run_pretraining(lessons(), library, tmp_path / "run", "cpu", rows.append, library=tmp_path / "cache")
    kinds = [next(iter(row)) for row in rows]
    assert kinds == [
        "items",
        "front_end_step",
        "sounds_step",
        "recordings",
        "sounds_step",
        "words_step",
        "step",
        "items",
    ]
    assert from_pretrained(tmp_path / "run" / "model").encode_audio(tmp_path / "dog.wav").shape == (1, 192)
    rows.clear()
    longer = dataclasses.replace(lessons(), steps=2)
    run_pretraining(longer, library, tmp_path / "run", "cpu", rows.append, library=tmp_path / "cache")
    assert [next(iter(row)) for row in rows] == ["items", "step", "items"] and rows[1]["step"] == 2


def begin_and_be_killed(items: list[Item], out: Path) -> None:
    """In a process of its own: a run that is killed in its last lesson."""

    def kill(seed: int, step: int, slot: int) -> int:
        if step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return slot_seed(seed, step, slot)

    front_end.BATCH = 2
    speech_lessons.BATCH = speech_lessons.CLIPS = speech_lessons.SPLICED = 4
    speech_lessons.slot_seed = kill
    run_pretraining(lessons(), items, out, "cpu", lambda row: None)


def test_a_run_that_is_killed_goes_on_with_its_lessons(library: list[Item], tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = multiprocessing.get_context("spawn").Process(target=begin_and_be_killed, args=(library, killed))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not (killed / "model").exists()
    (whole / "lessons").mkdir(parents=True)
    (whole / "lessons" / "clips.safetensors").write_bytes((killed / "lessons" / "clips.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="holds a run of another recipe .*seed: 3407, now 1"):
        run_pretraining(dataclasses.replace(lessons(), seed=1), library, killed, "cpu", lambda row: None)
    rows: list[dict[str, Any]] = []
    models = [run_pretraining(lessons(), library, out, "cpu", rows.append) for out in (killed, whole)]
    kinds = [next(iter(row)) for row in rows]
    # The state of the second step may not have been written yet; that of the first was.
    assert kinds[: kinds.index("step")] in (["items", "sounds_step", "words_step"], ["items", "words_step"])
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)
    assert not (killed / "lessons").exists()


def test_damage_is_told(tmp_path: Path) -> None:
    (tmp_path / "clips.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"clips\.safetensors: damaged .*; remove .* to begin anew"):
        fit(1, 0, folder=tmp_path)


def test_other_processes_wait_for_the_lessons_of_the_first(library: list[Item], tmp_path: Path) -> None:
    told: Queue[Any] = Queue()

    class One(Processes):
        def share(self, value: Any) -> Any:
            if self.first:
                told.put(value)
                return value
            return told.get(timeout=180)

    recipe, rows = lessons(), list[dict[str, Any]]()
    shards = ShardCache(tmp_path)
    config, processors = plan_model(recipe, library, shards)
    with open_batches(recipe, library, processors, shards) as source, ThreadPoolExecutor(1) as pool:
        learn = partial(learn_ahead, recipe, library, config, processors, source.batch, "cpu", rows.append)
        other = pool.submit(learn, One(rank=1), tmp_path / "run")
        ours, theirs = learn(One(rank=0), tmp_path / "run"), other.result(timeout=180)
    assert len(rows) == 5 and ours.keys() == theirs.keys() and told.empty()
    assert any(".ffn.audio." in name for name in ours) and any(".frames." in name for name in ours)


def test_lessons_need_captions_to_speak() -> None:
    with pytest.raises(ValueError, match="no caption to speak"):
        SpokenCaptions([thing("dog", ja="犬")], SYNTHESIZER)
