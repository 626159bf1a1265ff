"""VideoMamba (Li et al. 2024, arXiv 2403.06977): a state-space model that scans a clip in both directions.

The class token comes first, then the frames in order, row by row: only the reverse scan carries the clip to it. For
other frames and sizes, position tables are interpolated as in the released fine-tuning, linear in time and bicubic in
space. Parameters have the names of the released checkpoints, except that each direction of a mixer is a module.
Legend: B clips, C colours, T frames, H rows and W columns of pixels; t = T, n = h x w places, L tokens, D features.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from trichord.pretrain.backbones.base import Backbone, Tokens
from trichord.pretrain.backbones.videomamba import VideoMambaSpec
from trichord.pretrain.layers.bimamba import NORM_EPS, BidirectionalBlock, Direction
from trichord.pretrain.layers.checkpointing import run
from trichord.pretrain.layers.embeddings import PatchEmbedding, positions_in_space, positions_in_time, table_of_square
from trichord.pretrain.layers.transformer import growing_rates

INITIAL_STD = 0.02


class VideoMamba(Backbone):
    """VideoMamba. The pooled vector is the class token after the final norm."""

    never_decayed = ("*.A_log",)

    def __init__(self, spec: VideoMambaSpec) -> None:
        super().__init__()
        self.spec = spec
        self.dim = spec.dim
        self.layers = spec.depth + 2
        self.patch_embed = PatchEmbedding(spec.dim, spec.patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, spec.dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (spec.size // spec.patch) ** 2, spec.dim))
        self.temporal_pos_embedding = nn.Parameter(torch.empty(1, spec.frames, spec.dim))
        rates = growing_rates(spec.drop_path, spec.depth)
        self.blocks = nn.ModuleList(BidirectionalBlock(spec.dim, rate) for rate in rates)
        self.norm_f = nn.RMSNorm(spec.dim, eps=NORM_EPS)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise all weights as the released code does; the class token and temporal positions are zero."""
        for module in self.modules():
            if isinstance(module, nn.RMSNorm | nn.Conv2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
        for module in self.modules():
            if isinstance(module, Direction):
                module.initialise()
        for block in self.blocks:
            out_proj = block.get_submodule("mixer.out_proj")
            assert isinstance(out_proj, nn.Linear)
            nn.init.kaiming_uniform_(out_proj.weight, a=sqrt(5))
            out_proj.weight /= sqrt(self.spec.depth)
        nn.init.zeros_(self.cls_token)
        nn.init.trunc_normal_(self.pos_embed, std=INITIAL_STD)
        nn.init.zeros_(self.temporal_pos_embedding)

    def forward(self, frames_BCTHW: Tensor, pooled_only: bool = False) -> Tokens:
        tokens_BLD, (batch, frames, places) = self._embed(frames_BCTHW)
        for block in self.blocks:
            tokens_BLD = run(block, tokens_BLD, forgets=self.spec.activation_checkpointing)
        class_B1D, grid_BLD = torch.split(tokens_BLD, [1, tokens_BLD.shape[1] - 1], dim=1)
        grid_BtnD = grid_BLD.reshape(batch, frames, places, self.dim)[:, :, : 0 if pooled_only else places]
        return Tokens(self.norm_f(class_B1D.squeeze(1)), self.norm_f(grid_BtnD))

    def layer_of(self, name: str) -> int:
        first, _, rest = name.partition(".")
        if first == "blocks":
            return int(rest.partition(".")[0]) + 1
        return self.layers - 1 if first == "norm_f" else 0

    def resized(self, name: str, tensor: Tensor, place: Tensor) -> Tensor | None:
        if tensor.ndim != 3 or tensor.shape[::2] != place.shape[::2]:
            return None
        if name == "temporal_pos_embedding":
            return positions_in_time(tensor, place.shape[1], "linear")
        return table_of_square(tensor, place.shape[1], "bicubic") if name == "pos_embed" else None

    def _embed(self, frames_BCTHW: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Return all tokens of a clip in single precision, the class token first, and the shape Btn of the others."""
        grid_BthwD = self.patch_embed(frames_BCTHW)
        batch, frames, rows, columns, _ = grid_BthwD.shape
        table_class_11D, table_1nD = torch.split(self.pos_embed, [1, self.pos_embed.shape[1] - 1], dim=1)
        place_11hwD = positions_in_space(table_1nD, rows, columns, "bicubic").unsqueeze(1)
        time_1tD = positions_in_time(self.temporal_pos_embedding, frames, "linear")
        grid_BthwD = grid_BthwD + place_11hwD + time_1tD[:, :, None, None]
        class_B1D = (self.cls_token + table_class_11D).expand(batch, 1, self.dim)
        tokens_BLD = torch.cat((class_B1D, grid_BthwD.flatten(1, 3)), dim=1)
        return tokens_BLD, (batch, frames, rows * columns)
