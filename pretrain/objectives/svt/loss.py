"""SVT's projection head and its loss, the cross-entropies of all student views with the teacher's two views.

The head is DINO's: an MLP to a unit vector, and the prototypes it is compared with. Names and shapes are those of the
published checkpoint (`mlp.0`, `mlp.2`, `mlp.4`, `last_layer.weight_g`, `last_layer.weight_v`), whose last layer uses
torch's old weight norm: w_k = g_k v_k / |v_k|.
The loss takes one pass over the prototypes (Ranasinghe et al. 2022, equations 1 to 3; Caron et al. 2021). With student
logits z = x.w, w a prototype of norm g, temperature t and teacher distributions q, the terms of one student view are
sum_i (logsumexp(z / t) - q_i.z / t) over the teacher views i that are not the same view. A view therefore needs one
pass for any number of teacher views, and the 18 terms need no log-softmax.
Legend: B samples, V student views (globals first), G = 2 teacher views, N rows of any kind, K prototypes, D features of
the bottleneck; b samples of a chunk, R = b * V its rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from trichord.pretrain.contrast.exchange import compute_dtype

# Logits per chunk, which holds two such float32 tensors: bounds memory and still gives a large matrix product.
CHUNK_LOGITS = 2**25


def teacher_targets(logits_GBK: Tensor, centre_K: Tensor, temperature: float) -> Tensor:
    """Return the centred and sharpened teacher distributions.

    Without the centre one prototype gets everything; without sharpening the distributions become uniform.
    """
    return torch.softmax((logits_GBK - centre_K).div_(temperature), dim=-1)


def teacher_counts(views: int, device: torch.device) -> Tensor:
    """Return how many teacher views each student view is compared with; a global view is not compared with itself."""
    counts_V = torch.full((views,), 2.0, device=device)
    counts_V[:2] = 1.0
    return counts_V


class PrototypeCrossEntropy(torch.autograd.Function):
    """Loss and gradients computed together, chunk by chunk of samples, so that no logits outlive their chunk.

    The gradient of a cross-entropy needs nothing from later operations, so it is computed while the logits exist
    (softmax times count minus targets, in place); backward only scales it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows_BVD: Tensor,
        weight_v_KD: Tensor,
        weight_g_K1: Tensor,
        targets_GBK: Tensor,
        temperature: float,
        pair_weight: float,
        is_frozen: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return pair_weight times the sum of all terms, and each sample view's terms summed over teacher views.

        A frozen last layer gets a gradient of zeros, which saves computing one that would be discarded.
        """
        dtype = compute_dtype(rows_BVD)
        with torch.autocast(rows_BVD.device.type, enabled=False):
            chunks = _Chunks(weight_v_KD, weight_g_K1, temperature, pair_weight, dtype, not is_frozen)
            samples, views, _ = rows_BVD.shape
            step = max(1, CHUNK_LOGITS // (views * len(weight_v_KD)))
            terms, row_grads = [], []
            for first in range(0, samples, step):
                part = slice(first, first + step)
                terms_bV, grad_bVD = chunks.add(rows_BVD[part], targets_GBK[:, part])
                terms.append(terms_bV)
                row_grads.append(grad_bVD)
            grad_v_KD, grad_g_K1 = chunks.weight_grads()
        terms_BV = torch.cat(terms)
        ctx.mark_non_differentiable(terms_BV)
        ctx.save_for_backward(torch.cat(row_grads), grad_v_KD, grad_g_K1)
        return terms_BV.sum() * pair_weight, terms_BV

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that forward computed, in place, so autograd refuses a second backward pass."""
        found = zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        return (*(grad.mul_(grads[0]) if is_needed else None for grad, is_needed in found), None, None, None, None)


class _Chunks:
    """Values shared by all chunks, and the accumulated gradient of the prototypes."""

    def __init__(
        self,
        weight_v_KD: Tensor,
        weight_g_K1: Tensor,
        temperature: float,
        pair_weight: float,
        dtype: torch.dtype,
        needs_weight_grads: bool,
    ) -> None:
        self.weight_v_KD, self.weight_g_K1 = weight_v_KD, weight_g_K1
        self.pair_weight, self.needs_weight_grads = pair_weight, needs_weight_grads
        self.norm_K = torch.linalg.vector_norm(weight_v_KD, dim=1)
        # Scaling logits instead of vectors avoids a normalised copy of all prototypes.
        self.scale_K = weight_g_K1[:, 0] / self.norm_K / temperature
        self.factor_KD = weight_v_KD.to(dtype)
        self.grad_KD: Tensor | None = None
        self.pull_K = torch.zeros_like(self.norm_K)  # sum over rows of logit times its gradient

    def add(self, rows_bVD: Tensor, targets_GbK: Tensor) -> tuple[Tensor, Tensor]:
        """Return the terms of these samples and the gradient of their rows."""
        samples, views, _ = rows_bVD.shape
        rows_RD = rows_bVD.reshape(samples * views, -1).to(self.factor_KD.dtype)
        logits_RK = (rows_RD @ self.factor_KD.T).to(self.norm_K.dtype).mul_(self.scale_K)
        logits_bVK = logits_RK.view(samples, views, -1)
        swapped_bGK, both_bK = targets_GbK.flip(0).transpose(0, 1), targets_GbK.sum(0)
        top_bV1 = logits_bVK.amax(dim=2, keepdim=True)
        shares_bVK = torch.sub(logits_bVK, top_bV1).exp_()
        total_bV1 = shares_bVK.sum(dim=2, keepdim=True)
        counts_V = teacher_counts(views, rows_bVD.device).to(total_bV1.dtype)
        terms_bV = counts_V * (total_bV1.log() + top_bV1)[..., 0]
        terms_bV[:, :2] -= torch.einsum("bgk,bgk->bg", logits_bVK[:, :2], swapped_bGK)
        terms_bV[:, 2:] -= torch.einsum("bvk,bk->bv", logits_bVK[:, 2:], both_bK)

        grad_bVK = shares_bVK.mul_(self.pair_weight * counts_V[:, None] / total_bV1)
        grad_bVK[:, :2].sub_(swapped_bGK, alpha=self.pair_weight)
        grad_bVK[:, 2:].sub_(both_bK[:, None], alpha=self.pair_weight)
        grad_RK = grad_bVK.view_as(logits_RK)
        if self.needs_weight_grads:
            self.pull_K += logits_RK.mul_(grad_RK).sum(dim=0)
        scaled_RK = grad_RK.mul_(self.scale_K).to(self.factor_KD.dtype)
        if self.needs_weight_grads:
            grad_KD = (scaled_RK.T @ rows_RD).to(self.weight_v_KD.dtype)
            self.grad_KD = grad_KD if self.grad_KD is None else self.grad_KD.add_(grad_KD)
        return terms_bV, (scaled_RK @ self.factor_KD).view_as(rows_bVD).to(rows_bVD.dtype)

    def weight_grads(self) -> tuple[Tensor, Tensor]:
        """Return the gradients of direction and norm; the former has no component along the vector itself."""
        if self.grad_KD is None:
            return torch.zeros_like(self.weight_v_KD), torch.zeros_like(self.weight_g_K1)
        along_K1 = (-self.pull_K / self.norm_K**2)[:, None]
        return self.grad_KD.addcmul_(self.weight_v_KD, along_K1), self.pull_K[:, None] / self.weight_g_K1


class Terms(NamedTuple):
    """The loss to backpropagate, and each sample view's cross-entropies, summed over teacher views and detached."""

    loss: Tensor
    terms_BV: Tensor


class PrototypeLayer(nn.Module):
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
        self.last_layer = PrototypeLayer(bottleneck, prototypes, has_fixed_norm)

    def project(self, pooled_ND: Tensor) -> Tensor:
        """Return unit vectors in float32 or wider; a norm computed in bfloat16 would be off by 1/400."""
        mixed_ND: Tensor = self.mlp(pooled_ND)
        return functional.normalize(mixed_ND.to(torch.promote_types(mixed_ND.dtype, torch.float32)), dim=-1)

    def forward(self, pooled_ND: Tensor) -> Tensor:
        """Return the logits of all prototypes."""
        logits_NK: Tensor = self.last_layer(self.project(pooled_ND))
        return logits_NK
