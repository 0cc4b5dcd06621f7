"""Speed and memory of a pretraining step: `python benchmarks/pretrain.py [--device cuda --dtype bfloat16]`.

One step is forward pass, backward pass and update, of stage 1 (text and image) and of stage 2 (text and audio). The
library's step runs in turn with the textbook step of `textbook.py`, from the same weights: first losses and gradients
are compared, then memory, then time. Efficiency counts the arithmetic that the library's step needs (`arithmetic`)
against the rate of a square matrix product timed in turn, as in `encode.py`; the textbook's is given by the same count.
On a CPU the profiler tells how much of the step its products take and how fast they are at their own shapes: their rate
is what the step could reach if it did nothing else. With `--compile` our step as it stands runs in turn too.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from measure import interleaved, machine, peak_bytes, use_whole_float32, write_result, yardsticks
from textbook import TextbookStep
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from one_peace.media.sounds import frame_count
from one_peace.modalities.audio import block_mask
from one_peace.modalities.image import complementary_patch_mask, patch_mask
from one_peace.modalities.text import avoiding_token_mask
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.presets import preset
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.nn.allocator import keep_freed_memory
from one_peace.nn.attention import plain_attention
from one_peace.objectives.contrast import cross_modal_contrast
from one_peace.tasks.pretraining import (
    AUDIO_TEXT,
    IMAGE_TEXT,
    PretrainingBatch,
    PretrainingStage,
    collate_masks,
    freeze_for_stage,
)
from one_peace.training.cost import FlopCount
from one_peace.training.distributed import Processes
from one_peace.training.forward_pass import prepare_model
from one_peace.training.optimizer import build_optimizer
from one_peace.training.pretraining.forward_pass import PretrainingPass
from one_peace.training.recipe import EngineRecipe, OptimizerRecipe

TOKENS = 32
RATE = 16_000
STAGES = {"stage 1": IMAGE_TEXT, "stage 2": AUDIO_TEXT}
# Allowed differences in float32, relative; gradients to the largest of their tensor. Those of mask tokens are sums over
# thousands of positions that nearly cancel, where the order of summation shows, the more the larger the batch.
LOSSES, GRADIENTS = 1e-5, 1e-3
PRODUCTS, ONEDNN = ("aten::mm", "aten::addmm", "aten::bmm"), "mkldnn::_linear_pointwise"


@dataclasses.dataclass(frozen=True)
class Size:
    """A model and what goes through it at once; a GPU takes `gpu_batch`."""

    model: str
    pixels: int
    seconds: int
    batch: int
    gpu_batch: int
    recompute: bool = False


SIZES = {
    "nano": Size("nano", pixels=64, seconds=1, batch=8, gpu_batch=512),
    "small": Size("small", pixels=224, seconds=5, batch=8, gpu_batch=256),
    "one-peace": Size("one-peace", pixels=256, seconds=5, batch=1, gpu_batch=32, recompute=True),
}


def random_batch(
    config: OnePeaceConfig, stage: PretrainingStage, size: Size, batch: int, device: str
) -> PretrainingBatch:
    """Random inputs of equal lengths, masked by the published rules."""
    generator = torch.Generator().manual_seed(0)
    inputs = {"text": {"tokens": torch.randint(4, 50_000, (batch, TOKENS), generator=generator)}}
    masks: dict[str, list[Tensor]] = {place: [] for place in ("anchor", "joint_anchor", "partner", "joint_partner")}
    if stage.partner == "image":
        inputs["image"] = {"pixels": torch.randn(batch, 3, size.pixels, size.pixels, generator=generator)}
        length = (size.pixels // 16) ** 2
    else:
        inputs["audio"] = {"waveform": torch.randn(batch, size.seconds * RATE, generator=generator)}
        length = frame_count(size.seconds * RATE, config.modalities["audio"].convs)
    for _ in range(batch):
        anchor = patch_mask(TOKENS, stage.anchor_mask, generator)  # single tokens: every sample hides as many
        masks["anchor"].append(anchor)
        masks["joint_anchor"].append(avoiding_token_mask(anchor, stage.joint_anchor_mask, generator))
        if stage.partner == "image":
            partner = patch_mask(length, stage.partner_mask, generator)
            joint = complementary_patch_mask(partner, stage.joint_partner_mask, generator)
        else:
            partner = block_mask(length, stage.partner_mask, generator)
            joint = block_mask(length, stage.joint_partner_mask, generator)
        masks["partner"].append(partner)
        masks["joint_partner"].append(joint)
    if not stage.train_anchor:
        del masks["anchor"]
    moved = {name: {key: value.to(device) for key, value in part.items()} for name, part in inputs.items()}
    return PretrainingBatch(
        moved, {place: collate_masks(some).to(torch.device(device)) for place, some in masks.items()}
    )


def arithmetic(config: OnePeaceConfig, stage: PretrainingStage, batch: PretrainingBatch, device: str) -> int:
    """Operations of matrix products and convolutions in one step of the library, nothing computed twice.

    PyTorch's own counts of what runs, with attention written out so that all its products are seen, for one block and
    for two, extended to the model's depth.
    """
    counts = []
    for layers in (1, 2):
        model = OnePeaceForPretraining(dataclasses.replace(config, layers=layers)).to(device)
        freeze_for_stage(model, stage)
        losses = PretrainingPass(model, stage)
        written_out = mock.patch("one_peace.nn.attention.choose_backend", return_value=plain_attention)
        with written_out, FlopCount() as counter:
            losses(batch, cross_modal_contrast, True)["total"].backward()
        counts.append(counter.total)
    return counts[0] + (config.layers - 1) * (counts[1] - counts[0])


class Subject:
    """A step that can be repeated: its losses, gradients and update."""

    def __init__(
        self, name: str, losses: Callable[[], dict[str, Tensor]], optimizer: torch.optim.Optimizer, clip: float
    ) -> None:
        self.name, self.losses, self.optimizer, self.clip = name, losses, optimizer, clip

    def backward(self) -> dict[str, Tensor]:
        """The losses of the batch, with gradients added up in the parameters."""
        losses = self.losses()
        losses["total"].backward()
        return losses

    def step(self) -> None:
        """Everything that an update takes."""
        self.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def compare(ours: Subject, library: nn.Module, other: Subject, textbook: TextbookStep) -> dict[str, Any]:
    """Worst relative difference of losses, and of gradients to the largest value of their tensor."""
    first, second = ours.backward(), other.backward()
    worst_loss = max(abs(first[name].item() / loss.item() - 1) for name, loss in second.items())
    expected = textbook.gradients()
    found = {name: p.grad for name, p in library.named_parameters() if p.grad is not None}
    if found.keys() != expected.keys():
        raise AssertionError(f"gradients of different parameters: {sorted(found.keys() ^ expected.keys())[:5]}")
    scale = max(grad.abs().max().item() for grad in expected.values())
    worst, where = 0.0, ""
    for name, grad in expected.items():
        difference = (found[name] - grad).abs().max().item() / max(grad.abs().max().item(), 1e-6 * scale)
        if difference > worst:
            worst, where = difference, name
    for subject in (ours, other):
        subject.optimizer.zero_grad(set_to_none=True)
    return {"loss_difference": worst_loss, "gradient_difference": worst, "gradient_difference_of": where}


def build(
    size: Size, stage: PretrainingStage, layers: int, engine: EngineRecipe, device: str
) -> tuple[Subject, PretrainingPass, Subject, TextbookStep, PretrainingBatch, OnePeaceConfig]:
    """The library's step and the textbook's, with the same weights and the same batch."""
    config = dataclasses.replace(preset(size.model, ("text", stage.partner), decoder=True), layers=layers)
    torch.manual_seed(0)
    with torch.device(device):  # the largest takes minutes to draw on a CPU
        model = OnePeaceForPretraining(config).train()
    freeze_for_stage(model, stage)
    textbook = TextbookStep(model, stage, engine.recompute)
    library = prepare_model(PretrainingPass(model, stage), engine, Processes(), device)
    batch = random_batch(config, stage, size, size.gpu_batch if device != "cpu" else size.batch, device)
    recipe = OptimizerRecipe()
    updates = torch.optim.AdamW([p for p in textbook.parameters() if p.requires_grad], lr=recipe.lr, betas=recipe.betas)

    def textbook_losses() -> dict[str, Tensor]:
        usual = mock.patch("one_peace.nn.linear.onednn_is_faster", return_value=False)
        with usual, torch.autocast(torch.device(device).type, torch.bfloat16, enabled=engine.precision == "bfloat16"):
            return textbook(batch)

    ours = Subject(
        "ours", lambda: library(batch, cross_modal_contrast, True), build_optimizer(model, recipe), recipe.clip_norm
    )
    return ours, library, Subject("textbook", textbook_losses, updates, recipe.clip_norm), textbook, batch, config


def in_matrix_products(step: Callable[[], None]) -> tuple[float, float]:
    """The share of a step's processor time in matrix products, and their operations per second, by the profiler."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, with_flops=True) as profiled:
        step()
    events = profiled.key_averages(group_by_input_shape=True)
    found = [event for event in events if event.key in (*PRODUCTS, ONEDNN)]
    busy = sum(event.self_cpu_time_total for event in found)  # microseconds
    operations = sum(event.flops for event in found if event.key != ONEDNN)
    for event in found:
        if event.key == ONEDNN:  # unknown to the profiler's table
            operations += 2 * event.count * math.prod(event.input_shapes[0]) * event.input_shapes[1][0]
    return busy / sum(event.self_cpu_time_total for event in events), operations / busy * 1e6


def deepest(size: Size, stage: PretrainingStage, engine: EngineRecipe, device: str) -> tuple[int, Any]:
    """The most layers with which both steps fit the device together, in steps of a quarter, and what was built."""
    full = preset(size.model).layers
    for layers in (full, 3 * full // 4, full // 2, full // 4):
        try:
            built = build(size, stage, layers, engine, device)
            for subject in (built[0], built[2]):
                subject.step()  # the optimizer's state and the activations count too
            return layers, build(size, stage, layers, engine, device)
        except torch.cuda.OutOfMemoryError:
            built = None
            torch.cuda.empty_cache()
    raise SystemExit(f"not even a quarter of the layers of {size.model} fits {device}")


def measure(
    size: Size, stage: PretrainingStage, engine: EngineRecipe, device: str, repeats: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """One row of the result: differences, peaks, seconds and efficiency of one stage at one size."""
    where = torch.device(device)
    layers = preset(size.model).layers
    if where.type == "cuda":
        layers, built = deepest(size, stage, engine, device)
    else:
        built = build(size, stage, layers, engine, device)
    ours, library, textbook, module, batch, config = built
    row: dict[str, Any] = {
        "layers": layers,
        "batch": len(batch.inputs["text"]["tokens"]),
        "engine": dataclasses.asdict(engine),
    }
    row |= compare(ours, library.model, textbook, module)
    allowed = GRADIENTS * math.sqrt(max(1.0, row["batch"] / size.batch))
    equal = row["loss_difference"] <= LOSSES and row["gradient_difference"] <= allowed
    row["equal"] = equal or engine.precision != "float32"
    for subject in (ours, textbook):
        subject.step()  # makes the optimizer's state, which stays
        row[f"peak_bytes_{subject.name}"] = peak_bytes(subject.step, where)
    row["flop"] = arithmetic(config, stage, batch, device)
    dtype = torch.bfloat16 if engine.precision == "bfloat16" else torch.float32
    products, product_operations = yardsticks(where, dtype)
    jobs = {**products, "ours": ours.step, "textbook": textbook.step}
    if dtype == torch.bfloat16 and not engine.recompute:
        exact = build(size, stage, layers, dataclasses.replace(engine, precision="float32"), device)[0]
        jobs["ours in float32"] = exact.step
    if engine.compile and not engine.recompute:
        plain = build(size, stage, layers, dataclasses.replace(engine, compile=False), device)[0]
        jobs["ours not compiled"] = plain.step
    keep_freed_memory()  # only now: it hides peaks
    seconds = interleaved(jobs, repeats, where, clock, warm_up=2)  # the steps share what memory was freed
    rate, own_rate = (product_operations / statistics.median(seconds[name]) for name in products)
    row |= {"matmul_flops": rate, "linear_flops": own_rate}
    for name in jobs.keys() - products.keys():
        row[f"seconds {name}"] = statistics.median(seconds[name])
        row[f"efficiency {name}"] = row["flop"] / row[f"seconds {name}"] / rate
    row["efficiency_of_linear ours"] = row["efficiency ours"] * rate / own_rate
    row["times_textbook"] = row["seconds textbook"] / row["seconds ours"]
    row["memory_of_textbook"] = row["peak_bytes_ours"] / row["peak_bytes_textbook"]
    if "ours in float32" in jobs:
        row["times_float32"] = row["seconds ours in float32"] / row["seconds ours"]
    if "ours not compiled" in jobs:
        row["times_not_compiled"] = row["seconds ours not compiled"] / row["seconds ours"]
    if where.type == "cpu" and dtype == torch.float32 and not engine.compile:
        row["share_in_products"], in_products = in_matrix_products(ours.step)
        row["products_of_linear"] = in_products / own_rate
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="default: all on a GPU, all but the largest on a CPU")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of products")
    parser.add_argument("--compile", action="store_true", help="the recipe's engine.compile, for our step")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--clock", default="wall", choices=["wall", "cpu"], help="cpu: processor time, for one thread on a busy machine"
    )
    options = parser.parse_args()
    if options.clock == "cpu" and (options.threads > 1 or options.device != "cpu"):
        parser.error("--clock cpu measures one thread of a CPU")
    torch.set_num_threads(options.threads)
    use_whole_float32()
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    device = torch.device(options.device)
    facts: dict[str, Any] = machine(device) | {
        "dtype": options.dtype,
        "clock": options.clock,
        "compile": options.compile,
    }
    print(*(f"{key}: {value}" for key, value in facts.items()), sep="\n", end="\n\n")
    print(
        f"{'':22}{'layers':>7}{'batch':>6}{'GFLOP':>9}{'seconds':>9}{'textbook':>9}{'times':>7}"
        f"{'of matmul':>10}{'of linear':>10}{'peak MB':>9}{'textbook':>9}{'losses':>9}{'gradients':>10}"
    )
    facts["rows"] = {}
    for name in options.sizes or [size for size in SIZES if device.type == "cuda" or size != "one-peace"]:
        for stage in options.stages:
            size = SIZES[name]
            engine = EngineRecipe(precision=options.dtype, recompute=size.recompute, compile=options.compile)
            row = measure(size, STAGES[stage], engine, options.device, options.repeats, clock)
            facts["rows"][f"{name}, {stage}"] = row
            print(
                f"{name + ', ' + stage:22}{row['layers']:7}{row['batch']:6}{row['flop'] / 1e9:9.0f}"
                f"{row['seconds ours']:9.3f}{row['seconds textbook']:9.3f}{row['times_textbook']:7.2f}"
                f"{row['efficiency ours']:10.2f}{row['efficiency_of_linear ours']:10.2f}"
                f"{row['peak_bytes_ours'] / 1e6:9.0f}{row['peak_bytes_textbook'] / 1e6:9.0f}"
                f"{row['loss_difference']:9.1e}{row['gradient_difference']:10.1e}",
                flush=True,
            )
            if "times_float32" in row:
                print(f"{'':22}{row['times_float32']:.2f} times as fast as our own float32")
            if "times_not_compiled" in row:
                print(f"{'':22}{row['times_not_compiled']:.2f} times as fast as not compiled")
            if "share_in_products" in row:
                print(
                    f"{'':22}products: {row['share_in_products']:.0%} of the step, at "
                    f"{row['products_of_linear']:.2f} of the rate of linear"
                )
    suffix = "-compiled" if options.compile else ""
    name = f"pretrain-{device.type}-{options.dtype}-{options.threads}t{suffix}"
    print(f"wrote {write_result(name, facts)}")
    if unequal := [name for name, row in facts["rows"].items() if not row["equal"]]:
        raise SystemExit(f"losses or gradients differ from the textbook's: {', '.join(unequal)}")


if __name__ == "__main__":
    main()
