"""Mamba's short convolution over the past: each channel by itself, then SiLU.

Legend: B samples, L steps, E channels, K steps that are seen, the present one and those before it.
"""

from __future__ import annotations

from torch import Tensor, addcmul, nn
from torch.nn import functional

from trichord.pretrain.layers.mamba_kernels import convolution_kernel


class CausalConvolution(nn.Conv1d):
    """Its parameters are those of a grouped convolution."""

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
        # Sums of shifted sequences: with channels innermost that takes two thirds of the time of conv1d.
        length, width = inputs_BLE.shape[1], weight_EK.shape[1]
        padded_BLE = functional.pad(inputs_BLE, (0, 0, width - 1, 0))
        seen_BLE = self.bias.to(inputs_BLE.dtype)
        for shift, weight_E in enumerate(weight_EK.to(inputs_BLE.dtype).unbind(1)):
            seen_BLE = addcmul(seen_BLE, padded_BLE[:, shift : shift + length], weight_E)
        return functional.silu(seen_BLE)
