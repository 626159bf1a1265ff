"""docs/extending.md is true: its package is written, installed as pip would, and its commands are run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.pretrain.engine.small_run import write_shards

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/extending.md").read_text()
FILE = re.compile(r"```\w+ title=(?P<name>\S+)\n(?P<code>.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```sh\n(?P<code>.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, the plug-in installed beside them, and shards."""
    place = tmp_path_factory.mktemp("extending")
    for found in FILE.finditer(PAGE):
        path = place / found["name"]
        path.parent.mkdir(exist_ok=True)
        path.write_text(found["code"])
    (place / "my_plugin/__init__.py").touch()
    project = tomllib.loads((place / "pyproject.toml").read_text())["project"]
    installed = place / f"{project['name']}-{project['version']}.dist-info"  # what pip makes of pyproject.toml
    installed.mkdir()
    (installed / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    points = (
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in each.items())])
        for group, each in project["entry-points"].items()
    )
    (installed / "entry_points.txt").write_text("\n".join(points) + "\n")
    write_shards(place / "clips", text=True)
    return place


def test_its_package_works_without_a_change_to_trichord(place: Path) -> None:
    (place / "bin").mkdir()
    (place / "bin/trichord").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m trichord "$@"\n')
    (place / "bin/trichord").chmod(0o755)
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": f"{place}:{ROOT}"}
    for found in COMMANDS.finditer(PAGE):
        done = subprocess.run(
            ["bash", "-euc", found["code"]], cwd=place, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert (place / "runs/probe/checkpoints/step_00000004").is_dir()


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("[trichord.backbones]\ntimesformer = other:Spec", "plug-in other:Spec: the name 'timesformer' is taken"),
        ("[trichord.backbones]\nother = no_such_module:Spec", "plug-in other = no_such_module:Spec"),
        ("[trichord.commands]\nother = no_such_module:COMMAND", "plug-in other = no_such_module:COMMAND"),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_named(tmp_path: Path, point: str, expected: str) -> None:
    installed = tmp_path / "other-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Name: other\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"{point}\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "trichord", "show", "svt_paper"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {expected}"), done.stderr
