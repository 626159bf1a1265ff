"""The projection head of DINO and SVT: an MLP to a unit vector, and the prototypes it is compared with.

Names and shapes are those of the published checkpoint (`mlp.0`, `mlp.2`, `mlp.4`, `last_layer.weight_g`,
`last_layer.weight_v`), whose last layer uses torch's old weight norm: w_k = g_k v_k / |v_k|.
Legend: B samples, V views, G teacher views, N rows of any kind, D features, K prototypes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from trichord.pretrain.objectives.svt.loss import PrototypeCrossEntropy


class Terms(NamedTuple):
    """The loss to backpropagate, and each sample view's cross-entropies, summed over teacher views and detached."""

    loss: Tensor
    terms_BV: Tensor


class Prototypes(nn.Module):
    """Prototypes with directions `weight_v` and norms `weight_g`, which stay 1 if `has_fixed_norm`."""

    def __init__(self, dim: int, count: int, has_fixed_norm: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(count, 1), requires_grad=not has_fixed_norm)
        self.weight_v = nn.Parameter(torch.empty(count, dim).uniform_(-(dim**-0.5), dim**-0.5))

    # Under ZeRO-3 parameters exist only while their module's forward runs, so the loss is computed here too.
    def forward(
        self,
        rows: Tensor,
        targets_GBK: Tensor | None = None,
        temperature: float = 1.0,
        pair_weight: float = 1.0,
        is_frozen: bool = False,
    ) -> Tensor | Terms:
        """Return float32 logits of rows of any shape; with targets, the loss of rows_BVD against them instead."""
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
    """A head that maps a backbone's pooled vectors to unit vectors, and these to logits."""

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
        """Return unit vectors in float32 or wider; a norm computed in bfloat16 would be off by 1/400."""
        mixed_ND: Tensor = self.mlp(pooled_ND)
        return functional.normalize(mixed_ND.to(torch.promote_types(mixed_ND.dtype, torch.float32)), dim=-1)

    def forward(self, pooled_ND: Tensor) -> Tensor:
        """Return the logits of all prototypes."""
        logits_NK: Tensor = self.last_layer(self.project(pooled_ND))
        return logits_NK
