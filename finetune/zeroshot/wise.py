"""Weights between zero-shot ones a and fine-tuned ones b: (1 - alpha) a + alpha b (WiSE-FT, Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trichord.core.errors import UserError
from trichord.pretrain.weights.load import shortened


class Between:
    """A fine-tuned model that can be set anywhere on the line from zero-shot weights of the same shape to its own."""

    def __init__(self, model: nn.Module, zero_shot: Mapping[str, Tensor]) -> None:
        self._places = model.state_dict(keep_vars=True)
        _check_same_shape(zero_shot, self._places)
        self._zero_shot = {name: zero_shot[name].to(place.device) for name, place in self._places.items()}
        self._fine_tuned = {name: place.detach().clone() for name, place in self._places.items()}

    @torch.no_grad()
    def go_to(self, alpha: float) -> None:
        """Set the weights: 0 is zero-shot, 1 fine-tuned; counts and the like are the fine-tuned model's."""
        for name, place in self._places.items():
            if place.is_floating_point():
                place.copy_(self._zero_shot[name]).lerp_(self._fine_tuned[name], alpha)


def _check_same_shape(zero_shot: Mapping[str, Tensor], fine_tuned: Mapping[str, Tensor]) -> None:
    names = sorted(zero_shot.keys() | fine_tuned.keys())
    alone = [name for name in names if name not in zero_shot or name not in fine_tuned]
    differ = [name for name in names if name not in alone and zero_shot[name].shape != fine_tuned[name].shape]
    if alone or differ:
        raise UserError(
            f"there is nothing between weights of different shape: {shortened(alone) or 'nothing'} only in one of "
            f"them, {shortened(differ) or 'nothing'} of another shape. Expected the weights that fine-tuning set out "
            "from, in the same backbone"
        )
