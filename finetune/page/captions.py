"""Caption of a captioner for one video."""

from __future__ import annotations

from typing import cast

from trichord.finetune.opening import OpenedRun
from trichord.finetune.page.actions import Facts, Prediction
from trichord.finetune.tasks.captioning.model import Captioner
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.reading.single import batch_of
from trichord.shards.record import RawSample


def predict_caption(opened: OpenedRun, raw: RawSample, facts: Facts, limits: DecodeLimits) -> Prediction:
    """Return a caption of a video with its log-probability."""
    objective = cast(Captioner, opened.objective)
    device = next(objective.parameters()).device
    decoded = objective.tell(batch_of(raw, objective.spec.test_spec(), limits, device), opened.config.seed)
    return Prediction({"run": opened.run.name, "caption": decoded.captions[0], "log_prob": decoded.log_probs[0]})
