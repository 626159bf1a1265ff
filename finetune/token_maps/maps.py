"""What a backbone makes of the places of its frames: where its class tokens look, and the main directions of tokens.

Legend: B clips, C colours, T frames, H and W pixels; t steps, n = h x w places of tokens, N = B t or B, L tokens that
attend to each other, P places that do so side by side, D features, M = t n tokens of a clip, c three directions.

How a run of any kind looks at a video: by its backbone, at one clip over all of it, nothing left to chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from trichord.core.errors import UserError
from trichord.finetune.opening import OpenedRun
from trichord.pretrain.backbones.base import Backbone
from trichord.pretrain.layers.transformer import Attention
from trichord.shards.reading.batch import Batch
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import Segments
from trichord.shards.transforms.normalise import Normalisation
from trichord.shards.transforms.view_specs import CentreCrop, ViewSpec, ViewsSpec

DIRECTIONS = 3  # as many as a picture has colours


class Places(NamedTuple):
    """How much each place says, and by what."""

    kind: Literal["attention", "similarity"]
    weight_Bthw: Tensor


@torch.no_grad()
def attended_places(backbone: Backbone, pixels_BCTHW: Tensor) -> Places:
    """Say where class tokens look in the last layer where they do, the mean over heads.

    Where there is no such layer: how alike each token and the pooled vector are, their cosine where it is above 0.
    """
    attention = backbone.class_attention
    if attention is None:
        pooled_BD, grid_BtnD = backbone(pixels_BCTHW)
        alike_Btn = functional.cosine_similarity(grid_BtnD, pooled_BD[:, None, None], dim=-1).clamp_min(0)
        return Places("similarity", _as_picture(alike_Btn.float(), pixels_BCTHW))
    seen: list[Tensor] = []

    def look_in(module: Attention, given: tuple[Tensor, int]) -> None:
        seen.append(module.first_looks_at(given[0]))

    hook = attention.register_forward_pre_hook(look_in)
    try:
        _, grid_BtnD = backbone(pixels_BCTHW)
    finally:
        hook.remove()
    clips, steps, places = grid_BtnD.shape[:3]
    (weight_NLP,) = seen
    weight_NL = weight_NLP[:, :, 0]
    behind = steps * places if len(weight_NL) == clips else places  # all places of a clip, or those of a step
    weight_Btn = weight_NL[:, 1 : 1 + behind].reshape(clips, steps, places)
    return Places("attention", _as_picture(weight_Btn.float(), pixels_BCTHW))


@torch.no_grad()
def main_directions(backbone: Backbone, pixels_BCTHW: Tensor) -> Tensor:
    """Give Bthwc: how far each token lies along the first three principal components of its clip's, from 0 to 1."""
    _, grid_BtnD = backbone(pixels_BCTHW)
    clips, steps, places = grid_BtnD.shape[:3]
    along_BMc = torch.stack([_along_components(tokens_MD) for tokens_MD in grid_BtnD.flatten(1, 2).float()])
    lowest_B1c, highest_B1c = along_BMc.amin(dim=1, keepdim=True), along_BMc.amax(dim=1, keepdim=True)
    spread_BMc = (along_BMc - lowest_B1c) / (highest_B1c - lowest_B1c).clamp_min(1e-12)
    rows, columns = _rows_and_columns(places, pixels_BCTHW)
    return spread_BMc.view(clips, steps, rows, columns, DIRECTIONS)


def _along_components(tokens_MD: Tensor) -> Tensor:
    centred_MD = tokens_MD - tokens_MD.mean(dim=0)
    components_cD = torch.linalg.svd(centred_MD.double(), full_matrices=False).Vh[:DIRECTIONS]
    # A component may as well point the other way: its largest feature is to be above 0, so that colours stay.
    largest_c1 = components_cD.gather(1, components_cD.abs().argmax(dim=1, keepdim=True))
    along_Mc = (centred_MD.double() @ (components_cD * largest_c1.sign()).T).float()
    padded_Mc: Tensor = functional.pad(along_Mc, (0, DIRECTIONS - along_Mc.shape[1]))
    return padded_Mc


def _as_picture(weight_Btn: Tensor, pixels_BCTHW: Tensor) -> Tensor:
    weight_Bthw: Tensor = weight_Btn.unflatten(2, _rows_and_columns(weight_Btn.shape[2], pixels_BCTHW))
    return weight_Bthw


def _rows_and_columns(places: int, pixels_BCTHW: Tensor) -> tuple[int, int]:
    """Take places apart, which are row by row, by the shape of the pictures; tokens stand for squares."""
    height, width = pixels_BCTHW.shape[3:]
    rows = max(1, round((places * height / width) ** 0.5))
    if places % rows:
        raise ValueError(f"{places} places are no grid of a picture of {height}x{width}")
    return rows, places // rows


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
