"""Pretraining of a recipe, in this process or as a cluster job: the files of its snapshot and the checks before it."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trichord.core.command import Job, command_line
from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.allocator import apply
from trichord.pretrain.engine.config import deepspeed_config, micro_batch_size
from trichord.pretrain.engine.signals import listening
from trichord.pretrain.recipe import load_recipe, to_yaml
from trichord.shards.reading.order import share_lanes
from trichord.shards.reading.root import ALLOW, PIPE

CONFIG, DEEPSPEED = RunFolder(Path()).config.name, "deepspeed.json"


@dataclass(frozen=True, kw_only=True)
class PretrainJob(Job):
    """A recipe, resolved at submission: later changes of its file have no effect."""

    config: RunConfig
    saves_on_signal: bool = True
    verb: ClassVar[str] = "pretrain"

    def words(self, snapshot: Path, part: tuple[int, int] | None) -> Sequence[str]:
        # In the job, the commands that were typed or allowed at submission are those of a file.
        allow = (ALLOW,) if any(source.root.startswith(PIPE) for source in self.config.data.sources) else ()
        return (self.verb, str(snapshot / CONFIG), "--run", str(self.folder), *allow)

    def files(self, ranks: int) -> Mapping[str, str]:
        config = self.config
        deepspeed = deepspeed_config(config.engine, config.data.batch_size, ranks)
        return {CONFIG: to_yaml(config), DEEPSPEED: json.dumps(deepspeed, indent=2) + "\n"}

    def check(self, ranks: int) -> Sequence[str]:
        data, parts = self.config.data, self.config.engine.accumulation
        micro = micro_batch_size(self.config.engine, data.batch_size, ranks)
        lanes = len(share_lanes(data.lanes, 0, ranks, data.workers)[0])
        lines = [
            f"batch: {data.batch_size} clips = {ranks} x {parts} x {micro} (ranks x accumulation x micro-batch)",
            f"stream lanes: {data.lanes} = {ranks} x {max(data.workers, 1)} x {lanes} (ranks x readers x lanes each)",
        ]
        for source, opened in zip(data.sources, data.open_sources(), strict=True):
            held = [count for count in opened.counts if count]
            missing = _first_missing(opened.root.folder, [entry.name for entry in opened.manifest.shards])
            if missing:
                raise UserError(
                    f"{source.root}: the manifest lists {missing}, which does not exist. "
                    f"Next: {command_line('shards', 'index', source.root)}, or copy the data set again"
                )
            lines.append(f"data: {source.root}, shards: {len(held)}, clips: {sum(held):,}")
        starts = {"init_from": self.config.init_from, "audio_init_from": self.config.audio_init_from}
        for name, init in starts.items():
            if init is not None and not init.path.exists():
                raise UserError(f"{name}.path={init.path} does not exist. Set it to a weights file, or {name}=null")
        return lines

    def weigh(self, ranks: int, device: str | None) -> Sequence[str]:
        from trichord.pretrain.engine.estimate import check_memory
        from trichord.pretrain.engine.saving import refuse_folder_of_other_run

        refuse_folder_of_other_run(self.config, RunFolder(self.folder).checkpoints)
        return [check_memory(self.config, ranks, device, self.verb)]


def run_pretrain(arguments: Namespace) -> int:
    """Train a recipe, or print its estimate in a dry run; return the exit status."""
    return run_training(load_recipe(arguments.recipe, arguments.overrides).config, arguments)


def run_training(config: RunConfig, arguments: Namespace) -> int:
    """Train the config, or print its estimate in a dry run; return the exit status."""
    if arguments.dry_run:
        from trichord.pretrain.engine.estimate import show_estimate

        return show_estimate(config, arguments)
    with listening():  # also while torch loads and the process group is created
        apply()  # before torch is imported
        from trichord.pretrain.engine.run import pretrain_and_leave

        return pretrain_and_leave(config, run_folder(arguments), arguments.json)


def pretrain_job(arguments: Namespace) -> PretrainJob:
    """Build the job from parsed arguments."""
    refuse_dry_run(arguments)
    config = load_recipe(arguments.recipe, arguments.overrides).config
    return PretrainJob(name=Path(arguments.recipe).stem, folder=run_folder(arguments), config=config)


def refuse_dry_run(arguments: Namespace) -> None:
    """Raise UserError if the command to launch is a dry run."""
    if arguments.dry_run:
        raise UserError("a --dry-run is quick and needs no job. To preview the job: trichord launch --dry-run …")


def run_folder(arguments: Namespace) -> Path:
    """Return the run folder of parsed arguments."""
    return Path(arguments.run_folder or Path("runs") / Path(arguments.recipe).stem)


def _first_missing(folder: Path | None, names: Sequence[str]) -> str | None:
    """Return the first listed shard that is missing, or None; remote shards are not checked."""
    if folder is None:
        return None
    present = {path.name for path in folder.iterdir()}
    return next((name for name in names if "/" not in name and name not in present), None)
