"""Who takes part in `bench scan`: our selective scan, mambapy's parallel scan, and a loop over time.

Run as a process of its own, one of them scans once, forward and backward, and says by how much memory grew.
Legend: B samples, L steps, E channels, N states.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional

from trichord.pretrain.layers.selective_scan import ScanInputs, selective_scan

OURS, MAMBAPY, LOOP = "ours", "mambapy's parallel scan", "loop over time"
Scan = Callable[[ScanInputs], Tensor]


class ScanCase(BaseModel):
    """A size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int
    channels: int
    length: int = 1568
    states: int = 16

    def inputs(self) -> ScanInputs:
        """Draw inputs like those of a fresh network: steps of about a hundredth, decays of 1 to N."""
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        wide, narrow = (self.batch, self.length, self.channels), (self.batch, self.length, self.states)
        decay_EN = -torch.arange(1.0, self.states + 1).repeat(self.channels, 1)
        bias_E = torch.full((self.channels,), -4.6)
        given = (
            draw(*wide),
            draw(*wide),
            decay_EN,
            draw(*narrow),
            draw(*narrow),
            draw(self.channels),
            draw(*wide),
            bias_E,
        )
        return ScanInputs(*(tensor.requires_grad_() for tensor in given))


def contenders() -> dict[str, Scan]:
    """Name who can take part here."""
    found: dict[str, Scan] = {OURS: selective_scan, LOOP: scan_in_a_loop}
    if importlib.util.find_spec("mambapy") is not None:
        found[MAMBAPY] = scan_in_parallel
    return found


def forward_and_backward(scan: Scan, given: ScanInputs) -> list[Tensor]:
    """Give the answer and the gradients by all inputs."""
    out_BLE = scan(given)
    return [out_BLE.detach(), *torch.autograd.grad(out_BLE, given, torch.ones_like(out_BLE))]


def scan_in_parallel(given: ScanInputs) -> Tensor:
    """Let mambapy combine all states of all steps in a tree."""
    from mambapy.pscan import pscan

    decays_BLEN, writes_BLEN = _terms(given)
    states_BLEN: Tensor = pscan(decays_BLEN, writes_BLEN)
    return _finish(given, (states_BLEN @ given.read_BLN.unsqueeze(3)).squeeze(3))


def scan_in_a_loop(given: ScanInputs) -> Tensor:
    """Take one step after the other and leave the way back to autograd."""
    decays_BLEN, writes_BLEN = _terms(given)
    state_BEN = torch.zeros_like(decays_BLEN[:, 0])
    read = []
    # Unbound at once: the gradient of a slice is as large as the whole, and 1568 of them take minutes.
    for decay_BEN, write_BEN, read_BN in zip(
        decays_BLEN.unbind(1), writes_BLEN.unbind(1), given.read_BLN.unbind(1), strict=True
    ):
        state_BEN = decay_BEN * state_BEN + write_BEN
        read.append((state_BEN @ read_BN.unsqueeze(2)).squeeze(2))
    return _finish(given, torch.stack(read, dim=1))


def _terms(given: ScanInputs) -> tuple[Tensor, Tensor]:
    """Write out what each step multiplies each state with, and what it adds."""
    steps_BLE = functional.softplus(given.steps_BLE + given.bias_E)
    decays_BLEN = torch.exp(steps_BLE.unsqueeze(3) * given.decay_EN)
    return decays_BLEN, (steps_BLE * given.inputs_BLE).unsqueeze(3) * given.write_BLN.unsqueeze(2)


def _finish(given: ScanInputs, read_BLE: Tensor) -> Tensor:
    return (read_BLE + given.skip_E * given.inputs_BLE) * functional.silu(given.gate_BLE)


def memory_mib(peak: bool) -> float:
    """Give this process's resident memory, or its peak so far."""
    field = "VmHWM" if peak else "VmRSS"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def main(name: str, case_json: str) -> None:
    """Say how far one pass took memory above that of the inputs, once the code had been run on a few steps."""
    torch.set_num_threads(1)
    case, scan = ScanCase.model_validate_json(case_json), contenders()[name]
    forward_and_backward(scan, case.model_copy(update={"length": 2}).inputs())
    given = case.inputs()
    before_mib = memory_mib(peak=False)
    forward_and_backward(scan, given)
    print(memory_mib(peak=True) - before_mib)


if __name__ == "__main__":
    main(*sys.argv[1:])
