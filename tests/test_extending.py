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


def test_a_name_that_is_taken_is_refused(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Name: other\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[trichord.backbones]\ntimesformer = other:Spec\n")
    script = "from trichord.pretrain.backbones.registry import BACKBONES"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode and "other:Spec" in done.stderr and "'timesformer'" in done.stderr
