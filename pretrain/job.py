"""Pretraining as a cluster job: the files of its snapshot, and the checks before it is submitted."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trichord.core.errors import UserError
from trichord.core.job import Job
from trichord.core.run_folder import RunFolder
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.deepspeed_config import deepspeed_config, micro_batch_size
from trichord.pretrain.recipe import load_recipe, to_yaml
from trichord.shards.reading.order import share_lanes

CONFIG, DEEPSPEED = RunFolder(Path()).config.name, "deepspeed.json"


@dataclass(frozen=True, kw_only=True)
class PretrainJob(Job):
    """A recipe, resolved at submission: later changes of its file have no effect."""

    config: RunConfig
    saves_when_told: bool = True
    verb: ClassVar[str] = "pretrain"

    def words(self, snapshot: Path, part: tuple[int, int] | None) -> Sequence[str]:
        return (self.verb, str(snapshot / CONFIG), "--run", str(self.folder))

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
                    f"Next: trichord shards index {source.root}, or copy the data set again"
                )
            lines.append(f"data: {source.root}, shards: {len(held)}, clips: {sum(held):,}")
        starts = {"init_from": self.config.init_from, "audio_init_from": self.config.audio_init_from}
        for name, init in starts.items():
            if init is not None and not init.path.exists():
                raise UserError(f"{name}.path={init.path} does not exist. Set it to a weights file, or {name}=null")
        return lines

    def weigh(self, ranks: int, device: str | None) -> Sequence[str]:
        self._refuse_other_run()
        from trichord.pretrain.engine.device import suppose
        from trichord.pretrain.engine.memory import measure, rank_memory

        config, found = self.config, suppose(device) if device else None
        micro = micro_batch_size(config.engine, config.data.batch_size, ranks)
        size = measure(config, micro, config.checkpoints_activations)
        gib = rank_memory(config, size, config.engine.zero_stage, ranks).total / (1 << 30)
        gib += found.reserve_gib if found else 0.0
        limit = found.memory_gib if found else None
        if found and limit is not None and gib > limit:
            raise UserError(
                f"a rank would need {gib:.1f} GiB, and {found.name} has {limit:.1f} GiB. For smaller settings: "
                f"trichord {self.verb} … --dry-run --as-ranks {ranks} --device {device}"
            )
        available = f" of {limit:.1f} on {found.name}" if found and limit is not None else ""
        return [f"memory: {gib:.2g} GiB per rank{available}, measured"]

    def _refuse_other_run(self) -> None:
        """Raise UserError if the folder holds checkpoints of another run, before the job waits in a queue."""
        from trichord.pretrain.engine import checkpoint_files
        from trichord.pretrain.engine.saving import data_digests, refuse_other_run

        for path in checkpoint_files.checkpoints_in(RunFolder(self.folder).checkpoints):
            try:
                index = checkpoint_files.read_index(path)
            except checkpoint_files.TornCheckpoint:
                continue
            refuse_other_run(self.config, data_digests(self.config), (path, index))
            return


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
