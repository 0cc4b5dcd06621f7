"""The second stage of captioning: the model's own captions, weighed by their CIDEr-D (arXiv 1612.00563)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from one_peace.data.task_rows import JoinedRows, TaskRows
from one_peace.errors import InputError
from one_peace.generation.beam import beam_search
from one_peace.generation.settings import GenerationSettings
from one_peace.modalities.tokenization import BOS_ID, EOS_ID, PAD_ID
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.objectives.self_critical import leave_one_out, self_critical_loss
from one_peace.tasks.caption_metrics.cider import DocumentFrequency, cider_d, reward_words
from one_peace.tasks.ofa.example import SequenceExample, collate
from one_peace.tasks.task import texts_of
from one_peace.training.ofa.forward_pass import OfaPass
from one_peace.training.ofa.recipe import SequenceRecipe

NO_REPEAT = 3  # n-grams that a caption does not have twice


def count_documents(rows: TaskRows | JoinedRows) -> DocumentFrequency:
    """In how many pictures' references of a table a run of words occurs. Rows that cannot be read do not count."""

    def references() -> list[list[list[str]]]:
        found = []
        for index in range(len(rows)):
            try:
                key, row = rows.row(index)
                captions = texts_of(row, "caption", key)
            except InputError:  # told of when it is its turn in training
                continue
            found.append([reward_words(text) for text in captions if text])
        return found

    return DocumentFrequency.of(references())


class CaptionPart:
    """Captions that the model writes for the pictures of some examples, with their rewards."""

    def __init__(
        self,
        logits: OfaPass,
        vocabulary: OfaVocabulary,
        examples: list[SequenceExample],
        recipe: SequenceRecipe,
        frequency: DocumentFrequency,
        device: torch.device,
    ) -> None:
        self.logits, self.recipe, self.device = logits, recipe, device
        self.batch = collate(examples, vocabulary.size)
        written = self._written()
        texts = [[vocabulary.decode(tokens).strip() for tokens in one] for one in written]
        references = [[reward_words(text) for text in example.facts["references"]] for example in examples]
        scores = torch.tensor(score_captions(texts, references, frequency), dtype=torch.float64)
        self.target = pad_sequence(
            [torch.tensor(tokens) for one in written for tokens in one], batch_first=True, padding_value=PAD_ID
        )
        self.reward = leave_one_out(scores).flatten()
        self.score = scores.mean()
        self.tokens = int((self.target != PAD_ID).sum())

    def loss(self) -> dict[str, Tensor]:
        start = torch.full((len(self.target), 1), BOS_ID)
        ended = self.target.masked_fill(self.target == EOS_ID, PAD_ID)  # no end is read
        batch = dataclasses.replace(self.batch, previous=torch.cat([start, ended[:, :-1]], dim=1)).to(self.device)
        logits = self.logits(batch, copies=self.recipe.beams)
        total, _ = self_critical_loss(logits, self.target.to(self.device), self.reward.to(self.device), PAD_ID)
        return {"total": total, "CIDEr-D": self.score * self.tokens}

    def _written(self) -> list[list[list[int]]]:
        """Tokens with their end, of each caption of each picture; the model is as in evaluation meanwhile."""
        settings = GenerationSettings(
            EOS_ID, PAD_ID, self.recipe.max_tokens, beams=self.recipe.beams, no_repeat_ngram=NO_REPEAT
        )
        batch = self.batch.to(self.device)

        def work() -> list[list[list[int]]]:
            model = self.logits.model
            start = torch.full((len(batch.source), 1), BOS_ID, device=self.device)
            decoder = model.start(model.encode(batch.source, batch.pixels, batch.pictured))
            found = beam_search(decoder, start, settings)
            return [[hypothesis.tokens for hypothesis in one] for one in found]

        self.logits.eval()
        with torch.no_grad():
            written = self.logits.within(work)
        self.logits.train()
        return written


def score_captions(
    texts: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]], frequency: DocumentFrequency
) -> list[list[float]]:
    """CIDEr-D of several captions of each picture."""
    beams = len(texts[0])
    words = [reward_words(text) for one in texts for text in one]
    scores = cider_d(words, [others for others in references for _ in range(beams)], frequency)
    return [scores[first : first + beams] for first in range(0, len(scores), beams)]
