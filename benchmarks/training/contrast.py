"""Our contrastive losses beside open_clip's, as ratios of CPU time and of memory, and how memory grows with the batch.

All run in one process, on one thread; losses and gradients are compared. Times are measured twice: with the memory
allocator as it is, and with the settings that `trichord pretrain` makes. Peaks of memory are those of a process for
each contender, with the allocator as it is, above what the embeddings need themselves.
Legend: B pairs, D features.
"""

from __future__ import annotations

import ctypes
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import AS_IT_IS, TUNED, Beat, Ratio, Turns, largest_difference, take_turns, timed
from benchmarks.processes import peak_growth_mib, run_alone
from benchmarks.training.growth import LARGEST_EXPONENT, exponent
from trichord.core.wheels import make_importable
from trichord.pretrain.contrast.losses import info_nce, sigmoid_loss
from trichord.pretrain.engine.allocator import apply

OURS, OPEN_CLIP = "ours", "open_clip"
LARGEST_DIFFERENCE = 1e-5  # of losses and gradients, relative to the largest value of each
BATCHES = (1024, 4096, 16384)
GOALS = {1024: 1.0, 4096: 1.0, 16384: 1.8}  # times as fast as open_clip's ClipLoss
MEMORY_GOALS = {16384: 15.0}  # times as little memory
GROWING_BATCHES = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
LARGEST_OF_OPEN_CLIP = 16384  # with four times as many pairs it would need 64 GiB
PairLoss = Callable[..., Tensor]


class ContrastCase(BaseModel):
    """A loss and a batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Literal["info_nce", "sigmoid"]
    batch: int
    dim: int = 512
    scale: float = 1 / 0.07  # CLIP's initial value
    bias: float = -10.0  # SigLIP's initial value

    def inputs(self) -> list[Tensor]:
        """Draw unit vectors: the cosine of a pair is about 0.45, that of others about 0."""
        generator = torch.Generator().manual_seed(0)
        a_BD = functional.normalize(torch.randn(self.batch, self.dim, generator=generator), dim=1)
        noise_BD = functional.normalize(torch.randn(self.batch, self.dim, generator=generator), dim=1)
        b_BD = functional.normalize(a_BD + 2 * noise_BD, dim=1)
        numbers = (self.scale,) if self.loss == "info_nce" else (self.scale, self.bias)
        return [tensor.requires_grad_() for tensor in (a_BD, b_BD, *map(torch.tensor, numbers))]


def _our_loss(case: ContrastCase) -> PairLoss:
    return info_nce if case.loss == "info_nce" else sigmoid_loss


def _loss_of_open_clip(case: ContrastCase) -> PairLoss:
    make_importable()
    from open_clip.loss import ClipLoss, SigLipLoss  # takes seconds

    loss: PairLoss = ClipLoss() if case.loss == "info_nce" else SigLipLoss()
    return loss


CONTENDERS: dict[str, Callable[[ContrastCase], PairLoss]] = {OURS: _our_loss, OPEN_CLIP: _loss_of_open_clip}


def forward_and_backward(loss: PairLoss, given: Sequence[Tensor]) -> list[Tensor]:
    """Return the loss and the gradients with respect to all inputs, the temperature included."""
    value = loss(*given)
    return [value.detach(), *torch.autograd.grad(value, given)]


def run_contrast_bench(cases: Sequence[ContrastCase], rounds: int, beat: Beat = lambda: None) -> list[dict[str, Any]]:
    """Measure each case; return a row for each and for each setting of the allocator."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        mib = [{name: peak_mib(name, case, beat) for name in CONTENDERS} for case in cases]
        as_it_is = [_measure(case, rounds, beat) for case in cases]
        apply()  # cannot be undone, so this comes last
        tuned = [_measure(case, rounds, beat) for case in cases]
    finally:
        torch.set_num_threads(threads)
    return [
        _row(case, settings, turns[number], mib[number])
        for number, case in enumerate(cases)
        for settings, turns in ((AS_IT_IS, as_it_is), (TUNED, tuned))
    ]


def run_memory_bench(
    batches: Sequence[int] = GROWING_BATCHES, dim: int = 512, beat: Beat = lambda: None
) -> list[dict[str, Any]]:
    """Measure the peak memory of InfoNCE by the size of the global batch; return a row for ours and for open_clip's."""
    rows = []
    for name in CONTENDERS:
        measured = [batch for batch in batches if name == OURS or batch <= LARGEST_OF_OPEN_CLIP]
        mib = [peak_mib(name, ContrastCase(loss="info_nce", batch=batch, dim=dim), beat) for batch in measured]
        fitted = exponent(measured, mib)
        rows.append(
            {
                "whose": name,
                **{
                    f"{batch} pairs, MiB": round(mib[place], 1) if place < len(mib) else None
                    for place, batch in enumerate(batches)
                },
                "exponent": round(fitted, 2),
                "goal": f"at most {LARGEST_EXPONENT:g}" if name == OURS else None,
                "met": fitted <= LARGEST_EXPONENT if name == OURS else None,
            }
        )
    return rows


def peak_mib(name: str, case: ContrastCase, beat: Beat = lambda: None) -> float:
    """Return how much memory one pass of a contender needs, in a process of its own."""
    printed = run_alone(name, "benchmarks.training.contrast", name, case.model_dump_json())
    beat()
    return float(printed[-1])


def _measure(case: ContrastCase, rounds: int, beat: Beat) -> Turns[float]:
    losses = {name: make(case) for name, make in CONTENDERS.items()}

    def lap(name: str, given: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
        return timed(lambda: forward_and_backward(losses[name], given))

    return take_turns(list(losses), [case.inputs()], rounds, lap, beat, largest_difference)


def _row(case: ContrastCase, settings: str, turns: Turns[float], mib: Mapping[str, float]) -> dict[str, Any]:
    has_goals = case.loss == "info_nce" and settings == AS_IT_IS
    goal = GOALS.get(case.batch) if has_goals else None
    memory_goal = MEMORY_GOALS.get(case.batch) if has_goals else None
    ratio, memory_ratio = Ratio.of(turns.seconds[OURS], turns.seconds[OPEN_CLIP]), mib[OPEN_CLIP] / mib[OURS]
    apart = max(turns.differences[OPEN_CLIP])
    is_same = apart <= LARGEST_DIFFERENCE
    is_met = is_same and ratio.median >= (goal or 0) and memory_ratio >= (memory_goal or 0)
    return {
        "loss": case.loss,
        "pairs": case.batch,
        "allocator": settings,
        "ours_ms": round(1e3 * statistics.median(turns.seconds[OURS])),
        "open_clip_ms": round(1e3 * statistics.median(turns.seconds[OPEN_CLIP])),
        "ratio": round(ratio.median, 2),
        "range": ratio.range,
        "goal": goal,
        "ours_mib": round(mib[OURS]),
        "open_clip_mib": round(mib[OPEN_CLIP]),
        "memory_ratio": round(memory_ratio, 1),
        "memory_goal": memory_goal,
        "met": is_met if goal else None,
        "apart": float(f"{apart:.1e}"),
        "note": "" if is_same else f"results differ by more than {LARGEST_DIFFERENCE:g}: not the same work",
    }


def main(name: str, case_json: str) -> None:
    """Print how far one pass takes memory above that of the embeddings, after the code has run on a few."""
    torch.set_num_threads(1)
    case = ContrastCase.model_validate_json(case_json)
    loss = CONTENDERS[name](case)
    forward_and_backward(loss, case.model_copy(update={"batch": 2}).inputs())
    given = case.inputs()
    ctypes.CDLL(None).malloc_trim(0)  # memory that drawing left free would hide what the pass needs
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which the imports raised
    print(peak_growth_mib(lambda: forward_and_backward(loss, given)))


if __name__ == "__main__":
    main(*sys.argv[1:])
