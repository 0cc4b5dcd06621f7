"""Speed of generation: `python benchmarks/generate.py [--sizes tiny base] [--device cuda] [--threads 2] [--wall]`.

Captions of 4 pictures with 5 beams and exactly 16 tokens each, by models with random weights. Encoding and decoding
are timed apart, all variants in turn in one process:

* ours: keys and values of tokens are kept, those of the picture once per picture; a change of beams moves little.
* plain cache: keys and values are kept per beam, and all of them are copied whenever beams change, as loops usually do.
* no cache: every step computes all tokens again.
* BLIP: Hugging Face's captioner of similar size with its own cache and beam search (`pip install transformers`).

The first three must generate the same tokens, or the run fails. Efficiency is the arithmetic of our form, as PyTorch
counts it, over the time and the rate of a square matrix product in the same process. Figures are medians; on a CPU of
its process time, unless `--wall`."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from measure import interleaved, machine, use_whole_float32, write_result, yardsticks
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from one_peace.generation.beam import beam_search
from one_peace.generation.decoder import Decoder
from one_peace.generation.settings import GenerationSettings, Hypothesis
from one_peace.modalities.tokenization import BOS_ID, EOS_ID, PAD_ID
from one_peace.models.ofa.cache import OfaCache
from one_peace.models.ofa.encoder import Encoded
from one_peace.models.ofa.model import OfaModel
from one_peace.models.ofa.presets import preset

PICTURES, BEAMS, TOKENS, PROMPT = 4, 5, 16, 8
SETTINGS = GenerationSettings(EOS_ID, PAD_ID, TOKENS, min_tokens=TOKENS, beams=BEAMS, no_repeat_ngram=3)
BLIP = {  # size -> width, layers and heads of picture encoder and text decoder: about as many parameters as ours
    "tiny": (256, 8, 4),
    "base": (768, 8, 12),
}


class WithoutCache:
    """Computes all tokens again at every step."""

    def __init__(self, model: OfaModel, encoded: Encoded) -> None:
        self.model, self.encoded = model, encoded
        self.tokens = torch.empty(encoded.features.shape[0], 0, dtype=torch.int64, device=encoded.features.device)

    def step(self, tokens: Tensor) -> Tensor:
        self.tokens = torch.cat([self.tokens, tokens], dim=1)
        return self.model.decode(self.tokens, self.encoded)[:, -1].clone()

    def reorder(self, rows: Tensor) -> None:
        self.tokens, self.encoded = self.tokens[rows], self.encoded.rows(rows)


class PlainCache(OfaCache):
    """Keeps everything per beam and copies all of it when beams change."""

    def reorder(self, rows: Tensor) -> None:
        self.kept = self.kept.index_select(2, rows)
        self.encoded = self.encoded.rows(rows)
        self.inputs = [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in self.inputs]
        if self.cross_bias.shape[0] > 1:
            self.cross_bias = self.cross_bias.index_select(0, rows)
        self.owners = torch.arange(len(rows))


def ours(size: str, pixels: int, device: torch.device) -> tuple[dict[str, Callable[[], Any]], int]:
    """Encoding, and decoding in three ways; number of parameters."""
    torch.manual_seed(0)
    model = OfaModel(preset(f"ofa-{size}")).eval().requires_grad_(False).to(device)
    source = torch.randint(4, 50_000, (PICTURES, PROMPT), device=device)
    pictures = torch.randn(PICTURES, 3, pixels, pixels, device=device)
    encode = lambda: model.encode(source, pictures)  # noqa: E731
    encoded = encode()
    start = torch.full((PICTURES, 1), BOS_ID, device=device)

    def decode(begin: Callable[[], Decoder]) -> list[list[Hypothesis]]:
        return beam_search(begin(), start, SETTINGS)

    jobs: dict[str, Callable[[], Any]] = {
        "encode": encode,
        "decode": lambda: decode(lambda: model.start(encoded)),
        "decode, plain cache": lambda: decode(lambda: PlainCache(model.decoder, model.tokens.weight, encoded)),
        "decode, no cache": lambda: decode(lambda: WithoutCache(model, encoded)),
    }
    written = {name: [[h.tokens for h in one] for one in job()] for name, job in jobs.items() if name != "encode"}
    if any(tokens != written["decode"] for tokens in written.values()):
        raise SystemExit(f"{size}: the variants generate different tokens")
    return jobs, sum(p.numel() for p in model.parameters())


def hugging_face(size: str, pixels: int, device: torch.device) -> tuple[dict[str, Callable[[], Any]], int]:
    """BLIP's encoding and decoding; none without transformers."""
    try:
        import transformers as hf
    except ImportError:
        return {}, 0
    width, layers, heads = BLIP[size]
    shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    config = hf.BlipConfig(
        text_config={**shape, "num_attention_heads": heads, "encoder_hidden_size": width, "vocab_size": 59_457},
        vision_config={**shape, "num_attention_heads": heads, "image_size": pixels, "patch_size": 16},
    )
    torch.manual_seed(0)
    model = hf.BlipForConditionalGeneration(config).eval().requires_grad_(False).to(device)
    pictures = torch.randn(PICTURES, 3, pixels, pixels, device=device)
    encode = lambda: model.vision_model(pixel_values=pictures).last_hidden_state  # noqa: E731
    states = encode()
    start = torch.full((PICTURES, 1), config.text_config.bos_token_id, device=device)

    def decode() -> Tensor:
        written: Tensor = model.text_decoder.generate(
            input_ids=start,
            attention_mask=torch.ones_like(start),
            encoder_hidden_states=states,
            encoder_attention_mask=torch.ones(states.shape[:2], dtype=torch.int64, device=device),
            num_beams=BEAMS,
            min_new_tokens=TOKENS,
            max_new_tokens=TOKENS,
            no_repeat_ngram_size=3,
            do_sample=False,
            eos_token_id=config.text_config.sep_token_id,
            pad_token_id=config.text_config.pad_token_id,
        )
        assert written.shape[1] == TOKENS + 1
        return written

    return {"encode, BLIP": encode, "decode, BLIP": decode}, sum(p.numel() for p in model.parameters())


def operations(job: Callable[[], Any]) -> float:
    """Floating-point operations of matrix products and convolutions, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        job()
    return float(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "base"], choices=sorted(BLIP))
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--wall", action="store_true", help="wall time instead of the process's CPU time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    use_whole_float32()
    device = torch.device(options.device)
    wall = options.wall or device.type != "cpu"
    results: dict[str, Any] = {}
    with torch.inference_mode():
        for size in options.sizes:
            jobs, parameters = ours(size, options.pixels, device)
            peers, peer_parameters = hugging_face(size, options.pixels, device)
            counted = {name: operations(jobs[name]) for name in ("encode", "decode")}
            products, product_operations = yardsticks(device, torch.float32)
            timed = interleaved(
                {**jobs, **peers, "matmul": products["matmul"]},
                options.repeats,
                device,
                time.perf_counter if wall else time.process_time,
            )
            medians = {name: statistics.median(values) for name, values in timed.items()}
            rate = product_operations / medians.pop("matmul")
            results[size] = {
                "parameters": parameters,
                "BLIP parameters": peer_parameters,
                "seconds": {name: round(value, 4) for name, value in medians.items()},
                "times slower than ours": {
                    name: round(value / medians[name.split(",")[0]], 2) for name, value in medians.items()
                },
                "gigaflop": {name: round(value / 1e9, 2) for name, value in counted.items()},
                "efficiency": {name: round(value / medians[name] / rate, 3) for name, value in counted.items()},
                "matmul gigaflop/s": round(rate / 1e9, 1),
            }
            print(f"ofa-{size}, {parameters / 1e6:.0f} M parameters (BLIP {peer_parameters / 1e6:.0f} M)")
            for name, seconds in medians.items():
                efficiency = results[size]["efficiency"].get(name)
                shown = "" if efficiency is None else f"   efficiency {efficiency:.2f}"
                print(f"  {name:<22} {seconds:8.3f} s {results[size]['times slower than ours'][name]:7.2f} x{shown}")
    facts = machine(device) | {
        "clock": "wall" if wall else "process",
        "pictures": PICTURES,
        "beams": BEAMS,
        "tokens": TOKENS,
        "pixels": options.pixels,
        "repeats": options.repeats,
        "results": results,
    }
    name = "x".join(options.sizes)
    print(write_result(f"generate-{name}-{device.type}-{options.threads}t{'-wall' if wall else ''}", facts))


if __name__ == "__main__":
    main()
