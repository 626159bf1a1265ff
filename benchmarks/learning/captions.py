"""Do captions tell more of what a pretrained backbone sees? Captions of the world in Charades' layout.

The same small GPT-2 learns to write from the tokens of a frozen backbone: pretrained by video and text, and untrained.
Beside its captions of unseen videos stands the best single caption, said of every one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.learning.starts import VIDEO_TEXT, Task, ends, interval_rows, learn
from benchmarks.learning.svt_report import Rows
from benchmarks.learning.ways import UNTRAINED, Goal, judge, report, row
from benchmarks.learning.worlds import make_worlds
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.evaluate import evaluate
from trichord.finetune.tasks.captioning.measuring import ALL, FACTORS

RECIPE, FOLDER = "captions", "captions"
STILL = ("objective.clips.placement=centre", "objective.view.crop.kind=squash")  # so that features can be kept
WAYS = (UNTRAINED, VIDEO_TEXT)
RIGHT = tuple(f"right {factor}" for factor in (*FACTORS, ALL))
FIGURES = (*(f"BLEU-{n}" for n in range(1, 5)), "ROUGE-1", "ROUGE-2", "ROUGE-L", "CIDEr-D", *RIGHT)
DISTINCT = "distinct captions"
CONSTANT = "one caption"
GOALS: tuple[Goal, ...] = tuple((VIDEO_TEXT, UNTRAINED, name) for name in ("BLEU-4", "CIDEr-D", *RIGHT))


def run_and_report(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> dict[str, Rows]:
    """Run the test, keep everything in captions/results.json, and give the tables to show by their titles."""
    worlds = make_worlds(out, clips)
    results = learn(out, Task(RECIPE, STILL, FOLDER, WAYS, figures_of_run), worlds, seeds, overrides)
    constant = results[0][UNTRAINED].figures
    tables = {
        f"captions of unseen videos, times 100, beside {CONSTANT} for all: mean of the seeds ± half their range": [
            row(results, WAYS, name, f"{100 * constant[f'{name}, {CONSTANT}']:.1f}") for name in (*FIGURES, DISTINCT)
        ],
        "each seed, and the 95 % interval of its videos drawn again, times 100": interval_rows(
            seeds, results, ("BLEU-4", "CIDEr-D", *RIGHT)
        ),
        "goals, times 100": [verdict.row() for verdict in judge(results, GOALS)],
    }
    return report(out / FOLDER, seeds, results, tables)


def figures_of_run(config: FinetuneConfig, run: Path, data: str) -> dict[str, float]:
    """Test a run's captions; give each figure, the ends of its interval, and that of one caption for every clip."""
    found: dict[str, float] = {}
    for each in evaluate(run, [data], ["objective.factors=world"], name="test")["figures"]:
        name, low, high = each["metric"], each["low"], each["high"]
        found |= {name: each["value"], f"{name}, {CONSTANT}": each[CONSTANT]}
        if low is not None:
            found |= dict(zip(ends(name), (low, high), strict=True))
    return found
