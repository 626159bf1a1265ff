"""A contrast over all parts of a batch whose gradients accumulate: the gradient of the whole, a part at a time.

Every part is embedded once without a graph, the contrast is taken over all of them, and what it pulls at each part's
vectors is kept; then each part goes through with a graph, with the same draws, and back from those pulls (Gao et al.
2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"). What all parts share, such as the
temperature, is pulled at by each part for its share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Rows = dict[str, Tensor]  # by name: the vectors of a part or of all
Contrast = Callable[[Rows, Rows], Rows]  # from all parts' vectors and what they share to losses by name


@dataclass
class Pulls:
    """What the contrast over all parts found."""

    parts: int
    losses: Rows
    left: list[Rows]  # by part: the gradient of each of its vectors, and of what is shared its share

    def take(self, contributed: Mapping[str, Tensor]) -> Tensor:
        """Give the loss of the next part, from its vectors and what is shared: the contrast's value, with its pulls.

        The mean over parts goes back as the contrast does.
        """
        pull = self.left.pop(0)
        towards = torch.stack([(contributed[name] * pull[name]).sum() for name in pull]).sum() * self.parts
        value = torch.stack([*self.losses.values(), towards.new_zeros(())]).sum()
        return towards - towards.detach() + value


def look_ahead(embedded: Sequence[Rows], shared: Rows, contrast: Contrast) -> Pulls:
    """Take the contrast over the vectors of all parts, which have no graph."""
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
    """Give what was found for a tensor, which may have had no part in any loss."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
