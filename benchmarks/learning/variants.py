"""The variants of captions that the seed of this project compared, as one sweep on the generated world.

All look at one backbone, pretrained by video and text: as it is or learning along, at its own vector or at all of its
tokens, as they are or mapped, of one clip or of several. `trichord compare OUT/variants` prints the runs again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.learning.captions import CONSTANT, DISTINCT, FIGURES, RECIPE, STILL, figures_of_run
from benchmarks.learning.starts import VIDEO_TEXT, Starts, folder_of, keep_features, learn_head
from benchmarks.learning.svt_report import Rows
from benchmarks.learning.ways import Seed, WayResult, figure, report
from benchmarks.learning.worlds import make_worlds

FOLDER = "variants"
_AS_WIDE = "objective.language.dim=64"  # as the backbone: without a map they have to be, and all are to be compared
_POOLED, _ALL = ("objective.memory={tokens: pooled, mapping: none}", "objective.memory={tokens: all, mapping: none}")
_SEVERAL = "{kind: window, clip_seconds: 1.0, placement: uniform, clips: 3}"
# What the backbone learnt is changed slowly.
_TRAINED = ("objective.frozen=false", "optimiser.rules.lr_scales={'video.backbone.*': 0.1}")
VARIANTS: dict[str, tuple[str, ...]] = {
    "frozen, pooled vector": (_POOLED,),
    "frozen, all tokens": (_ALL,),
    "frozen, all tokens, mapped": ("objective.memory={tokens: all, mapping: linear}",),
    "frozen, pooled vectors of 3 clips": (_POOLED, f"objective.clips={_SEVERAL}", f"objective.test_clips={_SEVERAL}"),
    "trained, pooled vector": (_POOLED, *_TRAINED),
    "trained, all tokens": (_ALL, *_TRAINED),
}


# What the seed's own two models got on Charades, by other code: to see its table's shape, not to be compared with ours.
_LIKE = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-1", "ROUGE-2")
THEIRS: dict[str, tuple[float, ...]] = {
    "theirs, on Charades: SVT + GPT-2": (22.48, 10.56, 4.87, 2.50, 31.01, 7.94),
    "theirs, on Charades: VideoMamba + GPT-2": (23.33, 10.43, 4.65, 2.33, 28.84, 6.51),
}


def run_and_report(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> dict[str, Rows]:
    """Run all variants, keep everything in variants/results.json, and give the tables to show by their titles."""
    worlds = make_worlds(out, clips)
    results: list[Seed] = []
    for seed in seeds:
        starts = Starts(out, worlds, seed, overrides)
        starts.pretrain([VIDEO_TEXT])
        found: dict[str, WayResult] = {}
        for name, settings in VARIANTS.items():
            run = out / FOLDER / folder_of(name, seed)
            own = () if _TRAINED[0] in settings else (keep_features(run),)
            config = starts.put_on(VIDEO_TEXT, RECIPE, (*STILL, _AS_WIDE, *settings, *own))
            found[name] = learn_head(config, run, worlds.test, figures_of_run)
        results.append(found)
    title = "variants of captions of unseen videos, times 100: mean of the seeds ± half their range"
    return report(out / FOLDER, seeds, results, {title: variant_rows(results)})


def variant_rows(results: Sequence[Seed]) -> Rows:
    """Give a line for each variant, a column for each figure; below them the best single caption, and the seed's."""
    names = (*FIGURES, DISTINCT)
    rows: Rows = [
        {"variant": variant, **{name: str(figure(results, variant, name)) for name in names}} for variant in VARIANTS
    ]
    constant = results[0][next(iter(VARIANTS))].figures
    rows.append({"variant": CONSTANT, **{name: f"{100 * constant[f'{name}, {CONSTANT}']:.1f}" for name in names}})
    for model, values in THEIRS.items():
        told = dict(zip(_LIKE, values, strict=True))
        rows.append({"variant": model, **{name: f"{told[name]:.1f}" if name in told else "-" for name in names}})
    return rows
