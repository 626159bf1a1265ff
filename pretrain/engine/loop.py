"""The training loop: draw, agree, go forward and backward, look, update, tell, save. It knows no objective by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

import torch

from pretrain.config import RunConfig
from pretrain.engine import training as steps
from pretrain.engine.distributed import World
from pretrain.engine.feeding import Feeder
from pretrain.engine.finite import FiniteGuard, write_failure
from pretrain.engine.metrics import Meter, Recorder, WindowMeans
from pretrain.engine.saving import Saver
from pretrain.engine.signals import StopFlag
from pretrain.engine.step_line import step_line
from pretrain.engine.training import Training
from pretrain.engine.watch import LoaderWatch, Watch, embedding_figures
from pretrain.objective import StepOutput
from shards.errors import Interrupted, RunStopped
from shards.reading.batch import Batch


@dataclass
class Loop:
    """One rank's part of a run, from its first step to its last."""

    config: RunConfig
    run: Path
    world: World
    training: Training
    feeder: Feeder
    saver: Saver
    meter: Meter
    recorder: Recorder | None  # of rank 0
    watch: Watch
    loader_watch: LoaderWatch
    keep_failed: Callable[[int], str]  # saves the state before a step that must not be taken, and says where
    say: Callable[[str], None]  # on rank 0

    def go(self) -> dict[str, object]:
        """Take all steps that are left, then save; give the figures of the last line."""
        self._guard = FiniteGuard(self.training.adam.parameters)
        self._means = WindowMeans(self.world.device)
        with StopFlag() as stop:
            for step in range(self.training.start_step, self.config.steps):
                batch = self._draw(step, stop)
                self._update(batch, step)
                self.meter.step_done()
                if self._is_told(step):
                    self._tell(step)
                if self.saver.is_due_by_step(step + 1) and step + 1 < self.config.steps:
                    with self.meter.aside():
                        self.saver.save(step + 1)
            self.saver.save(self.config.steps, is_last=True)
        return self._row

    def _is_told(self, step: int) -> bool:
        return (step + 1) % self.config.log.every_steps == 0 or step + 1 == self.config.steps

    def _draw(self, step: int, stop: StopFlag) -> Batch:
        """Draw this rank's batch, and agree with all others to go on: with all of them or with none."""
        problem: BaseException | None = None
        batch: Batch | None = None
        with self.meter.waiting():
            try:
                batch = next(self.feeder)
            except Exception as error:
                problem = error
        # Not timed as a wait for data: that of the slowest reader counts, and others may be late for other reasons.
        save_due = self.world.rank == 0 and self.saver.is_due_by_clock()
        failed, signalled, save_now = self.world.highest(
            [problem is not None, stop.received or 0, save_due], f"begin step {step}"
        )
        if failed or signalled or save_now:
            with self.meter.aside():
                self.saver.save(step, is_last=bool(failed or signalled))
        if signalled:  # before the failure, for clusters signal the data workers as well, and their end looks like one
            told = f"stopped after {step} steps by {Signals(int(signalled)).name}, all is saved"
            raise Interrupted(int(signalled), told) from problem
        if failed:
            raise problem or RunStopped(f"rank {self.world.rank} stops at step {step}: another rank could not read on")
        assert batch is not None
        self.meter.count(batch)
        return batch

    def _update(self, batch: Batch, step: int) -> None:
        config, training = self.config, self.training
        self._rates = steps.set_rates(training, config, step)
        parts = steps.split(batch, config.engine.accumulation)
        for part, piece in enumerate(parts):
            output = steps.forward(training, config, piece, step, part, self.world.rank)
            self._guard.add_loss(output.loss)
            training.engine.backward(output.loss)
            self._means.add({"loss": output.loss, **_named("loss", output.losses), **_named("health", output.health)})
            if part == len(parts) - 1:
                self._stop_unless_finite(batch, output, step)
                self._gradient_norm = steps.gradient_norm(training) if self._is_told(step) else None
            training.engine.step()
        training.objective.after_update(step)
        self._last = output

    def _stop_unless_finite(self, batch: Batch, output: StepOutput, step: int) -> None:
        found = self._guard.verdict()
        if not self.world.highest([bool(found)], f"look at the gradients of step {step}")[0]:
            return
        folder = self.run / "failures" / f"step_{step:08d}"
        losses = {name: float(value.detach()) for name, value in {"loss": output.loss, **output.losses}.items()}
        everyone = write_failure(folder, self.world, step, found, batch, losses)
        kept = self.keep_failed(step)
        listed = "\n".join(f"  {each}" for each in everyone[:10]) + (
            f"\n  and {len(everyone) - 10} more" * (len(everyone) > 10)
        )
        raise RunStopped(
            f"step {step} gave what is not finite, and was not taken:\n{listed}\n"
            f"Its samples are kept in {folder}. {kept}\n"
            f"Look at it with: trichord replay {self.run}"
        )

    def _tell(self, step: int) -> None:
        """Write and say the figures of the window that ends with this step."""
        row = {
            **self.meter.figures(step),
            **self._rates,
            **self._means.take(),
            **embedding_figures(self._last.embeddings),
        }
        norm = self._gradient_norm if self._gradient_norm is not None else self.training.engine.get_global_grad_norm()
        if norm is not None:
            row["gradient_norm"] = float(norm)
        self._row: dict[str, object] = dict(row)
        if self.recorder is None:
            return
        try:
            self.recorder.write({**row, "bad": self.feeder.stream.figures()["bad"]})
        except OSError as error:  # a full disk for one; whether the run may go on without one is for the saves to say
            self.say(f"warning: the figures of step {step} could not be written: {error}")
        self.say(step_line(row))
        wait_share = row["data_wait_share"]
        for warning in self.watch.check(step, row):
            self.say(f"warning: {warning}")
        verdict = self.loader_watch.check(step, wait_share)
        if verdict:
            self.say(verdict)


def _named(kind: str, figures: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{kind}/{name}": value for name, value in figures.items()}
