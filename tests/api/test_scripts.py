"""The scripts of the documentation run, and the API does what the commands do."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import trichord
from tests.pretrain.engine.small_run import settings
from tests.warm import HANGS_AFTER_S
from trichord.core.yaml_subset import write_yaml
from trichord.launch import cli

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "docs/scripts").glob("*.py"))
MOST_LINES = 60


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < MOST_LINES
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    ("script", "arguments", "printed"),
    [
        ("zero_shot", ["found", "labelled"], "the first clip:"),
        ("search", ["found", "texts", "searched", "thing number 3"], "nearest to both:"),
        ("training_loop", ["labelled", "3"], "step 2: loss"),
        ("linear_probe", ["svt", "texts", "texts"], "of 16 test clips right"),
    ],
)
def test_a_script_runs(top: Path, script: str, arguments: list[str], printed: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / f"docs/scripts/{script}.py"), *arguments],
        cwd=top,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
    )
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout


def test_every_public_name_exists_and_is_documented() -> None:
    for name in trichord.__all__:
        found = getattr(trichord, name)
        assert found.__doc__, name
        if callable(found) and not isinstance(found, type):
            assert ">>>" in found.__doc__, f"{name} has no example"
    for name in ("embed_video", "embed_text", "embed_audio", "embed_shards", "zeroshot", "predict"):
        assert ">>>" in getattr(trichord.Model, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        trichord.nothing  # noqa: B018


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, trichord; print([n for n in ('torch', 'numpy', 'pydantic') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_training_by_a_call_continues_a_run(top: Path, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(write_yaml(settings(top / "texts", steps=3, checkpoints__every_steps=3)))
    run = tmp_path / "run"
    trichord.train(tmp_path / "small.yaml", run=run)
    figures = trichord.train(tmp_path / "small.yaml", {"steps": 4}, run=run)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3]
    assert figures["run"] == str(run)
    with pytest.raises(trichord.UserError, match="nearest 'steps'"):
        trichord.train(tmp_path / "small.yaml", ["stepps=3"], run=run)


def test_evaluations_by_a_call_are_those_of_the_commands(top: Path) -> None:
    called = trichord.evaluate(top / "actions", top / "clips", name="called")
    command = ["evaluate", str(top / "actions"), "--data", str(top / "clips"), "--name", "typed", "--pictures", "none"]
    assert cli.main(command) == 0
    (typed,) = (top / "actions/evaluations").glob("typed_step_*.json")
    assert json.loads(typed.read_text())["metrics"] == called["metrics"]
    rows = trichord.evaluate_retrieval(top / "found", top / "texts")
    assert {row["measured"] for row in rows} >= {"text to video", "video to text"}
