"""When a run saves: every so many steps, every so many seconds by rank 0's clock, at a signal, and at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from trichord.core.errors import RunStopped
from trichord.pretrain.engine import checkpoint, checkpoint_files
from trichord.pretrain.engine.checkpoint_files import CheckpointIndex
from trichord.pretrain.engine.config import CheckpointConfig
from trichord.pretrain.engine.distributed import World
from trichord.pretrain.engine.training import Training

_MOST_FAILURES = 3  # saves in a row that may fail before the run stops: after that it would work for nothing


class Saver:
    """Saves into a folder and prunes it. A save that fails is told, and the next one tried, but not for ever."""

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig,
        world: World,
        training: Training,
        facts: Callable[..., CheckpointIndex],
        check: Callable[[], None],  # raises OSError on rank 0 where nothing may be written
        say: Callable[[str], None],
    ) -> None:
        self._folder, self._config, self._world, self._training = folder, config, world, training
        self._facts, self._check, self._say = facts, check, say
        self._saved_at_s = time.monotonic()
        self._failures = 0
        self.saved_step = training.start_step

    def is_due_by_clock(self) -> bool:
        """Say whether so many seconds went by; each rank has its own clock, so only rank 0's answer counts."""
        every_s = self._config.every_s
        return every_s is not None and time.monotonic() - self._saved_at_s >= every_s

    def is_due_by_step(self, done: int) -> bool:
        """Say whether so many updates are a multiple of every_steps."""
        return self._config.every_steps is not None and done % self._config.every_steps == 0

    def save(self, done: int, is_last: bool = False) -> None:
        """Save after so many updates, all ranks together."""
        if done == self.saved_step:
            return
        began_s = time.monotonic()
        try:
            path = checkpoint.save(
                self._folder,
                self._world,
                self._training.objective,
                self._training.adam,
                lambda **rest: self._facts(step=done, **rest),
                self._check,
            )
        except checkpoint.SaveFailed as error:
            self._count_failure(error, is_last)
            return
        self._failures, self.saved_step = 0, done
        self._saved_at_s = time.monotonic()
        self._say(f"saved {path} in {self._saved_at_s - began_s:.1f} s")
        if self._world.rank == 0:
            self._prune(done)

    def _prune(self, newest: int) -> None:
        """Make room; what cannot be removed now, such as a file that someone reads over NFS, the next save tries."""
        try:
            checkpoint_files.prune(self._folder, self._config.keep_last, self._config.keep_every_steps, newest)
        except OSError as error:
            self._say(f"warning: an old checkpoint could not be removed: {error}")

    def _count_failure(self, error: checkpoint.SaveFailed, is_last: bool) -> None:
        self._failures += 1
        self._saved_at_s = time.monotonic()
        told = f"nothing was saved: {error}. The newest checkpoint is that of step {self.saved_step}."
        if is_last or self._failures == _MOST_FAILURES:
            raise RunStopped(f"{told} {self._failures} saves in a row failed. Mend this, then type the same command.")
        self._say(f"warning: {told} The run goes on and tries again at the next save.")
