"""Evaluates captions on shards: exactly one for every clip, for any number of ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trichord.core.errors import UserError
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.gathering import gather_each_once
from trichord.finetune.tasks.captioning import meteor
from trichord.finetune.tasks.captioning.measuring import measure
from trichord.finetune.tasks.captioning.model import Captioner
from trichord.pretrain.collectives import gather_texts
from trichord.pretrain.engine.distributed import World
from trichord.shards.reading.batch import Batch


def evaluate(config: FinetuneConfig, objective: Captioner, world: World, draw: object = None) -> dict[str, Any]:
    """Generate a caption for each clip and compute the metrics, the latter on rank 0; all ranks must call it."""
    spec = objective.spec
    if spec.meteor:
        meteor.check()  # before generating captions, which can take an hour
    clips, bad = write_captions(config, objective, world)
    compared = [clip for clip in clips if clip["references"]]
    if not compared:
        roots = ", ".join(source.root for source in config.data.sources)
        raise UserError(f"{roots} has no captions to compare with. Next: name shards with captions: --data SHARDS")
    seen = "1 clip of a video" if spec.clip_count == 1 else f"{spec.clip_count} clips of a video together"
    found: dict[str, Any] = {
        "clips": len(clips),
        "bad": bad,
        "without_caption": len(clips) - len(compared),
        "views": f"{seen}, {spec.decoding.words}",
        "captions": clips,
    }
    if world.rank == 0:
        measured = measure(
            [clip["caption"] for clip in compared],
            [clip["references"] for clip in compared],
            config.seed,
            of_world=spec.factors == "world",
            with_meteor=spec.meteor,
        )
        found |= {"metrics": measured.metrics, "figures": measured.rows, "notes": measured.notes}
    return found


def write_captions(config: FinetuneConfig, objective: Captioner, world: World) -> tuple[list[dict[str, Any]], int]:
    """Return key, caption and references of each usable clip in data set order, and the number of unusable clips."""
    lines: list[str] = []

    def rows_of(batch: Batch) -> Mapping[str, Tensor]:
        generated = objective.tell(batch, config.seed)
        for row, key in enumerate(batch["key"]):
            if batch["valid"][row]:
                texts = batch["text"][row]
                clip = {
                    "position": batch["position"][row],
                    "key": key,
                    "caption": generated.captions[row],
                    "log_prob": round(generated.log_probs[row], 4),
                    "references": texts.split("\n") if texts else [],
                }
                lines.append(json.dumps(clip, ensure_ascii=False))
        return {"position": torch.tensor(batch["position"])}

    found = gather_each_once(config.stream(), objective.spec.test_spec(), world, rows_of)
    by_position = {clip.pop("position"): clip for clip in map(json.loads, gather_texts(lines))}
    return [by_position[position] for position in found.rows["position"].tolist()], found.bad
