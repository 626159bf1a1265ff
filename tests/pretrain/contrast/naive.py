"""Naive losses, pair by pair in loops as in their papers, and pairs to apply them to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from trichord.pretrain.contrast.losses import info_nce, nt_xent, sigmoid_loss

Loss = Callable[..., Tensor]
LOSSES: dict[str, Loss] = {"info_nce": info_nce, "nt_xent": nt_xent, "sigmoid": sigmoid_loss}


def naive_info_nce(a: Tensor, b: Tensor, scale: Tensor, present: Sequence[bool]) -> Tensor:
    """Contrast every present row with all present rows of the other side."""
    here = [i for i, is_present in enumerate(present) if is_present]
    terms = []
    for i in here:
        for one, other in ((a, b), (b, a)):
            logits = torch.stack([scale * (one[i] * other[j]).sum() for j in here])
            terms.append(torch.logsumexp(logits, 0) - scale * (one[i] * other[i]).sum())
    return torch.stack(terms).mean()


def naive_nt_xent(first: Tensor, second: Tensor, scale: Tensor, present: Sequence[bool]) -> Tensor:
    """Contrast every view with all other views; the positive is the other view of its sample."""
    here = [i for i, is_present in enumerate(present) if is_present]
    views = [(i, first[i]) for i in here] + [(i, second[i]) for i in here]
    terms = []
    for place, (sample, view) in enumerate(views):
        others = [(other, row) for number, (other, row) in enumerate(views) if number != place]
        logits = torch.stack([scale * (view * row).sum() for _, row in others])
        partner = next(number for number, (other, _) in enumerate(others) if other == sample)
        terms.append(torch.logsumexp(logits, 0) - logits[partner])
    return torch.stack(terms).mean()


def naive_sigmoid(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, present: Sequence[bool]) -> Tensor:
    """Classify every two present rows as a pair or not."""
    here = [i for i, is_present in enumerate(present) if is_present]
    terms = []
    for i in here:
        for j in here:
            logit = scale * (a[i] * b[j]).sum() + bias
            terms.append(-functional.logsigmoid(logit if i == j else -logit))
    return torch.stack(terms).sum() / len(here)


NAIVE: dict[str, Loss] = {"info_nce": naive_info_nce, "nt_xent": naive_nt_xent, "sigmoid": naive_sigmoid}


def draw(
    name: str, samples: int, dim: int = 6, scale: float = 9.0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    """Draw the tensors that a loss is differentiated by: unit rows of two sides, the scale, and the bias of sigmoid."""
    generator = torch.Generator().manual_seed(samples)
    a, b = torch.randn(2, samples, dim, generator=generator, dtype=torch.float64).to(dtype)
    b = functional.normalize(b + a, dim=1)
    numbers = (scale, -2.0) if name == "sigmoid" else (scale,)
    given = (functional.normalize(a, dim=1), b, *(torch.tensor(number, dtype=dtype) for number in numbers))
    return tuple(tensor.requires_grad_() for tensor in given)


def loss_and_gradients(loss: Tensor, given: Sequence[Tensor]) -> list[Tensor]:
    """Return the loss and its gradients."""
    return [loss.detach(), *torch.autograd.grad(loss, given)]
