"""Checkpoint folders: complete or absent, torn ones detected, old ones removed by rule."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from trichord.core.errors import RunStopped, UserError
from trichord.finetune.config import read_config
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import checkpoint, checkpoint_files
from trichord.pretrain.engine.checkpoint_files import CheckpointIndex, TornCheckpoint
from trichord.pretrain.engine.distributed import World
from trichord.pretrain.objectives.base import Objective
from trichord.pretrain.weights.export import read_part


def _write(folder: Path, step: int) -> Path:
    temporary = checkpoint_files.begin(folder, step)
    entry = checkpoint_files.write_tensors(temporary / "weights-00000.safetensors", {"w": torch.full((3,), step)})
    index = CheckpointIndex(
        step=step,
        adam_updates=step,
        world_size=1,
        versions={},
        data_digests=[],
        config={},
        files={"weights-00000.safetensors": entry},
    )
    return checkpoint_files.finish(temporary, index)


class _Alone:
    """A world of one rank, without a process group."""

    rank, size = 0, 1

    def gather(self, text: str, waiting_in: str) -> list[str]:
        return [text]

    def broadcast(self, text: str, waiting_in: str) -> str:
        return text


ALONE = cast(World, _Alone())


def test_newest_complete_checkpoint_is_found_and_torn_ones_are_skipped_with_a_warning(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        _write(tmp_path, step)
    weights = "weights-00000.safetensors"
    rotten = bytearray((tmp_path / "step_00000004" / weights).read_bytes())
    rotten[-1] ^= 1
    (tmp_path / "step_00000004" / weights).write_bytes(rotten)
    with open(tmp_path / "step_00000003" / weights, "r+b") as file:
        file.truncate(20)
    (tmp_path / "step_00000002" / checkpoint_files.INDEX).unlink()
    warnings: list[str] = []
    found = checkpoint.newest_whole(tmp_path, ALONE, warnings.append)
    assert found is not None and found[0].name == "step_00000001" and found[1].step == 1
    assert [next(word for word in ("checksum", "bytes", "read") if word in warning) for warning in warnings] == [
        "checksum",
        "bytes",
        "read",
    ]
    assert checkpoint.newest_whole(tmp_path / "nothing", ALONE, warnings.append) is None


def test_unreadable_disk_is_not_a_torn_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        _write(tmp_path, step)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint_files, "check_file", fail)
    with pytest.raises(RunStopped, match=r"step_00000002 cannot be read.*Input/output error"):
        checkpoint.newest_whole(tmp_path, ALONE, lambda _: None)


@pytest.mark.parametrize(
    ("keep_last", "every", "kept"),
    [(2, None, [6, 5]), (1, 3, [6, 3]), (2, 4, [6, 5, 4]), (9, None, [6, 5, 4, 3, 2, 1])],
)
def test_old_checkpoints_are_removed_except_the_last_and_every_nth(
    tmp_path: Path, keep_last: int, every: int | None, kept: list[int]
) -> None:
    for step in range(1, 7):
        _write(tmp_path, step)
    checkpoint_files.prune(tmp_path, keep_last, every, newest=6)
    assert [checkpoint_files.step_of(path) for path in checkpoint_files.checkpoints_in(tmp_path)] == kept
    assert (tmp_path / "latest").read_text() == "step_00000006\n"


def test_torn_checkpoints_do_not_displace_complete_ones(tmp_path: Path) -> None:
    for step in (8, 9, 4, 5, 6):  # 8 and 9 were torn, so the run resumed from 4
        _write(tmp_path, step)
    checkpoint_files.prune(tmp_path, 2, None, newest=6)
    assert [path.name for path in checkpoint_files.checkpoints_in(tmp_path)][2:] == ["step_00000006", "step_00000005"]


def test_leftovers_of_a_killed_save_are_removed_and_never_loaded(tmp_path: Path) -> None:
    checkpoint_files.begin(tmp_path, 7)
    assert checkpoint_files.checkpoints_in(tmp_path) == []
    _write(tmp_path, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000008"]


def test_concurrent_saves_of_a_step_use_different_folders(tmp_path: Path) -> None:
    """A start that lost the run to a later one may still be saving."""
    earlier = checkpoint_files.begin(tmp_path, 7)
    later = checkpoint_files.begin(tmp_path, 7)
    with pytest.raises(OSError, match="No such file"):
        checkpoint_files.write_tensors(earlier / "weights-00000.safetensors", {"w": torch.ones(3)})
    checkpoint_files.discard(earlier)
    assert later.is_dir()


def test_foreign_folders_are_kept(tmp_path: Path) -> None:
    (tmp_path / "step_mine").mkdir(parents=True)
    _write(tmp_path, 1)
    checkpoint_files.prune(tmp_path, 1, None, newest=1)
    assert (tmp_path / "step_mine").is_dir()


def test_other_format_is_reported(tmp_path: Path) -> None:
    path = _write(tmp_path, 1) / checkpoint_files.INDEX
    path.write_text(path.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(TornCheckpoint, match="format 9"):
        checkpoint_files.read_index(tmp_path / "step_00000001")


def _forged(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    path = _write(folder, 1)
    tree = json.loads((path / checkpoint_files.INDEX).read_text())
    change(tree)
    (path / checkpoint_files.INDEX).write_text(json.dumps(tree))
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree["files"].update({"../../secret.safetensors": {"bytes": 1, "sha256": ""}}),
        lambda tree: tree["files"].update({"/etc/passwd": {"bytes": 1, "sha256": ""}}),
        lambda tree: tree.update(step=1 << 70),
        lambda tree: tree.update(adam_updates=-1),
        lambda tree: tree.update(versions="x" * 100_000),
        lambda tree: tree.update(config=json.loads("[" * 300 + "]" * 300)),
    ],
)
def test_forged_index_is_that_of_an_incomplete_checkpoint(
    change: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    with pytest.raises(TornCheckpoint) as caught:
        checkpoint_files.read_index(_forged(tmp_path, change))
    assert len(str(caught.value)) < 1000


def test_settings_of_no_run_in_a_checkpoint_are_a_message(tmp_path: Path) -> None:
    for config in ({}, {"objective": "svt"}, {"objective": {"kind": ["svt"]}}, {"data": {"sources": [1]}}):
        _forged(tmp_path / "checkpoints", lambda tree, config=config: tree.update(config=config))  # type: ignore[misc]
        for read in (RunConfig.model_validate, read_config):
            with pytest.raises(UserError, match=r"checkpoint.json holds settings of no run: [\w.]+: "):
                read_part(tmp_path, read=read)


class _Kept(nn.Module):
    """An objective with one weight and one number of state."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if state["count"].shape != ():
            raise ValueError("expected one count")


@pytest.mark.parametrize(
    ("weights", "state", "reason"),
    [
        ({"w": torch.ones(3)}, {"count": torch.tensor(1)}, None),
        ({"w": torch.ones(3, dtype=torch.int64)}, {}, r"w, int64 of shape \(3,\), which is float32 of shape \(3,\)"),
        ({"w": torch.ones(2)}, {}, r"float32 of shape \(2,\), which is float32 of shape \(3,\) in this model"),
        ({"v": torch.ones(3)}, {}, r"v, float32 of shape \(3,\), which is not in this model"),
        ({"w": torch.ones(3)}, {}, "holds another state than this objective's: 'count'"),
        ({"w": torch.ones(3)}, {"count": torch.ones(2)}, "holds another state .*: expected one count"),
    ],
)
def test_tensors_that_are_not_of_the_objective_are_a_message(
    weights: dict[str, Tensor], state: dict[str, Tensor], reason: str | None, tmp_path: Path
) -> None:
    temporary = checkpoint_files.begin(tmp_path, 1)
    files = {
        f"{kind}-00000.safetensors": checkpoint_files.write_tensors(temporary / f"{kind}-00000.safetensors", tensors)
        for kind, tensors in (("weights", weights), ("state", state))
        if tensors
    }
    index = CheckpointIndex(step=1, adam_updates=1, world_size=1, versions={}, data_digests=[], config={}, files=files)
    path, objective = checkpoint_files.finish(temporary, index), _Kept()
    with nullcontext() if reason is None else pytest.raises(UserError, match=reason):
        checkpoint.load_weights(path, index, cast(Objective, objective))
    assert reason is not None or torch.equal(objective.w, torch.ones(3))


def test_file_that_no_run_wrote_is_a_message_although_its_checksum_is_right(tmp_path: Path) -> None:
    path = _write(tmp_path, 1)
    (path / "weights-00000.safetensors").write_bytes(b"no tensors")
    index = checkpoint_files.read_index(_write(tmp_path / "other", 1))
    with pytest.raises(UserError, match=r"is not a complete safetensors file .* or remove .*step_00000001"):
        checkpoint.load_weights(path, index, cast(Objective, _Kept()))
