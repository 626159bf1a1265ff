"""Pretraining as a cluster's job: what its snapshot holds, and what would go wrong at its start."""

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
    """A recipe, resolved when it was submitted: what becomes of its file meanwhile changes nothing."""

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
            f"batch: {data.batch_size} clips a step = {ranks} ranks x {parts} parts x {micro}",
            f"lanes: {data.lanes} = {ranks} ranks x {max(data.workers, 1)} readers x {lanes}",
        ]
        for source, opened in zip(data.sources, data.open_sources(), strict=True):
            held = [count for count in opened.counts if count]
            missing = _first_missing(opened.root.folder, [entry.name for entry in opened.manifest.shards])
            if missing:
                raise UserError(
                    f"{source.root}: the manifest names {missing}, which is not there. "
                    f"Next: trichord shards index {source.root}, or copy the set again"
                )
            lines.append(f"shards: {source.root} holds {len(held)} with {sum(held):,} clips")
        starts = {"init_from": self.config.init_from, "audio_init_from": self.config.audio_init_from}
        for name, init in starts.items():
            if init is not None and not init.path.exists():
                raise UserError(f"{name}.path={init.path} does not exist. Give a file of weights, or {name}=null")
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
                f"a rank would need {gib:.1f} GiB, and {found.name} has {limit:.1f} GiB. Ways out: "
                f"trichord {self.verb} … --dry-run --as-ranks {ranks} --device {device}"
            )
        beside = f" of {limit:.1f} on {found.name}" if found and limit is not None else ""
        return [f"memory: {gib:.2g} GiB a rank{beside}, rehearsed"]

    def _refuse_other_run(self) -> None:
        """Raise UserError where the folder holds checkpoints of another run: hours in a queue would be for nothing."""
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
    """Make the job of what was typed."""
    refuse_dry_run(arguments)
    config = load_recipe(arguments.recipe, arguments.overrides).config
    return PretrainJob(name=Path(arguments.recipe).stem, folder=run_folder(arguments), config=config)


def refuse_dry_run(arguments: Namespace) -> None:
    """Raise UserError where a job is to be made of what needs none."""
    if arguments.dry_run:
        raise UserError("a --dry-run is quick and needs no job. For the job's own: trichord launch --dry-run …")


def run_folder(arguments: Namespace) -> Path:
    """Say where the run that was typed keeps everything."""
    return Path(arguments.run_folder or Path("runs") / Path(arguments.recipe).stem)


def _first_missing(folder: Path | None, names: Sequence[str]) -> str | None:
    """Name a shard that is promised and not there; of remote ones nothing is known before they are fetched."""
    if folder is None:
        return None
    present = {path.name for path in folder.iterdir()}
    return next((name for name in names if "/" not in name and name not in present), None)
