"""`trichord bench learning` with what this floor measures besides: actions in Charades' layout, captions, variants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trichord.pretrain.bench.learning_command import STUDIES, Study, Tables, learning_command


def _charades(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> Tables:
    from trichord.finetune.bench.charades import run_and_report

    return run_and_report(out, seeds, clips, overrides)


def _captions(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> Tables:
    from trichord.finetune.bench.captions import run_and_report

    return run_and_report(out, seeds, clips, overrides)


def _variants(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> Tables:
    from trichord.finetune.bench.variants import run_and_report

    return run_and_report(out, seeds, clips, overrides)


_CLIPS = 1600
LEARNING = learning_command(
    {
        **STUDIES,
        "charades": Study(_CLIPS, _charades, "trichord bench learning --objective charades --out runs/heads"),
        "captions": Study(_CLIPS, _captions, "trichord bench learning --objective captions --out runs/heads"),
        "variants": Study(_CLIPS, _variants, "trichord bench learning --objective variants --out runs/heads --seeds 1"),
    }
)
