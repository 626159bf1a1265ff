"""Tests captions on shards: one for every clip, whatever the number of ranks, and their figures."""

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
    """Write a caption of each clip and measure them all; all ranks take part, the first one measures."""
    spec = objective.spec
    if spec.meteor:
        meteor.check()  # before an hour of captions
    clips, bad = write_captions(config, objective, world)
    compared = [clip for clip in clips if clip["references"]]
    if not compared:
        roots = ", ".join(source.root for source in config.data.sources)
        raise UserError(f"{roots} has no captions to compare with. Name shards that have: --data SHARDS")
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
    """Give key, caption and references of each usable clip in the order of the sets, and how many are not usable."""
    lines: list[str] = []

    def rows_of(batch: Batch) -> Mapping[str, Tensor]:
        said = objective.tell(batch, config.seed)
        for row, key in enumerate(batch["key"]):
            if batch["valid"][row]:
                texts = batch["text"][row]
                clip = {
                    "position": batch["position"][row],
                    "key": key,
                    "caption": said.captions[row],
                    "log_prob": round(said.log_probs[row], 4),
                    "references": texts.split("\n") if texts else [],
                }
                lines.append(json.dumps(clip, ensure_ascii=False))
        return {"position": torch.tensor(batch["position"])}

    found = gather_each_once(config.stream(), objective.spec.test_spec(), world, rows_of)
    told = {clip.pop("position"): clip for clip in map(json.loads, gather_texts(lines))}
    return [told[position] for position in found.rows["position"].tolist()], found.bad
