"""The initial weights of a pretraining run, if its config names any."""

from __future__ import annotations

from trichord.pretrain.backbones.base import AudioBackbone, Backbone, TextBackbone
from trichord.pretrain.config import RunConfig
from trichord.pretrain.objectives.base import Objective
from trichord.pretrain.weights.load import load_published, load_text


def begin(run: RunConfig, objective: Objective) -> None:
    """Load the weights of files into a new objective's backbones."""
    if run.init_from:
        load_published(run.init_from, objective, Backbone)  # type: ignore[type-abstract]
    if run.audio_init_from:
        load_published(run.audio_init_from, objective, AudioBackbone)  # type: ignore[type-abstract]
    for text in [module for module in objective.modules() if isinstance(module, TextBackbone)]:
        text.load_own()
        if run.text_init_from:
            load_text(run.text_init_from, text)
