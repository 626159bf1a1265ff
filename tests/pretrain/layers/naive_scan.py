"""The selective scan of the paper as a loop over time, in double precision and with autograd."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from trichord.pretrain.layers.selective_scan import ScanInputs


def naive_scan(given: ScanInputs) -> Tensor:
    """Return the output, BLE."""
    given = ScanInputs(*(tensor.double() for tensor in given))
    steps_BLE = functional.softplus(given.steps_BLE + given.bias_E)
    state_BEN = torch.zeros(len(given.inputs_BLE), *given.decay_EN.shape, dtype=torch.float64)
    out = []
    moments = (steps_BLE, given.inputs_BLE, given.write_BLN, given.read_BLN, given.gate_BLE)
    for step_BE, input_BE, write_BN, read_BN, gate_BE in zip(*(each.unbind(1) for each in moments), strict=True):
        decay_BEN = torch.exp(step_BE[:, :, None] * given.decay_EN)
        state_BEN = decay_BEN * state_BEN + (step_BE * input_BE)[:, :, None] * write_BN[:, None]
        read_BE = (state_BEN * read_BN[:, None]).sum(-1) + given.skip_E * input_BE
        out.append(read_BE * gate_BE / (1 + torch.exp(-gate_BE)))
    return torch.stack(out, dim=1)
