"""The example of docs/extending.md works: its package is written, installed as pip does, and its commands are run."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.finetune.small_head import write_shards

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/extending.md").read_text()
FILE = re.compile(r"```\w+ title=(?P<name>\S+)\n(?P<code>.*?)```", re.DOTALL)
REGISTRY = re.compile(r"\bRegistry\(\s*\"(?P<group>\w+)\"")
COMMANDS = re.compile(r"```sh\n(?P<code>.*?)```", re.DOTALL)

# The demo page's answer for a clip of a run whose task has no section on the page.
ANSWER = """
import json, sys, torch
from pathlib import Path
from trichord.finetune.page.inference import VideoInference
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.record import RawSample

inference = VideoInference([Path("runs/rating")], None, DecodeLimits(), torch.device("cpu"))
answer = inference.predict(RawSample("clip", "upload", {"mp4": Path("rated/clip003.mp4").read_bytes()}))
json.dump({"sections": list(answer), "map": answer["map"]["run"], "about": inference.about()}, sys.stdout)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the page, the installed plug-in, and shards."""
    place = tmp_path_factory.mktemp("extending")
    for found in FILE.finditer(PAGE):
        path = place / found["name"]
        path.parent.mkdir(exist_ok=True)
        path.write_text(found["code"])
    (place / "my_plugin/__init__.py").touch()
    project = tomllib.loads((place / "pyproject.toml").read_text())["project"]
    installed = place / f"{project['name']}-{project['version']}.dist-info"  # what pip generates from pyproject.toml
    installed.mkdir()
    (installed / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    points = (
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in each.items())])
        for group, each in project["entry-points"].items()
    )
    (installed / "entry_points.txt").write_text("\n".join(points) + "\n")
    write_shards(place / "clips")
    return place


@pytest.fixture(scope="module")
def outputs(place: Path) -> list[str]:
    """The output of each block of commands of the page, run in the folder."""
    (place / "bin").mkdir()
    for name, command in (("trichord", f'"{sys.executable}" -m trichord'), ("python", f'"{sys.executable}"')):
        (place / "bin" / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (place / "bin" / name).chmod(0o755)
    return [run_in(place, found["code"]) for found in COMMANDS.finditer(PAGE)]


def run_in(place: Path, code: str) -> str:
    """Run shell commands with the plug-in installed; return their output."""
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": f"{place}:{ROOT}"}
    done = subprocess.run(["bash", "-euc", code], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_package_works_without_changes_to_trichord(place: Path, outputs: list[str]) -> None:
    assert (place / "runs/probe/checkpoints/step_00000004").is_dir()


def test_task_of_the_package_learns_and_predicts(place: Path, outputs: list[str]) -> None:
    (report,) = (place / "runs/rating/evaluations").glob("*.json")
    found = json.loads(report.read_text())
    assert (found["clips"], found["bad"], found["step"]) == (8, 0, 150)
    assert 0 < found["metrics"]["mae"] < 0.5 * found["metrics"]["mae_of_mean"]
    (row,) = json.loads(run_in(place, "trichord compare runs/rating --json"))["rows"]
    assert found["metrics"] == {name: row[name] for name in found["metrics"]}
    (output,) = (each for each in outputs if "mae_of_mean" in each)
    assert math.isclose(float(output.splitlines()[-1]), 4.0, abs_tol=0.9)  # the table's rating


def test_page_leaves_out_a_task_without_a_section(place: Path, outputs: list[str]) -> None:
    answer = json.loads(run_in(place, f"python -c '{ANSWER}'"))
    assert answer["sections"] == ["video", "actions", "captions", "map", "nearest"]
    assert answer["map"] == "rating" and answer["about"][0]["kind"] == "number"
    assert answer["about"][0]["classes"] is None


def test_task_without_features_refuses_them(place: Path, outputs: list[str]) -> None:
    refused = "! trichord finetune rating.yaml features=stored --run runs/other 2>&1"
    assert "objective.kind=number cannot be trained on stored features" in run_in(place, refused)


def test_page_lists_every_registry() -> None:
    folders = ("shards", "pretrain", "finetune", "launch")
    modules = (path.read_text() for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    groups = {f"trichord.{found['group']}" for text in modules for found in REGISTRY.finditer(text)}
    table = PAGE[PAGE.index("| to add |") : PAGE.index("A *spec* is")]
    assert groups == set(re.findall(r"`(trichord\.\w+)`", table)) and len(groups) >= 12


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("[trichord.backbones]\ntimesformer = other:Spec", "plug-in other:Spec: the name 'timesformer' is taken"),
        ("[trichord.backbones]\nother = no_such_module:Spec", "plug-in other = no_such_module:Spec"),
        ("[trichord.commands]\nother = no_such_module:COMMAND", "plug-in other = no_such_module:COMMAND"),
    ],
)
def test_unusable_plug_in_is_named(tmp_path: Path, point: str, expected: str) -> None:
    installed = tmp_path / "other-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Name: other\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"{point}\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "trichord", "show", "svt_paper"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {expected}"), done.stderr
