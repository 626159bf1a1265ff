"""Are heads better on a pretrained backbone? Actions in synthetic clips in the layout of Charades, several per clip.

The same linear head is trained on frozen backbones: pretrained by SVT, by video and text, and untrained. It is tested
window by window, with adjacent windows and with windows that overlap by half. The baseline is scores that are the same
for all videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.learning.experiment import (
    UNTRAINED,
    Goal,
    GoalCheck,
    Rows,
    Seed,
    check_goals,
    figure,
    report,
    row,
)
from benchmarks.learning.synthetic_clips import make_head_shards
from benchmarks.learning.transfer import RECIPES, HeadTask, ends, interval_rows, learn
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.evaluation.evaluate import evaluate
from trichord.finetune.tasks.classification.evaluation import ALIKE
from trichord.finetune.tasks.classification.spec import ClassificationSpec
from trichord.shards.transforms.clip_specs import SlidingWindows

RECIPE, FOLDER = "charades_synthetic", "heads"
STILL = ("objective.clips.placement=uniform",)  # so that features can be kept: the window in the middle of a video
WAYS = (UNTRAINED, *RECIPES)
FIGURES = ("mAP", "mAP_charades", "wAP_charades", "localisation_mAP_charades")
STRIDES = {"": 1.0, ", windows overlap": 0.5}  # in windows
GOALS: tuple[Goal, ...] = tuple((way, UNTRAINED, name) for way in RECIPES for name in FIGURES)


def run_and_report(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> dict[str, Rows]:
    """Run the experiment, write everything to heads/results.json, and return the tables by title."""
    shards = make_head_shards(out, clips)
    results = learn(out, HeadTask(RECIPE, STILL, FOLDER, WAYS, figures_of_run), shards, seeds, overrides)
    alike = results[0][UNTRAINED].figures
    tables = {
        "actions of unseen videos, per cent: mean of the seeds ± half their range": [
            row(results, WAYS, f"{name}{how}", f"{100 * alike[f'{name}, {ALIKE}']:.1f}")
            for name in FIGURES
            for how in STRIDES
        ],
        "each seed, and the bootstrap 95 % interval over its videos, per cent": interval_rows(
            seeds, results, ("mAP_charades", "wAP_charades")
        ),
        "goals, in per cent": [*(each.row() for each in check_goals(results, GOALS)), *overlap_rows(results)],
    }
    return report(out / FOLDER, seeds, results, tables)


def figures_of_run(config: FinetuneConfig, run: Path, data: str) -> dict[str, float]:
    """Evaluate the head of a run with all strides; return each figure and the ends of its interval."""
    assert isinstance(config.objective, ClassificationSpec) and isinstance(config.objective.test_clips, SlidingWindows)
    found: dict[str, float] = {}
    for how, share in STRIDES.items():
        stride = f"objective.test_clips.stride_seconds={share * config.objective.test_clips.clip_seconds}"
        for each in evaluate(run, [data], [stride], name=f"test_every_{share:g}")["figures"]:
            if each["metric"] in FIGURES:
                name = f"{each['metric']}{how}"
                found |= dict(zip((name, *ends(name)), (each["value"], each["low"], each["high"]), strict=True))
                found[f"{each['metric']}, {ALIKE}"] = each[ALIKE]
    return found


def overlap_rows(results: Sequence[Seed]) -> Rows:
    """Return whether overlapping windows lose anything: they do if they are behind by more than the spread of seeds."""
    rows: Rows = []
    for way in RECIPES:
        plain, overlapping = (figure(results, way, f"mAP_charades{how}") for how in STRIDES)
        assert plain is not None and overlapping is not None
        spread = max(plain.spread, overlapping.spread)
        check = GoalCheck(f"{way}: overlap loses nothing", "mAP_charades", overlapping.mean, plain.mean, spread)
        rows.append({**check.row(), "met": plain.mean - overlapping.mean <= spread})
    return rows
