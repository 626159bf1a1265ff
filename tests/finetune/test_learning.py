"""A small head and its backbone learn the colour of the acting object from synthetic clips."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from tests.finetune.small_head import small_config
from trichord.finetune.evaluation.evaluate import evaluate
from trichord.pretrain.engine import run as engine_run
from trichord.shards.building.write import build
from trichord.shards.synthetic import COLOURS, SyntheticRules, make_synthetic

RULES = SyntheticRules(
    frame_sizes=((32, 32),),
    fps=(6,),
    min_seconds=2.0,
    max_seconds=2.0,
    two_events_share=0.0,
    max_distractors=0,
    is_plain=True,
    silent_share=1.0,
    captions=1,
    clips_per_group=1,
    val_share=0.0,
)


def write_coloured_shards(top: Path, clips: int) -> Path:
    """Write shards of clips whose class is the colour."""
    make_synthetic(top / "world", clips, 0, rules=RULES)
    table = top / "world/clips.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row |= {"labels": json.loads(row["events"])[0]["colour"], "intervals": "[]"}
    with table.open("w", newline="") as file:
        written = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        written.writeheader()
        written.writerows(rows)
    (top / "world/classes.txt").write_text("".join(f"{name}\n" for name in COLOURS))
    build("csv", top / "world", top / "shards", samples_per_shard=8)
    return top / "shards"


def test_head_learns_the_colours(tmp_path: Path) -> None:
    shards = write_coloured_shards(tmp_path, 64)
    changes = {
        "data__batch_size": 16,
        "backbone__size": 32,
        "objective__classes": list(COLOURS),
        "objective__view": {"crop": {"kind": "squash", "size": 32}},
        "objective__test_view": {"crop": {"kind": "squash", "size": 32}},
        "objective__normalisation": {"mean": [0.25, 0.25, 0.25], "std": [0.06, 0.06, 0.06]},
        "objective__head": {"pool": "attention", "pool_heads": 1},
        "optimiser__learning_rate": 1e-2,
        "log__every_steps": 15,
        "checkpoints__every_steps": 60,
    }
    run = tmp_path / "run"
    engine_run.pretrain(small_config(shards / "train", steps=60, **changes), run)
    found = evaluate(run, [str(shards / "test")], [], None)
    assert found["clips"] >= 15
    assert found["metrics"]["top1"] >= 0.4  # chance is 1/8
