"""Speed, memory and efficiency of encoding: `python benchmarks/encode.py [--device cuda] [--threads 2]`.

Efficiency is the arithmetic that the embedding needs, divided by the time and by the rate of a square matrix product
timed in turn in the same process, threads and dtype: PyTorch's own (`matmul`) and that of our linear layers (`linear`),
which is another one on some CPUs. What counts (`arithmetic`): multiply-adds of matrix products
and convolutions over real tokens, two operations each; in the last block only what the cls token needs. Norms,
activations, softmax, padding and table look-ups count nothing, though they take time.

`pip install transformers` adds the Hugging Face towers of the same width and depth, with random weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from measure import interleaved, machine, peak_bytes, use_whole_float32, write_result, yardsticks
from torch import Tensor

from one_peace.modalities.audio import AudioConfig, wave_convolutions
from one_peace.models.batching import batch_by_length
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.models.one_peace.presets import preset
from one_peace.nn.allocator import keep_freed_memory

BATCH = {"text": 16, "image": 8, "audio": 4}
ON_GPU = 32  # times as many
TOKENS, PIXELS, SECONDS = 32, 224, 5
CLAP_SECONDS = 10  # CLAP stretches every clip to this length
RATE = 16_000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclasses.dataclass
class Subject:
    """One thing to time: `units` items of `unit` per run, `operations` of counted arithmetic."""

    run: Callable[[], Any]
    unit: str
    units: int
    operations: float


def arithmetic(config: OnePeaceConfig, name: str, batch: int, tokens: int, samples: int = 0) -> float:
    """Operations to embed `batch` inputs of `tokens` tokens, cls included (rule in the module's docstring)."""
    d, f = config.width, config.ffn_width
    block = tokens * (4 * d * d + 3 * d * f) + 2 * tokens * tokens * d
    last = tokens * 2 * d * d + 2 * d * d + 3 * d * f + 2 * tokens * d  # keys and values of all, the rest of cls
    total = (config.layers - 1) * block + last + d * d  # and the projection
    if name == "image":  # the stem: 4 x 4, then 2 x 2 twice
        c = d // 4
        total += (tokens - 1) * (16 * 48 * c + 4 * 4 * c * c + 4 * c * d)
    if name == "audio":
        audio = config.modalities["audio"]
        before, frames = 1, samples
        for channels, kernel, stride in audio.convs:
            frames = (frames - kernel) // stride + 1
            total += frames * kernel * before * channels
            before = channels
        kernel = max(3, audio.position_width // audio.position_depth)
        total += frames * (before * d + audio.position_depth * kernel * d * d // audio.position_groups)
    return 2.0 * batch * total


def batch_size(name: str, device: torch.device) -> int:
    """How many inputs of a modality are encoded at once."""
    return BATCH[name] * (ON_GPU if device.type == "cuda" else 1)


def inputs(name: str, config: OnePeaceConfig, device: torch.device) -> tuple[dict[str, Tensor], int, int, str]:
    """A batch, its tokens per input, the number of units in it, and the unit."""
    size = batch_size(name, device)
    if name == "text":
        return {"tokens": torch.randint(4, 50_000, (size, TOKENS), device=device)}, TOKENS + 1, size, "texts"
    if name == "image":
        pixels = torch.randn(size, 3, PIXELS, PIXELS, device=device)
        return {"pixels": pixels}, (PIXELS // 16) ** 2 + 1, size, "images"
    frames = SECONDS * RATE
    for _, kernel, stride in config.modalities["audio"].convs:
        frames = (frames - kernel) // stride + 1
    return {"waveform": torch.randn(size, SECONDS * RATE, device=device)}, frames + 1, size * SECONDS, "seconds"


def ours(config: OnePeaceConfig, name: str, device: torch.device, dtype: torch.dtype) -> Subject:
    """The branch of one modality with random weights."""
    torch.manual_seed(0)
    model = OnePeaceEncoder(config.with_modalities([name])).eval().requires_grad_(False).to(device, dtype)
    batch, tokens, units, unit = inputs(name, config, device)
    size = next(iter(batch.values())).shape[0]
    operations = arithmetic(config, name, size, tokens, SECONDS * RATE)
    return Subject(lambda: model.embed(name, batch), unit, units, operations)


def hugging_face(config: OnePeaceConfig, device: torch.device, dtype: torch.dtype) -> dict[str, Subject]:
    """CLIP and CLAP towers of our width and depth; none without transformers. Their arithmetic is counted by torch."""
    try:
        import transformers as hf
    except ImportError:
        return {}
    d = config.width
    shape = {
        "hidden_size": d,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "projection_dim": d,
    }
    subjects: dict[str, Subject] = {}
    texts, images, clips = (batch_size(name, device) for name in ("text", "image", "audio"))

    def add(name: str, model: torch.nn.Module, batch: dict[str, Tensor], unit: str, units: int) -> None:
        tower = model.eval().requires_grad_(False).to(device, dtype)
        run = lambda: tower(**batch)  # noqa: E731
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            run()
        subjects[name] = Subject(run, unit, units, float(counter.get_total_flops()))

    # (suffix, feed-forward width): CLIP's usual one, and that with our arithmetic (our gated one has 3 products, not 2)
    for suffix, hidden in ((" CLIP", 4 * d), (" CLIP, equal arithmetic", 3 * config.ffn_width // 2)):
        text = hf.CLIPTextConfig(vocab_size=50_264, intermediate_size=hidden, **shape)
        tokens = torch.randint(4, 50_000, (texts, TOKENS), device=device)
        add("text" + suffix, hf.CLIPTextModelWithProjection(text), {"input_ids": tokens}, "texts", texts)
        image = hf.CLIPVisionConfig(image_size=PIXELS, patch_size=16, intermediate_size=hidden, **shape)
        pixels = torch.randn(images, 3, PIXELS, PIXELS, device=device, dtype=dtype)
        add("image" + suffix, hf.CLIPVisionModelWithProjection(image), {"pixel_values": pixels}, "images", images)
    # A Swin over spectrograms: its width doubles at each of four stages. Ours is its last, our depth is the sum.
    depths = [2, 2, config.layers - 6, 2]
    audio = hf.ClapAudioConfig(
        hidden_size=d,
        patch_embeds_hidden_size=d // 8,
        depths=depths,
        projection_dim=d,
        num_attention_heads=[max(1, d // 256) * 2**i for i in range(4)],  # of 32, as published
    )
    mel = torch.randn(clips, 1, 100 * CLAP_SECONDS + 1, 64, device=device, dtype=dtype)
    add("audio CLAP", hf.ClapAudioModelWithProjection(audio), {"input_features": mel}, "seconds", clips * CLAP_SECONDS)
    return subjects


def padding_waste() -> dict[str, float]:
    """Share of padding in batches of mixed lengths: 2000 captions, 500 clips, lengths spread as in real collections."""
    generator = torch.Generator().manual_seed(0)
    words = torch.empty(2000).log_normal_(2.5, 0.5, generator=generator)
    captions = (words.clamp(2, 70) + 2).long().tolist()
    seconds = torch.empty(500).log_normal_(1.3, 0.8, generator=generator).clamp(1.0, 15.0)
    clips = (seconds * 50).long().tolist()
    waste = {}
    for name, lengths in (("text", captions), ("audio", clips)):
        batches = batch_by_length(lengths, 4096)
        padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
        waste[name] = 1 - sum(lengths) / padded
        waste[f"{name}, items per batch"] = len(lengths) / len(batches)
    return waste


def half_precision(config: OnePeaceConfig, device: torch.device, repeats: int, clock: Any) -> dict[str, Any]:
    """bfloat16 beside float32 by modality: speed-up, and the worst cosine of a batch's embeddings."""
    rows = {}
    for name in ("text", "image", "audio"):
        pair = [ours(config, name, device, dtype) for dtype in (torch.float32, torch.bfloat16)]
        features = [subject.run().float() for subject in pair]
        cosine = torch.cosine_similarity(*features).min().item()
        seconds = interleaved({"float32": pair[0].run, "bfloat16": pair[1].run}, repeats, device, clock)
        medians = {dtype: statistics.median(values) for dtype, values in seconds.items()}
        rows[name] = {"worst_cosine": cosine, "speedup": medians["float32"] / medians["bfloat16"]}
    return rows


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="base", help="preset: base is 768 wide, 12 layers, 12 heads")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--half", action="store_true", help="also bfloat16 beside float32 (slow on CPUs without it)")
    parser.add_argument(
        "--clock", default="wall", choices=["wall", "cpu"], help="cpu: processor time, for one thread on a busy machine"
    )
    options = parser.parse_args()
    if options.clock == "cpu" and (options.threads > 1 or options.device.type != "cpu"):
        parser.error("--clock cpu measures one thread of a CPU")
    torch.set_num_threads(options.threads)
    use_whole_float32()
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    device, dtype = options.device, DTYPES[options.dtype]
    config = preset(options.model)
    published = AudioConfig(convs=wave_convolutions(512))
    subjects = {name: ours(config, name, device, dtype) for name in ("text", "image", "audio")}
    wide = dataclasses.replace(config, modalities={"audio": published})
    subjects["audio, 512 channels"] = ours(wide, "audio", device, dtype)
    subjects |= hugging_face(config, device, dtype)
    memory = {name: peak_bytes(subject.run, device) for name, subject in subjects.items()}
    kept = keep_freed_memory()  # only now: it hides peaks
    facts: dict[str, Any] = machine(device) | {
        "model": options.model,
        "dtype": options.dtype,
        "clock": options.clock,
        "keeps_freed_memory": kept,
        "front_end_channels": config.modalities["audio"].convs[0][0],
    }
    print(*(f"{key}: {value}" for key, value in facts.items()), sep="\n", end="\n\n")
    products, product_operations = yardsticks(device, dtype)
    print(
        f"{'':32}{'per second':>18}{'GFLOP':>8}{'seconds':>9}{'GFLOP/s':>9}{'matmul':>8}{'of it':>7}{'linear':>8}"
        f"{'of it':>7}{'peak MB':>9}"
    )
    rows: dict[str, dict[str, Any]] = {}
    for name, subject in subjects.items():
        seconds = interleaved({**products, "run": subject.run}, options.repeats, device, clock)
        median = statistics.median(seconds["run"])
        rate, own_rate = (product_operations / statistics.median(seconds[name]) for name in ("matmul", "linear"))
        speed = subject.operations / median
        rows[name] = {
            "per_second": subject.units / median,
            "unit": subject.unit,
            "seconds": median,
            "flop": subject.operations,
            "matmul_flops": rate,
            "efficiency": speed / rate,
            "linear_flops": own_rate,
            "efficiency_of_linear": speed / own_rate,
            "peak_bytes": memory[name],
        }
        figure = f"{subject.units / median:.2f} {subject.unit}"
        print(
            f"{name:32}{figure:>18}{subject.operations / 1e9:8.1f}{median:9.3f}{speed / 1e9:9.1f}"
            f"{rate / 1e9:8.1f}{speed / rate:7.2f}{own_rate / 1e9:8.1f}{speed / own_rate:7.2f}"
            f"{memory[name] / 1e6:9.0f}",
            flush=True,
        )
    for name, row in rows.items():
        base = name.split(" ")[0]
        if base != name and "channels" not in name:
            same = rows[base]
            row["ours_to_this"] = same["per_second"] / row["per_second"]
            row["ours_to_this_efficiency"] = same["efficiency"] / row["efficiency"]
            print(
                f"ours / {name}: {row['ours_to_this']:.2f} by {row['unit']} per second, "
                f"{row['ours_to_this_efficiency']:.2f} by efficiency"
            )
    facts |= {"rows": rows, "padding": padding_waste()}
    print("padding:", ", ".join(f"{name} {value:.3g}" for name, value in facts["padding"].items()))
    if options.half:
        facts["bfloat16"] = half_precision(config, device, min(3, options.repeats), clock)
        for name, row in facts["bfloat16"].items():
            print(f"{name} in bfloat16: {row['speedup']:.2f} x float32, worst cosine {row['worst_cosine']:.5f}")
    name = f"encode-{options.model}-{device.type}-{options.dtype}-{options.threads}t"
    print(f"wrote {write_result(name, facts)}")


if __name__ == "__main__":
    main()
