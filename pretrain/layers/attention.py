"""Multi-head self-attention (Vaswani et al. 2017) along one axis of a grid of tokens, without rearranging the grid.

Legend: B samples, L tokens that attend to each other, P places that do so side by side, D features, H heads, K = D / H;
G = P x H, the heads of all places.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class QueryKeyValue(nn.Linear):
    """One linear map whose output is three."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 3 * dim)

    def forward(self, tokens_BLPD: Tensor, asking: int) -> tuple[Tensor, ...]:  # type: ignore[override]
        if tokens_BLPD.shape[1:3] == (asking, 1):
            return super().forward(tokens_BLPD).chunk(3, dim=-1)
        # Three dense outputs rather than thirds of one: then places and heads are one axis, and nothing is copied.
        inputs = (tokens_BLPD[:, :asking], tokens_BLPD, tokens_BLPD)
        parts = zip(inputs, self.weight.chunk(3), self.bias.chunk(3), strict=True)
        return tuple(functional.linear(*part) for part in parts)


class Attention(nn.Module):
    """Self-attention over L, at each of P places by itself; where it is causal, all ask and none looks ahead."""

    def __init__(self, dim: int, heads: int, is_causal: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.is_causal = is_causal
        self.qkv = QueryKeyValue(dim)
        self.proj = nn.Linear(dim, dim)

    def answers(self, tokens_BLPD: Tensor, asking: int) -> Tensor:
        """Give what each head found for the first tokens, side by side, before `proj` mixes them."""
        samples, _, places, dim = tokens_BLPD.shape
        shape_GK = (places * self.heads, dim // self.heads)
        queries, keys, values = (part.view(samples, -1, *shape_GK) for part in self.qkv(tokens_BLPD, asking))
        return attend(queries, keys, values, self.is_causal).reshape(samples, asking, places, dim)

    def first_looks_at(self, tokens_BLPD: Tensor) -> Tensor:
        """Say how much the first token looks at each, the mean over heads, BLP; for pictures."""
        samples, _, places, dim = tokens_BLPD.shape
        shape_PHK = (places, self.heads, dim // self.heads)
        queries, keys, _ = (part.view(samples, -1, *shape_PHK) for part in self.qkv(tokens_BLPD, 1))
        scores_BLPH = (queries * keys).sum(dim=-1) * shape_PHK[-1] ** -0.5
        looks_BLP: Tensor = scores_BLPH.softmax(dim=1).mean(dim=3)
        return looks_BLP

    def forward(self, tokens_BLPD: Tensor, asking: int) -> Tensor:
        """Attend among all L tokens, for the first `asking` of them."""
        mixed_BLPD: Tensor = self.proj(self.answers(tokens_BLPD, asking))
        return mixed_BLPD


def attend(queries_BLGK: Tensor, keys_BLGK: Tensor, values_BLGK: Tensor, is_causal: bool = False) -> Tensor:
    """Give BLGK, each head's answers."""
    queries, keys, values = (part.transpose(1, 2) for part in (queries_BLGK, keys_BLGK, values_BLGK))
    if products_are_faster(queries) and not is_causal:
        return attend_by_products(queries, keys, values).transpose(1, 2)
    answers_BGLK: Tensor = functional.scaled_dot_product_attention(queries, keys, values, is_causal=is_causal)
    return answers_BGLK.transpose(1, 2)


def attend_by_products(queries_BGLK: Tensor, keys_BGLK: Tensor, values_BGLK: Tensor) -> Tensor:
    """Attend with the scores written out."""
    scores_BGLL = (queries_BGLK * queries_BGLK.shape[-1] ** -0.5) @ keys_BGLK.transpose(-2, -1)
    answers_BGLK: Tensor = scores_BGLL.softmax(dim=-1) @ values_BGLK
    return answers_BGLK


def products_are_faster(queries_BGLK: Tensor) -> bool:
    """Say whether written-out scores beat the fused kernel: short sequences in bf16 on a CPU with matrix tiles.

    The fused kernel's way back leaves the tiles idle there; without tiles it wins by twice, and everywhere in fp32.
    """
    short_bf16_on_cpu = (
        queries_BGLK.device.type == "cpu" and queries_BGLK.dtype == torch.bfloat16 and queries_BGLK.shape[2] <= 256
    )
    return short_bf16_on_cpu and torch.cpu.get_capabilities().get("amx_tile", False) is True
