"""The sigmoid loss: every pair of rows is one binary classification, so no sum over a row is needed.

Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", equation 1. With z = scale * a.b + bias over P pairs,

    L = 1 / P (sum_i softplus(-z_ii) + sum_{i != j} softplus(z_ij))
    dL / dz_ij = (sigmoid(z_ij) - [i = j]) / P

which needs nothing from later products: gradients are computed tile by tile in the forward pass, and the backward pass
only scales them. Ranks share the loss as in `info_nce`: the mean over ranks is L, and likewise for gradients.
Legend: b samples of this rank, p its present ones, n rows of a block, r and c those of a tile, D features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from trichord.pretrain.collectives import world_size
from trichord.pretrain.contrast.exchange import FORMS, Block, Exchange, Form
from trichord.pretrain.contrast.tiles import Segment, Tiles, dot_rows, meet, refuse_second_order
from trichord.pretrain.precision import compute_dtype


def sigmoid_loss(
    a_bD: Tensor,
    b_bD: Tensor,
    scale: Tensor,
    bias: Tensor,
    present_b: Tensor | None = None,
    *,
    form: Form = "gathered",
    tile_bytes: int | None = None,
) -> Tensor:
    """Return SigLIP's loss of unit rows: the sum over all present pairs of rows, divided by the number of samples.

    Absent samples have no weight and are not used as negatives. Without any sample the loss and its gradients are 0.
    """
    met = meet(a_bD, b_bD, scale, present_b)
    exchange = FORMS[form](met.pairs)
    if exchange.total == 0:
        return met.a_pD.sum() + met.b_pD.sum() + 0 * (scale.sum() + bias.sum())
    loss: Tensor = _SigmoidLoss.apply(  # type: ignore[no-untyped-call]
        met.a_pD, met.b_pD, scale, bias, exchange, compute_dtype(a_bD), tile_bytes
    )
    return loss


class _SigmoidLoss(torch.autograd.Function):
    """Computes the loss and its gradients together, tile by tile."""

    @staticmethod
    def forward(
        ctx: Any,
        a_pD: Tensor,
        b_pD: Tensor,
        scale: Tensor,
        bias: Tensor,
        exchange: Exchange,
        products: torch.dtype,
        tile_bytes: int | None,
    ) -> Tensor:
        """Return W times this rank's share of the loss."""
        term_p, grad_bias_p = (a_pD.new_zeros(len(a_pD)) for _ in range(2))
        grad_a_pD, none_pD = torch.zeros_like(a_pD), torch.zeros_like(a_pD)
        needs_gradients = any(ctx.needs_input_grad)
        tiles = Tiles(a_pD, products, a_pD.dtype, tile_bytes)
        pairs = Segment(0, 0, len(a_pD))

        def add_up(block: Block) -> None:
            for tile in tiles.of(block):
                values_rc = tile.values_rc.mul_(scale).add_(bias)
                tile.along(pairs).neg_()
                term_p[tile.rows] += functional.softplus(values_rc).sum(dim=1)
                if needs_gradients:
                    values_rc.sigmoid_()
                    tile.along(pairs).neg_()
                    grad_bias_p[tile.rows] += values_rc.sum(dim=1)
                    tiles.pull(tile, block, grad_a_pD)

        with torch.autocast(a_pD.device.type, enabled=False):
            grad_b_pD = exchange.tour(exchange.hold(b_pD), None, none_pD, add_up)
            weight = world_size() / exchange.total
            grad_scale = (dot_rows(a_pD, grad_a_pD).sum() * weight).reshape(scale.shape).to(scale.dtype)
            grad_bias = (grad_bias_p.sum() * weight).reshape(bias.shape).to(bias.dtype)
            grads = grad_a_pD.mul_(weight * scale), grad_b_pD.mul_(weight * scale), grad_scale, grad_bias
        ctx.save_for_backward(*grads)
        return term_p.sum() * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients of the forward pass; in place, so autograd refuses a second backward."""
        refuse_second_order()
        return (*(found.mul_(grad) for found in ctx.saved_tensors), None, None, None)
