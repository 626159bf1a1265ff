"""How a run of any kind looks at a video: by its backbone, at one clip over all of it, nothing left to chance."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trichord.core.errors import UserError
from trichord.finetune.opening import OpenedRun
from trichord.pretrain.backbones.base import Backbone
from trichord.shards.reading.batch import Batch
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.viewing.clip_specs import Segments
from trichord.shards.viewing.normalise import Normalisation
from trichord.shards.viewing.view_specs import CentreCrop, ViewSpec, ViewsSpec

_FRAMES = 8  # where neither the backbone nor the views say how many


@dataclass(frozen=True)
class Eyes:
    """A video backbone, and what it is given."""

    backbone: Backbone
    normalisation: Normalisation
    spec: SampleSpec

    def pixels(self, batch: Batch) -> Tensor:
        """Give the normalised frames of a batch of one clip each, BCTHW, where the backbone is."""
        device = next(self.backbone.parameters()).device
        return self.normalisation(batch["video"][0].to(device))


def eyes_of(opened: OpenedRun) -> Eyes:
    """Take the backbone that a run is there for; raise UserError where it has none that sees."""
    parts = opened.config.objective.parts
    part = "video" if "video" in parts else parts[0]
    backbone = getattr(getattr(opened.objective, part), "backbone", None)
    if not isinstance(backbone, Backbone):
        raise UserError(f"{opened.run} only listens: there is no video backbone to look through")
    return Eyes(backbone, opened.config.objective.normalisation, _whole_video(opened))


def _whole_video(opened: OpenedRun) -> SampleSpec:
    """Cut frames from equal parts of a video, as large as the backbone learnt from."""
    config = opened.config
    views = config.objective.views_seen()[-1]  # of a head, those of its tests
    frames = getattr(config.backbone, "frames", None) or max(views.clips.frame_counts, default=_FRAMES)
    crop = views.views[0].crop
    if crop.is_random or crop.count > 1:
        crop = CentreCrop(size=crop.size, short_side=crop.size)
    clips = Segments(frames=frames, placement="centre")
    return SampleSpec(views=ViewsSpec(clips=clips, views=(ViewSpec(crop=crop),)), timeline=True, is_training=False)
