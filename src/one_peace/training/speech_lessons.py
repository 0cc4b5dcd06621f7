"""Teaches a new audio side speech sounds and words before it has to tell captions apart.

Not in the paper, whose stage 2 has far more speakers. Of a few speakers the contrast learns recordings, not words, and
a voice that it never heard says nothing to it. Here synthetic voices read captions, always others: first the lower half
of the audio side's blocks names the speech sound in every 20 ms, then all blocks but the last one name the word, so
that the last one has words to put together. The rest of the model stays as it is, and the layers that name sounds and
words are thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.data.spoken_captions import SpokenCaptions
from one_peace.modalities.audio import AudioAdapter
from one_peace.modalities.base import Processor
from one_peace.modalities.sounds import SAMPLE_RATE
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.objectives.speech import CLASSES, COLUMN, UNKNOWN, speech_sound_loss, word_loss
from one_peace.tasks.pretraining import PretrainingStage, freeze_for_stage
from one_peace.training.short_fit import fit

BATCH, RATE, WARMUP = 48, 1.5e-3, 60


class SpeechLessons:
    """What trains the audio side's adapter and experts, in place, for a stage's `speech_sound_steps` and `word_steps`.

    Raises:
        ValueError: the stage's partner is no audio side, or its frames are no whole number of columns of 20 ms.
    """

    def __init__(
        self,
        model: OnePeaceForPretraining,
        stage: PretrainingStage,
        processors: Mapping[str, Processor],
        spoken: SpokenCaptions,
        seed: int,
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        adapter = model.encoder.adapter(stage.partner)
        if not isinstance(adapter, AudioAdapter):
            raise ValueError(f"speech_sound_steps, word_steps: audio is the stage's partner there, not {stage.partner}")
        stride, column = math.prod(stride for _, stride in adapter.frames.shapes), round(COLUMN * SAMPLE_RATE)
        if stride % column:
            raise ValueError(f"speech_sound_steps, word_steps: frames of {stride} samples are no multiple of {column}")
        freeze_for_stage(model, stage)
        model.train()
        self.stage, self.adapter, self.fusion = stage, adapter, model.encoder.fusion
        self.own = {name: p for name, p in model.named_parameters() if p.requires_grad and name.startswith("encoder.")}
        self.processor, self.spoken, self.seed, self.report = processors[stage.partner], spoken, seed, report
        self.width, self.columns = adapter.frames_proj.out_features, stride // column  # columns of a frame
        self.device = next(model.parameters()).device

    def give(self) -> dict[str, Tensor]:
        """Gives both lessons -> all that is the audio side's own in the encoder, by its names in the model."""
        self._sounds(self.stage.speech_sound_steps)
        self._words(self.stage.word_steps)
        return {name: parameter.detach() for name, parameter in self.own.items()}

    def _sounds(self, steps: int) -> None:
        """The lower half of the blocks learns to name the sound of every column."""
        names = nn.Linear(self.width, self.columns * CLASSES)
        nn.init.zeros_(names.bias)
        head = self._head(names)

        def loss(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return speech_sound_loss(head(features).unflatten(2, (self.columns, CLASSES)).flatten(1, 2), labels)

        self._learn("sounds", steps, (len(self.fusion.blocks) - 1) // 2, head, loss)

    def _words(self, steps: int) -> None:
        """All blocks but the last one learn to name the word of every frame, by the column in its middle."""
        dictionary = nn.Linear(self.width, len(self.spoken.words), bias=False)
        head = self._head(dictionary)

        def loss(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return word_loss(head[0](features), dictionary.weight, labels[:, self.columns // 2 :: self.columns])

        self._learn("words", steps, max(0, len(self.fusion.blocks) - 2), head, loss)

    def _head(self, layer: nn.Linear) -> nn.Sequential:
        """The layer after a norm, with first values that the seed decides."""
        generator = torch.Generator().manual_seed(self.seed)
        nn.init.normal_(layer.weight, std=self.width**-0.5, generator=generator)
        return nn.Sequential(nn.LayerNorm(self.width), layer).to(self.device)

    def _learn(
        self,
        lesson: str,
        steps: int,
        block: int,
        head: nn.Module,
        loss_of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> None:
        """`loss_of` takes features (batch, frames, width) after a block and the labels named `lesson` (batch, columns);
        it says what is minimised and the share recognised."""

        def of_step(step: int) -> Tensor:
            clips = self.spoken.batch(BATCH, self.seed, step)
            inputs = self.processor.collate([{"waveform": clip.waveform} for clip in clips])
            tokens = self.adapter({name: value.to(self.device) for name, value in inputs.items()})
            (features,) = self.fusion.after_blocks(self.stage.partner, tokens, {block})
            known = (features.shape[1] - 1) * self.columns
            rows = [getattr(clip, lesson)[:known] for clip in clips]
            labels = torch.stack([F.pad(row, (0, known - len(row)), value=UNKNOWN) for row in rows])
            loss, recognised = loss_of(features[:, 1:], labels.to(self.device))
            if (step + 1) % 50 == 0 or step + 1 == steps:
                self.report({f"{lesson}_step": step + 1, "recognised": round(recognised.item(), 3)})
            return loss

        fit([*self.own.values(), *head.parameters()], of_step, steps, RATE, WARMUP)
