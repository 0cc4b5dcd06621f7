"""Multi-head attention: the switch between its forms, and self-attention with an additive bias."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.nn.linear import Linear
from one_peace.nn.lora import project
from one_peace.nn.rotary import Rotary, rotate


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Fused attention: q, k, v (batch, heads, tokens, head_dim), bias broadcastable to (batch, heads, tokens, keys)."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """The same by two products and a softmax in float32 at least: the oracle, and on CPUs sometimes the faster form."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32)).to(v.dtype) @ v


AttentionBackend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def choose_backend(device: torch.device, dtype: torch.dtype, bias_learns: bool = False) -> AttentionBackend:
    """The faster backend for a device, the dtype of queries, and a bias that needs its gradient or not.

    Fused, except on CPUs in half precision, where it is slower, and for learning biases, where PyTorch's kernel has no
    gradient and its fallback takes a sixth longer than the plain form.
    """
    if device.type == "cpu" and (dtype.itemsize == 2 or bias_learns):
        return plain_attention
    return sdpa_attention


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention by the backend that is faster here; shapes as for `sdpa_attention`."""
    # by the dtype of the queries, which under autocast is not that of a layer's input
    return choose_backend(q.device, q.dtype, bias is not None and bias.requires_grad)(q, k, v, bias)


class Attention(nn.Module):
    """Self-attention shared by all modalities (paper, section 3.2; sub-layer norm as in Magneto).

    The key projection has no bias. `norm` acts on the concatenated heads, before `out`; `norm_eps` None leaves it out.
    """

    def __init__(self, width: int, heads: int, norm_eps: float | None = 1e-5) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(width, eps=norm_eps)
        self.out = Linear(width, width)

    def forward(
        self, x: Tensor, bias: Tensor | None = None, queries: int | None = None, rotary: Rotary | None = None
    ) -> Tensor:
        """x (batch, tokens, width), bias broadcastable to (batch, heads, tokens, tokens) -> (batch, tokens, width).

        `queries` asks for the outputs of the first so many tokens only. `rotary` turns queries and keys by position.
        """
        batch, tokens, width = x.shape
        v_bias = torch.cat([torch.zeros_like(self.v_bias), self.v_bias])
        if queries is None:
            qkv = project(self.qkv, x, torch.cat([self.q_bias, v_bias]))
            q, k, v = qkv.view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q = project(self.qkv, x[:, :queries], self.q_bias, slice(width))
            q = q.view(batch, queries, self.heads, width // self.heads).transpose(1, 2)
            kv = project(self.qkv, x, v_bias, slice(width, None))
            k, v = kv.view(batch, tokens, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
            bias = None if bias is None else bias[..., :queries, :]
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        heads = attend(q, k, v, bias)  # (batch, heads, queries, head_dim)
        return self.out(self.norm(heads.transpose(1, 2).reshape(batch, -1, width)))
