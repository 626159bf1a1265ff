"""VideoMamba's block (Li et al. 2024, section 3): a norm, then Mamba's mixer run over the sequence in both directions.

The directions share the input and output projections. Each has its own short causal depthwise convolution (followed by
SiLU), projections to steps, writing and reading, decay and skip. Both outputs are gated and summed, not averaged.
Legend: B samples, L tokens, D features, E = 2 D channels, N states of a channel, R features from which steps are
projected, K tokens of the convolution's window: the current one and those before it.
"""

from __future__ import annotations

from math import ceil, log

import torch
from torch import Tensor, addcmul, nn
from torch.nn import functional

from trichord.pretrain.layers.selective_scan import ScanInputs, convolution_kernel, selective_scan
from trichord.pretrain.layers.transformer import DropPath

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
