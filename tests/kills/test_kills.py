"""A few kills of each kind of command; `make kills` does it hundreds of times."""

from __future__ import annotations

from tests.pretrain.processes import run_ranks


def test_killed_commands_end_with_the_output_of_undisturbed_ones() -> None:
    works = "pretrain build-remux embed index-merge"
    (printed,) = run_ranks(["tests.kills", "--kills", "8", "--seed", "3", "--works", works], 1)
    assert "0 failures" in printed, printed
