"""How well a run uses its devices: tokens per second, time spent waiting for data, model FLOPs utilisation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cache

import torch

from one_peace.data.loading import Pair
from one_peace.modalities.base import Processor
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.nn.linear import linear
from one_peace.training.distributed import Processes
from one_peace.training.pretraining.cost import PretrainingStep
from one_peace.training.pretraining.gradients import BatchSource
from one_peace.training.pretraining.recipe import PretrainRecipe

PRODUCT = {"cpu": 1024, "cuda": 8192}  # size of the square matrices that the rate is measured with
REPEATS = 5


class MeteredBatches:
    """A source of batches that counts what this process drew from it, and the seconds that it waited for them.

    `tokens` are those of both sides of the pairs, cls included and padding not, by whether the step denoises.
    `typical` are two pairs of middling length.
    """

    def __init__(self, batches: BatchSource, recipe: PretrainRecipe, processors: Mapping[str, Processor]) -> None:
        self.batches, self.denoise_every = batches, recipe.denoise_every
        self.sides = processors[recipe.stage.anchor], processors[recipe.stage.partner]
        self.tokens = {True: 0, False: 0}
        self.waited = 0.0
        self.typical: list[Pair] = []

    def __call__(self, size: int, seed: int, step: int, *place: int) -> list[Pair]:
        began = time.monotonic()
        pairs = self.batches(size, seed, step, *place)
        self.waited += time.monotonic() - began
        lengths = [self.length(pair) for pair in pairs]
        self.tokens[self.denoise_every > 0 and step % self.denoise_every == 0] += sum(lengths)
        if not self.typical and pairs:
            middle = sorted(range(len(pairs)), key=lengths.__getitem__)[(len(pairs) - 1) // 2 :]
            self.typical = [pairs[middle[0]], pairs[middle[min(1, len(middle) - 1)]]]
        return pairs

    def length(self, pair: Pair) -> int:
        """Tokens of a pair, both cls included."""
        return sum(1 + side.length(example) for side, example in zip(self.sides, pair, strict=True))


class TokenRates:
    """What batches of pairs add to a run's `Throughput`, over all processes."""

    def __init__(self, drawn: MeteredBatches, processes: Processes, utilisation: Utilisation | None = None) -> None:
        self.drawn, self.processes, self.utilisation = drawn, processes, utilisation
        self.before = (0, 0, 0.0)

    def __call__(self, seconds: float) -> dict[str, float]:
        """Figures of these seconds, which every process has to ask for. `waiting` is the mean over processes."""
        totals = (self.drawn.tokens[True], self.drawn.tokens[False], self.drawn.waited)
        denoised, plain, waited = (new - old for new, old in zip(totals, self.before, strict=True))
        self.before = totals
        shared = {"denoised": torch.tensor(denoised), "plain": torch.tensor(plain), "waited": torch.tensor(waited)}
        all_of = self.processes.mean(shared, ("denoised", "plain"))
        figures = {
            "tokens_per_second": round((all_of["denoised"] + all_of["plain"]) / seconds, 1),
            "waiting": round(min(1.0, all_of["waited"] / seconds), 4),
        }
        if self.utilisation is not None and self.processes.first:
            tokens = {True: all_of["denoised"], False: all_of["plain"]}
            figures |= self.utilisation.figures(tokens, seconds, self.drawn.typical)
        return figures


class Utilisation:
    """Model FLOPs utilisation: the arithmetic that the model asks for, over what the devices' matrix products reach.

    The arithmetic of a token is counted by the dry run, on two typical pairs of the run's own data; what is computed
    twice to save memory counts once. The rate of matrix products is measured here, in the run's precision, on one
    device; all devices are taken to be alike.
    """

    def __init__(
        self,
        recipe: PretrainRecipe,
        config: OnePeaceConfig,
        processors: Mapping[str, Processor],
        device: str,
        processes: Processes,
    ) -> None:
        self.recipe, self.config, self.processors = recipe, config, processors
        self.device, self.processes = device, processes
        self.flops: dict[bool, float] = {}  # per token, by whether the step denoises

    def figures(self, tokens: Mapping[bool, float], seconds: float, typical: Sequence[Pair]) -> dict[str, float]:
        """`mfu` (0 to 1) of the tokens of some steps; the first time also what it is relative to, in TFLOP/s."""
        dtype = torch.bfloat16 if self.recipe.engine.precision == "bfloat16" else torch.float32
        shown = {}
        for denoise, count in tokens.items():
            if count and denoise not in self.flops:
                self.flops[denoise] = self._per_token(denoise, typical)
                shown["matmul_tflops"] = round(matmul_rate(self.device, dtype) / 1e12, 4)
        done = sum(count * self.flops[denoise] for denoise, count in tokens.items() if count)
        peak = self.processes.count * matmul_rate(self.device, dtype)
        return {"mfu": round(done / seconds / peak, 4), **shown}

    def _per_token(self, denoise: bool, typical: Sequence[Pair]) -> float:
        stage, processors = self.recipe.stage, self.processors
        at_once = self.recipe.micro_batch or self.recipe.batch_size
        with torch.random.fork_rng(devices=[]):
            flops = PretrainingStep(self.config, stage, processors, denoise).flops(typical, at_once)
        tokens = sum(2 + processors[stage.anchor].length(a) + processors[stage.partner].length(b) for a, b in typical)
        return flops / at_once / (tokens / len(typical))


@cache
def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large product of two square matrices, computed as by a linear layer: the best of a few tries."""
    kind = torch.device(device).type
    size = PRODUCT.get(kind, 4096)
    a = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(REPEATS + 1):  # the first one warms up
        began = time.perf_counter()
        out = linear(a, a)
        if kind != "cpu":
            out[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
