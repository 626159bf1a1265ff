"""Layers of transformers: attention, MLP, stochastic depth (Huang et al. 2016), the plain pre-LN block of a vision
transformer, initial weights by the width of each layer's input, and activation checkpointing of blocks of any network.

Multi-head self-attention (Vaswani et al. 2017) runs along one axis of a grid of tokens, without rearranging the grid.
With activation checkpointing the activations of a block are not kept but recomputed in the backward pass.
Legend: B samples, L tokens that attend to each other, P places that do so independently, D features, H heads, K = D /
H; G = P x H, the heads of all places.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class QueryKeyValue(nn.Linear):
    """One linear map with three outputs: queries, keys and values."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 3 * dim)

    def forward(self, tokens_BLPD: Tensor, query_count: int) -> tuple[Tensor, ...]:  # type: ignore[override]
        if tokens_BLPD.shape[1:3] == (query_count, 1):
            return super().forward(tokens_BLPD).chunk(3, dim=-1)
        # Three dense outputs rather than thirds of one: then places and heads can be viewed as one axis without copies.
        inputs = (tokens_BLPD[:, :query_count], tokens_BLPD, tokens_BLPD)
        parts = zip(inputs, self.weight.chunk(3), self.bias.chunk(3), strict=True)
        return tuple(functional.linear(*part) for part in parts)


class Attention(nn.Module):
    """Self-attention over L, at each of P places separately; causal attention needs `query_count` = L."""

    def __init__(self, dim: int, heads: int, is_causal: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.is_causal = is_causal
        self.qkv = QueryKeyValue(dim)
        self.proj = nn.Linear(dim, dim)

    def head_outputs(self, tokens_BLPD: Tensor, query_count: int) -> Tensor:
        """Return the concatenated outputs of the heads for the first `query_count` tokens, before `proj`."""
        samples, _, places, dim = tokens_BLPD.shape
        shape_GK = (places * self.heads, dim // self.heads)
        queries, keys, values = (part.view(samples, -1, *shape_GK) for part in self.qkv(tokens_BLPD, query_count))
        return attend(queries, keys, values, self.is_causal).reshape(samples, query_count, places, dim)

    def first_token_weights(self, tokens_BLPD: Tensor) -> Tensor:
        """Return the attention weights of the first token, averaged over heads, BLP; for visualisation."""
        samples, _, places, dim = tokens_BLPD.shape
        shape_PHK = (places, self.heads, dim // self.heads)
        queries, keys, _ = (part.view(samples, -1, *shape_PHK) for part in self.qkv(tokens_BLPD, 1))
        scores_BLPH = (queries * keys).sum(dim=-1) * shape_PHK[-1] ** -0.5
        weights_BLP: Tensor = scores_BLPH.softmax(dim=1).mean(dim=3)
        return weights_BLP

    def forward(self, tokens_BLPD: Tensor, query_count: int) -> Tensor:
        """Attend to all L tokens; only the first `query_count` tokens are queries."""
        mixed_BLPD: Tensor = self.proj(self.head_outputs(tokens_BLPD, query_count))
        return mixed_BLPD


def attend(queries_BLGK: Tensor, keys_BLGK: Tensor, values_BLGK: Tensor, is_causal: bool = False) -> Tensor:
    """Return BLGK, the output of each head."""
    queries, keys, values = (part.transpose(1, 2) for part in (queries_BLGK, keys_BLGK, values_BLGK))
    if products_are_faster(queries) and not is_causal:
        return attend_by_products(queries, keys, values).transpose(1, 2)
    outputs_BGLK: Tensor = functional.scaled_dot_product_attention(queries, keys, values, is_causal=is_causal)
    return outputs_BGLK.transpose(1, 2)


def attend_by_products(queries_BGLK: Tensor, keys_BGLK: Tensor, values_BGLK: Tensor) -> Tensor:
    """Attend with explicit score matrices."""
    scores_BGLL = (queries_BGLK * queries_BGLK.shape[-1] ** -0.5) @ keys_BGLK.transpose(-2, -1)
    outputs_BGLK: Tensor = scores_BGLL.softmax(dim=-1) @ values_BGLK
    return outputs_BGLK


def products_are_faster(queries_BGLK: Tensor) -> bool:
    """Return whether explicit scores are faster than the fused kernel: short bf16 sequences on a CPU with AMX tiles.

    The fused kernel's backward pass does not use the tiles; without tiles, and always in fp32, it is twice as fast.
    """
    short_bf16_on_cpu = (
        queries_BGLK.device.type == "cpu" and queries_BGLK.dtype == torch.bfloat16 and queries_BGLK.shape[2] <= 256
    )
    return short_bf16_on_cpu and torch.cpu.get_capabilities().get("amx_tile", False) is True


Activation = Literal["gelu", "tanh_gelu", "quick_gelu"]


def quick_gelu(inputs: Tensor) -> Tensor:
    """Compute OpenAI's x sigmoid(1.702 x), in a form whose backward pass needs one saved tensor instead of three."""
    outputs: Tensor = functional.silu(1.702 * inputs) / 1.702
    return outputs


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "tanh_gelu": partial(functional.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
}


class Mlp(nn.Module):
    """The two-layer perceptron of a transformer block."""

    def __init__(self, dim: int, hidden_dim: int, activation: Activation = "gelu") -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.activate = ACTIVATIONS[activation]
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        narrowed: Tensor = self.fc2(self.activate(self.fc1(tokens)))
        return narrowed


class DropPath(nn.Module):
    """Stochastic depth: drops a branch at random rows and scales the others so that the expectation is unchanged."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    @property
    def is_active(self) -> bool:
        """Whether anything is dropped: in training, with a rate above 0."""
        return self.training and self.rate > 0

    def scales(self, like: Tensor, *rows: int) -> Tensor:
        """Draw 0 (with probability `rate`) or 1 / (1 - rate) for each row."""
        kept = torch.rand(rows, device=like.device) >= self.rate
        return kept.to(like.dtype) / (1 - self.rate)

    def forward(self, branch: Tensor) -> Tensor:
        """Drop whole rows of the first axis."""
        if not self.is_active:
            return branch
        return branch * self.scales(branch, len(branch)).view(-1, *(1,) * (branch.ndim - 1))

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


def growing_rates(last: float, depth: int) -> list[float]:
    """Return the rate of each block, from 0 in the first to `last` in equal steps."""
    return [last * number / max(depth - 1, 1) for number in range(depth)]


@torch.no_grad()
def draw_by_width(module: nn.Module) -> None:
    """Initialise linear layers with a deviation of 1 / sqrt(inputs), as CLIP does; reset norms and convolutions."""
    for each in module.modules():
        if isinstance(each, nn.Linear):
            nn.init.trunc_normal_(each.weight, std=each.in_features**-0.5)
            if each.bias is not None:
                nn.init.zeros_(each.bias)
        elif isinstance(each, nn.LayerNorm | nn.Conv2d):
            each.reset_parameters()


NORM_EPS = 1e-6


class TransformerBlock(nn.Module):
    """A pre-LN transformer block with stochastic depth."""

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_dim: int,
        drop_path: float,
        activation: Activation = "gelu",
        norm_eps: float = NORM_EPS,
        is_causal: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, heads, is_causal)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, mlp_dim, activation)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens_BLD: Tensor, class_only: bool = False) -> Tensor:
        """Return all tokens, or only the first if `class_only`."""
        return self.forward_first(tokens_BLD, 1 if class_only else tokens_BLD.shape[1])

    def forward_first(self, tokens_BLD: Tensor, query_count: int) -> Tensor:
        """Return the first `query_count` tokens, which attend to all."""
        attended_BL1D = self.attn(self.norm1(tokens_BLD).unsqueeze(2), query_count)
        tokens_BLD = tokens_BLD[:, :query_count] + self.drop_path(attended_BL1D.squeeze(2))
        learnt_BLD: Tensor = self.drop_path(self.mlp(self.norm2(tokens_BLD)))
        return tokens_BLD + learnt_BLD


_NO_BACKWARD_PASS = -1  # torch's id of the current backward pass if none is running


def run_block(block: nn.Module, *arguments: Tensor | bool, recomputes: bool) -> Any:
    """Run a block, with activation checkpointing if `recomputes`; the result does not depend on it."""
    if recomputes and torch.is_grad_enabled():
        return checkpoint(block, *arguments, use_reentrant=False)
    return block(*arguments)


def count_batches_once(network: nn.Module) -> None:
    """Make batch norms update their running statistics only in the forward pass, not in recomputation."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(partial(_update_in_forward_only, module.momentum))


def _update_in_forward_only(momentum: float | None, norm: _BatchNorm, _: object) -> None:
    if torch.compiler.is_compiling():  # it separates state updates from recomputation itself
        return
    is_recomputed = torch._C._current_graph_task_id() != _NO_BACKWARD_PASS
    norm.momentum = 0.0 if is_recomputed else momentum
    if is_recomputed and norm.num_batches_tracked is not None:
        norm.num_batches_tracked -= 1  # recomputation adds 1
