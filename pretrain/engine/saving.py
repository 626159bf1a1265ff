"""Schedule of a run's saves, and the check that a config can resume a checkpoint.

A run saves every `every_steps` steps, every `every_s` seconds by rank 0's clock, at a signal, and at the end. A config
can resume a checkpoint if it has the same samples in the same order and weights of the same shapes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trichord.core.errors import RunStopped, UserError
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import checkpoint, checkpoint_files
from trichord.pretrain.engine.checkpoint_files import CheckpointIndex
from trichord.pretrain.engine.config import CheckpointConfig
from trichord.pretrain.engine.distributed import World
from trichord.pretrain.engine.training import Training

_MOST_FAILURES = 3  # consecutive failed saves after which the run stops: more work would be lost


class Saver:
    """Saves checkpoints to a folder and prunes it. Failed saves are reported; several in a row stop the run."""

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig,
        world: World,
        training: Training,
        facts: Callable[..., CheckpointIndex],
        check: Callable[[], None],  # raises OSError on rank 0 if nothing may be written
        report: Callable[[str], None],
    ) -> None:
        self._folder, self._config, self._world, self._training = folder, config, world, training
        self._facts, self._check, self._print = facts, check, report
        self._saved_at_s = time.monotonic()
        self._failures = 0
        self.saved_step = training.start_step

    def is_due_by_clock(self) -> bool:
        """Return whether every_s has passed since the last save; only rank 0's answer counts, because clocks differ."""
        every_s = self._config.every_s
        return every_s is not None and time.monotonic() - self._saved_at_s >= every_s

    def is_due_by_step(self, done: int) -> bool:
        """Return whether `done` updates are a multiple of every_steps."""
        return self._config.every_steps is not None and done % self._config.every_steps == 0

    def save(self, done: int, is_last: bool = False) -> None:
        """Save after `done` updates, on all ranks together."""
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
        self._print(f"saved {path} in {self._saved_at_s - began_s:.1f} s")
        if self._world.rank == 0:
            self._prune(done)

    def _prune(self, newest: int) -> None:
        """Remove old checkpoints; the next save retries those that cannot be removed, such as files in use over NFS."""
        try:
            checkpoint_files.prune(self._folder, self._config.keep_last, self._config.keep_every_steps, newest)
        except OSError as error:
            self._print(f"warning: an old checkpoint could not be removed: {error}")

    def _count_failure(self, error: checkpoint.SaveFailed, is_last: bool) -> None:
        self._failures += 1
        self._saved_at_s = time.monotonic()
        message = f"nothing was saved: {error}. The newest checkpoint is that of step {self.saved_step}."
        if is_last or self._failures == _MOST_FAILURES:
            failed = "1 save" if self._failures == 1 else f"{self._failures} saves in a row"
            raise RunStopped(f"{message} {failed} failed. Fix the cause, then run the same command again.")
        self._print(f"warning: {message} The run continues and tries again at the next save.")


# A change of these would make it a different run: other samples, or weights of other shapes.
_FIXED = (
    "seed",
    "data.batch_size",
    "data.lanes",
    "data.block_shards",
    "objective.kind",
    "backbone",
    "audio_backbone",
    "text_backbone",
)
_FREE_IN_BACKBONES = (".drop_path", ".activation_checkpointing")
_NOT_REPORTED = ("data.sources",)  # shards may have moved; the digests of their manifests are compared


def data_digests(config: RunConfig) -> list[str]:
    """Return the manifests' digests, which identify the shard sets independently of their location."""
    return [source.manifest.digest() for source in config.stream().open_sources()]


def refuse_other_run(config: RunConfig, digests: list[str], resumed: tuple[Path, CheckpointIndex]) -> None:
    """Raise UserError if the checkpoint belongs to a different run than the config describes."""
    path, index = resumed
    fixed = (*_FIXED, *(f"objective.{name}" for name in config.objective.fixed))
    found = [
        f"  {name}: the checkpoint has {before}, now {after}"
        for name, before, after in _differences(index.config, config.model_dump(mode="json"))
        if name.startswith(fixed) and not name.endswith(_FREE_IN_BACKBONES)
    ]
    if _weights(index.config) != _weights(config.model_dump(mode="json")):
        found.append("  data.sources: the weights differ from those in the checkpoint")
    if digests != index.data_digests:
        found.append("  data.sources: the manifests differ from those the checkpoint was trained on")
    if found:
        listed = "\n".join(found)
        raise UserError(
            f"{path} cannot be continued with these settings:\n{listed}\n"
            "Restore the settings to continue, or give another --run to start a new run; init_from.path loads weights."
        )


def refuse_folder_of_other_run(config: RunConfig, checkpoints: Path) -> None:
    """Raise UserError if a folder holds checkpoints of another run, before a job waits in a queue."""
    for path in checkpoint_files.checkpoints_in(checkpoints):
        try:
            index = checkpoint_files.read_index(path)
        except checkpoint_files.TornCheckpoint:
            continue
        refuse_other_run(config, data_digests(config), (path, index))
        return


def changes(config: RunConfig, index: CheckpointIndex) -> list[str]:
    """Return descriptions of the allowed changes, which take effect from here on."""
    return [
        f"{name}: {before} -> {after}"
        for name, before, after in _differences(index.config, config.model_dump(mode="json"))
        if not name.startswith(_NOT_REPORTED)
    ]


def _weights(config: Mapping[str, Any]) -> list[object]:
    match config.get("data"):
        case {"sources": [*sources]}:
            return [source.get("weight") if isinstance(source, Mapping) else source for source in sources]
    return []


def _differences(before: Any, after: Any, above: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({*before, *after}):
            yield from _differences(before.get(name), after.get(name), f"{above}.{name}" if above else name)
    elif before != after:
        yield above, before, after
