from __future__ import annotations

import math

import pytest
import torch

from one_peace.nn import attention
from one_peace.nn.attention import (
    Attention,
    AttentionBackend,
    choose_backend,
    plain_attention,
    sdpa_attention,
)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, 9, 16, generator=generator).to(dtype).requires_grad_() for _ in range(3))
    bias = torch.randn(2, 4, 9, 9, generator=generator).to(dtype)
    bias[1, :, :, 6:] = -math.inf
    return q, k, v, bias.requires_grad_()


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("biased", [True, False])
def test_backends_agree_in_value_and_gradient(biased: bool, dtype: torch.dtype, close: float) -> None:
    results = []
    for backend in (plain_attention, sdpa_attention):
        q, k, v, bias = inputs(dtype)
        out = backend(q, k, v, bias if biased else None)
        out.square().sum().backward()
        results.append((out, q.grad, k.grad, v.grad))
    for ours, oracle in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, oracle, atol=close, rtol=close)


@pytest.mark.parametrize("backend", [plain_attention, sdpa_attention])
def test_half_precision_stays_close(backend: AttentionBackend) -> None:
    exact = plain_attention(*inputs())
    half = backend(*inputs(torch.bfloat16)).float()
    assert torch.cosine_similarity(exact.flatten(), half.flatten(), dim=0) > 0.999


def test_masked_keys_have_no_influence() -> None:
    q, k, v, bias = (t.detach() for t in inputs())
    changed = v.clone()
    changed[1, :, 6:] += 100.0
    assert torch.equal(plain_attention(q, k, v, bias), plain_attention(q, k, changed, bias))


def test_the_plain_form_serves_half_precision_on_cpus() -> None:
    assert choose_backend(torch.device("cpu"), torch.bfloat16) is plain_attention
    for dtype in (torch.float32, torch.float64):
        assert choose_backend(torch.device("cpu"), dtype) is sdpa_attention


def test_the_dtype_of_products_decides_and_not_that_of_the_residual(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, asked = Attention(32, 4), []

    def choose(device: torch.device, dtype: torch.dtype, bias_learns: bool = False) -> AttentionBackend:
        asked.append((dtype, bias_learns))
        return choose_backend(device, dtype, bias_learns)

    monkeypatch.setattr(attention, "choose_backend", choose)
    bias = torch.zeros(1, 4, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(2, 3, 32), bias)
    layer(torch.randn(2, 3, 32), bias.requires_grad_())
    assert asked == [(torch.bfloat16, False), (torch.float32, True)]


def test_a_bias_that_learns_takes_the_form_that_has_its_gradient() -> None:
    assert choose_backend(torch.device("cpu"), torch.float32, bias_learns=True) is plain_attention
    assert choose_backend(torch.device("cuda"), torch.bfloat16, bias_learns=True) is sdpa_attention


def test_the_key_projection_has_no_bias() -> None:
    layer = Attention(32, 4)
    assert sum(p.numel() for p in layer.parameters()) == 4 * 32 * 32 + 2 * 32 + 32 + 2 * 32


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="30 is not a multiple of heads 4"):
        Attention(30, 4)
