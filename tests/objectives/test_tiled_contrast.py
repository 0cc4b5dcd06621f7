"""The contrast in tiles: the plain loss in value and gradient, on any number of processes, in linear memory.

As a program it is one of the processes of the test of several.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from one_peace.objectives.contrast import cross_modal_contrast
from one_peace.objectives.smoothing import smoothed_cross_entropy
from one_peace.objectives.tiled_contrast import tiled_contrast

Leaves = tuple[Tensor, Tensor, Tensor]


def leaves(rows: int, seed: int = 0) -> Leaves:
    generator = torch.Generator().manual_seed(seed)
    made = [F.normalize(torch.randn(rows, 16, generator=generator), dim=1) for _ in range(2)]
    return made[0].requires_grad_(), made[1].requires_grad_(), torch.tensor(9.0, requires_grad=True)


def plain_full(first: Tensor, second: Tensor, scale: Tensor, smoothing: float) -> Tensor:
    """The loss over the whole batch, nothing detached."""
    target = torch.arange(len(first))
    logits = scale * first @ second.t()
    return (
        smoothed_cross_entropy(logits, target, smoothing) + smoothed_cross_entropy(logits.t(), target, smoothing)
    ) / 2


def whole_batch(rows: int, smoothing: float, full: bool) -> tuple[Tensor, list[Tensor]]:
    made = leaves(rows)
    loss = plain_full(*made, smoothing) if full else cross_modal_contrast(*made, smoothing).loss
    return loss.detach(), [g for g in torch.autograd.grad(loss, made)]


def assert_close(ours: Tensor, theirs: Tensor, name: str) -> None:
    """1e-6 of the largest value, and the last bit or two of float32."""
    error = (ours - theirs).abs().max().item() / theirs.abs().max().item()
    assert error <= 1e-6, (name, error)


def without_alike(first: Tensor, second: Tensor, scale: Tensor, groups: Tensor, full: bool) -> Tensor:
    """The loss with logits of pairs of one group left out, by definition."""
    own = torch.eye(len(first), dtype=torch.bool)
    alike = (groups[:, None] == groups) & ~own
    candidates = (first, second) if full else (first.detach(), second.detach())
    forward = (scale * first @ candidates[1].t()).masked_fill(alike, -torch.inf)
    backward = (scale * second @ candidates[0].t()).masked_fill(alike, -torch.inf)
    target = torch.arange(len(first))
    return (F.cross_entropy(forward, target) + F.cross_entropy(backward, target)) / 2


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("tile", [1, 3, 64])
def test_pairs_of_one_group_are_not_each_others_negatives(full: bool, tile: int) -> None:
    groups = torch.tensor([5, -2, 5, 5, 9, -2, 1])
    made = leaves(7)
    expected = torch.autograd.grad(without_alike(*made, groups, full), made)
    result = tiled_contrast(*made, full_gradients=full, tile=tile, groups=groups)
    for name, ours, theirs in zip("abs", torch.autograd.grad(result.loss, made), expected, strict=True):
        assert_close(ours, theirs, name)
    assert_close(result.loss.detach(), without_alike(*made, groups, full).detach(), "loss")
    alone = tiled_contrast(*made, full_gradients=full, tile=tile, groups=torch.zeros(7, dtype=torch.int64))
    assert abs(alone.loss) < 1e-6 and alone.first_to_second_correct == 7, "nothing is left to tell them from"
    with pytest.raises(ValueError, match="smoothing"):
        tiled_contrast(*made, smoothing=0.1, groups=groups)


@given(
    rows=st.integers(1, 20),
    tile=st.integers(1, 30),
    smoothing=st.sampled_from([0.0, 0.1]),
    full=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_tile_gives_the_plain_loss(rows: int, tile: int, smoothing: float, full: bool, seed: int) -> None:
    if rows == 1:
        smoothing = 0.0  # there is no other class to give a share to
    ours, theirs = ([x.detach().double().requires_grad_() for x in leaves(rows, seed)] for _ in range(2))
    result = tiled_contrast(*ours, smoothing, full_gradients=full, tile=tile)
    expected = cross_modal_contrast(*theirs, smoothing)
    loss = plain_full(*theirs, smoothing) if full else expected.loss
    torch.testing.assert_close(result.loss.double(), loss, rtol=2e-6, atol=1e-6, check_dtype=False)
    assert result.first_to_second_correct == expected.first_to_second_correct
    assert result.second_to_first_correct == expected.second_to_first_correct
    result.loss.backward()
    loss.backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=2e-6, check_dtype=False)


class Largest(TorchDispatchMode):
    """The largest number of elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else (out,):
            if isinstance(made, Tensor):
                self.elements = max(self.elements, made.numel())
        return out


@pytest.mark.parametrize("full", [False, True])
def test_memory_does_not_grow_with_the_square_of_the_batch(full: bool) -> None:
    largest = {}
    for rows in (256, 512, 1024):
        with Largest() as mode:
            tiled_contrast(*leaves(rows), 0.1, full_gradients=full, tile=64).loss.backward()
        largest[rows] = mode.elements
    assert largest == {rows: rows * 64 for rows in largest}
    with Largest() as mode:
        cross_modal_contrast(*leaves(256)).loss.backward()
    assert mode.elements >= 256 * 256, "the plain loss would be seen"


def test_half_precision_features_get_gradients_of_their_own_dtype() -> None:
    first, second, scale = leaves(6)
    halves = [x.detach().bfloat16().requires_grad_() for x in (first, second)]
    result = tiled_contrast(*halves, scale)
    result.loss.backward()
    assert result.loss.dtype == torch.float32
    assert all(h.grad is not None and h.grad.dtype == torch.bfloat16 for h in halves)


def test_one_two_and_four_processes_give_the_plain_loss() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "src"), *sys.path])}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "4", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, __file__], env=env | {"RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(4)
    ]
    for process in started:
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors.decode()[-3000:]


def one_process(rows: int = 24) -> None:
    dist.init_process_group("gloo")
    groups = {count: dist.new_group(list(range(count))) for count in (1, 2, 4)}
    for count, group in groups.items():
        if dist.get_rank() < count:
            for full in (False, True):
                for smoothing in (0.0, 0.1):
                    _compare(count, group, rows, smoothing, full)
    dist.barrier()
    dist.destroy_process_group()


def _compare(count: int, group: Any, rows: int, smoothing: float, full: bool) -> None:
    local = rows // count
    offset = dist.get_rank() * local
    made = leaves(rows)
    mine = [made[0][offset : offset + local].detach(), made[1][offset : offset + local].detach(), made[2].detach()]
    for leaf in mine:
        leaf.requires_grad_()

    def gather(x: Tensor) -> Tensor:
        out = x.new_empty((count * x.shape[0], *x.shape[1:]))
        dist.all_gather_into_tensor(out, x.contiguous(), group=group)
        return out

    tiled = partial(tiled_contrast, gather=gather, offset=offset, full_gradients=full, tile=5)
    loss = tiled(*mine, smoothing).loss
    loss.backward()
    expected, grads = whole_batch(rows, smoothing, full)
    case = f"{count} processes, full {full}, smoothing {smoothing}"
    mean = loss.detach().clone()
    dist.all_reduce(mean, group=group)
    assert_close(mean / count, expected, f"{case}: loss")
    for leaf, whole, name in zip(mine[:2], grads[:2], ("first", "second"), strict=True):
        # of the average over processes each feature has the share 1 / count
        assert leaf.grad is not None
        assert_close(leaf.grad / count, whole[offset : offset + local], f"{case}: {name}")
    scale = mine[2].grad
    assert scale is not None
    dist.all_reduce(scale, group=group)
    assert_close(scale / count, grads[2], f"{case}: scale")


if __name__ == "__main__":
    torch.set_num_threads(1)
    one_process()
