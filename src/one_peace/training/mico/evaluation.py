"""Retrieval on held-out clips while MiCo is trained: texts against tuples of modalities, both ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from one_peace.data.manifest import Item
from one_peace.data.task_rows import Rows
from one_peace.errors import InputError
from one_peace.tasks.distinct_pairs import DistinctPairs
from one_peace.tasks.held_out import retrieval_figures
from one_peace.tasks.mico.clips import CAPTION_COLUMNS, ClipReader, MiCoExample, captions_of
from one_peace.tasks.mico.pretraining import MiCoTask, Parts
from one_peace.training.distributed import Processes
from one_peace.training.ema import WeightAverage, measured
from one_peace.training.mico.recipe import MiCoRecipe
from one_peace.training.mico.start import MiCoPlan, open_clips
from one_peace.training.mico.update import MiCoPass
from one_peace.training.pretraining.evaluation import GROUP

AT_ONCE = 16  # clips
BEST_BY = f"{GROUP}recall"


class MiCoEvaluator:
    """Measures a model on held-out clips, decoded once; each process embeds its share. A clip has its first caption;
    those that are equal but for case, punctuation and a leading article are one text."""

    def __init__(
        self,
        reader: ClipReader,
        rows: Rows,
        tuples: Sequence[Parts],
        size: int,
        device: str = "cpu",
        processes: Processes | None = None,
    ) -> None:
        self.reader, self.tuples = reader, tuples
        self.device, self.processes = torch.device(device), processes or Processes()
        wanted = min(len(rows), size)
        distinct = DistinctPairs[MiCoExample]()
        self.unusable: list[InputError] = []
        for number in range(wanted):
            try:
                key, row = rows.row(number * len(rows) // wanted)
                clip = row.get("clips", [row])[0]
                text = captions_of(clip, key)[0]
                only = {**clip, CAPTION_COLUMNS[0]: text}
                distinct.add(str(number), reader.draw(only, key, torch.Generator().manual_seed(0)), text)
            except InputError as error:
                self.unusable.append(error)
        self.examples, self.relevant = distinct.media, distinct.relevant()
        if len(distinct.texts) < 2:
            why = f"; the last one: {self.unusable[-1]}" if self.unusable else ""
            raise InputError(str(rows.path), f"has fewer than two held-out clips with different texts{why}")
        first = self.relevant.int().argmax(dim=0).tolist()  # clip of each text
        self.texts = [self.examples[number].captions["caption"] for number in first]

    @torch.no_grad()
    def __call__(self, losses: MiCoPass, average: WeightAverage | None = None) -> dict[str, float]:
        """recall@k of every tuple both ways and the mean of all, `recall`; every process has to call it."""
        figures: dict[str, float] = {}
        with measured(losses, average):
            texts = self.embed_texts(losses)
            for parts in self.tuples:
                found = retrieval_figures("_".join(parts), self.embed(losses, parts) @ texts.t(), self.relevant)
                figures |= {name: value for name, value in found.items() if name != "recall"}
        mean = sum(figures.values()) / len(figures)
        return {f"{GROUP}{name}": value for name, value in figures.items()} | {BEST_BY: mean}

    def embed(self, losses: MiCoPass, parts: Parts) -> Tensor:
        """(clips, dim) float32 on the CPU of every process."""
        names = list(self.examples[0].inputs)

        def some(first: int) -> Tensor:
            part = self.examples[first : first + AT_ONCE]
            inputs = {name: self.reader.processors[name].collate([e.inputs[name] for e in part]) for name in names}
            moved = {name: {key: x.to(self.device) for key, x in given.items()} for name, given in inputs.items()}
            return losses.embed(moved, parts)

        return self._all(len(self.examples), some)

    def embed_texts(self, losses: MiCoPass) -> Tensor:
        """(texts, dim), as `embed`."""

        def some(first: int) -> Tensor:
            part = torch.nn.utils.rnn.pad_sequence(self.texts[first : first + AT_ONCE], batch_first=True)
            return losses.embed({"text": {"tokens": part.to(self.device)}}, ("text",))

        return self._all(len(self.texts), some)

    def _all(self, count: int, embed: Callable[[int], Tensor]) -> Tensor:
        """Rows of all, each process those of every n-th batch; a surplus run counts for nothing."""
        firsts = list(range(0, count, AT_ONCE))
        rows = torch.empty(0)
        for start in range(0, len(firsts), self.processes.count):
            turn = start + self.processes.rank
            made = embed(firsts[min(turn, len(firsts) - 1)]).float().cpu()
            if not rows.numel():
                rows = torch.zeros(count, made.shape[1])
            if turn < len(firsts):
                rows[firsts[turn] : firsts[turn] + AT_ONCE] = made
        return self.processes.sum(rows)


def open_mico_evaluator(
    recipe: MiCoRecipe, plan: MiCoPlan, items: Sequence[Item], device: str, processes: Processes
) -> MiCoEvaluator | None:
    """The evaluator that the recipe's `evaluation` asks for, None without one."""
    asked = recipe.evaluation
    if asked is None or not asked.every:
        return None
    rows = open_clips(asked.path, asked.modalities, items, only=asked.only, split="val")
    task = MiCoTask("retrieval", asked.tuples)
    reader = ClipReader(plan.processors(), plan.config, asked.modalities, [task], strength=0.0)
    return MiCoEvaluator(reader, rows, asked.tuples, asked.size, device, processes)
