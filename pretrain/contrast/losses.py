"""Contrastive losses over the pairs of all ranks, computed tile by tile: InfoNCE, NT-Xent and the sigmoid loss.

A product is dropped once it has been summed, so memory is that of the rows and of one tile. Rank r returns W times its
own rows' and columns' share of L, so the mean over the W ranks is L; the same holds for gradients if all ranks weight
their loss equally. Of P pairs of rows a and b:

InfoNCE compares every row of one side with every row of the other, in both directions: CLIP's symmetric loss (Radford
et al. 2021, figure 3) and SimCLR's NT-Xent (Chen et al. 2020, equation 1), which is the same over 2N views without each
view's product with itself. With z = scale * a.b,

    L = 1 / (2 P) sum_i (log sum_j exp z_ij + log sum_j exp z_ji - 2 z_ii)
    dL / dz_ij = (exp z_ij / row_i + exp z_ij / column_j - 2 [i = j]) / (2 P), with the sums row_i and column_j

so one exponential of each product serves both directions; products are recomputed in the backward pass.

The sigmoid loss (Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", equation 1) takes every pair of
rows as one binary classification. With z = scale * a.b + bias,

    L = 1 / P (sum_i softplus(-z_ii) + sum_{i != j} softplus(z_ij))
    dL / dz_ij = (sigmoid(z_ij) - [i = j]) / P

which needs nothing from later products: gradients are computed tile by tile in the forward pass, and the backward pass
only scales them.
Legend: b samples of this rank, p its present rows, n rows of a block, N rows of all ranks, r and c those of a tile, D
features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from trichord.pretrain.collectives import world_size
from trichord.pretrain.contrast.exchange import (
    FORMS,
    DiagonalSegment,
    Exchange,
    Form,
    PresentPairs,
    ProductTile,
    ProductTiles,
    RowBlock,
    compute_dtype,
    dot_rows,
    present_pairs,
    refuse_second_order,
)

# Unit vectors bound z by the scale, so no row maximum is needed: exp(z - shift) is at most exp of this value, and its
# sums over any batch are finite. The largest numbers are exp(88) in float32 and exp(709) in float64.
_LARGEST_EXPONENT = {torch.float32: 70.0, torch.float64: 600.0}


def info_nce(
    a_bD: Tensor,
    b_bD: Tensor,
    scale: Tensor,
    present_b: Tensor | None = None,
    *,
    form: Form = "gathered",
    tile_bytes: int | None = None,
) -> Tensor:
    """Return CLIP's loss of unit rows, the mean over all ranks' present pairs; `scale` is the inverse temperature.

    Absent pairs have no weight and are not used as negatives. Without any pair the loss and its gradients are 0.
    """
    present = present_pairs(a_bD, b_bD, scale, present_b)
    return _compare(present, present.a_pD, present.b_pD, scale, 1, form, tile_bytes, compute_dtype(a_bD))


def nt_xent(
    first_bD: Tensor,
    second_bD: Tensor,
    scale: Tensor,
    present_b: Tensor | None = None,
    *,
    form: Form = "gathered",
    tile_bytes: int | None = None,
) -> Tensor:
    """Return SimCLR's loss of unit rows, the mean over the two views of all ranks' present samples."""
    present = present_pairs(first_bD, second_bD, scale, present_b)
    a_pD, b_pD = torch.cat((present.a_pD, present.b_pD)), torch.cat((present.b_pD, present.a_pD))
    return _compare(present, a_pD, b_pD, scale, 2, form, tile_bytes, compute_dtype(first_bD))


@dataclass(frozen=True)
class _Plan:
    """Settings of the comparison, equal on all ranks."""

    exchange: Exchange
    products: torch.dtype
    sums: torch.dtype
    shift: float
    left_out: tuple[DiagonalSegment, ...]  # positions of products that are not negatives
    tile_bytes: int | None

    def tiles(self, a_pD: Tensor) -> ProductTiles:
        return ProductTiles(a_pD, self.products, self.sums, self.tile_bytes)

    def exponentials(self, tiles: ProductTiles, block: RowBlock, scale: Tensor) -> Iterator[ProductTile]:
        """Yield every tile of exp(z - shift)."""
        for tile in tiles.of(block):
            tile.values_rc.mul_(scale).sub_(self.shift).exp_()
            for segment in self.left_out:
                tile.along(segment).zero_()
            yield tile


def _compare(
    present: PresentPairs,
    a_pD: Tensor,
    b_pD: Tensor,
    scale: Tensor,
    views: int,
    form: Form,
    tile_bytes: int | None,
    products: torch.dtype,
) -> Tensor:
    exchange = FORMS[form]([views * pairs for pairs in present.pairs])
    if exchange.total == 0:
        return a_pD.sum() + b_pD.sum() + 0 * scale.sum()  # no rows: zero, with zero gradients
    pairs = len(a_pD) // views
    sums = a_pD.dtype
    shift = max(0.0, present.scale - _LARGEST_EXPONENT[sums])
    if present.scale * present.lowest_cosine - shift < -_LARGEST_EXPONENT[sums]:
        # Some pair's cosine is so low that its row's sum might underflow: at CLIP's largest scale, below -0.4.
        sums = torch.float64
        shift = max(0.0, present.scale - _LARGEST_EXPONENT[sums])
    itself = (DiagonalSegment(0, pairs, pairs), DiagonalSegment(pairs, 0, pairs)) if views == 2 else ()
    plan = _Plan(exchange, products, sums, shift, itself, tile_bytes)
    loss: Tensor = _InfoNce.apply(a_pD, b_pD, scale, plan)  # type: ignore[no-untyped-call]
    return loss


class _InfoNce(torch.autograd.Function):
    """Sums exponentials in the forward pass; recomputes them for the gradients in the backward pass."""

    @staticmethod
    def forward(ctx: Any, a_pD: Tensor, b_pD: Tensor, scale: Tensor, plan: _Plan) -> Tensor:
        """Return W times this rank's share of the loss."""
        row_p, none_p = (a_pD.new_zeros(len(a_pD), dtype=plan.sums) for _ in range(2))
        with torch.autocast(a_pD.device.type, enabled=False):
            tiles = plan.tiles(a_pD)

            def add_up(block: RowBlock) -> None:
                for tile in plan.exponentials(tiles, block, scale):
                    row_p[tile.rows] += tile.values_rc.sum(dim=1)
                    block.sums_nX[tile.columns] += tile.values_rc.sum(dim=0)

            held = plan.exchange.hold(b_pD)
            column_p = plan.exchange.tour(held, None, none_p, add_up)
            positive_p = dot_rows(tiles.rows_pD, b_pD.to(plan.products)).to(plan.sums) * scale - plan.shift
            terms_p = row_p.log() + column_p.log() - 2 * positive_p
        ctx.plan = plan
        ctx.weight = world_size() / (2 * plan.exchange.total)
        ctx.save_for_backward(a_pD, held, scale, row_p, column_p)
        share: Tensor = terms_p.sum() * ctx.weight
        return share.to(a_pD.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of this rank's rows on both sides, summed over ranks, and of the scale."""
        refuse_second_order()
        plan: _Plan = ctx.plan
        a_pD, held, scale, row_p, column_p = ctx.saved_tensors
        row_share_p = row_p.reciprocal()
        grad_a_pD, none_pD = torch.zeros_like(a_pD), torch.zeros_like(a_pD)
        tiles = plan.tiles(a_pD)
        pairs = DiagonalSegment(0, 0, len(a_pD))

        def add_gradients(block: RowBlock) -> None:
            assert block.notes_n is not None
            for tile in plan.exponentials(tiles, block, scale):
                row_share_r1 = row_share_p[tile.rows].unsqueeze(1)
                tile.values_rc.mul_(torch.add(row_share_r1, block.notes_n[tile.columns], out=tile.spare_rc))
                tile.along(pairs).sub_(2)
                tiles.pull(tile, block, grad_a_pD)

        with torch.autocast(a_pD.device.type, enabled=False):
            grad_b_pD = plan.exchange.tour(held, column_p.reciprocal(), none_pD, add_gradients)
            weight = grad * ctx.weight
            grad_scale = dot_rows(a_pD, grad_a_pD).sum() * weight  # the gradient of a_i is the sum over j of g_ij b_j
        return (
            grad_a_pD.mul_(weight * scale),
            grad_b_pD.mul_(weight * scale),
            grad_scale.reshape(scale.shape).to(scale.dtype),
            None,
        )


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
    present = present_pairs(a_bD, b_bD, scale, present_b)
    exchange = FORMS[form](present.pairs)
    if exchange.total == 0:
        return present.a_pD.sum() + present.b_pD.sum() + 0 * (scale.sum() + bias.sum())
    loss: Tensor = _SigmoidLoss.apply(  # type: ignore[no-untyped-call]
        present.a_pD, present.b_pD, scale, bias, exchange, compute_dtype(a_bD), tile_bytes
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
        tiles = ProductTiles(a_pD, products, a_pD.dtype, tile_bytes)
        pairs = DiagonalSegment(0, 0, len(a_pD))

        def add_up(block: RowBlock) -> None:
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
