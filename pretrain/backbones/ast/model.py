"""AST (Gong et al. 2021, "AST: Audio Spectrogram Transformer"), a ViT on overlapping patches of log-mel images.

The pooled vector is the mean of two tokens, the class token and DeiT's distillation token. As in AST, positions for
shorter audio are cut from the middle of the table, and those for longer audio are interpolated.
Legend: B samples, T frames and M mel filters; D features, t steps and m bands of patches, n = m x t places, the lower
band first; L = 2 + n tokens, p pixels along a patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from trichord.pretrain.backbones.ast import AstSpec
from trichord.pretrain.backbones.base import AudioBackbone, AudioTokens
from trichord.pretrain.layers.transformer import NORM_EPS, TransformerBlock, draw_by_width, growing_rates, run_block
from trichord.pretrain.weights.naming import Family, Table, model_table, with_prefix_and_joined

_POSITION_STD = 0.02


class Ast(AudioBackbone):
    """AST. Parameters have the names of timm's DeiT."""

    def __init__(self, spec: AstSpec) -> None:
        super().__init__()
        self.spec = spec
        self.dim = spec.dim
        self.layers = spec.depth + 2
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(1, spec.dim, spec.patch, stride=(spec.mel_stride, spec.time_stride))}
        )
        self.cls_token = nn.Parameter(torch.empty(1, 1, spec.dim))
        self.dist_token = nn.Parameter(torch.empty(1, 1, spec.dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 2 + spec.bands * spec.steps, spec.dim))
        mlp_dim = int(spec.dim * spec.mlp_ratio)
        rates = growing_rates(spec.drop_path, spec.depth)
        self.blocks = nn.ModuleList(TransformerBlock(spec.dim, spec.heads, mlp_dim, rate) for rate in rates)
        self.norm = nn.LayerNorm(spec.dim, eps=NORM_EPS)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise all weights."""
        draw_by_width(self)
        for table in (self.cls_token, self.dist_token, self.pos_embed):
            nn.init.trunc_normal_(table, std=_POSITION_STD)

    def forward(self, audio_BTM: Tensor, pooled_only: bool = False) -> AudioTokens:
        if audio_BTM.shape[1] < self.spec.patch or audio_BTM.shape[2] < self.spec.patch:
            raise ValueError(
                f"expected spectrograms of at least {self.spec.patch} frames and mel filters, "
                f"found {audio_BTM.shape[1]} and {audio_BTM.shape[2]}"
            )
        grid_BDmt = self.patch_embed["proj"](audio_BTM.transpose(1, 2).unsqueeze(1))
        bands, steps = grid_BDmt.shape[2:]
        first_12D, table_1nD = torch.split(self.pos_embed, [2, self.pos_embed.shape[1] - 2], dim=1)
        table_1DMT = table_1nD.transpose(1, 2).unflatten(2, (self.spec.bands, self.spec.steps))
        grid_BnD = (grid_BDmt + positions_cut_or_between(table_1DMT, bands, steps)).flatten(2).transpose(1, 2)
        first_12D = first_12D + torch.cat((self.cls_token, self.dist_token), dim=1)
        tokens_BLD = torch.cat((first_12D.expand(len(audio_BTM), 2, self.dim), grid_BnD), dim=1)
        for block in self.blocks:
            tokens_BLD = run_block(block, tokens_BLD, recomputes=self.spec.activation_checkpointing)
        first_B2D, grid_BnD = torch.split(self.norm(tokens_BLD), [2, bands * steps], dim=1)
        grid_BtmD = grid_BnD.unflatten(1, (bands, steps)).transpose(1, 2)
        return AudioTokens(first_B2D.mean(dim=1), grid_BtmD[:, :, :0] if pooled_only else grid_BtmD)

    def layer_of(self, name: str) -> int:
        first, _, rest = name.partition(".")
        if first == "blocks":
            return int(rest.partition(".")[0]) + 1
        return self.layers - 1 if first == "norm" else 0

    def of_images(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert a ViT or DeiT: sum the first kernel over colours, cut and interpolate the square position table.

        For a ViT without a distillation token, the class token and its position are used for it.
        """
        kernel_DCpp = tensors.get("patch_embed.proj.weight")
        if kernel_DCpp is None or kernel_DCpp.shape[1] == 1:
            return tensors
        adapted = tensors | {"patch_embed.proj.weight": kernel_DCpp.sum(dim=1, keepdim=True)}
        class_token, table_1LD = tensors.get("cls_token"), tensors.get("pos_embed")
        if class_token is None or table_1LD is None:
            return adapted
        first = 2 if "dist_token" in tensors else 1
        adapted.setdefault("dist_token", class_token)
        side = isqrt(table_1LD.shape[1] - first)
        if side**2 != table_1LD.shape[1] - first:
            return adapted
        class_11D, table_1nD = torch.split(table_1LD, [first, side**2], dim=1)
        return adapted | {"pos_embed": self._fitted(class_11D, table_1nD, side)}

    def resized(self, name: str, tensor: Tensor, place: Tensor) -> Tensor | None:
        """Resize a table of the same number of bands and another duration, as at run time."""
        if name != "pos_embed" or tensor.ndim != 3 or tensor.shape[2] != self.dim:
            return None
        first_12D, table_1nD = torch.split(tensor, [2, tensor.shape[1] - 2], dim=1)
        return None if table_1nD.shape[1] % self.spec.bands else self._fitted(first_12D, table_1nD, self.spec.bands)

    def _fitted(self, first_1cD: Tensor, table_1nD: Tensor, bands: int) -> Tensor:
        """Resize a table with the given number of bands to that of this network."""
        table_1DMT = table_1nD.transpose(1, 2).unflatten(2, (bands, -1))
        fitted_1Dmt = positions_cut_or_between(table_1DMT, self.spec.bands, self.spec.steps)
        both_12D = first_1cD.expand(-1, 2, -1) if first_1cD.shape[1] == 1 else first_1cD
        return torch.cat((both_12D, fitted_1Dmt.flatten(2).transpose(1, 2)), dim=1)


def positions_cut_or_between(table_1DMT: Tensor, bands: int, steps: int) -> Tensor:
    """Return 1Dmt: along each axis the middle of a longer table, or a shorter one interpolated."""
    for axis, wanted in ((2, bands), (3, steps)):
        found = table_1DMT.shape[axis]
        table_1DMT = table_1DMT.narrow(axis, max(found // 2 - wanted // 2, 0), min(wanted, found))
    if table_1DMT.shape[2:] == (bands, steps):
        return table_1DMT
    stretched_1Dmt: Tensor = functional.interpolate(table_1DMT, size=(bands, steps), mode="bilinear")
    return stretched_1Dmt


# Names in the files as released and as converted by Hugging Face, in those files and in files written today. Released
# files still contain DeiT's two image classifiers, which AST does not use.
_PREFIX = "audio_spectrogram_transformer."
_NO_AST = ("module.v.head.weight", "module.v.head.bias", "module.v.head_dist.weight", "module.v.head_dist.bias")
_RELEASED: Table = (("module.v.{rest}", "backbone.{rest}"), ("module.mlp_head.{rest}", "classifier.{rest}"))
_HUGGING_FACE: Table = (
    (f"{_PREFIX}embeddings.distillation_token", "backbone.dist_token"),
    *model_table(_PREFIX),
)


def _from_released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in _NO_AST}


def _from_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return with_prefix_and_joined(tensors, _PREFIX)


FAMILIES = (
    Family("AST", "module.v.dist_token", _RELEASED, _from_released),
    Family("AST of Hugging Face", f"{_PREFIX}embeddings.distillation_token", _HUGGING_FACE, _from_hugging_face),
    Family("AST of Hugging Face, no classifier", "embeddings.distillation_token", _HUGGING_FACE, _from_hugging_face),
)
