"""The work of each rank of these tests: evaluation of weights on shards, with random classes and several alphas.

python -m tests.finetune.zeroshot.ranks SHARDS FINE_TUNED ZERO_SHOT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from trichord.finetune.zeroshot.candidates import ClassDraws
from trichord.finetune.zeroshot.classifier import Recogniser
from trichord.finetune.zeroshot.evaluate import EvaluatedWeights, ZeroShotResult, ZeroShotTest, evaluate
from trichord.finetune.zeroshot.loading import load_video_text
from trichord.finetune.zeroshot.spec import ZeroShotSpec
from trichord.pretrain.engine.distributed import World, join_world, leave_world

ALPHAS = (0.0, 0.5, 1.0)
SPEC = ZeroShotSpec(prompts="video", clips=2, crops=3)


def ask(
    shards: Path, fine_tuned: Path, zero_shot: Path, draws: ClassDraws | None, world: World
) -> list[ZeroShotResult]:
    """Evaluate as the command does."""
    line = EvaluatedWeights(Recogniser(load_video_text(fine_tuned), world.device), load_video_text(zero_shot), ALPHAS)
    return evaluate(line, SPEC, ZeroShotTest((str(shards),), draws=draws, batch_size=2), world)


def _main(shards: Path, fine_tuned: Path, zero_shot: Path) -> None:
    answers = ask(shards, fine_tuned, zero_shot, ClassDraws(2, 3, seed=1), join_world())
    about = [[each.names, each.alpha, each.scores_NK.tolist(), each.truths_NK.tolist(), each.bad] for each in answers]
    print("\n" + json.dumps(about))
    leave_world()


if __name__ == "__main__":
    torch.set_num_threads(1)
    _main(*map(Path, sys.argv[1:]))
