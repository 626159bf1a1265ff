"""The README tells the truth: its commands run, its files exist, its layouts and variables are the ones there are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm
from tests.folders import names_of_ones_own
from trichord.core.command import Command
from trichord.shards.commands import COMMANDS
from trichord.shards.layouts import LAYOUTS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
MARK = "<!-- executed by tests/test_readme.py -->\n"
BLOCK = re.compile(re.escape(MARK) + r"```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)


def test_its_commands_run_one_after_the_other_whatever_lies_in_the_folder(tmp_path: Path) -> None:
    blocks = [(found["language"], found["code"]) for found in BLOCK.finditer(README)]
    assert len(blocks) == README.count(MARK) > 0
    names_of_ones_own(tmp_path)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "trichord").write_text(warm.command_of("trichord"))
    (binaries / "trichord").chmod(0o755)
    path = f"{binaries}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    for language, code in blocks:
        command = {"sh": ["bash", "-euc"], "python": [sys.executable, "-c"]}[language]
        done = subprocess.run([*command, code], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{code}\n{done.stderr}"
        assert done.stdout, f"{code}\nshowed nothing"


@pytest.mark.parametrize("command", COMMANDS, ids=[command.name for command in COMMANDS])
def test_it_shows_every_command(command: Command) -> None:
    assert f"trichord shards {command.name}" in README


def test_it_names_every_layout() -> None:
    table = README.partition("| layout |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= set(LAYOUTS)


def test_it_names_every_recipe() -> None:
    table = README.partition("| recipe |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)` \|", table)) == {path.stem for path in (ROOT / "pretrain/recipes").glob("*.yaml")}


def test_the_targets_and_variables_that_it_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
    variables = README.partition("| variable |")[2].partition("\n\n")[0]
    for variable in re.findall(r"\n\| `([A-Z_]+)`", variables):
        assert f"\n{variable} ?=" in makefile
