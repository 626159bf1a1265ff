"""R(2+1)D and R3D (Tran et al. 2018, "A Closer Look at Spatiotemporal Convolutions"), residual networks over clips.

Parameters have the names of torchvision's files. Stages 2 to 4 halve both time and space.
Legend: B clips, C colours, T frames, H rows and W columns of pixels; D features, t steps, h rows, w columns, n = h x w.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trichord.pretrain.backbones.base import Backbone, Tokens
from trichord.pretrain.backbones.resnet_3d import Resnet3dSpec
from trichord.pretrain.layers.transformer import DropPath, count_batches_once, growing_rates, run_block
from trichord.pretrain.weights.naming import Family


class Resnet3d(Backbone):
    """R(2+1)D or R3D. The grid is the last feature map, the pooled vector its mean."""

    def __init__(self, spec: Resnet3dSpec) -> None:
        super().__init__()
        self.spec = spec
        self.dim = 8 * spec.width
        self.layers = sum(spec.blocks) + 2
        self.stem = _factorised_stem(spec.width) if spec.convolutions == "2plus1d" else _stem(spec.width)
        rates = iter(growing_rates(spec.drop_path, sum(spec.blocks)))
        widths = [spec.width * 2**stage for stage in range(4)]
        for stage, (given, width, blocks) in enumerate(
            zip([spec.width, *widths[:-1]], widths, spec.blocks, strict=True)
        ):
            sizes = [(given, width, 1 if stage == 0 else 2)] + [(width, width, 1)] * (blocks - 1)
            built = (ResidualBlock(*size, spec.convolutions == "2plus1d", next(rates)) for size in sizes)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*built))
        if spec.activation_checkpointing:
            count_batches_once(self)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise all weights by their fan-out (He et al. 2015)."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm3d):
                module.reset_parameters()

    @property
    def stages(self) -> list[nn.Module]:
        """The four stages in order."""
        return [self.get_submodule(f"layer{number}") for number in (1, 2, 3, 4)]

    def forward(self, frames_BCTHW: Tensor, pooled_only: bool = False) -> Tokens:
        map_BDthw: Tensor = self.stem(frames_BCTHW)
        for stage in self.stages:
            for block in stage.children():
                map_BDthw = run_block(block, map_BDthw, recomputes=self.spec.activation_checkpointing)
        grid_BtnD = map_BDthw.flatten(3).permute(0, 2, 3, 1)
        return Tokens(grid_BtnD.mean(dim=(1, 2)), grid_BtnD[:, :, :0] if pooled_only else grid_BtnD)

    def layer_of(self, name: str) -> int:
        first, _, rest = name.partition(".")
        if first == "stem":
            return 0
        stage = int(first.removeprefix("layer")) - 1
        return sum(self.spec.blocks[:stage]) + int(rest.partition(".")[0]) + 1


class ResidualBlock(nn.Module):
    """Two convolutions with a residual connection, which is a strided convolution where shapes differ."""

    def __init__(self, given: int, width: int, stride: int, is_factorised: bool, drop_path: float) -> None:
        super().__init__()
        convolution = _factorised if is_factorised else _plain
        # The number of features between the spatial and the temporal convolution is such that the block has as many
        # parameters as with full 3-D convolutions; torchvision uses that of the first convolution for both.
        between = 27 * given * width // (9 * given + 3 * width)
        self.conv1 = nn.Sequential(convolution(given, width, between, stride), nn.BatchNorm3d(width), nn.ReLU())
        self.conv2 = nn.Sequential(convolution(width, width, between, 1), nn.BatchNorm3d(width))
        self.downsample = None
        if stride != 1 or given != width:
            narrow = nn.Conv3d(given, width, kernel_size=1, stride=stride, bias=False)
            self.downsample = nn.Sequential(narrow, nn.BatchNorm3d(width))
        self.drop_path = DropPath(drop_path)

    def forward(self, map_BDthw: Tensor) -> Tensor:
        kept_BDthw = map_BDthw if self.downsample is None else self.downsample(map_BDthw)
        learnt_BDthw: Tensor = self.drop_path(self.conv2(self.conv1(map_BDthw)))
        return torch.relu(kept_BDthw + learnt_BDthw)


def _plain(given: int, width: int, between: int, stride: int) -> nn.Module:
    return nn.Conv3d(given, width, kernel_size=3, stride=stride, padding=1, bias=False)


def _factorised(given: int, width: int, between: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(given, between, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
        nn.BatchNorm3d(between),
        nn.ReLU(),
        nn.Conv3d(between, width, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
    )


def _stem(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(3, width, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False), nn.BatchNorm3d(width), nn.ReLU()
    )


def _factorised_stem(width: int) -> nn.Module:
    between = 45 * width // 64
    return nn.Sequential(
        nn.Conv3d(3, between, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
        nn.BatchNorm3d(between),
        nn.ReLU(),
        nn.Conv3d(between, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(),
    )


# Names in torchvision's files.
_TABLE = (("fc.{rest}", "classifier.{rest}"), ("{rest}", "backbone.{rest}"))

FAMILIES = (
    Family("R(2+1)D of torchvision", "layer1.0.conv1.0.0.weight", _TABLE),
    Family("R3D of torchvision", "layer1.0.conv1.0.weight", _TABLE),
)
