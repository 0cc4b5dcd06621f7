"""The last lesson of speech (`speech_lessons.py`): the last two blocks of the audio side put words together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from one_peace.modalities.base import Processor, Tokens
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.tasks.pretraining import PretrainingStage
from one_peace.training.pretraining.lesson_batches import collated
from one_peace.training.pretraining.lesson_files import Heard

LAST = 2  # blocks that learn; what comes before them stays as it is
AT_ONCE = 64  # clips of like length, and texts, where nothing is learned


class CaptionLesson:
    """A contrast of every clip with all captions, as the frozen text side has them.

    What goes into the last blocks is computed once for each of `clips`: `kept` (1 + frames, width) float16, cls first.
    """

    def __init__(
        self,
        encoder: OnePeaceEncoder,
        stage: PretrainingStage,
        processors: Mapping[str, Processor],
        clips: Sequence[Heard],
        precision: AbstractContextManager[Any],
    ) -> None:
        self.encoder, self.stage, self.processors, self.precision = encoder, stage, processors, precision
        self.device = encoder.logit_scale.device
        self.first = max(0, len(encoder.fusion.blocks) - LAST)
        # Trained along it grew fivefold, and the updates after the lessons learned little.
        self.temperature = encoder.temperature().detach().clone()
        captions = sorted({clip.caption for clip in clips})
        index = {caption: i for i, caption in enumerate(captions)}
        self.own = [index[clip.caption] for clip in clips]
        encoder.eval()
        self.texts, self.kept = self._read(captions), self._heard(clips)
        encoder.train()

    def learns(self, name: str) -> bool:
        """Whether a parameter of the audio side's own, by its name in the encoder, is of the last blocks or later."""
        before = ("adapters.", *(f"fusion.blocks.{n}." for n in range(self.first)))
        return not name.startswith(before)

    def loss(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Of some clips the loss, and the share that is nearest to its own caption."""
        name = self.stage.partner
        sounds = self.encoder.project(name, self.encoder.fusion.cls(name, self._tokens(rows), self.first))
        own = torch.tensor([self.own[row] for row in rows], device=self.device)
        with torch.autocast(self.device.type, enabled=False):  # bfloat16 does not tell near captions apart
            logits = self.temperature * sounds.float() @ self.texts.T
        return F.cross_entropy(logits, own), (logits.detach().argmax(dim=1) == own).float().mean()

    def _tokens(self, rows: Sequence[int]) -> Tokens:
        """What goes into the last blocks, of some clips."""
        kept = [self.kept[row].float() for row in rows]
        batch = collated(self.processors[self.stage.partner], [{"frames": one[1:]} for one in kept], self.device)
        features = torch.cat([torch.stack([one[:1] for one in kept]).to(self.device), batch["frames"]], dim=1)
        padding, layout = batch.get("padding"), (features.shape[1] - 1,)
        bias = self.encoder.adapter(self.stage.partner).attention_bias(layout, None)
        return Tokens(features, padding, bias, layout, padding)

    @torch.no_grad()
    def _read(self, captions: Sequence[str]) -> Tensor:
        """Captions as the text side has them: (captions, width of the shared space)."""
        anchor, read = self.stage.anchor, []
        for first in range(0, len(captions), AT_ONCE):
            texts = [self.processors[anchor](caption) for caption in captions[first : first + AT_ONCE]]
            read.append(self.encoder.embed(anchor, collated(self.processors[anchor], texts, self.device)))
        return torch.cat(read)

    @torch.no_grad()
    def _heard(self, clips: Sequence[Heard]) -> list[Tensor]:
        name = self.stage.partner
        order = sorted(range(len(clips)), key=lambda i: len(clips[i].frames))
        kept: dict[int, Tensor] = {}
        for first in range(0, len(order), AT_ONCE):
            rows = order[first : first + AT_ONCE]
            examples = [{"frames": clips[row].frames.float()} for row in rows]
            with self.precision:
                tokens = self.encoder.adapter(name)(collated(self.processors[name], examples, self.device))
                (features,) = self.encoder.fusion.after_blocks(name, tokens, {self.first - 1})
            for row, one in zip(rows, features.half().cpu(), strict=True):
                kept[row] = one[: 1 + len(clips[row].frames)].clone()
        return [kept[row] for row in range(len(clips))]
