"""A naive implementation of Karpathy's networks: explicit frame groups, patches and matrix products.

Legend: C features, T frames, H rows and W columns, D features of the last layer.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from trichord.pretrain.backbones.frame_fusion.model import FrameFusion


def naive_pooled(backbone: FrameFusion, frames_CTHW: Tensor) -> Tensor:
    """Return pooled_D of one clip in float64, without dropout."""
    weights = {name: tensor.double() for name, tensor in backbone.state_dict().items()}
    maps = [frame_CHW.double() for frame_CHW in frames_CTHW.unbind(1)]
    fusion = backbone.spec.fusion
    if fusion == "late":
        maps = [maps[0], maps[-1]]
    for number in range(5):
        looks = {"slow": [4, 2, 2, 1, 1], "early": [backbone.spec.frames, 1, 1, 1, 1]}.get(fusion, [1] * 5)[number]
        step = {"slow": [2, 2, 2, 1, 1], "early": [backbone.spec.frames, 1, 1, 1, 1]}.get(fusion, [1] * 5)[number]
        kernel, bias = weights[f"convolutions.{number}.0.weight"], weights[f"convolutions.{number}.0.bias"]
        maps = [
            _convolved(maps[first : first + looks], kernel, bias, number)
            for first in range(0, len(maps) - looks + 1, step)
        ]
    if fusion == "late":
        maps = [torch.cat(maps)]
    found = []
    for map_CHW in maps:
        for place_C in map_CHW.flatten(1).T:
            for layer in ("fc1", "fc2"):
                place_C = (weights[f"{layer}.weight"] @ place_C + weights[f"{layer}.bias"]).relu()
            found.append(place_C)
    return torch.stack(found).mean(dim=0).float()


def _convolved(seen: list[Tensor], kernel_DCTkk: Tensor, bias_D: Tensor, number: int) -> Tensor:
    """Convolve several frames at once: the sum of the convolutions of each with its slice of the kernel."""
    stride, padding = (3, 0) if number == 0 else (1, kernel_DCTkk.shape[-1] // 2)
    sums = [
        functional.conv2d(map_CHW[None], kernel_DCkk, stride=stride, padding=padding)[0]
        for map_CHW, kernel_DCkk in zip(seen, kernel_DCTkk.unbind(2), strict=True)
    ]
    map_DHW = (torch.stack(sums).sum(0) + bias_D[:, None, None]).relu()
    if number in (0, 1):
        squares_DHW = map_DHW.square()
        reach = [squares_DHW[max(d - 2, 0) : d + 3].sum(0) for d in range(len(map_DHW))]
        map_DHW = map_DHW / (2 + 1e-4 * torch.stack(reach)) ** 0.75
    return functional.max_pool2d(map_DHW[None], 2)[0] if number in (0, 1, 4) else map_DHW
