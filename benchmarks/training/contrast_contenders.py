"""Who takes part in `bench contrast`: our losses over pairs and open_clip's, on the same rows.

Run as a process of its own, one of them goes forward and backward once and says by how much memory grew.
Legend: B pairs, D features.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional

from benchmarks.training.scan_contenders import memory_mib
from trichord.core.wheels import make_importable
from trichord.pretrain.contrast.info_nce import info_nce
from trichord.pretrain.contrast.sigmoid import sigmoid_loss

OURS, OPEN_CLIP = "ours", "open_clip"
Loss = Callable[..., Tensor]


class ContrastCase(BaseModel):
    """A loss and a batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Literal["info_nce", "sigmoid"]
    batch: int
    dim: int = 512
    scale: float = 1 / 0.07  # CLIP's first one
    bias: float = -10.0  # SigLIP's first one

    def inputs(self) -> list[Tensor]:
        """Draw unit rows whose pairs are more alike than strangers, by cosines of about 0.45 and 0."""
        generator = torch.Generator().manual_seed(0)
        a_BD = functional.normalize(torch.randn(self.batch, self.dim, generator=generator), dim=1)
        noise_BD = functional.normalize(torch.randn(self.batch, self.dim, generator=generator), dim=1)
        b_BD = functional.normalize(a_BD + 2 * noise_BD, dim=1)
        numbers = (self.scale,) if self.loss == "info_nce" else (self.scale, self.bias)
        return [tensor.requires_grad_() for tensor in (a_BD, b_BD, *map(torch.tensor, numbers))]


def _our_loss(case: ContrastCase) -> Loss:
    return info_nce if case.loss == "info_nce" else sigmoid_loss


def _loss_of_open_clip(case: ContrastCase) -> Loss:
    make_importable()
    from open_clip.loss import ClipLoss, SigLipLoss  # takes seconds

    loss: Loss = ClipLoss() if case.loss == "info_nce" else SigLipLoss()
    return loss


CONTENDERS: dict[str, Callable[[ContrastCase], Loss]] = {OURS: _our_loss, OPEN_CLIP: _loss_of_open_clip}


def forward_and_backward(loss: Loss, given: Sequence[Tensor]) -> list[Tensor]:
    """Give the loss and the gradients by all inputs, the temperature's among them."""
    value = loss(*given)
    return [value.detach(), *torch.autograd.grad(value, given)]


def main(name: str, case_json: str) -> None:
    """Say how far one pass took memory above that of the rows, once the code had been run on a few."""
    torch.set_num_threads(1)
    case = ContrastCase.model_validate_json(case_json)
    loss = CONTENDERS[name](case)
    forward_and_backward(loss, case.model_copy(update={"batch": 2}).inputs())
    given = case.inputs()
    ctypes.CDLL(None).malloc_trim(0)  # memory that drawing the rows left free would hide what the pass takes
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak that importing took
    before_mib = memory_mib(peak=False)
    forward_and_backward(loss, given)
    print(memory_mib(peak=True) - before_mib)


if __name__ == "__main__":
    main(*sys.argv[1:])
