"""A fine-tuned sequence-to-sequence model with its task: rows in, what it writes or figures out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from one_peace.checkpoints.registry import resolve
from one_peace.data.permutation import mix
from one_peace.errors import CheckpointError, InputError
from one_peace.generation.beam import beam_search
from one_peace.generation.candidates import best_of, score_candidates
from one_peace.generation.decoder import by_length
from one_peace.generation.sampling import sample
from one_peace.modalities.tokenization import EOS_ID, PAD_ID
from one_peace.models.ofa.encoder import Encoded
from one_peace.models.ofa.loading import from_pretrained
from one_peace.models.ofa.model import OfaModel
from one_peace.models.ofa.running import NO_ANSWER
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.objectives.sequence import SequenceLossSettings, sequence_loss
from one_peace.tasks.ofa.example import SequenceBatch, SequenceExample, collate
from one_peace.tasks.ofa.figures import WrittenFigures
from one_peace.tasks.ofa.kinds import SequenceSettings
from one_peace.tasks.ofa.task import check_length
from one_peace.tasks.predictor import BATCH_SIZE
from one_peace.tasks.task import BadRow, OnError, Row, TableRows, usable, without_target

Work = Callable[[], list[Any]]
TOP_CODES = 256  # codes that a drawing chooses from at each place


class SequencePredictor:
    """Answers rows in batches. `skipped` collects the errors of rows that were passed over."""

    def __init__(
        self,
        model: OfaModel,
        vocabulary: OfaVocabulary,
        settings: SequenceSettings,
        batch_size: int = BATCH_SIZE,
        run: Callable[[Work], list[Any]] = lambda work: work(),
    ) -> None:
        """`run` does the work of a batch, where there is something to be done before and after."""
        self.model, self.vocabulary, self.settings = model.eval(), vocabulary, settings
        self.task = settings.build(vocabulary, model.config)
        self.batch_size, self.run, self.columns = batch_size, run, dict(settings.columns)
        self.answers = self.task.choices or settings.answers
        self.skipped: list[InputError] = []
        self._chooses = self.task.first_token or settings.decoding == "candidates"
        self._answer_ids = [vocabulary.encode(f" {answer}") for answer in self.answers] if self._chooses else []
        # Positions that an answer takes besides the prompt: its first token is told after the prompt.
        self._answer_length = 0 if self.task.first_token else max(map(len, self._answer_ids), default=1)

    @property
    def reads(self) -> str | None:
        """The only input of an example, None where there are several."""
        return self.task.reads

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        settings: SequenceSettings | None = None,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        tokenizer: str | os.PathLike[str] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> SequencePredictor:
        """A fine-tuned model by name or path. `settings` say which task a published file is for; a folder of ours
        knows.

        Raises:
            CheckpointError: no OFA model, one without its vocabulary, or a published file without settings.
        """
        path = resolve(name_or_path)
        chosen = settings or SequenceSettings.read(path)
        if chosen is None:
            raise CheckpointError(f"{name_or_path}: says of no task that it could predict; give the task's settings")
        ofa = from_pretrained(Path(path), device, dtype, tokenizer=tokenizer)
        return cls(ofa.model, ofa.processor.vocabulary, chosen, batch_size)

    def predict(self, rows: TableRows, on_error: OnError = "raise") -> Iterator[tuple[str, dict[str, Any]]]:
        """(key, row) pairs -> (key, prediction) pairs in their order; errors as of `Predictor.predict`."""
        for examples, values in self.answered(rows, on_error):
            for example, value in zip(examples, values, strict=True):
                yield example.key, self.task.shown(value, example)

    def measure(self, rows: TableRows, on_error: OnError = "raise") -> dict[str, float]:
        """The task's figures over rows with targets, and how many `examples` they are of."""
        figures = self.figures(rows, on_error)
        return {**figures.result(), "examples": float(len(figures.values))}

    def figures(self, rows: TableRows, on_error: OnError = "raise") -> WrittenFigures:
        """Answers and facts of rows with targets, not yet added up."""
        figures = self.task.figures(self.answers)
        for examples, values in self.answered(rows, on_error, targets=True):
            for example, value in zip(examples, values, strict=True):
                figures.add(value, example.facts)
        return figures

    def answered(
        self, rows: TableRows, on_error: OnError = "raise", targets: bool = False
    ) -> Iterator[tuple[list[SequenceExample], list[Any]]]:
        """Batches of the rows with the model's answers: texts, boxes relative to the picture, image codes, or, with
        `targets` and for kinds without a right answer, what `LikelihoodFigures` takes."""
        longest = self.model.decoder.longest(self.task.codes)

        def read(row: Row, key: str) -> SequenceExample:
            task = self.task
            made = task.measured(row, key) if targets else task.example(without_target(row, task.target_columns), key)
            check_length("source", made.source, key, self.model.config.longest_text)
            check_length("prompt before the answer", made.prompt, key, longest - self._answer_length)
            return made

        waiting: list[SequenceExample] = []
        for _, example in usable(rows, read, on_error, self.skipped):
            # The answers that may be given are looked at where one is chosen, not token by token.
            waiting.append(dataclasses.replace(example, answers=None))
            if len(waiting) == self.batch_size:
                yield self._with_answers(waiting, targets, on_error)
                waiting = []
        if waiting:
            yield self._with_answers(waiting, targets, on_error)

    def _with_answers(
        self, examples: Sequence[SequenceExample], targets: bool, on_error: OnError
    ) -> tuple[list[SequenceExample], list[Any]]:
        """Those of the examples that get an answer, and the answers."""
        kept: list[SequenceExample] = []
        values: list[Any] = []
        for example, value in zip(examples, self._answers(examples, targets), strict=True):
            if value is not None:
                kept.append(example)
                values.append(value)
                continue
            error = BadRow(example.key, NO_ANSWER)
            if on_error == "raise":
                raise error
            self.skipped.append(error)
        return kept, values

    @torch.no_grad()
    def _answers(self, examples: Sequence[SequenceExample], targets: bool) -> list[Any]:
        """The answer of each example; None where it has none."""
        device = self.model.tokens.weight.device
        batch = collate(examples, self.vocabulary.size).to(device)
        if batch.pixels is not None:
            batch = dataclasses.replace(batch, pixels=batch.pixels.to(self.model.tokens.weight.dtype))

        def work() -> list[Any]:
            encoded = self.model.encode(batch.source, batch.pixels, batch.pictured)
            if targets and self.task.writing is None:
                return self._likelihoods(encoded, batch)
            if self._chooses:
                return self._chosen(encoded, batch.prompts)
            return self._written(encoded, batch)

        return self.run(work)

    def _likelihoods(self, encoded: Encoded, batch: SequenceBatch) -> list[tuple[float, int, int] | None]:
        logits = self.model.decode(batch.previous, encoded, batch.codes).float()
        values: list[tuple[float, int, int] | None] = []
        for row, target in zip(logits, batch.target, strict=True):
            loss = sequence_loss(row[None], target[None], SequenceLossSettings(), pad=PAD_ID, end=EOS_ID)
            right = int(((row.argmax(dim=1) == target) & (target != PAD_ID)).sum())
            values.append((-float(loss.nll), loss.tokens, right) if bool(loss.nll.isfinite()) else None)
        return values

    def _chosen(self, encoded: Encoded, prompts: Sequence[Sequence[int]]) -> list[str | None]:
        """The likeliest of the answers, by the first token alone where the task says so."""
        ids = self._answer_ids
        if self.task.first_token:
            scores = self._first_scores(encoded, prompts, [answer[0] for answer in ids])
        else:
            device = encoded.features.device
            scores = score_candidates(lambda: self.model.start(encoded), prompts, ids, end=EOS_ID, device=device)
        return [None if best is None else self.answers[best] for best in best_of(scores)]

    def _first_scores(self, encoded: Encoded, prompts: Sequence[Sequence[int]], tokens: Sequence[int]) -> Tensor:
        scores = torch.zeros(len(prompts), len(tokens))
        device = encoded.features.device
        for rows, start in by_length(prompts, device):
            logits = self.model.start(encoded.rows(torch.tensor(rows, device=device))).step(start)
            scores[rows] = logits[:, list(tokens)].float().cpu()
        return scores

    def _written(self, encoded: Encoded, batch: SequenceBatch) -> list[Any]:
        device = encoded.features.device
        settings = self.task.search(self.model.config.longest_text)
        constraint = self.task.constraint(self.answers)
        found: list[list[int] | None] = [None] * len(batch.keys)
        for rows, start in by_length(batch.prompts, device):
            decoder = self.model.start(encoded.rows(torch.tensor(rows, device=device)), codes=self.task.codes)
            if self.task.codes:
                generators = [torch.Generator(device).manual_seed(mix(batch.keys[row]) >> 1) for row in rows]
                groups = sample(decoder, start, settings, generators, top_k=TOP_CODES, constraint=constraint)
            else:
                groups = beam_search(
                    decoder, start, settings.within(decoder.longest - start.shape[1]), constraint=constraint
                )
            for row, hypotheses in zip(rows, groups, strict=True):
                if hypotheses:
                    found[row] = [token for token in hypotheses[0].tokens if token != EOS_ID]
        return [None if tokens is None else self.task.value(tokens) for tokens in found]
