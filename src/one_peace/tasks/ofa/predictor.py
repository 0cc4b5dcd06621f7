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
from one_peace.errors import CheckpointError, InputError
from one_peace.generation.beam import beam_search
from one_peace.generation.candidates import score_candidates
from one_peace.generation.constraints import Constraint, TokenRange
from one_peace.generation.sampling import sample
from one_peace.generation.settings import GenerationSettings
from one_peace.modalities.tokenization import EOS_ID, PAD_ID
from one_peace.models.ofa.encoder import Encoded
from one_peace.models.ofa.loading import from_pretrained
from one_peace.models.ofa.model import OfaModel
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.objectives.sequence import SequenceLossSettings, sequence_loss
from one_peace.tasks.ofa.entailment import ANSWERS
from one_peace.tasks.ofa.example import SequenceBatch, SequenceExample, collate
from one_peace.tasks.ofa.figures import WrittenFigures, figures_of
from one_peace.tasks.ofa.kinds import DECODING, SequenceSettings
from one_peace.tasks.ofa.sentences import QUESTIONS
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
        self.answers = settings.answers
        if settings.kind == "entailment":
            self.answers = tuple(ANSWERS.values())
        elif settings.kind == "sentences":
            self.answers = tuple(dict.fromkeys(QUESTIONS[settings.question].answers.values()))
        self.skipped: list[InputError] = []

    @property
    def reads(self) -> str | None:
        """The only input of an example, None where there are several."""
        return "image" if self.settings.kind in ("captioning", "labelling") else None

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
            raise CheckpointError(f"{name_or_path}: does not say which task it is for; give its settings")
        ofa = from_pretrained(Path(path), device, dtype, tokenizer=tokenizer)
        return cls(ofa.model, ofa.processor.vocabulary, chosen, batch_size)

    def predict(self, rows: TableRows, on_error: OnError = "raise") -> Iterator[tuple[str, dict[str, Any]]]:
        """(key, row) pairs -> (key, prediction) pairs in their order; errors as of `Predictor.predict`."""
        for examples, values in self.answered(rows, on_error):
            for example, value in zip(examples, values, strict=True):
                yield example.key, self._shown(value, example)

    def measure(self, rows: TableRows, on_error: OnError = "raise") -> dict[str, float]:
        """The task's figures over rows with targets, and how many `examples` they are of."""
        figures = self.figures(rows, on_error)
        return {**figures.result(), "examples": float(len(figures.values))}

    def figures(self, rows: TableRows, on_error: OnError = "raise") -> WrittenFigures:
        """Answers and facts of rows with targets, not yet added up."""
        figures = figures_of(self.settings.kind, self.answers)
        for examples, values in self.answered(rows, on_error, targets=True):
            for example, value in zip(examples, values, strict=True):
                figures.add(value, example.facts)
        return figures

    def answered(
        self, rows: TableRows, on_error: OnError = "raise", targets: bool = False
    ) -> Iterator[tuple[list[SequenceExample], list[Any]]]:
        """Batches of the rows with the model's answers: texts, boxes relative to the picture, image codes, or, with
        `targets` and for kinds without a right answer, what `LikelihoodFigures` takes."""

        def read(row: Row, key: str) -> SequenceExample:
            example = self.task.example(row if targets else without_target(row, self.task.target_columns), key)
            if targets and not self.task.measurable(example):
                raise BadRow(key, f"has no target to be measured against; its columns are {', '.join(row)}")
            return example

        waiting: list[SequenceExample] = []
        for _, example in usable(rows, read, on_error, self.skipped):
            # The answers that may be given are looked at where one is chosen, not token by token.
            waiting.append(dataclasses.replace(example, answers=None))
            if len(waiting) == self.batch_size:
                yield waiting, self._answers(waiting, targets)
                waiting = []
        if waiting:
            yield waiting, self._answers(waiting, targets)

    @torch.no_grad()
    def _answers(self, examples: Sequence[SequenceExample], targets: bool) -> list[Any]:
        device = self.model.tokens.weight.device
        batch = collate(examples, self.vocabulary.size).to(device)
        if batch.pixels is not None:
            batch = dataclasses.replace(batch, pixels=batch.pixels.to(self.model.tokens.weight.dtype))

        def work() -> list[Any]:
            encoded = self.model.encode(batch.source, batch.pixels, batch.pictured)
            if targets and self.settings.kind not in DECODING:
                return self._likelihoods(encoded, batch)
            if self.settings.kind == "sentences" or self.settings.decoding == "candidates":
                return self._chosen(encoded, batch.prompts)
            return self._written(encoded, batch)

        return self.run(work)

    def _likelihoods(self, encoded: Encoded, batch: SequenceBatch) -> list[tuple[float, int, int]]:
        logits = self.model.decode(batch.previous, encoded, batch.codes).float()
        values = []
        for row, target in zip(logits, batch.target, strict=True):
            loss = sequence_loss(row[None], target[None], SequenceLossSettings(), pad=PAD_ID, end=EOS_ID)
            right = int(((row.argmax(dim=1) == target) & (target != PAD_ID)).sum())
            values.append((-float(loss.nll), loss.tokens, right))
        return values

    def _chosen(self, encoded: Encoded, prompts: Sequence[Sequence[int]]) -> list[str]:
        """The likeliest of the answers; of sentences by its first token alone, as they are trained."""
        ids = [self.vocabulary.encode(f" {answer}") for answer in self.answers]
        if self.settings.kind == "sentences":
            scores = self._first_scores(encoded, prompts, [answer[0] for answer in ids])
        else:
            device = encoded.features.device
            scores = score_candidates(lambda: self.model.start(encoded), prompts, ids, end=EOS_ID, device=device)
        return [self.answers[best] for best in scores.argmax(dim=1).tolist()]

    def _first_scores(self, encoded: Encoded, prompts: Sequence[Sequence[int]], tokens: Sequence[int]) -> Tensor:
        scores = torch.zeros(len(prompts), len(tokens))
        for rows, start in _by_length(prompts):
            index = torch.tensor(rows, device=encoded.features.device)
            logits = self.model.start(encoded.rows(index)).step(start.to(index.device))
            scores[rows] = logits[:, list(tokens)].float().cpu()
        return scores

    def _written(self, encoded: Encoded, batch: SequenceBatch) -> list[Any]:
        found: list[list[int]] = [[] for _ in batch.keys]
        for rows, start in _by_length(batch.prompts):
            index = torch.tensor(rows, device=encoded.features.device)
            settings, constraint = self._writing()
            codes = bool(batch.codes[rows[0]])
            decoder = self.model.start(encoded.rows(index), codes=codes)
            start = start.to(index.device)
            if codes:
                generator = torch.Generator(index.device).manual_seed(0)
                groups = sample(decoder, start, settings, generator, top_k=TOP_CODES, constraint=constraint)
            else:
                groups = beam_search(decoder, start, settings, constraint=constraint)
            for row, hypotheses in zip(rows, groups, strict=True):
                found[row] = [token for token in hypotheses[0].tokens if token != EOS_ID] if hypotheses else []
        return [self._value(tokens) for tokens in found]

    def _writing(self) -> tuple[GenerationSettings, Constraint | None]:
        kind, vocabulary = self.settings.kind, self.vocabulary
        if kind in ("drawing", "image-infilling"):
            count = self.model.config.code_grid**2
            first = vocabulary.first_code
            settings = GenerationSettings(EOS_ID, PAD_ID, max_tokens=count, min_tokens=count)
            return settings, TokenRange(first, first + vocabulary.codes, specials_at_end=True)
        if kind == "referring":
            return self.settings.writing(), TokenRange(vocabulary.first_bin, vocabulary.size, specials_at_end=True)
        if kind not in DECODING:
            return GenerationSettings(EOS_ID, PAD_ID, max_tokens=self.model.config.text_positions - 2), None
        if self.answers:
            return self.settings.writing(), self.task.trie(self.answers).to(self.model.tokens.weight.device)
        return self.settings.writing(), None

    def _value(self, tokens: Sequence[int]) -> Any:
        if self.settings.kind == "referring":
            if len(tokens) < 4:
                return torch.zeros(4)
            corners = self.vocabulary.ids_to_boxes(torch.tensor(tokens[:4])) / self.model.config.image_size
            return corners.clamp(0.0, 1.0)
        if self.settings.kind in ("drawing", "image-infilling"):
            return [token - self.vocabulary.first_code for token in tokens]
        return self.vocabulary.decode(tokens).strip()

    def _shown(self, value: Any, example: SequenceExample) -> dict[str, Any]:
        """What to tell the user of an answer."""
        facts, kind = example.facts, self.settings.kind
        if kind == "captioning":
            return {"caption": value}
        if kind == "referring":
            sides = torch.tensor([*facts["size"], *facts["size"]])
            low, high = (
                (value * sides).view(2, 2).sort(dim=0).values
            )  # nothing keeps a model from writing it inside out
            return {"phrase": facts["phrase"], "box": [round(v, 1) for v in (*low.tolist(), *high.tolist())]}
        if kind == "picture-answering":
            return {"question": facts["question"], "answer": value}
        if kind == "entailment":
            labels = {answer: label for label, answer in ANSWERS.items()}
            return {"statement": facts["statement"], "label": labels.get(value, value)}
        if kind == "sentences":
            labels = {answer: label for label, answer in QUESTIONS[self.settings.question].answers.items()}
            return {"answer": value, "label": labels[value]}
        if kind in ("drawing", "image-infilling"):
            return {"codes": " ".join(map(str, value))}
        return {{"labelling": "label", "summarization": "summary"}.get(kind, "text"): value}


def _by_length(prompts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Tensor]]:
    """Rows whose prompts are equally long, with these (rows, length) int64: one search takes no others."""
    for length in sorted({len(prompt) for prompt in prompts}):
        rows = [index for index, prompt in enumerate(prompts) if len(prompt) == length]
        yield rows, torch.tensor([list(prompts[index]) for index in rows])
