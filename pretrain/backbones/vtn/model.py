"""VTN (Neimark et al. 2021, "Video Transformer Network"): an image network for each frame, a Longformer over frames.

Legend: B clips, C colours, T frames, H rows and W columns of pixels; t = T, N = B x T, L = 1 + T tokens, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trichord.core.errors import UserError
from trichord.pretrain.backbones.base import Backbone, Tokens
from trichord.pretrain.backbones.vtn import VtnSpec
from trichord.pretrain.layers.checkpointing import run
from trichord.pretrain.layers.image_network import features_of, fitted_positions, image_network, layers_of, of_network
from trichord.pretrain.layers.longformer import LongformerLayer, TokenSum

INITIAL_STD = 0.02


class Vtn(Backbone):
    """The pooled vector is the class token's, and the grid has one place for each frame."""

    def __init__(self, spec: VtnSpec, colours: int = 3) -> None:
        super().__init__()
        self.spec = spec
        self.frames = image_network(
            "backbone.frame_backbone",
            spec.frame_backbone,
            spec.size,
            spec.drop_path,
            spec.activation_checkpointing,
            colours,
        )
        self.dim = features_of(self.frames)
        if self.dim % spec.heads:
            raise UserError(
                f"backbone.frame_backbone {spec.frame_backbone} gives {self.dim} features, which backbone.heads="
                f"{spec.heads} does not divide. Next: backbone.heads={max(self.dim // 64, 1)}"
            )
        self._layers = layers_of(self.frames)
        self.layers = max(self._layers.values()) + 2 + spec.depth
        self.cls_token = nn.Parameter(torch.empty(1, 1, self.dim))
        self.sum = TokenSum(self.dim, spec.positions, spec.dropout)
        reach = spec.window // 2 if spec.attention == "local" else None
        mlp_dim = int(self.dim * spec.mlp_ratio)
        self.blocks = nn.ModuleList(
            LongformerLayer(self.dim, spec.heads, mlp_dim, reach, spec.dropout) for _ in range(spec.depth)
        )
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw what looks at several frames anew; timm draws the rest."""
        for module in (*self.sum.modules(), *self.blocks.modules()):
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INITIAL_STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        nn.init.normal_(self.cls_token)

    def forward(self, frames_BCTHW: Tensor, pooled_only: bool = False) -> Tokens:
        batch, _, frames = frames_BCTHW.shape[:3]
        seen_BTD = self.frames(frames_BCTHW.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, frames))
        tokens_BLD = torch.cat((self.cls_token.expand(batch, 1, self.dim), seen_BTD), dim=1)
        tokens_BLD = self.sum(tokens_BLD, self.positions(frames, tokens_BLD.device))
        for block in self.blocks:
            tokens_BLD = run(block, tokens_BLD, forgets=self.spec.activation_checkpointing)
        class_B1D, grid_BtD = torch.split(tokens_BLD, [1, frames], dim=1)
        return Tokens(class_B1D.squeeze(1), grid_BtD.unsqueeze(2)[:, :, : 0 if pooled_only else 1])

    def positions(self, frames: int, device: torch.device) -> Tensor:
        """Give the rows of the table that the tokens stand at, L; frames never stand where earlier ones do."""
        at_class, last = self.spec.positions - 2, self.spec.positions - 3
        positions_T = torch.arange(frames, device=device)
        if (frames - 1) * self.spec.position_step <= last:
            positions_T = positions_T * self.spec.position_step
        else:
            positions_T = positions_T * last // (frames - 1)
        return torch.cat((positions_T.new_full((1,), at_class), positions_T))

    def layer_of(self, name: str) -> int:
        first, _, rest = name.partition(".")
        if first == "frames":
            return self._layers[rest]
        after_frames = self.layers - self.spec.depth
        return after_frames + int(rest.partition(".")[0]) if first == "blocks" else after_frames - 1

    def of_images(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Let a network of images by itself be that of the frames."""
        return of_network("frames", tensors)

    def resized(self, name: str, tensor: Tensor, place: Tensor) -> Tensor | None:
        """Fit a ViT's table of positions as is done at run time."""
        if name != "frames.pos_embed" or tensor.ndim != 3 or tensor.shape[::2] != place.shape[::2]:
            return None
        return fitted_positions(self.frames, tensor)
