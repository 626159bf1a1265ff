"""The commands that are killed: what each starts from, its words, and what its output is compared by."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.finetune import small_head
from tests.finetune.retrieval.stage import write_embedding
from tests.pretrain.engine import small_run
from tests.shards import media

OUT = "out"  # what a command writes, in the folder of one attempt after the other
_OF_THE_MACHINE = {
    *("time_s", "run_s", "aside_s", "warm_up_s", "step_s", "worst_step_s", "data_wait_share", "eta_s", "mfu"),
    *("clips_per_s", "clips_per_s_device", "memory_gib"),
}
# The lock names a process, the history tells of each start.
_OF_ATTEMPTS = {"lock", "history.jsonl"}


@dataclass(frozen=True)
class Work:
    """A command that writes to `out`; paths of its words are those of the inputs, from a folder beside them."""

    words: tuple[str, ...]
    begins_with: str = ""  # an input that is copied to `out` first
    compare: Callable[[Path], Mapping[str, Any]] = lambda folder: contents(folder)
    may_refuse: bool = False  # once it is done, a repetition is refused

    def begin(self, inputs: Path, folder: Path) -> None:
        """Make the folder as it is before the command."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if self.begins_with:
            shutil.copytree(inputs / self.begins_with, folder / OUT)


def contents(folder: Path) -> dict[str, Any]:
    """Return every file below a folder by its checksum, figures without times and memory."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name in _OF_ATTEMPTS:
            found[name] = None
        elif path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: row[key] for key in row.keys() - _OF_THE_MACHINE} for row in rows]
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def index_contents(folder: Path) -> dict[str, Any]:
    """Return the files of an index, whose numbers of segments depend on how many attempts there were."""
    found: dict[str, Any] = {}
    for name, digest in contents(folder).items():
        if name == f"{OUT}/index.json":
            catalogue = json.loads((folder / name).read_text())
            found[name] = [[entry["count"], entry["gone"], entry["files"]] for entry in catalogue["segments"]]
        else:
            found[re.sub(r"\d{5}", "N", name)] = digest
    return found


def prepare(inputs: Path) -> None:
    """Make the inputs of all works in a folder."""
    from trichord.launch import cli
    from trichord.pretrain.engine import run as engine_run

    _write_videos(inputs / "videos")
    small_run.write_shards(inputs / "shards")
    recipe = small_run.settings(inputs / "shards", checkpoints__every_steps=2, checkpoints__keep_last=2)
    (inputs / "pretrain.yaml").write_text(yaml.safe_dump(recipe))
    small_head.write_shards(inputs / "labelled")
    head = small_head.settings(inputs / "labelled", checkpoints__every_steps=1, steps=6)
    (inputs / "finetune.yaml").write_text(yaml.safe_dump(head))
    small_run.write_shards(inputs / "captions", text=True)
    changes = small_run.video_text_changes(classes=None, prompts=False) | {"steps": 1}
    changes |= {"optimiser": {"learning_rate": 1e-3, "weight_decay": 0.0}, "checkpoints__every_steps": 1}
    engine_run.pretrain(small_run.small_config(inputs / "captions", **changes), inputs / "run")
    keys = [[f"{shard}{number}" for number in range(300)] for shard in "abcd"]
    write_embedding(inputs / "vectors", keys[:3])
    write_embedding(inputs / "more", keys[3:], seed=1)
    for words in (
        ("index", "build", inputs / "vectors", "--out", inputs / "index"),
        ("index", "build", inputs / "vectors", "--out", inputs / "two"),
        ("index", "add", inputs / "two", inputs / "more"),
        ("index", "remove", inputs / "two", "a7", "d9"),
    ):
        assert cli.main([str(word) for word in words]) == 0


def works(inputs: Path) -> dict[str, Work]:
    """Return the works by name."""

    def work(*words: str, **about: Any) -> Work:
        return Work(tuple(word.replace("INPUTS", str(inputs)) for word in words), **about)

    def build(mode: str, workers: int) -> Work:
        words = ("shards", "build", "csv", "--root", "INPUTS/videos", "--out", OUT, "--mode", mode)
        return work(*words, "--samples-per-shard", "2", "--workers", str(workers), "--preset", "speed=ultrafast")

    of_two: dict[str, Any] = {"begins_with": "two", "compare": index_contents}
    return {
        "pretrain": work("pretrain", "INPUTS/pretrain.yaml", "--run", OUT),
        "finetune": work("finetune", "INPUTS/finetune.yaml", "--run", OUT),
        "build-copy": build("copy", 1),
        "build-remux": build("remux", 1),
        "build-encode": build("encode", 1),
        "build-by-two": build("encode", 2),
        "embed": work("embed", "INPUTS/run", "INPUTS/captions", "--out", OUT),
        "index-build": work("index", "build", "INPUTS/vectors", "--out", OUT, may_refuse=True),
        "index-add": work("index", "add", OUT, "INPUTS/more", begins_with="index", may_refuse=True),
        "index-remove": work("index", "remove", OUT, "a1", "b2", **of_two, may_refuse=True),
        "index-merge": work("index", "merge", OUT, **of_two),
    }


def _write_videos(root: Path) -> None:
    root.mkdir()
    with (root / "clips.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "caption"])
        for number in range(8):
            (root / f"clip{number}.mp4").write_bytes(media.clip(25, seed=number))
            table.writerow([f"clip{number}.mp4", f"clip number {number}"])
