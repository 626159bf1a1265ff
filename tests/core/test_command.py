"""Commands: functions imported on use, former names, and suggestions that can be pasted into a shell."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser
from pathlib import Path

import pytest

from trichord.core.command import Command, command_line
from trichord.core.errors import UserError
from trichord.finetune.evaluation.report import read_reports
from trichord.finetune.retrieval.index import Index
from trichord.launch import cli
from trichord.launch.quickstart import next_commands
from trichord.shards.reading.manifest import Manifest


def test_words_with_special_characters_are_quoted() -> None:
    words = ("status", Path("my runs/it's one"), "a=$HOME", 3)
    assert shlex.split(command_line(*words)) == ["trichord", *map(str, words)]
    assert command_line("status", "runs/svt") == "trichord status runs/svt"


def suggested(error: UserError) -> list[str]:
    """Return the words of the command at the end of a message."""
    return shlex.split("trichord" + str(error).partition(": trichord")[2])


def test_messages_quote_paths_with_spaces(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "00000.tar").touch()
    with pytest.raises(UserError) as unindexed:
        Manifest.load(folder)
    assert suggested(unindexed.value) == ["trichord", "shards", "index", str(folder)]
    assert "has 1 shard and no" in str(unindexed.value)
    with pytest.raises(UserError) as no_index:
        Index.open(folder)
    assert suggested(no_index.value) == ["trichord", "index", "build", "EMBEDDINGS", "--out", str(folder)]
    with pytest.raises(UserError) as not_evaluated:
        read_reports(folder)
    assert suggested(not_evaluated.value) == ["trichord", "evaluate", str(folder), "--data", "SHARDS"]


def test_quickstart_suggests_commands_for_a_folder_with_spaces(tmp_path: Path) -> None:
    out = tmp_path / "quick start"
    parser = cli._parser()
    for line in next_commands(out):
        _, *words = shlex.split(line)
        arguments, unknown = parser.parse_known_args(words)
        assert unknown == [] and arguments.run is not None
    assert any(str(out / "shards/train") in shlex.split(line) for line in next_commands(out))


def test_functions_of_a_command_are_imported_from_their_places_when_called() -> None:
    command = Command("sort", "sorts", "nowhere.at_all:declare", "builtins:sorted", job="nowhere.at_all:job")
    assert command.run([3, 1, 2]) == [1, 2, 3]  # type: ignore[arg-type,comparison-overlap]
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        command.declare(ArgumentParser())
    assert command.job is not None and Command("sort", "sorts", "a:b", "a:c").job is None
