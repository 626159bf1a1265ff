"""Evaluation of captions on shards: one for every clip, on any number of ranks, with intervals and a baseline.

The baseline is one constant caption for every clip. Where clips are resampled for an interval, the rarity of an n-gram
remains that of the whole set. For the synthetic data set it is also measured whether captions name the right colours,
shapes and actions: those that the references of a clip name together, all of which are true.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trichord.core.errors import UserError
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.evaluation.bootstrap import DRAWS, intervals, once
from trichord.finetune.evaluation.gather import gather_each_once
from trichord.finetune.tasks.captioning.model import Captioner
from trichord.finetune.tasks.captioning.scores import (
    METEOR_LIBRARY,
    TOKENS,
    ClipScores,
    References,
    check_meteor,
    meteor,
    words,
)
from trichord.pretrain.collectives import gather_texts
from trichord.pretrain.engine.distributed import World
from trichord.shards.reading.batch import Batch
from trichord.shards.synthetic.vocabulary import ACTIONS, COLOURS, SHAPES


def evaluate(config: FinetuneConfig, objective: Captioner, world: World, draw: object = None) -> dict[str, Any]:
    """Generate a caption for each clip and compute the metrics, the latter on rank 0; all ranks must call it."""
    spec = objective.spec
    if spec.meteor:
        check_meteor()  # before generating captions, which can take an hour
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
            of_synthetic=spec.factors == "synthetic",
            with_meteor=spec.meteor,
        )
        found |= {"metrics": measured.metrics, "figures": measured.rows, "notes": measured.notes}
    return found


def predict(config: FinetuneConfig, objective: Captioner, batch: Batch) -> list[str]:
    """Return a caption for each video of a batch."""
    return list(objective.generate(batch, config.seed).captions)


def write_captions(config: FinetuneConfig, objective: Captioner, world: World) -> tuple[list[dict[str, Any]], int]:
    """Return key, caption and references of each usable clip in data set order, and the number of unusable clips."""
    lines: list[str] = []

    def rows_of(batch: Batch) -> Mapping[str, Tensor]:
        generated = objective.generate(batch, config.seed)
        for row, key in enumerate(batch.key):
            if batch.valid[row]:
                texts = batch.text[row]
                clip = {
                    "position": batch.position[row],
                    "key": key,
                    "caption": generated.captions[row],
                    "log_prob": round(generated.log_probs[row], 4),
                    "references": texts.split("\n") if texts else [],
                }
                lines.append(json.dumps(clip, ensure_ascii=False))
        return {"position": torch.tensor(batch.position)}

    found = gather_each_once(config.stream(), objective.spec.test_spec(), world, rows_of)
    by_position = {clip.pop("position"): clip for clip in map(json.loads, gather_texts(lines))}
    return [by_position[position] for position in found.rows["position"].tolist()], found.bad


_CANDIDATES = 100  # most frequent references, from which the best constant caption is chosen
_COCO, _ROUGE = "ours, equal to pycocoevalcap 1.2", "ours, equal to rouge-score 0.1.2"
_LIBRARY = {
    **dict.fromkeys(("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"), _COCO),
    **dict.fromkeys(("ROUGE-1", "ROUGE-2"), _ROUGE),
}


@dataclass
class CaptionMetrics:
    """A row for each metric, and notes on them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        name: str,
        value: float,
        constant: float,
        library: str,
        interval: tuple[float | None, float | None] = (None, None),
    ) -> None:
        """Add a metric, with the value of one caption for every clip as baseline."""
        low, high = interval
        figures = {"metric": name, "value": float(value), "low": low, "high": high, "one caption": float(constant)}
        self.rows.append({**figures, "library": library})

    @property
    def metrics(self) -> dict[str, float]:
        """The values by metric."""
        return {row["metric"]: row["value"] for row in self.rows}


def measure(
    captions: Sequence[str], references: Sequence[Sequence[str]], seed: int, of_synthetic: bool, with_meteor: bool
) -> CaptionMetrics:
    """Measure captions against the references of their clips; every clip has at least one."""
    known = References(references)
    constant = best_constant(known, references)
    scored, baseline = (
        _score(known, each, references, of_synthetic) for each in (captions, [constant] * len(captions))
    )
    found, other = (each.figures(once(len(captions))) for each in (scored, baseline))
    ends = intervals(scored.figures, len(captions), seed)
    measured = CaptionMetrics()
    for name in found:
        if np.isnan(found[name][0]):  # no clip counts
            continue
        low, high = ends[name].tolist()
        measured.add(name, found[name][0], other[name][0], _LIBRARY.get(name, "share of clips"), (low, high))
    measured.notes.append(f"words compared: {TOKENS}; intervals: middle 95 % of {DRAWS} resampled sets of clips")
    measured.notes.append(f"one caption: the score of {constant!r} for every clip (the best of common references)")
    if with_meteor:
        own, other_one = meteor([captions, [constant] * len(captions)], references)
        measured.add("METEOR", own, other_one, METEOR_LIBRARY)
    else:
        measured.notes.append("METEOR is left out: it is a Java program, which objective.meteor=true enables")
    distinct = len({words(caption) for caption in captions})
    measured.add("distinct captions", distinct / len(captions), 1 / len(captions), "share of clips")
    return measured


def best_constant(known: References, references: Sequence[Sequence[str]]) -> str:
    """Return the caption that has the highest BLEU-4 for all clips, among the most frequent references."""
    shared = Counter(caption for clip in references for caption in dict.fromkeys(clip))
    candidates = [caption for caption, _ in shared.most_common(_CANDIDATES)]

    def of_every_clip(caption: str) -> float:
        return float(ClipScores(known.bleu_rows([caption] * len(known)), {}).figures(once(len(known)))["BLEU-4"][0])

    return max(candidates, key=of_every_clip)


def _score(
    known: References, captions: Sequence[str], references: Sequence[Sequence[str]], of_synthetic: bool
) -> ClipScores:
    scored = known.score(captions)
    right = accuracy(captions, references) if of_synthetic else {}
    return replace(scored, means_N={**scored.means_N, **right})


FACTORS = ("colour", "shape", "action")
ALL = "all three"
Named = Mapping[str, frozenset[str]]


def _phrases() -> Iterator[tuple[str, str, str]]:
    for action, wording in ACTIONS.items():
        yield from (("action", action, phrase) for both in wording.phrases for phrase in both)
    yield from (("colour", colour, colour) for colour in COLOURS)
    yield from (("shape", shape, shape) for shape in SHAPES)


# Longest first: "swells and shrinks again" means to pulse, not to grow, and "circles" is not a circle.
_MEANING = {" ".join(words(phrase)): (factor, value) for factor, value, phrase in _phrases()}
_PHRASE = re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, _MEANING), key=len, reverse=True))})\b")


def named(caption: str) -> Named:
    """Return the values of each factor that a caption names."""
    found: dict[str, set[str]] = {factor: set() for factor in FACTORS}
    for match in _PHRASE.finditer(" ".join(words(caption))):
        factor, value = _MEANING[match[0]]
        found[factor].add(value)
    return {factor: frozenset(values) for factor, values in found.items()}


def accuracy(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, NDArray[np.float64]]:
    """Return for each clip whether its caption names what its references do: 1 or 0, NaN if these name nothing."""
    found: dict[str, list[float]] = {name: [] for name in (*FACTORS, ALL)}
    for caption, truths in zip(captions, references, strict=True):
        own, true = named(caption), [named(each) for each in truths]
        wanted = {factor: frozenset().union(*(each[factor] for each in true)) for factor in FACTORS}
        for factor in FACTORS:
            found[factor].append(float(own[factor] == wanted[factor]) if wanted[factor] else math.nan)
        found[ALL].append(float(own == wanted) if all(wanted.values()) else math.nan)
    return {f"right {name}": np.array(each) for name, each in found.items()}
