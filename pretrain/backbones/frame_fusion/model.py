"""Single-frame, early, late and slow fusion (Karpathy et al. 2014, "Large-scale Video Classification", section 3.1).

The paper's five convolutions and two fully connected layers. Here the latter are applied at each place of the last map
separately, so that any size is accepted; in the paper they take the whole map of 170 pixels at once.
Legend: B clips, C colours, T frames, H rows and W columns of pixels; D features, t steps, h rows, w columns, n = h x w.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trichord.pretrain.backbones.base import Backbone, Tokens
from trichord.pretrain.backbones.frame_fusion import FEWEST_OF_SLOW, FrameFusionSpec
from trichord.pretrain.layers.transformer import run_block

_KERNELS, _STRIDES = (11, 5, 3, 3, 3), (3, 1, 1, 1, 1)
_NORMALISED, _POOLED = (0, 1), (0, 1, 4)  # after these convolutions: normalise responses; halve the map
_SLOW = ((4, 2), (2, 2), (2, 2), (1, 1), (1, 1))  # frames and stride of each convolution in time


class FrameFusion(Backbone):
    """Karpathy's networks. The grid is the last map after the fully connected layers, the pooled vector its mean."""

    def __init__(self, spec: FrameFusionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.dim = spec.dim
        self.layers = len(spec.widths) + 4
        windows = _SLOW if spec.fusion == "slow" else ((1, 1),) * len(spec.widths)
        if spec.fusion == "early":
            windows = ((spec.frames, spec.frames), *windows[1:])
        self.convolutions = nn.ModuleList(
            _convolution(number, given, width, *windows[number])
            for number, (given, width) in enumerate(zip((3, *spec.widths[:-1]), spec.widths, strict=True))
        )
        streams = 2 if spec.fusion == "late" else 1
        self.dropout = nn.Dropout(spec.dropout)
        self.fc1 = nn.Linear(streams * spec.widths[-1], spec.dim)
        self.fc2 = nn.Linear(spec.dim, spec.dim)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise all weights for ReLU units (He et al. 2015)."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.get_parameter("bias"))

    def forward(self, frames_BCTHW: Tensor, pooled_only: bool = False) -> Tokens:
        self._check(frames_BCTHW.shape[2])
        map_BDthw = frames_BCTHW
        if self.spec.fusion == "late":
            map_BDthw = torch.stack((frames_BCTHW[:, :, 0], frames_BCTHW[:, :, -1]), dim=2)
        for convolution in self.convolutions:
            map_BDthw = run_block(convolution, map_BDthw, recomputes=self.spec.activation_checkpointing)
        if self.spec.fusion == "late":
            map_BDthw = map_BDthw.transpose(1, 2).flatten(1, 2).unsqueeze(2)
        grid_BtnD = map_BDthw.flatten(3).permute(0, 2, 3, 1)
        for connected in (self.fc1, self.fc2):
            grid_BtnD = torch.relu(connected(self.dropout(grid_BtnD)))
        return Tokens(grid_BtnD.mean(dim=(1, 2)), grid_BtnD[:, :, :0] if pooled_only else grid_BtnD)

    def layer_of(self, name: str) -> int:
        first, _, rest = name.partition(".")
        if first == "convolutions":
            return int(rest.partition(".")[0]) + 1
        return self.layers - (2 if first == "fc1" else 1)

    def _check(self, frames: int) -> None:
        """Raise if a clip has a number of frames that the fusion does not accept."""
        spec = self.spec
        if spec.fusion == "early" and frames % spec.frames:
            raise ValueError(f"early fusion takes {spec.frames} frames at a time, found {frames}")
        if spec.fusion == "slow" and frames < FEWEST_OF_SLOW:
            raise ValueError(f"slow fusion needs at least {FEWEST_OF_SLOW} frames, found {frames}")


def _convolution(number: int, given: int, width: int, frames: int, step: int) -> nn.Sequential:
    kernel, stride = _KERNELS[number], _STRIDES[number]
    padding = 0 if number == 0 else kernel // 2
    convolution = nn.Conv3d(given, width, (frames, kernel, kernel), (step, stride, stride), (0, padding, padding))
    # Krizhevsky's constants (2012); torch divides alpha by the size, the paper does not.
    normalised = [nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)] if number in _NORMALISED else []
    pooled = [nn.MaxPool3d((1, 2, 2))] if number in _POOLED else []
    return nn.Sequential(convolution, nn.ReLU(), *normalised, *pooled)
