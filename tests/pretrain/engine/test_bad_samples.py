"""The list of samples that a run could not use: each once, of all ranks, bounded, the same after a resume."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pretrain.processes import run_ranks
from trichord.core.errors import Cause
from trichord.pretrain.engine import bad_samples
from trichord.pretrain.engine.bad_samples import BadSamples
from trichord.pretrain.engine.distributed import join_world, leave_world
from trichord.shards.reading.batch import BadSample, Batch


def batch_with(*bad: BadSample) -> Batch:
    """Return an empty batch with these bad samples."""
    lists: dict[str, Any] = {name: [] for name in ("text", "labels", "key", "shard", "source", "position", "timeline")}
    nothing_B = torch.zeros(0, dtype=torch.bool)
    return Batch(
        video=[],
        audio=[],
        audio_present=nothing_B,
        valid=nothing_B,
        step=0,
        bad=list(bad),
        left_out=[],
        surplus=0,
        **lists,
    )


def cut(key: str, detail: str = "it ends early") -> BadSample:
    return BadSample("00000.tar", key, Cause.TRUNCATED_VIDEO, detail)


def listed(run: Path) -> list[tuple[int, str]]:
    """Return the steps and keys of the list."""
    return [(row["step"], row["key"]) for row in map(json.loads, (run / "bad.jsonl").read_text().splitlines())]


def test_each_sample_is_listed_once_and_counted_each_time(tmp_path: Path) -> None:
    found = BadSamples(tmp_path, 0)
    found.gather()
    assert not list(tmp_path.iterdir())  # no file where there is nothing to list
    for step in range(2):
        found.add(batch_with(cut("a"), cut("b")), step)
        found.gather()
    (first, second) = (tmp_path / "bad.jsonl").read_text().splitlines()
    about = {"shard": "00000.tar", "cause": "truncated_video", "detail": "it ends early"}
    assert [json.loads(first), json.loads(second)] == [{"step": 0, **about, "key": key} for key in ("a", "b")]
    assert found.counts == {"truncated_video": 4}


def test_list_after_a_resume_is_that_of_an_undisturbed_run(tmp_path: Path) -> None:
    def steps(run: Path, begin: int, end: int) -> None:
        found = BadSamples(run, begin)
        for step in range(begin, end):
            found.add(batch_with(cut("each"), cut(f"of {step}")), step)
            found.gather()

    (tmp_path / "whole").mkdir()
    steps(tmp_path / "whole", 0, 6)
    (tmp_path / "killed").mkdir()
    steps(tmp_path / "killed", 0, 5)
    with (tmp_path / "killed/bad.jsonl").open("a") as file:
        file.write('{"step": 5, "sha')
    steps(tmp_path / "killed", 3, 6)
    assert (tmp_path / "killed/bad.jsonl").read_bytes() == (tmp_path / "whole/bad.jsonl").read_bytes()


def test_list_is_bounded_and_takes_text_of_any_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bad_samples, "_LISTED", 3)
    found = BadSamples(tmp_path, 0)
    found.add(batch_with(cut("half \udcff"), cut("long", "x" * 10_000), cut("c"), cut("d")), 0)
    found.gather()
    assert listed(tmp_path) == [(0, "half \\udcff"), (0, "long"), (0, "c")]
    assert (tmp_path / "bad.jsonl").stat().st_size < 1000 and found.counts == {"truncated_video": 4}
    again = BadSamples(tmp_path, 1)
    again.add(batch_with(cut("e")), 1)
    again.gather()
    assert len(listed(tmp_path)) == 3


def test_those_of_all_ranks_are_listed(tmp_path: Path) -> None:
    run_ranks([__name__, str(tmp_path)], 2)
    assert listed(tmp_path) == [(4, "of rank 1")]


if __name__ == "__main__":
    world = join_world()
    of_all = BadSamples(Path(sys.argv[1]), 0)
    of_all.add(batch_with(*([cut("of rank 1")] if world.rank else [])), 4)
    of_all.gather()
    assert of_all.counts == {"truncated_video": 1}
    leave_world()
