"""The metrics of a run: step times (Meter), window averages of scalars (WindowMeans), and their output (Recorder)."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trichord.core.run_folder import RunFolder
from trichord.pretrain.collectives import gather_rows, sum_over_ranks, world_size
from trichord.pretrain.engine.config import LogConfig
from trichord.pretrain.engine.trackers import TensorBoard, Tracker, Wandb, encode, keep_before
from trichord.shards.reading.batch import Batch

Figures = dict[str, float | int | None]

_WARM_UP_STEPS = 2  # after a start: compilation, first allocations, workers that have no batch ready yet
_WINDOWS_FOR_ETA = 50
_GIB = 1 << 30


@dataclass(frozen=True)
class Workload:
    """Size of a run's steps. `flops_per_step` and `peak_flops`, the peak per second, are those of one device."""

    steps: int
    batch_size: int  # of all ranks
    flops_per_step: float | None = None
    peak_flops: float | None = None


@dataclass
class _Window:
    """Times and samples of this rank since the last log line; warm-up steps after a start are separate."""

    steps: int = 0
    step_s: float = 0.0
    worst_step_s: float = 0.0
    wait_s: float = 0.0
    aside_s: float = 0.0
    warm_up_s: float = 0.0
    samples: int = 0
    bad: int = 0
    with_sound: int = 0  # samples for which audio was requested
    silent: int = 0


class Meter:
    """Measures the steps of a run on every rank.

    with meter.waiting(): batch = next(stream)
    meter.count(batch); …; meter.step_done()
    with meter.aside(): save()
    if it is a log step: row = meter.figures(step)  # a collective: all ranks call it
    """

    def __init__(self, work: Workload, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._workload = work
        self._device = device
        self._clock = clock
        self._window = _Window()
        self._recent: deque[tuple[int, float]] = deque(maxlen=_WINDOWS_FOR_ETA)
        self._warm_up_left = _WARM_UP_STEPS
        self._step_began_s = clock()
        self._step_wait_s = self._step_aside_s = 0.0

    @contextmanager
    def waiting(self) -> Generator[None, None, None]:
        """Time the wait for data."""
        began_s = self._clock()
        yield
        self._step_wait_s += self._clock() - began_s

    @contextmanager
    def aside(self) -> Generator[None, None, None]:
        """Time work other than training, such as a save; it is excluded from step times."""
        began_s = self._clock()
        yield
        self._step_aside_s += self._clock() - began_s

    def count(self, batch: Batch) -> None:
        """Count a batch's samples, how many of them were replaced as unreadable, and how many have no audio."""
        self._window.samples += len(batch.key)
        self._window.bad += len(batch.bad)
        if batch.audio:
            self._window.with_sound += len(batch.key)
            self._window.silent += int((~batch.audio_present).sum())

    def step_done(self) -> None:
        """End a step and start the next one."""
        now_s = self._clock()
        step_s = now_s - self._step_began_s - self._step_aside_s
        window = self._window
        window.aside_s += self._step_aside_s
        if self._warm_up_left:
            self._warm_up_left -= 1
            window.warm_up_s += step_s
        else:
            window.steps += 1
            window.step_s += step_s
            window.wait_s += self._step_wait_s
            window.worst_step_s = max(window.worst_step_s, step_s)
        self._step_began_s = now_s
        self._step_wait_s = self._step_aside_s = 0.0

    def figures(self, step: int) -> Figures:
        """Return the figures of the window that ends with this step, over all ranks, and reset it; a collective."""
        window, self._window = self._window, _Window()
        all_R = self._over_ranks(window)
        step_s = _divide(max(all_R["step_s"]), window.steps)
        if window.steps:
            self._recent.append((window.steps, max(all_R["step_s"]) + max(all_R["aside_s"])))
        clips_per_s = _divide(self._workload.batch_size, step_s)
        flops, peak = self._workload.flops_per_step, self._workload.peak_flops
        shares = (wait_s / all_s for wait_s, all_s in zip(all_R["wait_s"], all_R["step_s"], strict=True) if all_s)
        return {
            "step": step,
            "steps": self._workload.steps,
            "samples": (step + 1) * self._workload.batch_size,
            "clips_per_s": clips_per_s,
            "clips_per_s_device": None if clips_per_s is None else clips_per_s / world_size(),
            "step_s": step_s,
            "worst_step_s": max(all_R["worst_step_s"]) or None,
            # Of the rank that waits longest: the others wait for it inside their collectives.
            "data_wait_share": max(shares, default=None),
            "mfu": flops / step_s / peak if flops and peak and step_s else None,
            "memory_gib": max(all_R["memory_bytes"]) / _GIB,
            "bad_share": _divide(sum(all_R["bad"]), sum(all_R["samples"])),
            "silent_share": _divide(sum(all_R["silent"]), sum(all_R["with_sound"])),
            "aside_s": max(all_R["aside_s"]),
            "warm_up_s": max(all_R["warm_up_s"]),
            "eta_s": self._eta_s(step),
        }

    def _over_ranks(self, window: _Window) -> dict[str, list[float]]:
        own = {**vars(window), "memory_bytes": _memory_bytes(self._device)}
        row_1N = torch.tensor([[float(value) for value in own.values()]], dtype=torch.float64, device=self._device)
        columns_NR = gather_rows(row_1N).T.tolist()
        return dict(zip(own, columns_NR, strict=True))

    def _eta_s(self, step: int) -> float | None:
        steps = sum(some for some, _ in self._recent)
        each_s = _divide(sum(seconds for _, seconds in self._recent), steps)
        return None if each_s is None else each_s * (self._workload.steps - step - 1)


class WindowMeans:
    """Averages of scalars over the steps of a window and over ranks; the device is synchronised only at the end."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Add the scalars of a step or of a part of one; each name is averaged separately."""
        for name, value in figures.items():
            value = value.detach().to(self._device, torch.float64)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """Return the means and reset; a collective, for which all ranks must add the same names equally often."""
        sums, counts, self._sums, self._counts = self._sums, self._counts, {}, {}
        if not sums:
            return {}
        totals_N = sum_over_ranks(torch.stack([sums[name] for name in sorted(sums)]))
        means = (totals_N / world_size()).tolist()
        return {name: mean / counts[name] for name, mean in zip(sorted(sums), means, strict=True)}


class Recorder:
    """Writes rows of figures on rank 0: always to metrics.jsonl, and to the trackers set in the recipe.

    A row's `step` is the step just done, counted from 0. `time_s` is Unix time, `run_s` the seconds the run has been
    running, summed over all its starts.
    """

    def __init__(
        self, run: Path, config: LogConfig, start_step: int, about: Mapping[str, object] | None = None
    ) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self._trackers: list[Tracker] = []
        if config.tensorboard:
            self._trackers.append(TensorBoard(run, start_step))
        if config.wandb_project is not None:
            self._trackers.append(Wandb(run, config.wandb_project, about or {}))
        path = RunFolder(run).metrics
        last = keep_before(path, start_step)
        self._file = path.open("a", encoding="utf-8")
        self._began_s = time.monotonic() - float(last.get("run_s") or 0.0)

    def write(self, row: Mapping[str, object]) -> None:
        """Write the figures of a log step; the row needs `step`."""
        times = {"time_s": round(time.time(), 3), "run_s": round(time.monotonic() - self._began_s, 3)}
        self._file.write(encode({"step": row["step"], **times, **row}))
        self._file.flush()
        figures = {name: float(value) for name, value in row.items() if isinstance(value, int | float)}
        step = int(figures.pop("step"))
        finite = {name: value for name, value in figures.items() if math.isfinite(value)}
        for tracker in self._trackers:
            tracker.write(step, finite)

    def close(self) -> None:
        """Close the file and the trackers."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


def _divide(above: float, below: float | None) -> float | None:
    return above / below if below else None


def _memory_bytes(device: torch.device) -> int:
    """Return this process's peak memory: of tensors on a GPU, or of the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
