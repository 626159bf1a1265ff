"""A contrastive loss over all parts of a batch under gradient accumulation: the full gradient, one part at a time.

Every part is embedded once without a graph, the contrastive loss is computed over all of them, and its gradient with
respect to each part's vectors is kept. Then each part runs with a graph and the same random draws, and its backward
pass starts from those gradients (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited
Setup"). Of what all parts share, such as the temperature, each part contributes its share of the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Rows = dict[str, Tensor]  # by name: the vectors of a part or of all
Contrast = Callable[[Rows, Rows], Rows]  # maps all parts' vectors and shared tensors to losses by name


@dataclass
class Pulls:
    """Losses and gradients of the contrastive loss over all parts."""

    parts: int
    losses: Rows
    left: list[Rows]  # for each part: gradients of its vectors and its share of those of shared tensors

    def take(self, contributed: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of the next part from its vectors and the shared tensors.

        It has the value of the contrastive loss. The mean over parts has the gradients of the contrastive loss.
        """
        pull = self.left.pop(0)
        towards = torch.stack([(contributed[name] * pull[name]).sum() for name in pull]).sum() * self.parts
        value = torch.stack([*self.losses.values(), towards.new_zeros(())]).sum()
        return towards - towards.detach() + value


def look_ahead(embedded: Sequence[Rows], shared: Rows, contrast: Contrast) -> Pulls:
    """Compute the contrastive loss and its gradients over the vectors of all parts, which have no graph."""
    leaves = {name: torch.cat([each[name] for each in embedded]).requires_grad_() for name in embedded[0]}
    factors = {name: each.detach().requires_grad_() for name, each in shared.items()}
    with torch.enable_grad():
        losses = contrast(leaves, factors)
        if losses:
            torch.stack(list(losses.values())).sum().backward()
    pulls: list[Rows] = [{name: _gradient(each) / len(embedded) for name, each in factors.items()} for _ in embedded]
    for name, leaf in leaves.items():
        lengths = [len(each[name]) for each in embedded]
        for pull, grad in zip(pulls, _gradient(leaf).split(lengths), strict=True):
            pull[name] = grad
    return Pulls(len(embedded), {name: each.detach() for name, each in losses.items()}, pulls)


def _gradient(leaf: Tensor) -> Tensor:
    """Return a tensor's gradient, or zeros if no loss depends on it."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
