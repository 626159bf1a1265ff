"""The dry run: the resources a recipe needs on a given number of ranks, and its errors, before anything is started.

Batch sizes, stream lanes, shards and passes are derived as the run derives them. Memory and operations are counted on a
rehearsal of one micro-batch (`pretrain.engine.memory`). Hours depend on an assumption, which is printed with them.
"""

from __future__ import annotations

import json
import statistics
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trichord.core.console import counted, show_figures
from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.config import deepspeed_config, micro_batch_size
from trichord.pretrain.engine.device import SupposedDevice, suppose
from trichord.pretrain.engine.memory import ModelSize, RankMemory, measure, measure_with_flops, rank_memory
from trichord.pretrain.engine.trackers import read_rows
from trichord.shards.reading.order import share_lanes

_GIB = 1 << 30
Row = dict[str, Any]


@dataclass
class Estimate:
    """The derived figures, and the problems found."""

    figures: list[Row] = field(default_factory=list)
    memory: list[Row] = field(default_factory=list)  # a row for each ZeRO stage, in GiB
    deepspeed: dict[str, Any] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)

    def add(self, figure: str, value: object, how: str) -> None:
        self.figures.append({"figure": figure, "value": value, "how": how})


def show_estimate(config: RunConfig, arguments: Namespace) -> int:
    """Print a dry run; return exit status 1 if a problem was found."""
    found = estimate(config, arguments.as_ranks, suppose(arguments.device), arguments.mfu, arguments.like)
    if arguments.json:
        row = {"figures": {each["figure"]: each["value"] for each in found.figures}, "memory_gib": found.memory}
        show_figures("dry run", [{**row, "deepspeed": found.deepspeed, "mistakes": found.mistakes}], as_json=True)
        return int(bool(found.mistakes))
    show_figures(f"dry run as {counted(arguments.as_ranks, 'rank')}", found.figures, as_json=False)
    if found.memory:
        show_figures("GiB of a rank by ZeRO stage, at the peak of a step", found.memory, as_json=False)
    print(f"DeepSpeed's JSON:\n{json.dumps(found.deepspeed, indent=2)}")
    for mistake in found.mistakes:
        print(f"\nmistake: {mistake}")
    return int(bool(found.mistakes))


def check_memory(config: RunConfig, ranks: int, device: str | None, verb: str) -> str:
    """Return a line on the memory of a rank; raise UserError if it exceeds that of the device."""
    found = suppose(device) if device else None
    micro = micro_batch_size(config.engine, config.data.batch_size, ranks)
    size = measure(config, micro, config.checkpoints_activations)
    gib = rank_memory(config, size, config.engine.zero_stage, ranks).total / _GIB
    gib += found.reserve_gib if found else 0.0
    limit = found.memory_gib if found else None
    if found and limit is not None and gib > limit:
        raise UserError(
            f"a rank would need {gib:.1f} GiB, and {found.name} has {limit:.1f} GiB. For smaller settings: "
            f"trichord {verb} … --dry-run --as-ranks {ranks} --device {device}"
        )
    available = f" of {limit:.1f} on {found.name}" if found and limit is not None else ""
    return f"memory: {gib:.2g} GiB per rank{available}, measured"


def estimate(
    config: RunConfig, ranks: int, device: SupposedDevice, mfu: float = 0.4, like: Path | None = None
) -> Estimate:
    """Derive all figures; the error of each part that cannot be derived is added to `mistakes`."""
    found = Estimate()
    micro = 0
    try:
        micro = _batches(found, config, ranks)
    except UserError as error:
        found.mistakes.append(str(error))
    for derive in (_lanes, _shards):
        try:
            derive(found, config, ranks)
        except UserError as error:
            found.mistakes.append(str(error))
    if micro:
        size, flops = measure_with_flops(config, micro)
        _memory(found, config, ranks, device, micro, size)
        _time(found, config, ranks, flops * config.engine.accumulation, device, mfu, like)
    return found


def _batches(found: Estimate, config: RunConfig, ranks: int) -> int:
    batch, parts = config.data.batch_size, config.engine.accumulation
    micro = micro_batch_size(config.engine, batch, ranks)
    found.deepspeed = deepspeed_config(config.engine, batch, ranks)
    found.add("clips a step", batch, "data.batch_size, over all ranks")
    found.add("clips a step and rank", micro * parts, f"{batch} / {counted(ranks, 'rank')}")
    found.add("clips at once", micro, f"{micro * parts} / engine.accumulation={parts}")
    found.add("steps", config.steps, "steps")
    found.add("clips in all", config.steps * batch, f"{config.steps:,} steps x {batch}")
    return micro


def _lanes(found: Estimate, config: RunConfig, ranks: int) -> None:
    shares = share_lanes(config.data.lanes, 0, ranks, config.data.workers)
    lanes, workers = config.data.lanes, len(shares)
    found.add("lanes of a rank", lanes // ranks, f"data.lanes={lanes} / {counted(ranks, 'rank')}")
    readers = "1 reader" if workers == 1 else f"{workers} readers"
    found.add("lanes of a worker", len(shares[0]), f"{lanes // ranks} / {readers} a rank (data.workers)")


def _shards(found: Estimate, config: RunConfig, ranks: int) -> None:
    data, clips = config.data, config.steps * config.data.batch_size
    weights = sum(source.weight for source in data.sources)
    for number, (source, opened) in enumerate(zip(data.sources, data.open_sources(), strict=True)):
        name = f" of source {number}" if len(data.sources) > 1 else ""
        counts = [count for count in opened.counts if count]
        share = source.weight / weights
        found.add(f"shards a lane{name}", len(counts) / data.lanes, f"{len(counts)} non-empty shards")
        passes = clips * share / max(sum(counts), 1)
        found.add(f"passes over the data{name}", passes, f"{share:.0%} of all clips / {sum(counts):,} clips in the set")
        if opened.root.folder is None and 0 < len(counts) < data.lanes:
            readers = -(-data.lanes // len(counts))
            found.mistakes.append(
                f"{source.root} holds {len(counts)} shards for data.lanes={data.lanes}: each shard would be fetched by "
                f"about {readers} lanes over the network. Set data.lanes to {len(counts)} or fewer (ranks x workers "
                "must divide it), write the set again with more and smaller shards, or copy it to a local folder."
            )


def _memory(
    found: Estimate, config: RunConfig, ranks: int, device: SupposedDevice, micro: int, plain: ModelSize
) -> None:
    checkpointed = measure(config, micro, checkpoints_activations=True)
    chosen = checkpointed if config.checkpoints_activations else plain
    found.add("trained parameters", chosen.trained, "counted")
    found.add("frozen parameters", chosen.frozen, "counted; includes an EMA teacher")
    precision = config.engine.precision
    for size, what in ((plain, "without"), (checkpointed, "with")):
        how = f"rehearsed: micro-batch of {micro} in {precision}"
        found.add(f"GiB of a step {what} activation checkpointing", size.step_bytes / _GIB, how)
    stages = [rank_memory(config, chosen, stage, ranks) for stage in range(4)]
    found.memory = [_in_gib(each, device) for each in stages]
    needed, limit = stages[config.engine.zero_stage].total / _GIB + device.reserve_gib, device.memory_gib
    if limit is not None and needed > limit:
        saved = [rank_memory(config, checkpointed, stage, ranks) for stage in range(4)]
        found.mistakes.append(_describe_shortage(config, device, needed, stages, saved))


def _in_gib(memory: RankMemory, device: SupposedDevice) -> Row:
    names = ("trained", "frozen", "gradients", "adam", "deepspeed", "batches", "step")
    row: Row = {"ZeRO": memory.stage, **{name: getattr(memory, name) / _GIB for name in names}}
    total = memory.total / _GIB + device.reserve_gib
    row |= {"reserve": device.reserve_gib, "total": total}
    return row if device.memory_gib is None else row | {"fits": total <= device.memory_gib}


def _describe_shortage(
    config: RunConfig, device: SupposedDevice, needed: float, plain: list[RankMemory], saved: list[RankMemory]
) -> str:
    """Return the out-of-memory message, with every single change that would be enough."""
    limit = device.memory_gib or 0.0

    def fits(memory: RankMemory) -> bool:
        return memory.total / _GIB + device.reserve_gib <= limit

    stage, options = config.engine.zero_stage, []
    if fits(saved[stage]) and not config.checkpoints_activations:
        options.append("backbone.activation_checkpointing=true")
    options += [f"engine.zero_stage={other.stage}" for other in plain if other.stage != stage and fits(other)]
    room = limit - device.reserve_gib - (plain[stage].total - plain[stage].step) / _GIB
    if room > 0:
        times = -(-plain[stage].step // max(int(room * _GIB), 1))
        options.append(f"engine.accumulation={config.engine.accumulation * times} or more (reduces clips at once)")
    if config.engine.precision == "fp32" and device.is_gpu:
        options.append("engine.precision=bf16 (nearly halves a step's memory)")
    return (
        f"a rank would need {needed:.1f} GiB with engine.zero_stage={stage}, but {device.name} has {limit:.1f} GiB. "
        f"Change one of: {'; '.join(options) or 'a smaller data.batch_size together with more ranks'}."
    )


def _time(
    found: Estimate,
    config: RunConfig,
    ranks: int,
    flops: int,
    device: SupposedDevice,
    mfu: float,
    like: Path | None,
) -> None:
    batch = config.data.batch_size
    found.add("TFLOP a step and rank", flops / 1e12, "counted: forward and backward, without recomputation")
    if like is not None:
        each = _measured_clips_per_s(like)
        step_s = batch / (each * ranks)
        how = f"measured in {like}: {each:.3g} clips/s a device; ASSUMED: ranks do not slow each other down"
    else:
        peak = device.peak(config.engine.precision)
        step_s = flops / (peak.flops * mfu)
        how = f"ASSUMED: {mfu:.0%} of {peak.flops / 1e12:.4g} TFLOP/s ({peak.source} peak of {peak.name})"
    found.add("seconds a step", step_s, how)
    found.add("clips/s", batch / step_s, "over all ranks; the loader must deliver as many")
    found.add("hours", step_s * config.steps / 3600, f"{config.steps:,} steps, without saves and start-up")


def _measured_clips_per_s(run: Path) -> float:
    path = RunFolder(run).metrics if run.is_dir() else run
    if not path.exists():
        raise UserError(f"--like: {path} does not exist. Expected the folder of a run that has written a log line.")
    logged = (row.get("clips_per_s_device") for row in read_rows(path))
    found = [float(each) for each in logged if isinstance(each, int | float) and each > 0]
    if not found:
        raise UserError(f"--like: {path} has no clips_per_s_device yet. Give a run that has done more steps.")
    return statistics.median(found[len(found) // 2 :])
