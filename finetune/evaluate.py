"""Tests a run's head on shards: every clip exactly once, whatever the number of ranks, and its figures in two files.

Legend: N clips, K classes, B clips of a batch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.classify import Classification, check_labels
from finetune.config import TASKS, FinetuneConfig
from finetune.evaluation_report import write_report
from finetune.gathering import gather_each_once
from finetune.metrics import Scores, Truths, class_rows, measure
from finetune.recipe import CONFIG, load_finetune_recipe, read_run
from finetune.specs import ClassificationSpec
from pretrain.engine import checkpoint
from pretrain.engine.allocator import thread_plan
from pretrain.engine.distributed import World, join_world
from pretrain.engine.training import build
from pretrain.export import newest_checkpoint
from pretrain.objective import Objective
from shards.errors import UserError
from shards.reading.batch import Batch


@dataclass(frozen=True)
class Tested:
    """The scores of all usable clips in the order of the set, what they should be, and who could not be used."""

    scores_NK: Scores
    truths_NK: Truths
    silent: int  # clips without sound, where a head listens
    bad: int


def evaluate(run: Path, data: Sequence[str], overrides: Sequence[str], name: str | None) -> dict[str, Any]:
    """Test a run's newest whole checkpoint and write what was found into its folder; give the figures of all."""
    config = load_tested(run, data, overrides)
    world = join_world()
    torch.set_num_threads(thread_plan(world.place.local_size))
    path, index = newest_checkpoint(run)
    objective = build(config)
    checkpoint.load_weights(path, index, objective)
    objective.cast_to = torch.bfloat16 if config.engine.precision == "bf16" else None
    objective = objective.eval().to(world.device)
    found = {
        "run": str(run),
        "step": index.step,
        "data": [source.root for source in config.data.sources],
        "data_digests": [source.manifest.digest() for source in config.data.open_sources()],
        "model": describe_model(config),
        **_tested(config, objective, world),
    }
    captions = found.pop("captions", None)
    if world.rank == 0:
        label = name or "+".join(Path(source.root.rstrip("/")).name for source in config.data.sources)
        found["files"] = [str(each) for each in write_report(run, f"{label}_step_{index.step:08d}", found, captions)]
    return found


def _tested(config: FinetuneConfig, objective: Objective, world: World) -> dict[str, Any]:
    """Give what the test of a task finds."""
    if isinstance(objective, Classification):
        return classify_all(config, objective, world)
    from finetune.captions.captioner import Captioner
    from finetune.captions.evaluation import caption_all

    assert isinstance(objective, Captioner)
    return caption_all(config, objective, world)


def load_tested(run: Path, data: Sequence[str], overrides: Sequence[str]) -> FinetuneConfig:
    """Give a run's settings with other shards in the place of its own."""
    tree = read_run(run)
    kind = (tree.get("objective") or {}).get("kind")
    if kind not in TASKS:
        by_texts = f", or ask it by texts: trichord zeroshot --data SHARDS --weights {run}"
        raise UserError(
            f"{run} is a run of {kind}, which gives no classes. Put a head on it: trichord finetune linear_probe "
            f"init_from.path={run} data.sources=SHARDS{by_texts if kind == 'video_text' else ''}"
        )
    sources = [f"data.sources={list(data)}"] if data else []
    config = load_finetune_recipe(run / CONFIG, [*sources, *overrides]).config
    if not data:
        print("note: these are the clips that it was trained on; --data SHARDS names others", file=sys.stderr)
    config.check_classes()
    return config


def classify_all(config: FinetuneConfig, objective: Classification, world: World) -> dict[str, Any]:
    """Tell the classes of every clip once, and how right they are."""
    tested = score(config, objective, world)
    return {
        "clips": len(tested.scores_NK),
        "bad": tested.bad,
        **({"silent": tested.silent} if "audio" in objective.spec.inputs else {}),
        "views": describe_views(objective.spec),
        **figures(objective.spec, tested),
    }


def score(config: FinetuneConfig, objective: Classification, world: World) -> Tested:
    """Score every clip once; all ranks take part and get the same."""
    spec = objective.spec

    def rows_of(batch: Batch) -> dict[str, Tensor]:
        truth_BK = torch.zeros(len(batch["key"]), spec.count, dtype=torch.uint8)
        for row, labels in enumerate(batch["labels"]):
            if batch["valid"][row]:
                check_labels(spec, labels, f"sample {batch['key'][row]} of {batch['shard'][row]}")
                truth_BK[row, list(labels)] = 1
        scores_BK = objective.scores(batch).float()
        return {"scores": scores_BK, "truths": truth_BK, "silent": (~batch["audio_present"]).to(torch.uint8)}

    found = gather_each_once(config.stream(), spec.test_spec(), world, rows_of)
    silent = int(found.rows["silent"].sum())
    return Tested(found.rows["scores"], found.rows["truths"] > 0, silent, found.bad)


def figures(spec: ClassificationSpec, tested: Tested) -> dict[str, Any]:
    """Give the metrics of the task, and a row for each class."""
    metrics, per_class = measure(tested.scores_NK, tested.truths_NK, spec.is_multi_label)
    return {"metrics": metrics, "classes": class_rows(spec.names, tested.truths_NK, per_class, spec.is_multi_label)}


def describe_model(config: FinetuneConfig) -> dict[str, object]:
    """Say what was tested: what tables compare runs by."""
    spec = config.objective
    kinds = [each.kind for each in (config.backbone, config.audio_backbone) if each is not None]
    starts = [init for init in (config.init_from, config.audio_init_from) if init is not None]
    return {
        "inputs": " + ".join(spec.inputs),
        "backbone": " + ".join(kinds),
        "pretrained": config.pretrained or (", ".join(init.path.name for init in starts) or "no"),
        "head": spec.head_words,
        "trained": spec.trained_words,
        "seed": config.seed,
    }


def describe_views(spec: ClassificationSpec) -> str:
    """Say how many views of a clip were averaged, and how."""
    kind = "logits" if spec.average == "logit" else "sigmoids" if spec.is_multi_label else "softmax"
    return f"{spec.test_views} views of a clip" + (f", {kind} averaged" if spec.test_views > 1 else "")
