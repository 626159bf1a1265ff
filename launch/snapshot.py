"""The snapshot that is taken when a job is submitted, so that edits made while it waits do not change what it does.

A snapshot holds the work's own files (its resolved config), the code that will run, its commit and uncommitted changes,
and the versions of installed packages. It holds no environment variables, no repository addresses, and no paths other
than those given on the command line.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import trichord
from trichord.core.run_folder import RunFolder

CODE = "code"
_PACKAGE = Path(trichord.__file__).resolve().parent
_GIT_S = 20.0


def next_snapshot(run: Path) -> Path:
    """Return the folder of the next snapshot."""
    taken = [int(path.name) for path in RunFolder(run).snapshots.glob("[0-9]*") if path.name.isdecimal()]
    return RunFolder(run).snapshots / f"{max(taken, default=0) + 1:03d}"


def take_snapshot(folder: Path, files: Mapping[str, str]) -> None:
    """Write a snapshot; raise FileExistsError if another launch took the same folder."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "packages.txt").write_text(_packages())
    commit, diff = _commit()
    (folder / "code.json").write_text(
        json.dumps({"version": trichord.__version__, "commit": commit, "is_changed": bool(diff)}, indent=1) + "\n"
    )
    if diff:
        (folder / "changes.diff").write_text(diff, encoding="utf-8")
    _copy(_PACKAGE, folder / CODE / _PACKAGE.name)


def _copy(source: Path, target: Path) -> None:
    """Copy a package without compiled files, following links; file modes are set by the umask."""
    target.mkdir(parents=True)
    for entry in os.scandir(source):
        if entry.is_dir():
            if entry.name != "__pycache__":
                _copy(Path(entry.path), target / entry.name)
        elif not entry.name.startswith("."):
            shutil.copyfile(entry.path, target / entry.name)


def _packages() -> str:
    found = {f"{each.name}=={each.version}" for each in importlib.metadata.distributions() if each.name}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def _commit() -> tuple[str | None, str]:
    """Return commit and changes of the running code; an installed copy has none, even inside another repository."""
    top = _git("rev-parse", "--show-toplevel")
    if not top or Path(top.strip()).resolve() != _PACKAGE.parent:
        return None, ""
    folders = sorted({str(_PACKAGE), *(str(each.resolve()) for each in _PACKAGE.iterdir() if each.is_dir())})
    commit = _git("rev-parse", "HEAD").strip() or None
    return commit, _git("diff", "--no-ext-diff", "--no-textconv", "HEAD", "--", *folders)


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(_PACKAGE.parent), *arguments],
            capture_output=True,
            timeout=_GIT_S,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):  # git is not installed, or the disk does not respond
        return ""
    return done.stdout if done.returncode == 0 else ""
