"""Labels that an objective cannot use: bad samples in training and evaluation, and never the end of a run."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.finetune.small_head import BINARY, small_config, write_shards
from trichord.core.errors import UserError
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.evaluation.evaluate import evaluate
from trichord.finetune.features.computing import fill
from trichord.finetune.tasks.classification.model import count_labels
from trichord.finetune.tasks.classification.spec import ClassificationSpec
from trichord.pretrain.engine import run as engine_run
from trichord.pretrain.engine.distributed import join_world
from trichord.shards.reading.manifest import Manifest, index_shards

LABELS = {"clip001": [99], "clip004": [0, 1], "clip006": []}
QUICK: dict[str, Any] = {"steps": 2, "data__max_bad_fraction": 0.5}


def relabel(folder: Path, labels: dict[str, list[int]]) -> Path:
    """Write other labels into shards."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            members = [(each, archive.extractfile(each).read()) for each in archive]  # type: ignore[union-attr]
        with tarfile.open(path, "w") as out:
            for member, data in members:
                key, extension = member.name.split(".")
                if extension == "json" and key in labels:
                    data = json.dumps({"labels": labels[key]}).encode()
                member.size = len(data)
                out.addfile(member, io.BytesIO(data))
    classes = Manifest.load(folder).classes
    index_shards(str(folder)).model_copy(update={"classes": classes}).save(folder)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return relabel(write_shards(tmp_path_factory.mktemp("set") / "shards", 12), LABELS)


def bad_after(config: FinetuneConfig, run: Path) -> dict[str, int]:
    """Train, and return the bad samples by cause."""
    engine_run.pretrain(config, run)
    counts: dict[str, int] = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["bad"]
    return counts


def test_samples_with_other_labels_are_replaced_in_training(shards: Path, tmp_path: Path, quick_starts: None) -> None:
    counts = bad_after(small_config(shards, **QUICK), tmp_path / "run")
    assert set(counts) == {"bad_label"}
    listed = [json.loads(line) for line in (tmp_path / "run/bad.jsonl").read_text().splitlines()]
    assert {each["key"] for each in listed} <= LABELS.keys() and len(listed) >= 2
    assert all(each["shard"].endswith(".tar") and "expected" in each["detail"] for each in listed)
    result = evaluate(tmp_path / "run", [str(shards)], [], None)
    assert (result["clips"], result["bad"]) == (9, 3)


def test_cached_features_serve_other_labels(shards: Path, tmp_path: Path, quick_starts: None) -> None:
    frozen = {"objective__frozen": True, "objective__clips": {"kind": "segments", "frames": 2, "placement": "centre"}}
    one = small_config(shards, **QUICK, **frozen, features=str(tmp_path / "features"))
    fill(one, join_world())
    assert set(bad_after(one, tmp_path / "one")) == {"bad_label"}
    several = small_config(shards, **QUICK, **frozen, **BINARY, features=str(tmp_path / "features"))
    assert set(bad_after(several, tmp_path / "several")) <= {"bad_label"}


def test_class_counts_leave_them_out(shards: Path) -> None:
    config = small_config(shards, **BINARY)
    assert isinstance(config.objective, ClassificationSpec)
    counts_K, clips = count_labels(config, config.objective)
    assert clips == 11  # all but the label outside the classes
    assert counts_K.tolist() == [3, 3, 2, 3]


def test_a_set_of_other_labels_stops_at_the_start_with_the_remedy(tmp_path: Path, quick_starts: None) -> None:
    folder = write_shards(tmp_path / "set", 8)
    relabel(folder, {f"clip{number:03d}": [0, 1] for number in range(8)})
    with pytest.raises(UserError, match=r"bad_label: 2 labels, expected exactly 1\. .*: objective\.loss\.kind=binary"):
        engine_run.pretrain(small_config(folder, **QUICK), tmp_path / "run")
