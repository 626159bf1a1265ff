"""An installation adds only the name `trichord`, which works next to user files of any name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.folders import write_shadowing_modules
from tests.pretrain.engine.small_run import settings, write_shards
from tests.warm import HANGS_AFTER_S
from trichord.core.yaml_subset import write_yaml

ROOT = Path(__file__).resolve().parent.parent


def test_wheel_has_one_name_and_all_parts(tmp_path: Path) -> None:
    copy = tmp_path / "clone"
    copy.mkdir()
    for name in ("trichord", "shards", "pretrain", "finetune", "launch"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, check=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"trichord"}
    package = ROOT / "trichord"
    folders = [package, *(path.resolve() for path in package.iterdir() if path.is_symlink())]
    files = {
        "/".join(("trichord", *(() if folder == package else (folder.name,)), *path.relative_to(folder).parts))
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in (".py", ".yaml", ".html", ".js", ".css") or path.name == "py.typed"
    }
    assert files == {name for name in names if ".dist-info/" not in name}


def test_torchrun_trains_next_to_user_modules_of_the_same_names(tmp_path: Path) -> None:
    """The documented command line, including `--run`, which torchrun would parse itself without a `--`."""
    write_shadowing_modules(tmp_path)
    (tmp_path / "small.yaml").write_text(write_yaml(settings(write_shards(tmp_path / "clips"), steps=4)))
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "trichord", "--", "pretrain", "small.yaml", "--run", "here"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
    )
    assert done.returncode == 0, done.stderr
    assert "2 ranks on cpu (torchrun)" in done.stdout + done.stderr
    assert (tmp_path / "here/metrics.jsonl").read_text().count("\n") >= 2
