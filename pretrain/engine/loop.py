"""The training loop: forward, backward, gradient check, next batch, agreement of ranks, update, log, save."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, Signals
from typing import NamedTuple, NoReturn

import torch

from trichord.core.command import command_line
from trichord.core.errors import Interrupted, RunStopped
from trichord.core.run_folder import RunFolder
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import training as steps
from trichord.pretrain.engine.bad_samples import BadSamples
from trichord.pretrain.engine.distributed import World
from trichord.pretrain.engine.finite import FiniteGuard, write_failure
from trichord.pretrain.engine.metrics import Meter, Recorder, WindowMeans
from trichord.pretrain.engine.prefetch import Prefetcher
from trichord.pretrain.engine.run_lock import RunLock
from trichord.pretrain.engine.saving import Saver
from trichord.pretrain.engine.signals import StopFlag, listening, of_rank, rank_of
from trichord.pretrain.engine.trackers import step_line
from trichord.pretrain.engine.training import Training
from trichord.pretrain.engine.watch import LoaderWatch, Watch, embedding_figures
from trichord.pretrain.objectives.base import StepOutput
from trichord.shards.reading.batch import Batch


@dataclass(frozen=True)
class NextBatch:
    """A batch, or the error that occurred while reading it."""

    batch: Batch | None = None
    problem: Exception | None = None


class Agreed(NamedTuple):
    """Conditions that hold for all ranks because they hold for at least one."""

    is_not_finite: bool
    cannot_read: bool
    signal: Signals | None
    is_save_due: bool


@dataclass
class Loop:
    """One rank's part of a run, from the first step to the last."""

    config: RunConfig
    run: Path
    world: World
    lock: RunLock | None  # on rank 0
    training: Training
    prefetcher: Prefetcher
    saver: Saver
    meter: Meter
    recorder: Recorder | None  # on rank 0
    bad_samples: BadSamples
    watch: Watch
    loader_watch: LoaderWatch
    keep_failed: Callable[[int], str]  # saves the state before a failed step and returns where it is
    report: Callable[[str], None]  # prints on rank 0

    def go(self) -> dict[str, object]:
        """Run all remaining steps, then save; return the figures of the last log line."""
        self._guard = FiniteGuard(self.training.adam.parameters)
        self._means = WindowMeans(self.world.device)
        first, last = self.training.start_step, self.config.steps - 1
        with listening() as stop, stop.takes(SIGINT):
            upcoming = self._read_batch()
            agreed = self._agree([], upcoming, stop, f"begin step {first}")
            for step in range(first, last + 1):
                batch = self._go_on(step, upcoming, agreed)
                output = self._forward_and_backward(batch, step)
                found = self._guard.verdict()
                upcoming = self._read_batch() if step < last else NextBatch()
                agreed = self._agree(found, upcoming, stop, f"check the gradients of step {step}")
                if agreed.is_not_finite:
                    self._stop(found, batch, output, step)
                self._update(step)
                self.meter.step_done()
                if self._is_logged(step):
                    self._log(step, output)
                if self.saver.is_due_by_step(step + 1) and step < last:
                    with self.meter.aside():
                        self._list_bad_samples(step)
                        self.saver.save(step + 1)
            self.saver.save(self.config.steps, is_last=True)
        return self._row

    def _is_logged(self, step: int) -> bool:
        return (step + 1) % self.config.log.every_steps == 0 or step + 1 == self.config.steps

    def _read_batch(self) -> NextBatch:
        """Read this rank's next batch; an error is kept until all ranks know of it."""
        with self.meter.waiting():
            try:
                return NextBatch(next(self.prefetcher))
            except Exception as error:
                return NextBatch(problem=error)

    def _agree(self, found: list[str], upcoming: NextBatch, stop: StopFlag, waiting_in: str) -> Agreed:
        """Return what all ranks do next: stop, save or continue. The only message of a step that the host waits for.

        Raise RunStopped on all ranks if a later start of this job holds the run's folder.
        """
        save_due = self.world.rank == 0 and self.saver.is_due_by_clock()
        lost = self.lock is not None and self.lock.is_lost
        flags: list[float] = [bool(found), upcoming.problem is not None, rank_of(stop.received), save_due, lost]
        is_not_finite, cannot_read, signal, is_save_due, is_lost = self.world.agree(flags, waiting_in)
        if is_lost:  # before anything of this step is written
            raise RunStopped(f"{self.run} belongs to a later start of this job; this one stops and writes nothing more")
        return Agreed(bool(is_not_finite), bool(cannot_read), of_rank(int(signal)), bool(is_save_due))

    def _go_on(self, step: int, upcoming: NextBatch, agreed: Agreed) -> Batch:
        """Save if agreed, and return the batch of this step, or raise if the run ends here."""
        ends = agreed.cannot_read or agreed.signal is not None
        if ends or agreed.is_save_due:
            with self.meter.aside():
                self._list_bad_samples(step)
                self.saver.save(step, is_last=ends)
        # The signal comes first: clusters signal the data workers as well, and their exit looks like a read error.
        if agreed.signal is not None:
            steps_done = f"{step} step{'s' if step != 1 else ''}"
            message = f"stopped after {steps_done} by {agreed.signal.name}, everything is saved"
            raise Interrupted(agreed.signal, message) from upcoming.problem
        if agreed.cannot_read:
            other = RunStopped(f"rank {self.world.rank} stops at step {step}: another rank could not read its data")
            raise upcoming.problem or other
        assert upcoming.batch is not None
        self.meter.count(upcoming.batch)
        self.bad_samples.add(upcoming.batch, step)
        return upcoming.batch

    def _forward_and_backward(self, batch: Batch, step: int) -> StepOutput:
        """Run forward and backward on this rank's batch; `_update` makes the engine's last call of the step."""
        config, training = self.config, self.training
        self._rates = steps.set_rates(training, config, step)
        parts = steps.split(batch, config.engine.accumulation)
        steps.preview(training, config, parts, step, self.world.rank)
        for part, piece in enumerate(parts):
            if part:
                training.engine.step()  # only counts parts until the last one
            output = steps.forward(training, config, piece, step, part, self.world.rank)
            self._guard.add_loss(output.loss)
            training.engine.backward(output.loss)
            self._means.add({"loss": output.loss, **_named("loss", output.losses), **_named("health", output.health)})
        return output

    def _update(self, step: int) -> None:
        self._gradient_norm = steps.gradient_norm(self.training) if self._is_logged(step) else None
        self.training.engine.step()
        self.training.objective.after_update(step)

    def _stop(self, found: list[str], batch: Batch, output: StepOutput, step: int) -> NoReturn:
        folder = RunFolder(self.run).failures / f"step_{step:08d}"
        losses = {name: float(value.detach()) for name, value in {"loss": output.loss, **output.losses}.items()}
        everyone = write_failure(folder, self.world, step, found, batch, losses)
        kept = self.keep_failed(step)
        listed = "\n".join(f"  {each}" for each in everyone[:10]) + (
            f"\n  and {len(everyone) - 10} more" * (len(everyone) > 10)
        )
        raise RunStopped(
            f"step {step} had values that are not finite, and was not applied:\n{listed}\n"
            f"Its samples are listed in {folder}. {kept}\n"
            f"Next: {command_line('replay', self.run)}"
        )

    def _log(self, step: int, output: StepOutput) -> None:
        """Write and print the figures of the window that ends with this step."""
        row = {
            **self.meter.figures(step),
            **self._rates,
            **self._means.take(),
            **embedding_figures(output.embeddings),
        }
        norm = self._gradient_norm if self._gradient_norm is not None else self.training.engine.get_global_grad_norm()
        if norm is not None:
            row["gradient_norm"] = float(norm)
        self._row: dict[str, object] = dict(row)
        if row["bad_share"]:  # of all ranks, so that they agree on whether to gather
            self._list_bad_samples(step)
        if self.recorder is None:
            return
        try:
            self.recorder.write({**row, "bad": dict(self.bad_samples.counts)})
        except OSError as error:  # such as a full disk; whether the run can continue is decided at the next save
            self.report(f"warning: the figures of step {step} could not be written: {error}")
        self.report(step_line(row))
        wait_share = row["data_wait_share"]
        for warning in self.watch.check(step, row):
            self.report(f"warning: {warning}")
        verdict = self.loader_watch.check(step, wait_share)
        if verdict:
            self.report(verdict)

    def _list_bad_samples(self, step: int) -> None:
        try:
            self.bad_samples.gather()
        except OSError as error:
            self.report(f"warning: the bad samples up to step {step} could not be listed: {error}")


def _named(kind: str, figures: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{kind}/{name}": value for name, value in figures.items()}
