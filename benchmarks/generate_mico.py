"""Speed of MiCo's captions: `python benchmarks/generate_mico.py [--sizes mico-tiny mico-giant] [--threads 1] [--wall]`.

A caption of exactly 16 tokens for each picture, with 3 beams, by text models with random weights and a memory of one
frame of 224 pixels. All variants in turn in one process:

* ours: keys and values of the words are kept, those of the memory once per picture.
* no cache: every step computes all words again; keys and values of the memory are kept, once per picture.
* as published: every step computes all words again, and keys and values of the memory anew for every beam.

All must generate the same tokens, or the run fails. Figures are medians; on a CPU of its process time, unless `--wall`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from measure import interleaved, machine, use_whole_float32, write_result
from torch import Tensor

from one_peace.generation.beam import beam_search
from one_peace.generation.decoder import Decoder
from one_peace.generation.settings import GenerationSettings
from one_peace.models.mico.presets import list_presets, preset
from one_peace.models.mico.text import TextModel
from one_peace.models.mico.writing import CAPTION_PENALTY, TextDecoder

FIRST, LAST, MASK, PAD = 101, 102, 103, 0
BEAMS, TOKENS = 3, 16
MEMORY = 257  # tokens of a frame of 224 pixels in patches of 14, with its class token
SETTINGS = GenerationSettings(
    LAST, PAD, TOKENS, min_tokens=TOKENS, beams=BEAMS, length_penalty=CAPTION_PENALTY, force_end=False, exhaustive=True
)


class WithoutCache:
    """Computes all words again at every step. `anew`: the keys and values of the memory, too, for every row."""

    def __init__(self, text: TextModel, memory: Tensor, anew: bool) -> None:
        self.text, self.memory, self.anew = text, memory, anew
        self.projected = text.project_memory(memory)
        self.owner = torch.arange(len(memory), device=memory.device)
        self.tokens = self.owner.new_empty(len(memory), 0)

    def step(self, tokens: Tensor) -> Tensor:
        self.tokens = torch.cat([self.tokens, tokens], dim=1)
        asking = torch.cat([self.tokens, tokens.new_full((len(tokens), 1), MASK)], dim=1)
        length = asking.shape[1]
        mask = torch.ones(1, length, length, device=tokens.device).tril()
        memory = self.text.project_memory(self.memory[self.owner]) if self.anew else self.projected
        return self.text.predict(self.text(asking, mask, memory)[:, -1])

    def reorder(self, rows: Tensor) -> None:
        self.tokens, self.owner = self.tokens[rows], self.owner[rows]


def variants(size: str, pictures: int, device: torch.device) -> tuple[dict[str, Callable[[], Any]], int]:
    """The three ways to write the same captions; parameters of the text model."""
    torch.manual_seed(0)
    text = TextModel(preset(size).text).eval().requires_grad_(False)
    text.initialise()
    text.prediction.bias.normal_()  # or every word is as probable as any other
    text = text.to(device)
    memory = torch.randn(pictures, MEMORY, text.config.width, device=device)
    start = torch.full((pictures, 1), FIRST, device=device)

    def write(begin: Callable[[], Decoder]) -> list[list[int]]:
        return [found[0].tokens for found in beam_search(begin(), start, SETTINGS)]

    jobs = {
        "ours": lambda: write(lambda: TextDecoder(text, text.project_memory(memory), MASK)),
        "no cache": lambda: write(lambda: WithoutCache(text, memory, anew=False)),
        "as published": lambda: write(lambda: WithoutCache(text, memory, anew=True)),
    }
    written = [job() for job in jobs.values()]
    if any(tokens != written[0] for tokens in written) or any(len(tokens) != TOKENS for tokens in written[0]):
        raise SystemExit(f"{size}: the variants generate different tokens")
    return jobs, sum(p.numel() for p in text.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["mico-tiny", "mico-giant"], choices=list_presets())
    parser.add_argument("--pictures", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--wall", action="store_true", help="wall time instead of the process's CPU time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    use_whole_float32()
    device = torch.device(options.device)
    clock = time.perf_counter if options.wall or device.type != "cpu" else time.process_time
    results: dict[str, Any] = {}
    with torch.inference_mode():
        for size in options.sizes:
            jobs, parameters = variants(size, options.pictures, device)
            timed = interleaved(jobs, options.repeats, device, clock)
            medians = {name: statistics.median(values) for name, values in timed.items()}
            results[size] = {
                "text parameters": parameters,
                "seconds": {name: round(value, 4) for name, value in medians.items()},
                "times slower than ours": {name: round(v / medians["ours"], 2) for name, v in medians.items()},
            }
            print(f"{size}, text model of {parameters / 1e6:.0f} M parameters")
            for name, seconds in medians.items():
                print(f"  {name:<14} {seconds:8.3f} s {seconds / medians['ours']:7.2f} x")
    facts = machine(device) | {
        "clock": "process" if clock is time.process_time else "wall",
        "pictures": options.pictures,
        "beams": BEAMS,
        "tokens": TOKENS,
        "memory": MEMORY,
        "repeats": options.repeats,
        "results": results,
    }
    print(write_result(f"generate-mico-{device.type}-{options.threads}t", facts))


if __name__ == "__main__":
    main()
