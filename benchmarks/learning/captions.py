"""Are captions better with a pretrained backbone? Captions of synthetic clips in the layout of Charades.

The same small GPT-2 learns to generate from the tokens of a frozen backbone: pretrained by video and text, and
untrained. Its captions of unseen videos are compared with the best constant caption.

A sweep compares six variants on one backbone, pretrained by video and text: frozen or trained, its pooled vector or all
of its tokens, mapped or not, of one clip or of several. `trichord compare OUT/variants` prints the runs again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.learning.experiment import UNTRAINED, Goal, Rows, Seed, WayResult, check_goals, figure, report, row
from benchmarks.learning.synthetic_clips import make_head_shards
from benchmarks.learning.transfer import (
    VIDEO_TEXT,
    HeadTask,
    PretrainedBackbones,
    ends,
    interval_rows,
    keep_features,
    learn,
    learn_head,
    run_name,
)
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.evaluation.evaluate import evaluate
from trichord.finetune.tasks.captioning.evaluation import ALL, FACTORS

RECIPE, FOLDER = "captions", "captions"
STILL = ("objective.clips.placement=centre", "objective.view.crop.kind=squash")  # so that features can be kept
WAYS = (UNTRAINED, VIDEO_TEXT)
RIGHT = tuple(f"right {factor}" for factor in (*FACTORS, ALL))
FIGURES = (*(f"BLEU-{n}" for n in range(1, 5)), "ROUGE-1", "ROUGE-2", "ROUGE-L", "CIDEr-D", *RIGHT)
DISTINCT = "distinct captions"
CONSTANT = "one caption"
GOALS: tuple[Goal, ...] = tuple((VIDEO_TEXT, UNTRAINED, name) for name in ("BLEU-4", "CIDEr-D", *RIGHT))
VARIANTS_FOLDER = "variants"
_AS_WIDE = "objective.language.dim=64"  # that of the backbone, which variants without a mapping require
_POOLED, _ALL = ("objective.memory={tokens: pooled, mapping: none}", "objective.memory={tokens: all, mapping: none}")
_SEVERAL = "{kind: window, clip_seconds: 1.0, placement: uniform, clips: 3}"
# A small learning rate keeps most of what the backbone has learnt.
_TRAINED = ("objective.frozen=false", "optimiser.rules.lr_scales={'video.backbone.*': 0.1}")
VARIANTS: dict[str, tuple[str, ...]] = {
    "frozen, pooled vector": (_POOLED,),
    "frozen, all tokens": (_ALL,),
    "frozen, all tokens, mapped": ("objective.memory={tokens: all, mapping: linear}",),
    "frozen, pooled vectors of 3 clips": (_POOLED, f"objective.clips={_SEVERAL}", f"objective.test_clips={_SEVERAL}"),
    "trained, pooled vector": (_POOLED, *_TRAINED),
    "trained, all tokens": (_ALL, *_TRAINED),
}
# Published figures of two models on Charades, by other code: they show the shape of a table and are not comparable.
_PUBLISHED = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-1", "ROUGE-2")
THEIRS: dict[str, tuple[float, ...]] = {
    "theirs, on Charades: SVT + GPT-2": (22.48, 10.56, 4.87, 2.50, 31.01, 7.94),
    "theirs, on Charades: VideoMamba + GPT-2": (23.33, 10.43, 4.65, 2.33, 28.84, 6.51),
}


def run_and_report(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> dict[str, Rows]:
    """Run the experiment, write everything to captions/results.json, and return the tables by title."""
    shards = make_head_shards(out, clips)
    results = learn(out, HeadTask(RECIPE, STILL, FOLDER, WAYS, figures_of_run), shards, seeds, overrides)
    constant = results[0][UNTRAINED].figures
    tables = {
        f"captions of unseen videos, times 100, beside {CONSTANT} for all: mean of the seeds ± half their range": [
            row(results, WAYS, name, f"{100 * constant[f'{name}, {CONSTANT}']:.1f}") for name in (*FIGURES, DISTINCT)
        ],
        "each seed, and the bootstrap 95 % interval over its videos, times 100": interval_rows(
            seeds, results, ("BLEU-4", "CIDEr-D", *RIGHT)
        ),
        "goals, times 100": [check.row() for check in check_goals(results, GOALS)],
    }
    return report(out / FOLDER, seeds, results, tables)


def figures_of_run(config: FinetuneConfig, run: Path, data: str) -> dict[str, float]:
    """Evaluate the captions of a run; return each figure, its interval, and the figure of the constant caption."""
    found: dict[str, float] = {}
    for each in evaluate(run, [data], ["objective.factors=synthetic"], name="test")["figures"]:
        name, low, high = each["metric"], each["low"], each["high"]
        found |= {name: each["value"], f"{name}, {CONSTANT}": each[CONSTANT]}
        if low is not None:
            found |= dict(zip(ends(name), (low, high), strict=True))
    return found


def run_and_report_variants(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> dict[str, Rows]:
    """Run all variants, write everything to variants/results.json, and return the tables by title."""
    shards = make_head_shards(out, clips)
    results: list[Seed] = []
    for seed in seeds:
        backbones = PretrainedBackbones(out, shards, seed, overrides)
        backbones.pretrain([VIDEO_TEXT])
        found: dict[str, WayResult] = {}
        for name, settings in VARIANTS.items():
            run = out / VARIANTS_FOLDER / run_name(name, seed)
            own = () if _TRAINED[0] in settings else (keep_features(run),)
            config = backbones.head_config(VIDEO_TEXT, RECIPE, (*STILL, _AS_WIDE, *settings, *own))
            found[name] = learn_head(config, run, shards.test, figures_of_run)
        results.append(found)
    title = "variants of captions of unseen videos, times 100: mean of the seeds ± half their range"
    return report(out / VARIANTS_FOLDER, seeds, results, {title: variant_rows(results)})


def variant_rows(results: Sequence[Seed]) -> Rows:
    """Return a row for each variant with a column for each figure, the constant caption, and the published models."""
    names = (*FIGURES, DISTINCT)
    rows: Rows = [
        {"variant": variant, **{name: str(figure(results, variant, name)) for name in names}} for variant in VARIANTS
    ]
    constant = results[0][next(iter(VARIANTS))].figures
    rows.append({"variant": CONSTANT, **{name: f"{100 * constant[f'{name}, {CONSTANT}']:.1f}" for name in names}})
    for model, values in THEIRS.items():
        published = dict(zip(_PUBLISHED, values, strict=True))
        rows.append(
            {"variant": model, **{name: f"{published[name]:.1f}" if name in published else "-" for name in names}}
        )
    return rows
