"""The training loop: draw, agree, go forward and backward, look, update, tell, save. It knows no objective by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
    keep_failed: Callable[[int], None]  # saves the state before a step that must not be taken
    say: Callable[[str], None]  # on rank 0

    def go(self) -> dict[str, object]:
        """Take all steps that are left, then save; give the figures of the last line."""
        self._guard = FiniteGuard(self.training.adam.parameters, self.world.device)
        self._means = WindowMeans(self.world.device)
        with StopFlag() as stop:
            for step in range(self.training.start_step, self.config.steps):
                batch = self._draw(step, stop)
                self._update(batch, step)
                self.meter.step_done()
                is_last = step + 1 == self.config.steps
                if (step + 1) % self.config.log.every_steps == 0 or is_last:
                    self._tell(step)
                if self.saver.is_due_by_step(step + 1) and not is_last:
                    with self.meter.aside():
                        self.saver.save(step + 1)
        self.saver.save(self.config.steps, is_last=True)
        return self._row

    def _draw(self, step: int, stop: StopFlag) -> Batch:
        """Draw this rank's batch, and agree with all others to go on: with all of them or with none."""
        problem: BaseException | None = None
        batch: Batch | None = None
        with self.meter.waiting():
            try:
                batch = next(self.feeder)
            except Exception as error:
                problem = error
            save_due = self.world.rank == 0 and self.saver.is_due_by_clock()
            failed, signalled, save_now = self.world.highest(
                [problem is not None, stop.received or 0, save_due], f"begin step {step}"
            )
        if failed or signalled or save_now:
            with self.meter.aside():
                self.saver.save(step, is_last=bool(failed or signalled))
        if failed:
            raise problem or RunStopped(f"rank {self.world.rank} stops at step {step}: another rank could not read on")
        if signalled:
            raise Interrupted(int(signalled), f"stopped after step {step} by signal {int(signalled)}, all is saved")
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
        self.keep_failed(step)
        listed = "\n".join(f"  {each}" for each in everyone[:10]) + (
            f"\n  and {len(everyone) - 10} more" * (len(everyone) > 10)
        )
        raise RunStopped(
            f"step {step} gave what is not finite, and was not taken:\n{listed}\n"
            f"Its samples and the weights before it are kept in {folder}.\n"
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
        norm = self.training.engine.get_global_grad_norm()
        if norm is not None:
            row["gradient_norm"] = float(norm)
        self._row: dict[str, object] = dict(row)
        if self.recorder is None:
            return
        self.recorder.write({**row, "bad": self.feeder.stream.figures()["bad"]})
        self.say(step_line(row))
        wait_share = row["data_wait_share"]
        for warning in self.watch.check(step, row):
            self.say(f"warning: {warning}")
        verdict = self.loader_watch.check(step, wait_share)
        if verdict:
            self.say(verdict)


def _named(kind: str, figures: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{kind}/{name}": value for name, value in figures.items()}
