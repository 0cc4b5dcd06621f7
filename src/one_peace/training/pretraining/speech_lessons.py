"""Teaches a new audio side speech sounds, words and captions before it hears anything else.

Not in the paper, whose stage 2 has far more speakers. Of a few speakers the contrast learns recordings, not words, and
a voice that it never heard says nothing to it. Synthetic voices tell what they say when: of them the lower half of the
audio side's blocks learns to name the speech sound in every 20 ms. That is enough to find in the recordings when the
sounds of their captions come, and then people's voices are learned from too, as they are and saying what they never
said (`data/spliced_speech.py`). Next all blocks but the last one name the word, and then the last two put words
together: they tell which of all captions a clip says, by its frozen text. The rest of the model stays as it is, and
the layers that name sounds and words are thrown away. All this takes an hour on a few cores: it is saved on the way,
and goes on from there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.data.speech.labelled_speech import Take
from one_peace.data.speech.recorded_speech import Recording, align_recordings
from one_peace.data.speech.spoken_captions import SpokenCaptions
from one_peace.media.sounds import SAMPLE_RATE, prepare_waveform
from one_peace.modalities.audio import AudioAdapter
from one_peace.modalities.base import Example, Processor
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.nn.linear import Linear
from one_peace.objectives.speech import CLASSES, COLUMN, UNKNOWN, speech_sound_loss, word_loss
from one_peace.tasks.pretraining import freeze_for_stage
from one_peace.training.forward_pass import precision_of
from one_peace.training.micro_batches import slot_seed
from one_peace.training.pretraining.caption_lesson import CaptionLesson
from one_peace.training.pretraining.lesson_batches import batches_of_like_length, collated
from one_peace.training.pretraining.lesson_files import Heard, heard_once
from one_peace.training.pretraining.recipe import PretrainRecipe
from one_peace.training.pretraining.short_fit import fit, short_optimizer
from one_peace.training.state import RunState

BATCH, RATE, WARMUP = 64, 1.5e-3, 60
CLIPS = 24_000  # of synthetic voices
TAKES = 6  # of each recording
SPLICED = 16_000  # attempts to put a caption together from recordings
ALONE = 1 / 3  # of the steps for sounds: before the recordings take part
SETTINGS = "speech_sound_steps, word_steps, caption_steps"
SOUNDS_TOO = 0.5  # weight of the sounds while words are learned


class SpeechLessons:
    """What trains the audio side's adapter and experts, in place, for the `speech_sound_steps`, `word_steps` and
    `caption_steps` of a recipe's stage.

    Clips go through the front end once, ahead of all steps. They are kept in `folder`, and every `save_every` steps a
    state to go on from. `recordings` may be none, and without a lesson of sounds they take no part: nobody could tell
    when they say what.

    Raises:
        ValueError: the stage's partner is no audio side, its front end is not kept as it is, or its frames are no whole
            number of columns of 20 ms.
    """

    def __init__(
        self,
        model: OnePeaceForPretraining,
        recipe: PretrainRecipe,
        processors: Mapping[str, Processor],
        spoken: SpokenCaptions,
        recordings: Sequence[Recording],
        report: Callable[[dict[str, Any]], None],
        folder: Path,
    ) -> None:
        stage = recipe.stage
        adapter = model.encoder.adapter(stage.partner)
        if not isinstance(adapter, AudioAdapter):
            raise ValueError(f"{SETTINGS}: audio is the stage's partner there, not {stage.partner}")
        if not stage.front_end_steps:
            raise ValueError(f"{SETTINGS}: they need a fitted front end, front_end_steps above 0")
        stride, column = math.prod(stride for _, stride in adapter.frames.shapes), round(COLUMN * SAMPLE_RATE)
        if stride % column:
            raise ValueError(f"{SETTINGS}: frames of {stride} samples are no multiple of {column}")
        freeze_for_stage(model, stage)
        model.train()
        self.model, self.stage, self.adapter, self.fusion = model, stage, adapter, model.encoder.fusion
        self.own = {name: p for name, p in model.named_parameters() if p.requires_grad and name.startswith("encoder.")}
        self.processors, self.spoken, self.recordings = processors, spoken, recordings
        self.seed, self.save_every, self.report, self.folder = recipe.seed, recipe.save_every, report, folder
        self.device = next(model.parameters()).device
        self.precision = precision_of(recipe.engine, self.device.type)
        self.columns = stride // column  # of a frame
        blocks = len(self.fusion.blocks)
        self.half, self.most = (blocks - 1) // 2, max(0, blocks - 2)  # blocks that sounds and words are named after
        width = adapter.frames_proj.out_features
        self.name_sounds = self._head(Linear(width, self.columns * CLASSES))
        self.name_words = self._head(Linear(width, len(spoken.words), bias=False))
        learnt = nn.ModuleDict({"name_sounds": self.name_sounds, "name_words": self.name_words})
        self.optimizer = short_optimizer([*self.own.values(), *learnt.parameters()])
        learnt["audio"] = nn.ParameterDict({name.replace(".", "/"): p for name, p in self.own.items()})
        self.state = RunState(folder / "state", learnt, self.optimizer)
        self.done = self.before = 0  # steps in the state that it goes on from, and of the lessons before this one

    def give(self) -> dict[str, Tensor]:
        """Gives all lessons, or what is left of them -> all that is the audio side's own in the encoder, by its names
        in the model.

        Raises:
            CheckpointError: what `folder` holds is damaged, or of another model.
        """
        steps = self.stage.speech_sound_steps
        alone = round(ALONE * steps) if self.recordings else steps
        with self.state:
            self.done, _ = self.state.restore()
            clips = heard_once(self.folder / "clips.safetensors", self._spoken)
            self._learn("sounds", alone, clips, partial(self._sounds, clips))
            if alone < steps:
                clips += heard_once(self.folder / "recorded.safetensors", self._recorded)
                self._learn("sounds", steps - alone, clips, partial(self._sounds, clips))
            self._learn("words", self.stage.word_steps, clips, partial(self._words, clips))
            if self.stage.caption_steps:
                self._tell_captions(clips)
            self._warn(self.state.wait())
        return {name: parameter.detach() for name, parameter in self.own.items()}

    def _spoken(self) -> list[Heard]:
        """Captions in synthetic voices."""
        return [self._hear(take) for take in self.spoken.takes(CLIPS, self.seed)]

    def _recorded(self) -> list[Heard]:
        """Takes of the recordings, labelled by what is recognised of them so far, and of what is spliced from them."""
        self.model.eval()
        speech = align_recordings(self.recordings, self._recognise)
        self.model.train()
        generator = torch.Generator().manual_seed(self.seed)
        takes = [self._hear(one.take(generator)) for one in speech for _ in range(TAKES)]
        spliced = [self._hear(take) for take in self.spoken.spliced_takes(speech, SPLICED, self.seed)]
        self.report({"recordings": len(self.recordings), "aligned": len(speech), "spliced": len(spliced)})
        return takes + spliced

    def _hear(self, take: Take) -> Heard:
        frames = self._frames(take.waveform).half()
        return Heard(frames, take.sounds.to(torch.int32), take.words.to(torch.int32), take.caption)

    @torch.no_grad()
    def _frames(self, waveform: Tensor) -> Tensor:
        frames: Tensor = self.adapter.frames(waveform[None].to(self.device))[0]
        return frames.cpu()

    @torch.no_grad()
    def _recognise(self, waveforms: Sequence[Tensor]) -> Iterator[Tensor]:
        """Of each waveform the log-probabilities of the sounds in its columns (columns, CLASSES)."""
        for waveform in waveforms:
            frames = self._frames(prepare_waveform(waveform.float(), max_seconds=None))
            (features,) = self._features([{"frames": frames}], self.half)
            yield self._sound_logits(features)[0].log_softmax(dim=1).cpu()

    def _features(self, examples: Sequence[Example], *blocks: int) -> list[Tensor]:
        """What comes out of some blocks, each (batch, frames, width)."""
        inputs = collated(self.processors[self.stage.partner], examples, self.device)
        found = self.fusion.after_blocks(self.stage.partner, self.adapter(inputs), set(blocks))
        return [features[:, 1:] for features in found]

    def _sound_logits(self, features: Tensor) -> Tensor:
        """(batch, frames, width) -> (batch, columns, CLASSES)."""
        logits: Tensor = self.name_sounds(features).unflatten(2, (self.columns, CLASSES)).flatten(1, 2)
        return logits

    def _sounds(self, clips: Sequence[Heard], rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Loss of naming the sound of every column of some clips, and the share recognised."""
        some = [clips[row] for row in rows]
        (features,) = self._features([{"frames": clip.frames.float()} for clip in some], self.half)
        return self._sound_loss(features, some)

    def _words(self, clips: Sequence[Heard], rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Loss of naming the word of every frame, by the column in its middle, and the share recognised."""
        some = [clips[row] for row in rows]
        examples = [{"frames": clip.frames.float()} for clip in some]
        if self.half == self.most:
            (lower,) = (upper,) = self._features(examples, self.most)
        else:
            lower, upper = self._features(examples, self.half, self.most)
        labels = self._labels([clip.words for clip in some], upper.shape[1])[:, self.columns // 2 :: self.columns]
        loss, recognised = word_loss(self.name_words(upper), labels)
        return loss + SOUNDS_TOO * self._sound_loss(lower, some)[0], recognised

    def _tell_captions(self, clips: Sequence[Heard]) -> None:
        """The lesson that puts words together. What comes before the last two blocks stays as it is."""
        lesson = CaptionLesson(self.model.encoder, self.stage, self.processors, clips, self.precision)
        lower = [p for name, p in self.own.items() if not lesson.learns(name.removeprefix("encoder."))]
        for parameter in lower:
            parameter.requires_grad_(False)
        self._learn("captions", self.stage.caption_steps, clips, lesson.loss)
        for parameter in lower:
            parameter.requires_grad_(True)

    def _sound_loss(self, features: Tensor, clips: Sequence[Heard]) -> tuple[Tensor, Tensor]:
        labels = self._labels([clip.sounds for clip in clips], features.shape[1])
        return speech_sound_loss(self._sound_logits(features), labels)

    def _labels(self, rows: Sequence[Tensor], frames: int) -> Tensor:
        """(batch, columns of as many frames) int64, `UNKNOWN` where a row ends."""
        columns = frames * self.columns
        cut = [F.pad(row[:columns], (0, max(0, columns - len(row))), value=UNKNOWN) for row in rows]
        return torch.stack(cut).to(self.device, torch.int64)

    def _head(self, layer: nn.Linear) -> nn.Sequential:
        """The layer after a norm, with first values that the seed decides."""
        generator = torch.Generator().manual_seed(self.seed)
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        return nn.Sequential(nn.LayerNorm(layer.in_features), layer).to(self.device)

    def _learn(
        self,
        lesson: str,
        steps: int,
        clips: Sequence[Heard],
        loss_of: Callable[[Sequence[int]], tuple[Tensor, Tensor]],
    ) -> None:
        """`loss_of` says of a batch of clips, by their rows, what is minimised and the share recognised."""
        before, self.before = self.before, self.before + steps
        first = min(max(0, self.done - before), steps)
        batches = batches_of_like_length([len(clip.frames) for clip in clips], BATCH, self.seed)
        left = itertools.islice(batches, first, None)

        def of_step(step: int) -> Tensor:
            torch.manual_seed(slot_seed(self.seed, before + step, 0))  # for drop path
            with self.precision:
                loss, recognised = loss_of(next(left))
            if (step + 1) % 50 == 0 or step + 1 == steps:
                self.report({f"{lesson}_step": step + 1, "recognised": round(recognised.item(), 3)})
            return loss

        def save(done: int) -> None:
            if done % self.save_every == 0 or done == steps:
                self._warn(self.state.save(before + done))

        fit(self.optimizer, of_step, steps, RATE, WARMUP, first=first, after=save)

    def _warn(self, problem: str | None) -> None:
        """Reports a failed save; the lessons go on."""
        if problem:
            self.report({"warning": problem})
