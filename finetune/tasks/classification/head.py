"""Heads: pooling of a backbone's tokens into one vector, and the layers from it to classes.

In attention pooling one learnt query attends to all tokens (Lee et al. 2019, "Set Transformer", equation 11, with one
seed). Legend: B samples, L tokens, D features, K classes, h heads, d features of a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from trichord.core.errors import UserError
from trichord.finetune.tasks.classification.spec import POOLS, HeadSpec

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


class TokenPool(nn.Module, ABC):
    """Pooling of a backbone's tokens, the first of which is its pooled vector; built for `places` tokens per clip."""

    state_name: ClassVar[str]  # prefix of its parameters in the state dict of a `Pool`
    counts_tokens: ClassVar[bool] = False  # whether it needs the number of tokens per clip

    def __init__(self, spec: HeadSpec, dim: int, places: int) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """Return vectors_BD."""


class FirstToken(TokenPool):
    """The backbone's pooled vector."""

    state_name = "take"

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        return tokens_BLD[:, 0]


class MeanToken(TokenPool):
    """The mean of the tokens without the pooled vector."""

    state_name = "average"

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        return tokens_BLD[:, 1:].mean(dim=1)


class AttentionPool(TokenPool):
    """Attention pooling: the mean of the tokens' values, weighted by the attention of a learnt query."""

    state_name = "attend"

    def __init__(self, spec: HeadSpec, dim: int, places: int = 0) -> None:
        super().__init__(spec, dim, places)
        heads = spec.pool_heads
        if dim % heads:
            raise UserError(f"objective.head.pool_heads={heads} does not divide the {dim} features evenly")
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.question_D = nn.Parameter(torch.randn(dim) * 0.02)
        self.keys_values = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        tokens_BLD = tokens_BLD[:, 1:]
        batch, _, dim = tokens_BLD.shape
        keys_BLD, values_BLD = self.keys_values(self.norm(tokens_BLD)).chunk(2, dim=-1)
        question_BhLd = self.question_D.to(keys_BLD.dtype).view(1, self.heads, 1, -1).expand(batch, -1, -1, -1)
        split = (batch, -1, self.heads, dim // self.heads)
        found_BhLd = functional.scaled_dot_product_attention(
            question_BhLd, keys_BLD.reshape(split).transpose(1, 2), values_BLD.reshape(split).transpose(1, 2)
        )
        pooled_BD: Tensor = self.out(found_BhLd.reshape(batch, dim))
        return pooled_BD


class WeightedPool(TokenPool):
    """The mean of all tokens, including the pooled vector, each times a learnt weight that is initially 1."""

    state_name = "weigh"
    counts_tokens = True

    def __init__(self, spec: HeadSpec, dim: int, places: int) -> None:
        super().__init__(spec, dim, places)
        self.weight_L = nn.Parameter(torch.ones(places))

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        places, found = len(self.weight_L), tokens_BLD.shape[1]
        if found != places:
            raise UserError(
                f"objective.head.pool=weighted has learnt weights for {places} tokens, found {found}: clips and views "
                "must have the same size in evaluation as in training"
            )
        return (tokens_BLD * self.weight_L[:, None].to(tokens_BLD.dtype)).mean(dim=1)


class Pool(nn.Module):
    """The pooled vector of a modality; `places` is the number of tokens per clip, if the pooling needs it."""

    def __init__(self, spec: HeadSpec, dim: int, places: int = 0) -> None:
        super().__init__()
        pool: TokenPool = POOLS[spec.pool](spec, dim, places)
        self._name = pool.state_name
        self.add_module(self._name, pool)
        self.norm = nn.LayerNorm(dim) if spec.layer_norm else None

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """Return vectors_BD of the backbone's pooled vector, followed by its tokens if they are needed."""
        vector_BD: Tensor = self.get_submodule(self._name)(tokens_BLD)
        return vector_BD if self.norm is None else self.norm(vector_BD)


def build_layers(spec: HeadSpec, dim: int, classes: int) -> nn.Sequential:
    """Build the layers of a head; the last one has small initial weights, so that all classes start alike."""
    layers: list[nn.Module] = []
    for size in spec.hidden:
        layers += [nn.Linear(dim, size), _ACTIVATIONS[spec.activation](), nn.Dropout(spec.dropout)]
        dim = size
    if not spec.hidden:
        layers.append(nn.Dropout(spec.dropout))
    last = nn.Linear(dim, classes)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
