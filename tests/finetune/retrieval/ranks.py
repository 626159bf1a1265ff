"""The work of each rank of these tests: evaluation of retrieval by captions, with a bank of other queries.

python -m tests.finetune.retrieval.ranks SHARDS WEIGHTS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from trichord.finetune.retrieval.embedder import Embedder
from trichord.finetune.retrieval.evaluate import RetrievalResult, RetrievalTest, evaluate
from trichord.pretrain.engine.distributed import World, join_world, leave_world


def ask(shards: Path, weights: Path, world: World) -> RetrievalResult:
    """Evaluate as the command does."""
    question = RetrievalTest(data=(str(shards),), bank=(str(shards),), batch_size=2)
    return evaluate(Embedder.load(weights, world.device), question, world)


def _main(shards: Path, weights: Path) -> None:
    answer = ask(shards, weights, join_world())
    print("\n" + json.dumps([answer.figures, answer.clips, answer.bad]))
    leave_world()


if __name__ == "__main__":
    torch.set_num_threads(1)
    _main(*map(Path, sys.argv[1:]))
