"""Our selective scan beside mambapy's parallel scan and a loop over time, as ratios of CPU time and of memory.

All run in one process, on one thread. The least time of the rounds counts, because whatever else the machine does only
adds to it. Everything is measured twice: with the memory allocator as it is, and with the settings that `trichord
pretrain` makes, which help most where most memory is used. Peaks of memory are those of a process for each contender,
with the allocator as it is.
Legend: B samples, L steps, E channels, N states.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import AS_IT_IS, TUNED, Beat, Turns, largest_difference, take_turns, timed
from benchmarks.processes import peak_growth_mib, run_alone
from trichord.pretrain.engine.allocator import apply
from trichord.pretrain.layers.selective_scan import ScanInputs, selective_scan

OURS, MAMBAPY, LOOP = "ours", "mambapy's parallel scan", "loop over time"
GOAL, MEMORY_GOAL = 5.0, 5.0  # times as fast as mambapy with the allocator as it is, and times as little memory
LARGEST_DIFFERENCE = 1e-4  # of outputs and gradients, relative to the largest value of each
Scan = Callable[[ScanInputs], Tensor]


class ScanCase(BaseModel):
    """The size of a scan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int
    channels: int
    length: int = 1568
    states: int = 16

    def inputs(self) -> ScanInputs:
        """Draw inputs like those of a network at init: steps of about a hundredth, decays of 1 to N."""
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


CASES = {
    "one clip, 1152 channels": ScanCase(batch=1, channels=1152),
    "four clips, 768 channels": ScanCase(batch=4, channels=768),
}


def contenders() -> dict[str, Scan]:
    """Return the scans by name; mambapy's only where it is installed."""
    found: dict[str, Scan] = {OURS: selective_scan, LOOP: scan_in_a_loop}
    if importlib.util.find_spec("mambapy") is not None:
        found[MAMBAPY] = scan_in_parallel
    return found


def forward_and_backward(scan: Scan, given: ScanInputs) -> list[Tensor]:
    """Return the output and the gradients with respect to all inputs."""
    out_BLE = scan(given)
    return [out_BLE.detach(), *torch.autograd.grad(out_BLE, given, torch.ones_like(out_BLE))]


def scan_in_parallel(given: ScanInputs) -> Tensor:
    """Combine all states of all steps in a tree, with mambapy."""
    from mambapy.pscan import pscan

    decays_BLEN, writes_BLEN = _terms(given)
    states_BLEN: Tensor = pscan(decays_BLEN, writes_BLEN)
    return _finish(given, (states_BLEN @ given.read_BLN.unsqueeze(3)).squeeze(3))


def scan_in_a_loop(given: ScanInputs) -> Tensor:
    """Take one step after the other and leave the backward pass to autograd."""
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


def run_scan_bench(cases: Mapping[str, ScanCase], rounds: int, beat: Beat = lambda: None) -> list[dict[str, Any]]:
    """Measure each case; return a row for each, for each other scan, and for each setting of the allocator."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        mib = {(size, name): peak_mib(name, case) for size, case in cases.items() for name in contenders()}
        as_it_is = {size: _measure(case, rounds, beat) for size, case in cases.items()}
        apply()  # cannot be undone, so this comes last
        tuned = {size: _measure(case, rounds, beat) for size, case in cases.items()}
    finally:
        torch.set_num_threads(threads)
    return [
        _row(size, name, settings, turns[size], {each: mib[size, each] for each in contenders()})
        for size in cases
        for settings, turns in ((AS_IT_IS, as_it_is), (TUNED, tuned))
        for name in contenders()
        if name != OURS
    ]


def peak_mib(name: str, case: ScanCase) -> float:
    """Return how much memory one pass of a contender needs, in a process of its own."""
    return float(run_alone(name, "benchmarks.training.scan", name, case.model_dump_json())[-1])


def _terms(given: ScanInputs) -> tuple[Tensor, Tensor]:
    """Return what each step multiplies each state by, and what it adds."""
    steps_BLE = functional.softplus(given.steps_BLE + given.bias_E)
    decays_BLEN = torch.exp(steps_BLE.unsqueeze(3) * given.decay_EN)
    return decays_BLEN, (steps_BLE * given.inputs_BLE).unsqueeze(3) * given.write_BLN.unsqueeze(2)


def _finish(given: ScanInputs, read_BLE: Tensor) -> Tensor:
    return (read_BLE + given.skip_E * given.inputs_BLE) * functional.silu(given.gate_BLE)


def _measure(case: ScanCase, rounds: int, beat: Beat) -> Turns[float]:
    scans = contenders()

    def lap(name: str, given: ScanInputs) -> tuple[float, list[Tensor]]:
        return timed(lambda: forward_and_backward(scans[name], given))

    return take_turns(list(scans), [case.inputs()], rounds, lap, beat, largest_difference)


def _row(size: str, against: str, settings: str, turns: Turns[float], mib: Mapping[str, float]) -> dict[str, Any]:
    ours_s, theirs_s, apart = min(turns.seconds[OURS]), min(turns.seconds[against]), max(turns.differences[against])
    ratio, memory_ratio = theirs_s / ours_s, mib[against] / mib[OURS]
    is_same, has_goal = apart <= LARGEST_DIFFERENCE, (against, settings) == (MAMBAPY, AS_IT_IS)
    return {
        "size": size,
        "against": against,
        "allocator": settings,
        "ours_ms": round(ours_s * 1e3),
        "theirs_ms": round(theirs_s * 1e3),
        "ratio": round(ratio, 2),
        "goal": GOAL if has_goal else None,
        "ours_mib": round(mib[OURS]),
        "theirs_mib": round(mib[against]),
        "memory_ratio": round(memory_ratio, 2),
        "memory_goal": MEMORY_GOAL if has_goal else None,
        "met": is_same and ratio >= GOAL and memory_ratio >= MEMORY_GOAL if has_goal else None,
        "apart": float(f"{apart:.1e}"),
        "note": "" if is_same else f"results differ by more than {LARGEST_DIFFERENCE:g}: not the same work",
    }


def main(name: str, case_json: str) -> None:
    """Print how far one pass takes memory above that of the inputs, after the code has run on a few steps."""
    torch.set_num_threads(1)
    case, scan = ScanCase.model_validate_json(case_json), contenders()[name]
    forward_and_backward(scan, case.model_copy(update={"length": 2}).inputs())
    given = case.inputs()
    print(peak_growth_mib(lambda: forward_and_backward(scan, given)))


if __name__ == "__main__":
    main(*sys.argv[1:])
