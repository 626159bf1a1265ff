"""VideoMamba (Li et al. 2024, arXiv 2403.06977): a state-space model that scans a clip in both directions.

The class token comes first, then the frames in order, row by row: only the reverse scan carries the clip to it. For
other frames and sizes, position tables are interpolated as in the released fine-tuning, linear in time and bicubic in
space. Parameters have the names of the released checkpoints, except that each direction of a mixer is a module.
In a block (section 3) a norm comes first, then Mamba's mixer, run over the sequence in both directions, which share the
input and output projections. Each direction has its own short causal depthwise convolution (followed by SiLU),
projections to steps, writing and reading, decay and skip. Both outputs are gated and summed, not averaged.
Legend: B clips, C colours, T frames, H rows and W columns of pixels; t = T, n = h x w places, L tokens, D features. In
a mixer: E = 2 D channels, N states of a channel, R features from which steps are projected, K tokens of the
convolution's window: the current one and those before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, log, sqrt

import torch
from torch import Tensor, addcmul, nn
from torch.nn import functional

from trichord.pretrain.backbones.base import Backbone, Tokens
from trichord.pretrain.backbones.videomamba import VideoMambaSpec
from trichord.pretrain.layers.embeddings import PatchEmbedding, positions_in_space, positions_in_time, table_of_square
from trichord.pretrain.layers.selective_scan import ScanInputs, convolution_kernel, selective_scan
from trichord.pretrain.layers.transformer import DropPath, growing_rates, run_block
from trichord.pretrain.weights.naming import Family, Table

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
            tokens_BLD = run_block(block, tokens_BLD, recomputes=self.spec.activation_checkpointing)
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


NORM_EPS = 1e-5
_WIDENING, _STATES, _WIDTH = 2, 16, 4  # E / D, N and K: the same in all sizes
_SHORTEST_STEP, _LONGEST_STEP, _LEAST_STEP = 1e-3, 1e-1, 1e-4


class Direction(nn.Module):
    """The layers of one scan direction."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        channels, self.rank = _WIDENING * dim, ceil(dim / 16)
        self.conv1d = CausalConvolution(channels, _WIDTH)
        self.x_proj = nn.Linear(channels, self.rank + 2 * _STATES, bias=False)
        self.dt_proj = nn.Linear(self.rank, channels)
        self.A_log = nn.Parameter(torch.empty(channels, _STATES))
        self.D = nn.Parameter(torch.empty(channels))

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise all weights: steps log-uniform from 0.001 to 0.1, decay rates of states 1 to N."""
        if self.A_log.is_meta:  # nothing to fill, and computing the values takes long
            return
        self.conv1d.reset_parameters()
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        shares_E = torch.rand_like(self.dt_proj.bias)
        steps_E = torch.exp(shares_E * (log(_LONGEST_STEP) - log(_SHORTEST_STEP)) + log(_SHORTEST_STEP))
        steps_E = steps_E.clamp(min=_LEAST_STEP)
        self.dt_proj.bias.copy_(steps_E + torch.log(-torch.expm1(-steps_E)))  # inverse of softplus
        self.A_log.copy_(torch.arange(1.0, _STATES + 1).log().expand_as(self.A_log))
        nn.init.ones_(self.D)

    def forward(self, inputs_BLE: Tensor, gate_BLE: Tensor) -> Tensor:
        """Scan from first to last."""
        inputs_BLE = self.conv1d(inputs_BLE)
        ranks_BLR, write_BLN, read_BLN = self.x_proj(inputs_BLE).split([self.rank, _STATES, _STATES], dim=-1)
        steps_BLE = functional.linear(ranks_BLR, self.dt_proj.weight)
        decay_EN = -torch.exp(self.A_log.float())
        return selective_scan(
            ScanInputs(inputs_BLE, steps_BLE, decay_EN, write_BLN, read_BLN, self.D, gate_BLE, self.dt_proj.bias)
        )


class BidirectionalMixer(nn.Module):
    """Projects to more channels, scans in both directions, projects back."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(dim, 2 * _WIDENING * dim, bias=False)
        self.ahead, self.back = Direction(dim), Direction(dim)
        self.out_proj = nn.Linear(_WIDENING * dim, dim, bias=False)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        inputs_BLE, gate_BLE = self.in_proj(tokens_BLD).chunk(2, dim=-1)
        seen_BLE = self.ahead(inputs_BLE, gate_BLE)
        seen_BLE = seen_BLE + self.back(inputs_BLE.flip(1), gate_BLE.flip(1)).flip(1)
        mixed_BLD: Tensor = self.out_proj(seen_BLE)
        return mixed_BLD


class BidirectionalBlock(nn.Module):
    """A pre-norm block without an MLP; the residual stream stays in single precision."""

    def __init__(self, dim: int, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=NORM_EPS)
        self.mixer = BidirectionalMixer(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        # The released code adds the residual at the start of the next block; here it is added at the end of this one.
        mixed_BLD: Tensor = self.drop_path(self.mixer(self.norm(tokens_BLD)))
        return tokens_BLD + mixed_BLD


class CausalConvolution(nn.Conv1d):
    """A causal depthwise convolution, then SiLU. Its parameters are those of a grouped convolution."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, channels, width, groups=channels)

    def forward(self, inputs_BLE: Tensor) -> Tensor:
        assert self.bias is not None
        weight_EK = self.weight.squeeze(1)
        kernel = convolution_kernel(inputs_BLE.device)
        if kernel is not None:
            inputs_BEL = inputs_BLE.transpose(1, 2)
            weight_EK, bias_E = (each.to(inputs_BLE.dtype) for each in (weight_EK, self.bias))
            out_BEL: Tensor = kernel(inputs_BEL, weight_EK, bias_E, activation="silu")
            return out_BEL.transpose(1, 2)
        # Sum of shifted sequences: with channels as the last axis, this takes two thirds of the time of conv1d.
        length, width = inputs_BLE.shape[1], weight_EK.shape[1]
        padded_BLE = functional.pad(inputs_BLE, (0, 0, width - 1, 0))
        seen_BLE = self.bias.to(inputs_BLE.dtype)
        for shift, weight_E in enumerate(weight_EK.to(inputs_BLE.dtype).unbind(1)):
            seen_BLE = addcmul(seen_BLE, padded_BLE[:, shift : shift + length], weight_E)
        return functional.silu(seen_BLE)


# Names in the released files: trained on images, on videos, and by unmasking, which has its own head.
_PATCHES = "patch_embed.proj.weight"
_THEIRS, _OURS = "layers.{n}.mixer.", "backbone.blocks.{n}.mixer."
_TABLE: Table = (
    (f"{_THEIRS}A_b_log", f"{_OURS}back.A_log"),
    (f"{_THEIRS}D_b", f"{_OURS}back.D"),
    (f"{_THEIRS}conv1d_b.{{rest}}", f"{_OURS}back.conv1d.{{rest}}"),
    (f"{_THEIRS}x_proj_b.{{rest}}", f"{_OURS}back.x_proj.{{rest}}"),
    (f"{_THEIRS}dt_proj_b.{{rest}}", f"{_OURS}back.dt_proj.{{rest}}"),
    (f"{_THEIRS}in_proj.{{rest}}", f"{_OURS}in_proj.{{rest}}"),
    (f"{_THEIRS}out_proj.{{rest}}", f"{_OURS}out_proj.{{rest}}"),
    (f"{_THEIRS}{{rest}}", f"{_OURS}ahead.{{rest}}"),
    ("layers.{n}.norm.weight", "backbone.blocks.{n}.norm.weight"),
    ("norm.weight", "backbone.norm_f.weight"),  # in files pretrained by unmasking
    ("clip_decoder.{rest}", "clip_decoder.{rest}"),
    ("head.{rest}", "classifier.{rest}"),
    ("{rest}", "backbone.{rest}"),
)


def _with_flat_patches(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the time axis of patch kernels, of length 1, which files trained on videos have and others do not."""
    patches = tensors.get(_PATCHES)
    if patches is None or patches.ndim != 5 or patches.shape[2] != 1:
        return dict(tensors)
    return dict(tensors) | {_PATCHES: patches.squeeze(2)}


FAMILIES = (Family("VideoMamba", "layers.0.mixer.A_b_log", _TABLE, _with_flat_patches),)
