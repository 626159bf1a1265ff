"""Working folders of users."""

from __future__ import annotations

from pathlib import Path


def write_shadowing_modules(folder: Path) -> None:
    """Write modules into a folder whose names are those of parts of trichord."""
    for name in ("shards", "pretrain", "core"):
        (folder / name).mkdir(parents=True)
    for name in ("shards/__init__.py", "pretrain/__init__.py", "core/__init__.py", "finetune.py", "launch.py"):
        (folder / name).write_text("raise SystemExit('a module of the user was imported instead of trichord's')\n")
