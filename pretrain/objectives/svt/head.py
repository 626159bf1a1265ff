"""The projection head of DINO and SVT: an MLP to a unit vector, and prototypes it is compared with.

Names and shapes are those of the published checkpoint (`mlp.0`, `mlp.2`, `mlp.4`, `last_layer.weight_g`,
`last_layer.weight_v`), whose last layer is torch's old weight norm: w_k = g_k v_k / |v_k|.
Legend: B samples, V views, G teacher views, N rows of any kind, D features, K prototypes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from trichord.pretrain.objectives.svt.loss import PrototypeCrossEntropy


class Terms(NamedTuple):
    """The loss to go backward from, and the cross-entropies of each sample's views, summed over teachers, detached."""

    loss: Tensor
    terms_BV: Tensor


class Prototypes(nn.Module):
    """Directions `weight_v` of lengths `weight_g`, which stay 1 when `has_fixed_norm`."""

    def __init__(self, dim: int, count: int, has_fixed_norm: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(count, 1), requires_grad=not has_fixed_norm)
        self.weight_v = nn.Parameter(torch.empty(count, dim).uniform_(-(dim**-0.5), dim**-0.5))

    # Under ZeRO-3 parameters exist only while their module's forward runs: the loss has to be taken in it as well.
    def forward(
        self,
        rows: Tensor,
        targets_GBK: Tensor | None = None,
        temperature: float = 1.0,
        pair_weight: float = 1.0,
        is_frozen: bool = False,
    ) -> Tensor | Terms:
        """Give float32 logits of rows of any shape; with targets, the loss of rows_BVD against them instead."""
        if targets_GBK is None:
            scale_K = self.weight_g[:, 0] / torch.linalg.vector_norm(self.weight_v, dim=1)
            logits: Tensor = functional.linear(rows, self.weight_v).to(scale_K.dtype) * scale_K
            return logits
        weights = (self.weight_v, self.weight_g)
        terms: tuple[Tensor, Tensor] = PrototypeCrossEntropy.apply(  # type: ignore[no-untyped-call]
            rows, *weights, targets_GBK, temperature, pair_weight, is_frozen
        )
        return Terms(*terms)


class ProjectionHead(nn.Module):
    """From a backbone's pooled vector to unit vectors, and from these to logits."""

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int, has_fixed_norm: bool) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = Prototypes(bottleneck, prototypes, has_fixed_norm)

    def project(self, pooled_ND: Tensor) -> Tensor:
        """Give unit vectors, in float32 at least; a norm taken in bfloat16 would be off by a four-hundredth."""
        mixed_ND: Tensor = self.mlp(pooled_ND)
        return functional.normalize(mixed_ND.to(torch.promote_types(mixed_ND.dtype, torch.float32)), dim=-1)

    def forward(self, pooled_ND: Tensor) -> Tensor:
        """Give the logits of all prototypes."""
        logits_NK: Tensor = self.last_layer(self.project(pooled_ND))
        return logits_NK
