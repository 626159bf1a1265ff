"""Checkpoint folders: complete or absent, torn ones detected, old ones removed by rule."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch

from trichord.core.errors import RunStopped
from trichord.pretrain.engine import checkpoint, checkpoint_files
from trichord.pretrain.engine.checkpoint_files import CheckpointIndex, TornCheckpoint
from trichord.pretrain.engine.distributed import World


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
