"""Saving and loading of a run: weights, Adam's moments and the objective's state by name, independent of ranks.

So a checkpoint of N ranks and one ZeRO stage loads on M ranks and another stage. All ranks gather each tensor together,
and one of them writes it. The number of writers depends on the total size; they are spread over the ranks.
ZeRO 1 and 2 keep a flat partition of a group's moments on each rank, ZeRO 3 a slice of each parameter's moments, and
without ZeRO torch's layout is kept. All are allocated before the first step, because DeepSpeed links the moments of
stages 1 and 2 to their parameters only once, after the first group's first step, when the other groups have none yet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trichord.core.errors import RunStopped, UserError
from trichord.pretrain.engine import checkpoint_files as files
from trichord.pretrain.engine.checkpoint_files import CheckpointFile, CheckpointIndex, TornCheckpoint
from trichord.pretrain.engine.distributed import World
from trichord.pretrain.objectives.base import Objective

_BYTES_PER_WRITER = 1 << 29
_STATE = "state"


class SaveFailed(Exception):
    """Raised when a rank could not write; nothing of the checkpoint is kept."""


def save(
    folder: Path,
    world: World,
    objective: Objective,
    adam: AdamState,
    facts: Callable[..., CheckpointIndex],
    check: Callable[[], None],
) -> Path:
    """Write a checkpoint; all ranks take part. `facts(adam_updates=…, files=…)` completes the index.

    `check` raises OSError on rank 0 if nothing may be written. It is called before the checkpoint is started and again
    before it gets its final name.
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
    temporary = Path(world.broadcast(str(temporary), f"begin save {index.step}"))
    written: dict[str, CheckpointFile] = {}
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
    merged = {name: CheckpointFile(**entry) for text in lists for name, entry in json.loads(text).items()}
    if world.rank == 0:
        try:
            check()
            files.finish(temporary, index.model_copy(update={"files": merged}))
        except OSError as error:
            complaint = str(error)
    _agree_on_success(world, complaint, f"finish save {index.step}", temporary)
    return folder / files.name_of(index.step)


def newest_whole(folder: Path, world: World, warn: Callable[[str], None]) -> tuple[Path, CheckpointIndex] | None:
    """Return the newest checkpoint that matches its index, or None; incomplete ones are skipped with a warning.

    Rank 0 lists the folder, because ranks can see different files on a shared disk; all ranks share the checksums.
    """
    names = world.broadcast(json.dumps([path.name for path in files.checkpoints_in(folder)]), "list checkpoints")
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
        except OSError as error:  # a disk error, not a bad checkpoint: hours of intact work may be in it
            trouble = str(error)
        complaints = [each for each in world.gather(complaint, f"check {name}") if each]
        troubles = [each for each in world.gather(trouble, f"read {name}") if each]
        if troubles:
            raise RunStopped(f"{path} cannot be read, and the run does not use an older checkpoint: {troubles[0]}")
        if not complaints and index is not None:
            if world.rank == 0:
                files.point_at(path)
            return path, index
        warn(f"skipping an incomplete checkpoint: {complaints[0]}")
    return None


# Checksums were verified, so a mismatch comes from changed settings, or from a file that no run wrote.
_ADVICE = "Restore the settings of objective and backbone to continue, or give another --run to start a new run."


def load_weights(checkpoint: Path, index: CheckpointIndex, objective: Objective) -> None:
    """Load weights, buffers and state into an objective before DeepSpeed wraps it."""
    own = dict(_tensors_of(objective))
    state: dict[str, Tensor] = {}
    for name, tensor in _read(checkpoint, index, "weights"):
        place = own.get(name)
        if place is None or place.shape != tensor.shape or place.is_floating_point() != tensor.is_floating_point():
            here = f"is {_described(place)} in this model" if place is not None else "is not in this model"
            raise UserError(f"{checkpoint} holds {name}, {_described(tensor)}, which {here}. {_ADVICE}")
        with torch.no_grad():
            own.pop(name).copy_(tensor)
    if own:
        raise UserError(f"{checkpoint} lacks these tensors of this model: {', '.join(sorted(own)[:10])}. {_ADVICE}")
    for name, tensor in _read(checkpoint, index, _STATE):
        state[name] = tensor
    try:
        objective.load_state(state)
    # What an objective and torch raise for tensors that are not those which `state` returned.
    except (ValueError, LookupError, TypeError, RuntimeError) as error:
        raise UserError(f"{checkpoint} holds another state than this objective's: {error}. {_ADVICE}") from error


def load_moments(checkpoint: Path, index: CheckpointIndex, adam: AdamState) -> None:
    """Load Adam's moments into the engine that DeepSpeed created."""
    for key, tensor in _read(checkpoint, index, "moments"):
        moment, _, name = key.partition(":")
        parameter = adam.parameters.get(name)
        if moment not in MOMENTS or parameter is None or shape_of(parameter) != tensor.shape:
            raise UserError(f"{checkpoint} holds {key}, {_described(tensor)}, which is not in this model. {_ADVICE}")
        adam.write(name, moment, tensor)
    adam.updates = index.adam_updates


def _read(checkpoint: Path, index: CheckpointIndex, kind: str) -> Iterator[tuple[str, Tensor]]:
    names = sorted(name for name in index.files if name.startswith(f"{kind}-"))
    try:
        yield from files.read_tensors(checkpoint, names)
    except TornCheckpoint as error:  # although its checksums were right
        raise UserError(f"{error}, or remove {checkpoint}, so that the run resumes with the one before") from error


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def _gather_owned(world: World, objective: Objective, adam: AdamState) -> dict[str, dict[str, Tensor]]:
    """Gather every tensor on all ranks, one at a time, and return those that this rank writes, on the CPU."""
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
    state = objective.state()  # called on all ranks, because it may have to be gathered
    if world.rank == 0:
        owned[_STATE] = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}
    return owned


def _tensors_of(objective: Objective) -> Iterator[tuple[str, Any]]:
    yield from objective.named_parameters()
    persistent = objective.state_dict(keep_vars=True)
    yield from ((name, buffer) for name, buffer in objective.named_buffers() if name in persistent)


def _whole(tensor: Any) -> Any:
    """Return a context in which a parameter that ZeRO 3 holds in slices is gathered."""
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


MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamState:
    """The moments of the parameters that an engine trains. Reading is a collective operation on all ranks."""

    def __init__(self, engine: Any, parameters: Mapping[str, nn.Parameter], stage: int) -> None:
        self.stage, self.parameters = stage, dict(parameters)
        self._zero: Any = engine.optimizer
        self._adam: torch.optim.AdamW = engine.optimizer.optimizer if stage else engine.optimizer
        for flat in self._flat():
            self._adam.state[flat] = {
                "step": torch.zeros((), dtype=torch.float32, device=flat.device),
                **{moment: torch.zeros_like(flat) for moment in MOMENTS},
            }
        if stage in (1, 2):
            self._zero._lazy_init_hp_params_optimizer_state()

    @property
    def updates(self) -> int:
        """The number of updates in the moments, the same for all parameters."""
        return int(next(iter(self._adam.state.values()))["step"].item())

    @updates.setter
    def updates(self, count: int) -> None:
        for state in self._adam.state.values():
            state["step"].fill_(count)

    def read(self, name: str, moment: str) -> Tensor:
        """Return the full moment of one parameter."""
        parameter = self.parameters[name]
        if not self.stage:
            moments: Tensor = self._adam.state[parameter][moment]
            return moments
        from deepspeed.utils import safe_get_full_optimizer_state

        whole: Tensor = safe_get_full_optimizer_state(parameter, moment)
        return whole.reshape(shape_of(parameter))

    def write(self, name: str, moment: str, whole: Tensor) -> None:
        """Set a moment of one parameter; each rank keeps its part."""
        parameter: Any = self.parameters[name]
        if self.stage == 0:
            self._adam.state[parameter][moment].copy_(whole)
        elif self.stage < 3:
            parameter.set_full_hp_param(whole, moment)
        else:
            from deepspeed.utils import safe_set_local_optimizer_state

            safe_set_local_optimizer_state(parameter, _slice_of(parameter, whole), moment)

    def _flat(self) -> list[Any]:
        if self.stage == 3:
            return list(self._zero.fp32_partitioned_groups_flat)
        return [flat for group in self._adam.param_groups for flat in group["params"]]


def shape_of(parameter: Any) -> torch.Size:
    """Return a parameter's full shape, even if ZeRO 3 holds it in slices."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def _slice_of(parameter: Any, whole: Tensor) -> Tensor:
    """Return this rank's slice; ZeRO 3 pads the last one with zeros."""
    length = parameter.ds_tensor.ds_numel
    padded = torch.zeros(length * parameter.ds_process_group.size(), dtype=whole.dtype)
    padded[: whole.numel()] = whole.flatten()
    start = length * parameter.ds_process_group.rank()
    return padded[start : start + length]
