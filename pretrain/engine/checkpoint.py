"""Saves and loads a run: weights, Adam's moments and the objective's state by name, as if there had been one rank.

So a checkpoint of N ranks and one ZeRO stage loads on M ranks and another. All ranks gather a tensor together, one of
them keeps it and writes it; the writers are as many as the bytes ask for, spread over the ranks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trichord.core.errors import RunStopped, UserError
from trichord.pretrain.engine import checkpoint_files as files
from trichord.pretrain.engine.adam_state import MOMENTS, AdamState, shape_of
from trichord.pretrain.engine.checkpoint_files import CheckpointIndex, FileEntry, TornCheckpoint
from trichord.pretrain.engine.distributed import World
from trichord.pretrain.objectives.base import Objective

_BYTES_PER_WRITER = 1 << 29
_STATE = "state"


class SaveFailed(Exception):
    """Some rank could not write; nothing of this checkpoint is left."""


def save(
    folder: Path,
    world: World,
    objective: Objective,
    adam: AdamState,
    facts: Callable[..., CheckpointIndex],
    check: Callable[[], None],
) -> Path:
    """Write a checkpoint; all ranks take part. `facts(adam_updates=…, files=…)` completes the index.

    `check` raises OSError on rank 0 where nothing may be written: it is asked before the checkpoint is begun, and again
    before it gets its name.
    """
    index = facts(adam_updates=adam.updates, files={})
    temporary = folder / "nowhere"
    complaint = ""
    if world.rank == 0:
        try:
            check()
            temporary = files.begin(folder, index.step)
        except OSError as error:
            complaint = str(error)
    _agree_on_success(world, complaint, f"begin save {index.step}", None)
    temporary = Path(world.say(str(temporary), f"begin save {index.step}"))
    written: dict[str, FileEntry] = {}
    owned = _gather_owned(world, objective, adam)
    try:
        for kind, tensors in owned.items():
            if tensors:
                name = f"{kind}-{world.rank:05d}.safetensors"
                written[name] = files.write_tensors(temporary / name, tensors)
    except OSError as error:
        complaint = f"rank {world.rank}: {error}"
    _agree_on_success(world, complaint, f"write save {index.step}", temporary)
    lists = world.gather(json.dumps({n: e.model_dump() for n, e in written.items()}), f"list save {index.step}")
    merged = {name: FileEntry(**entry) for text in lists for name, entry in json.loads(text).items()}
    if world.rank == 0:
        try:
            check()
            files.finish(temporary, index.model_copy(update={"files": merged}))
        except OSError as error:
            complaint = str(error)
    _agree_on_success(world, complaint, f"finish save {index.step}", temporary)
    return folder / files.name_of(index.step)


def newest_whole(folder: Path, world: World, warn: Callable[[str], None]) -> tuple[Path, CheckpointIndex] | None:
    """Find the newest checkpoint that is what its index promises; torn ones are passed over with a warning.

    Rank 0 looks, for ranks can see different files on a shared disk; the checksums are shared out.
    """
    names = world.say(json.dumps([path.name for path in files.checkpoints_in(folder)]), "look for checkpoints")
    for name in json.loads(names):
        path = folder / name
        complaint = trouble = ""
        index: CheckpointIndex | None = None
        try:
            index = files.read_index(path)
            for number, (file, entry) in enumerate(sorted(index.files.items())):
                if number % world.size == world.rank:
                    files.check_file(path, file, entry)
        except TornCheckpoint as error:
            complaint = str(error)
        except OSError as error:  # of the disk, not of the checkpoint: hours of work may lie in it, whole
            trouble = str(error)
        complaints = [each for each in world.gather(complaint, f"check {name}") if each]
        troubles = [each for each in world.gather(trouble, f"read {name}") if each]
        if troubles:
            raise RunStopped(f"{path} cannot be read, so the run does not fall back behind it: {troubles[0]}")
        if not complaints and index is not None:
            if world.rank == 0:
                files.point_at(path)
            return path, index
        warn(f"passing over a torn checkpoint: {complaints[0]}")
    return None


def load_weights(checkpoint: Path, index: CheckpointIndex, objective: Objective) -> None:
    """Put weights, buffers and state into an objective that DeepSpeed has not touched yet."""
    own = dict(_tensors_of(objective))
    state: dict[str, Tensor] = {}
    # Its files are what they were when written, so what does not fit is the doing of other settings.
    advice = "Set objective and backbone back to continue, or give another --run to start anew."
    for name, tensor in files.read_tensors(checkpoint, _of_kind(index, "weights")):
        if name not in own or own[name].shape != tensor.shape:
            here = f"is {tuple(own[name].shape)} in this model" if name in own else "has no place in this model"
            raise UserError(f"{checkpoint} holds {name} {tuple(tensor.shape)}, which {here}. {advice}")
        with torch.no_grad():
            own.pop(name).copy_(tensor)
    if own:
        raise UserError(f"{checkpoint} lacks {', '.join(sorted(own)[:10])} of this model. {advice}")
    for name, tensor in files.read_tensors(checkpoint, _of_kind(index, _STATE)):
        state[name] = tensor
    objective.load_state(state)


def load_moments(checkpoint: Path, index: CheckpointIndex, adam: AdamState) -> None:
    """Put Adam's moments into the engine that DeepSpeed made."""
    for key, tensor in files.read_tensors(checkpoint, _of_kind(index, "moments")):
        moment, _, name = key.partition(":")
        adam.write(name, moment, tensor)
    adam.updates = index.adam_updates


def _of_kind(index: CheckpointIndex, kind: str) -> list[str]:
    return sorted(name for name in index.files if name.startswith(f"{kind}-"))


def _gather_owned(world: World, objective: Objective, adam: AdamState) -> dict[str, dict[str, Tensor]]:
    """Gather every tensor on all ranks, one at a time, and keep on the CPU those that this rank writes."""
    trained = [name for name, parameter in objective.named_parameters() if parameter.requires_grad]
    sizes: dict[str, int] = {
        name: shape_of(tensor).numel() * tensor.element_size() for name, tensor in _tensors_of(objective)
    }
    total = sum(sizes.values()) + len(MOMENTS) * sum(sizes[name] for name in trained)
    writers = max(1, min(world.size, total // _BYTES_PER_WRITER))
    load: list[int] = [0] * writers

    def is_mine(size: int) -> bool:
        writer = load.index(min(load))
        load[writer] += size
        return bool(writer * world.size // writers == world.rank)

    owned: dict[str, dict[str, Tensor]] = {"weights": {}, "moments": {}, _STATE: {}}
    for name, tensor in _tensors_of(objective):
        with _whole(tensor):
            if is_mine(sizes[name]):
                owned["weights"][name] = tensor.detach().to("cpu", copy=True)
    for name in trained:
        for moment in MOMENTS:
            whole = adam.read(name, moment)
            if is_mine(sizes[name]):
                owned["moments"][f"{moment}:{name}"] = whole.to("cpu", copy=True)
    state = objective.state()  # of all ranks, for it may have to be gathered
    if world.rank == 0:
        owned[_STATE] = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}
    return owned


def _tensors_of(objective: Objective) -> Iterator[tuple[str, Any]]:
    yield from objective.named_parameters()
    persistent = objective.state_dict(keep_vars=True)
    yield from ((name, buffer) for name, buffer in objective.named_buffers() if name in persistent)


def _whole(tensor: Any) -> Any:
    """Gather a parameter that ZeRO 3 holds in slices."""
    if not hasattr(tensor, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([tensor])


def _agree_on_success(world: World, complaint: str, where: str, temporary: Path | None) -> None:
    complaints = [each for each in world.gather(complaint, where) if each]
    if complaints:
        if temporary is not None and world.rank == 0:
            files.discard(temporary)
        raise SaveFailed(f"{where}: {complaints[0]}")
