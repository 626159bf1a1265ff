"""One pretraining run from its config to its last checkpoint: start or resume, and a summary at the start."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from trichord.core.console import counted, show_figures
from trichord.core.errors import Interrupted, UserError
from trichord.core.files import write_whole
from trichord.core.run_folder import RunFolder
from trichord.pretrain.collectives import rank
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import checkpoint
from trichord.pretrain.engine.allocator import own_cores, thread_plan
from trichord.pretrain.engine.bad_samples import BadSamples
from trichord.pretrain.engine.checkpoint_files import CheckpointIndex
from trichord.pretrain.engine.device import peak_flops
from trichord.pretrain.engine.distributed import World, join_world, leave_world
from trichord.pretrain.engine.loop import Loop
from trichord.pretrain.engine.metrics import Meter, Recorder, Workload
from trichord.pretrain.engine.parameter_groups import describe
from trichord.pretrain.engine.prefetch import Prefetcher
from trichord.pretrain.engine.rehearsal import training_flops
from trichord.pretrain.engine.run_lock import RunLock, take_lock
from trichord.pretrain.engine.saving import Saver, changes, data_digests, refuse_other_run
from trichord.pretrain.engine.trackers import last_figures
from trichord.pretrain.engine.training import Training, own_linear, prepare
from trichord.pretrain.engine.watch import EMBEDDING_RULES, LoaderWatch, Watch
from trichord.pretrain.recipe import to_yaml
from trichord.shards.reading.stream import batches


def pretrain_and_leave(config: RunConfig, run: Path, as_json: bool) -> int:
    """Run to the end, print the figures of the last log line on rank 0, and destroy the process group."""
    # Leave only where all ranks leave: it waits for the others, and a failed rank must report its error at once.
    try:
        figures = pretrain(config, run)
    except Interrupted:
        leave_world()
        raise
    if rank() == 0:
        show_figures("the last steps", [figures], as_json)
    leave_world()
    return 0


def pretrain(config: RunConfig, run: Path) -> dict[str, object]:
    """Run to the end, resuming from the run folder's newest complete checkpoint; return the last log line's figures.

    The process group stays initialised for later work in this process; `leave_world` destroys it.
    """
    world = join_world()
    torch.set_num_threads(thread_plan(world.placement.local_size))
    report = partial(_print_on_rank_0, world)
    lock = _lock_together(run, world, report)
    with lock or nullcontext(), own_linear():
        return _pretrain(config, run, world, lock, report)


def _lock_together(run: Path, world: World, report: Callable[[str], None]) -> RunLock | None:
    """Take the folder's lock on rank 0; raise UserError on all ranks if another run holds it."""
    lock, complaint = None, ""
    if world.rank == 0:
        try:
            lock = take_lock(run, report)
        except UserError as error:
            complaint = str(error)
    complaint = world.broadcast(complaint, "take the lock of the run's folder")
    if complaint:
        raise UserError(complaint)
    return lock


def _pretrain(
    config: RunConfig, run: Path, world: World, lock: RunLock | None, report: Callable[[str], None]
) -> dict[str, object]:
    digests = data_digests(config)
    resumed = checkpoint.newest_whole(RunFolder(run).checkpoints, world, lambda text: report(f"warning: {text}"))
    if resumed:
        refuse_other_run(config, digests, resumed)
        for change in changes(config, resumed[1]):
            report(f"changed since the checkpoint: {change}")
        report(f"resuming {resumed[0]}, saved by {counted(resumed[1].world_size, 'rank')}")
        if resumed[1].step >= config.steps:
            report(f"all {config.steps} steps are done; raise `steps` to continue")
            return {"run": str(run), "steps": config.steps, **last_figures(RunFolder(run).metrics)}
    if world.rank == 0:
        write_whole(RunFolder(run).config, to_yaml(config))
    training = prepare(config, world, resumed)
    _print_summary(config, world, training, report)
    about = config.model_dump(mode="json")
    facts = partial(
        CheckpointIndex,
        world_size=world.size,
        versions={"torch": torch.__version__, "deepspeed": version("deepspeed")},
        data_digests=digests,
        config=about,
    )
    check = lock.check if lock else _nothing
    stream = batches(config.stream(), config.transform(), world.rank, world.size, training.start_step)
    prefetcher = Prefetcher(stream, world.device)
    recorder = None
    try:
        recorder = Recorder(run, config.log, training.start_step, about) if world.rank == 0 else None
        loop = Loop(
            config=config,
            run=run,
            world=world,
            lock=lock,
            training=training,
            prefetcher=prefetcher,
            saver=Saver(RunFolder(run).checkpoints, config.checkpoints, world, training, facts, check, report),
            meter=Meter(_workload(config, world), world.device),
            recorder=recorder,
            bad_samples=BadSamples(run, training.start_step),
            watch=Watch((*EMBEDDING_RULES, *training.objective.health_rules())),
            loader_watch=LoaderWatch(config.data.workers, own_cores(world.placement.local_size)),
            keep_failed=partial(_keep_failed, run, world, training, facts, check),
            report=report,
        )
        return {"run": str(run), **loop.go()}
    finally:
        prefetcher.close()
        if recorder:
            recorder.close()


def _nothing() -> None:
    """Do nothing: only rank 0 holds the lock of the run's folder."""


def _keep_failed(
    run: Path,
    world: World,
    training: Training,
    facts: Callable[..., CheckpointIndex],
    check: Callable[[], None],
    step: int,
) -> str:
    try:
        path = checkpoint.save(
            RunFolder(run).failures / f"step_{step:08d}",
            world,
            training.objective,
            training.adam,
            lambda **rest: facts(step=step, **rest),
            check,
        )
    except checkpoint.SaveFailed as error:
        return f"The weights before this step could not be saved: {error}."
    return f"The weights before this step are in {path}."


def _workload(config: RunConfig, world: World) -> Workload:
    if world.rank != 0:  # it logs nothing, so it need not count what MFU is computed from
        return Workload(config.steps, config.data.batch_size)
    micro = config.data.batch_size // (world.size * config.engine.accumulation)
    return Workload(
        config.steps,
        config.data.batch_size,
        flops_per_step=training_flops(config, micro) * config.engine.accumulation,
        peak_flops=peak_flops(world.device, config.engine.precision).flops,
    )


def _print_summary(config: RunConfig, world: World, training: Training, report: Callable[[str], None]) -> None:
    batch, parts, threads = config.data.batch_size, config.engine.accumulation, torch.get_num_threads()
    ranks, launcher = counted(world.size, "rank"), world.placement.launcher
    report(
        f"{ranks} on {world.device.type} ({launcher}), {counted(threads, 'thread')} each; "
        f"ZeRO {config.engine.zero_stage}, {config.engine.precision}; {batch} clips a step = {ranks} "
        f"x {counted(parts, 'part')} x {batch // (world.size * parts)}; "
        f"steps {training.start_step} to {config.steps}"
    )
    for group in describe(training.groups):
        report("  " + ", ".join(f"{name} {value}" for name, value in group.items()))


def _print_on_rank_0(world: World, text: str) -> None:
    if world.rank == 0:
        print(text, file=sys.stderr, flush=True)
