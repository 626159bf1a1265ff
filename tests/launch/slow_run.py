"""A slow run, for tests that end it half-way: its shards are read by a slow command."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import webdataset
from safetensors.numpy import load_file

from tests import warm
from tests.launch.slurm_cluster import ROOT
from tests.pretrain.engine.small_run import settings
from tests.shards import media
from tests.warm import HANGS_AFTER_S
from trichord.core.yaml_subset import write_yaml
from trichord.shards.reading.manifest import index_shards

CLIPS = 12
_LOOK_S = 0.2


def write_data(folder: Path) -> Path:
    """Write shards of one clip each, and a second manifest by which they are read slowly."""
    shards = folder / "shards"
    shards.mkdir(parents=True)
    for number in range(CLIPS):
        with webdataset.TarWriter(str(shards / f"{number:05d}.tar")) as out:
            frames_THWC = media.moving_picture(12, 32, 32, seed=number)
            out.write({"__key__": f"clip{number:03d}", "mp4": media.encode(frames_THWC), "json": b"{}"})
    index_shards(str(shards)).save(shards)
    (folder / "manifest").mkdir()
    shutil.copy(shards / "manifest.json", folder / "manifest")
    return folder


def write_recipe(data: Path, path: Path, steps: int, shard_s: float = 0.0, **changes: object) -> Path:
    """Write a recipe of a small run with drop path, so that random state must be resumed as well.

    A shard takes `shard_s` seconds to read, or what `pace` sets later; two are read at once, so a step takes less.
    """
    found = settings(data / "shards", steps=steps, backbone__drop_path=0.2, **changes)
    found["data"] |= {"batch_size": 4, "lanes": 2, "block_shards": 2}
    found["checkpoints"] = {"every_steps": 5, "every_s": None, "keep_last": 50}
    if shard_s:
        pace(path, shard_s)
        looks, shards = shlex.quote(str(path.with_suffix(".pace"))), shlex.quote(str(data / "shards"))
        wait = f"n=0; while [ $n -lt $(cat {looks}) ]; do sleep {_LOOK_S}; n=$((n + 1)); done"
        command = f"{wait}; cat {shards}/{{name}}"
        source = {"root": f"pipe:{command}", "manifest": str(data / "manifest" / "manifest.json")}
        found["data"]["sources"] = [source]
    path.write_text(write_yaml(json.loads(json.dumps(found))))
    return path


def pace(recipe: Path, shard_s: float) -> None:
    """Change the time per shard of a slow run, including the shards that are being read."""
    temporary = recipe.with_suffix(".new")
    temporary.write_text(str(round(shard_s / _LOOK_S)))
    temporary.replace(recipe.with_suffix(".pace"))


def trichord(*words: str, cwd: Path, timeout_s: float = HANGS_AFTER_S) -> subprocess.CompletedProcess[str]:
    """Run a command."""
    return warm.run(["trichord", *words], cwd, timeout_s, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", COLUMNS="200")


def weights_of(run: Path, step: int) -> dict[str, bytes]:
    """Return every tensor of a checkpoint, including optimiser state."""
    files = sorted((run / "checkpoints" / f"step_{step:08d}").glob("*.safetensors"))
    assert files, f"{run} has no checkpoint of step {step}"
    return {
        f"{file.name.partition('-')[0]}:{name}": value.tobytes()
        for file in files
        for name, value in load_file(file).items()
    }
