"""VTN (Neimark et al. 2021, "Video Transformer Network"): an image network for each frame, a Longformer over frames.

Longformer's encoder (Beltagy et al. 2020) has one global token, the class token, which comes first. A frame attends to
the frames within its reach and to the class token; the class token attends to all tokens, with projections of its own.
Compute and memory grow linearly with the number of frames, not quadratically.
Legend: B clips, C colours, T frames, H rows and W columns of pixels; t = T, N = B x T, L = 1 + T tokens, the class
token and frames, D features. In sliding attention: H heads, K = D / H; C chunks of R frames, R being the reach, each of
which attends to N = 3 R + 1 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from trichord.core.errors import UserError
from trichord.pretrain.backbones.base import Backbone, Tokens
from trichord.pretrain.backbones.vtn import VtnSpec
from trichord.pretrain.layers.image_network import features_of, fitted_positions, image_network, layers_of, of_network
from trichord.pretrain.layers.transformer import Mlp, run_block
from trichord.pretrain.weights.naming import Family, Table, joined

INITIAL_STD = 0.02


class Vtn(Backbone):
    """VTN. The pooled vector is the class token, and the grid has one place for each frame."""

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
                f"backbone.frame_backbone {spec.frame_backbone} has {self.dim} features, which is not a multiple of "
                f"backbone.heads={spec.heads}. Next: backbone.heads={max(self.dim // 64, 1)}"
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
        """Initialise the layers over frames; timm initialises the frame network."""
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
            tokens_BLD = run_block(block, tokens_BLD, recomputes=self.spec.activation_checkpointing)
        class_B1D, grid_BtD = torch.split(tokens_BLD, [1, frames], dim=1)
        return Tokens(class_B1D.squeeze(1), grid_BtD.unsqueeze(2)[:, :, : 0 if pooled_only else 1])

    def positions(self, frames: int, device: torch.device) -> Tensor:
        """Return the tokens' rows in the position table, L. Steps shrink for long clips, so that the rows exist."""
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
        """Use the tensors of an image network for the frame network."""
        return of_network("frames", tensors)

    def resized(self, name: str, tensor: Tensor, place: Tensor) -> Tensor | None:
        """Resize a ViT's position table as at run time."""
        if name != "frames.pos_embed" or tensor.ndim != 3 or tensor.shape[::2] != place.shape[::2]:
            return None
        return fitted_positions(self.frames, tensor)


_NORM_EPS = 1e-12


class SlidingAttention(nn.Module):
    """Self-attention within a reach; full if `reach` is None. The class token has its own projections in both cases."""

    def __init__(self, dim: int, heads: int, reach: int | None, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.reach = reach
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.global_qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        queries, keys, values = self._split(self.global_qkv(tokens_BLD), queried=slice(0, 1))
        class_B1HK = self._attend(queries, keys, values)
        queries, keys, values = self._split(self.qkv(tokens_BLD), queried=slice(1, None))
        if self.reach is None or queries.shape[1] <= self.reach + 1:
            frames_BTHK = self._attend(queries, keys, values)
        else:
            frames_BTHK = self._slide(queries, keys, values, self.reach)
        mixed_BLD: Tensor = self.proj(torch.cat((class_B1HK, frames_BTHK), dim=1).flatten(2))
        return mixed_BLD

    def _split(self, parts_BLD: Tensor, queried: slice) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = (part.unflatten(-1, (self.heads, -1)) for part in parts_BLD.chunk(3, dim=-1))
        return queries[:, queried], keys, values

    def _slide(self, queries_BTHK: Tensor, keys_BLHK: Tensor, values_BLHK: Tensor, reach: int) -> Tensor:
        """Attend from each chunk to itself, its neighbours and the class token; mask what is out of a frame's reach."""
        batch, frames = queries_BTHK.shape[:2]
        chunks = -(-frames // reach)
        padded = functional.pad(queries_BTHK, (0, 0, 0, 0, 0, chunks * reach - frames)).unflatten(1, (chunks, reach))
        keys, values = (_neighbours(each, chunks, reach) for each in (keys_BLHK, values_BLHK))
        mask_CRN = _in_reach(frames, chunks, reach, queries_BTHK.device)
        mask = mask_CRN.expand(batch, *mask_CRN.shape).flatten(0, 1).unsqueeze(1)
        outputs: Tensor = self._attend(padded.flatten(0, 1), keys, values, mask).unflatten(0, (batch, chunks))
        return outputs.flatten(1, 2)[:, :frames]

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend along the second axis; the third is heads."""
        queries, keys, values = (part.transpose(1, 2) for part in (queries, keys, values))
        dropout = self.dropout if self.training else 0.0
        outputs: Tensor = functional.scaled_dot_product_attention(queries, keys, values, mask, dropout)
        return outputs.transpose(1, 2)


def _neighbours(tokens_BLHK: Tensor, chunks: int, reach: int) -> Tensor:
    """Return the class token, the previous, the same and the next chunk for each chunk of each clip, NHK."""
    class_B1HK, frames_BTHK = torch.split(tokens_BLHK, [1, tokens_BLHK.shape[1] - 1], dim=1)
    after = (chunks + 1) * reach - frames_BTHK.shape[1]
    padded = functional.pad(frames_BTHK, (0, 0, 0, 0, reach, after)).unflatten(1, (chunks + 2, reach))
    class_BC1HK = class_B1HK.unsqueeze(1).expand(-1, chunks, -1, -1, -1)
    return torch.cat((class_BC1HK, padded[:, :-2], padded[:, 1:-1], padded[:, 2:]), dim=2).flatten(0, 1)


def _in_reach(frames: int, chunks: int, reach: int, device: torch.device) -> Tensor:
    """Return the attention mask CRN of each frame over the tokens of its chunk; the class token is never masked."""
    first_C11 = torch.arange(chunks, device=device).view(-1, 1, 1) * reach
    query_R1 = torch.arange(reach, device=device).view(-1, 1)
    key_M = torch.arange(-reach, 2 * reach, device=device)
    is_near_RM = (key_M - query_R1).abs() <= reach
    is_there_C1M = ((first_C11 + key_M) >= 0) & ((first_C11 + key_M) < frames)
    return functional.pad(is_near_RM & is_there_C1M, (1, 0), value=True)


class LongformerLayer(nn.Module):
    """A post-LN block of attention and an MLP."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, reach: int | None, dropout: float) -> None:
        super().__init__()
        self.attn = SlidingAttention(dim, heads, reach, dropout)
        self.norm1 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.mlp = Mlp(dim, mlp_dim)
        self.norm2 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        tokens_BLD = self.norm1(tokens_BLD + self.dropout(self.attn(tokens_BLD)))
        learnt_BLD: Tensor = self.norm2(tokens_BLD + self.dropout(self.mlp(tokens_BLD)))
        return learnt_BLD


class TokenSum(nn.Module):
    """Adds embeddings of position and of token type (frame or class token), then normalises."""

    def __init__(self, dim: int, positions: int, dropout: float) -> None:
        super().__init__()
        self.positions = nn.Embedding(positions, dim)
        self.kinds = nn.Embedding(2, dim)  # frames, the class token
        self.norm = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens_BLD: Tensor, positions_L: Tensor) -> Tensor:
        kinds_L = torch.zeros_like(positions_L)
        kinds_L[0] = 1
        summed_BLD: Tensor = self.norm(tokens_BLD + self.positions(positions_L) + self.kinds(kinds_L))
        dropped_BLD: Tensor = self.dropout(summed_BLD)
        return dropped_BLD


# Names in files released by its fork of PySlowFast: timm's ViT, Hugging Face's Longformer and a head.
_RANGE = "temporal_encoder.embeddings.position_ids"  # a buffer saved by older versions of transformers
_LAYER, _ATTENTION = "temporal_encoder.encoder.layer.{n}.", "temporal_encoder.encoder.layer.{n}.attention.self."

RELEASED_VTN: Table = (
    ("backbone.{rest}", "backbone.frames.{rest}"),
    ("cls_token", "backbone.cls_token"),
    ("temporal_encoder.embeddings.position_embeddings.{rest}", "backbone.sum.positions.{rest}"),
    ("temporal_encoder.embeddings.token_type_embeddings.{rest}", "backbone.sum.kinds.{rest}"),
    ("temporal_encoder.embeddings.LayerNorm.{rest}", "backbone.sum.norm.{rest}"),
    (f"{_ATTENTION}{{rest}}", "backbone.blocks.{n}.attn.{rest}"),
    (f"{_LAYER}attention.output.dense.{{rest}}", "backbone.blocks.{n}.attn.proj.{rest}"),
    (f"{_LAYER}attention.output.LayerNorm.{{rest}}", "backbone.blocks.{n}.norm1.{rest}"),
    (f"{_LAYER}intermediate.dense.{{rest}}", "backbone.blocks.{n}.mlp.fc1.{rest}"),
    (f"{_LAYER}output.dense.{{rest}}", "backbone.blocks.{n}.mlp.fc2.{rest}"),
    (f"{_LAYER}output.LayerNorm.{{rest}}", "backbone.blocks.{n}.norm2.{rest}"),
    ("mlp_head.{rest}", "classifier.{rest}"),
)


def _prepare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {name: tensor for name, tensor in tensors.items() if name != _RANGE}
    for which in ("", "global_"):
        ending = f"_{which}".rstrip("_")
        parts = [f"{_ATTENTION}{part}{ending}.{{rest}}" for part in ("query", "key", "value")]
        found = joined(found, parts, f"{_ATTENTION}{which}qkv.{{rest}}")
    return found


SIGN = "temporal_encoder.encoder.layer.0.attention.self.query_global.weight"

FAMILIES = (Family("VTN", SIGN, RELEASED_VTN, _prepare),)
