"""Maps of a backbone over its frames: attention of its class tokens, and principal components of its tokens.

A run of any kind is applied to a video through its backbone, on one clip that covers the whole video, with no random
transforms.

Legend: B clips, C colours, T frames, H and W pixels; t steps, n = h x w places of tokens, N = B t or B, L tokens that
attend to each other, P places that attend in parallel, D features, M = t n tokens of a clip, c three directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from trichord.core.errors import UserError
from trichord.finetune.loading import TrainedRun
from trichord.pretrain.backbones.base import Backbone
from trichord.pretrain.layers.transformer import Attention
from trichord.shards.reading.batch import Batch
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import Segments
from trichord.shards.transforms.crops import CentreCrop
from trichord.shards.transforms.normalise import Normalisation
from trichord.shards.transforms.view_specs import ViewSpec, ViewsSpec

DIRECTIONS = 3  # one for each colour channel of a picture


class Places(NamedTuple):
    """The weight of each place, and what the weight measures."""

    kind: Literal["attention", "similarity"]
    weight_Bthw: Tensor


@torch.no_grad()
def attended_places(backbone: Backbone, pixels_BCTHW: Tensor) -> Places:
    """Return the attention of class tokens in the last layer that has it, averaged over heads.

    Without such a layer, return the cosine similarity of each token to the pooled vector, clamped at 0.
    """
    attention = backbone.class_attention
    if attention is None:
        pooled_BD, grid_BtnD = backbone(pixels_BCTHW)
        similarity_Btn = functional.cosine_similarity(grid_BtnD, pooled_BD[:, None, None], dim=-1).clamp_min(0)
        return Places("similarity", _as_picture(similarity_Btn.float(), pixels_BCTHW))
    captured: list[Tensor] = []

    def capture(module: Attention, inputs: tuple[Tensor, int]) -> None:
        captured.append(module.first_token_weights(inputs[0]))

    hook = attention.register_forward_pre_hook(capture)
    try:
        _, grid_BtnD = backbone(pixels_BCTHW)
    finally:
        hook.remove()
    clips, steps, places = grid_BtnD.shape[:3]
    (weight_NLP,) = captured
    weight_NL = weight_NLP[:, :, 0]
    count = steps * places if len(weight_NL) == clips else places  # of a clip, or of one step
    weight_Btn = weight_NL[:, 1 : 1 + count].reshape(clips, steps, places)
    return Places("attention", _as_picture(weight_Btn.float(), pixels_BCTHW))


@torch.no_grad()
def main_directions(backbone: Backbone, pixels_BCTHW: Tensor) -> Tensor:
    """Return Bthwc: each token projected on the first three principal components of its clip, scaled to 0 to 1."""
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
    # The sign of a component is arbitrary: its largest feature is made positive, so that colours are reproducible.
    largest_c1 = components_cD.gather(1, components_cD.abs().argmax(dim=1, keepdim=True))
    along_Mc = (centred_MD.double() @ (components_cD * largest_c1.sign()).T).float()
    padded_Mc: Tensor = functional.pad(along_Mc, (0, DIRECTIONS - along_Mc.shape[1]))
    return padded_Mc


def _as_picture(weight_Btn: Tensor, pixels_BCTHW: Tensor) -> Tensor:
    weight_Bthw: Tensor = weight_Btn.unflatten(2, _rows_and_columns(weight_Btn.shape[2], pixels_BCTHW))
    return weight_Bthw


def _rows_and_columns(places: int, pixels_BCTHW: Tensor) -> tuple[int, int]:
    """Return the rows and columns of places in row-major order, by the shape of the frames; patches are square."""
    height, width = pixels_BCTHW.shape[3:]
    rows = max(1, round((places * height / width) ** 0.5))
    if places % rows:
        raise ValueError(f"{places} places do not form a grid for frames of {height}x{width}")
    return rows, places // rows


_FRAMES = 8  # if neither the backbone nor the views specify the number


@dataclass(frozen=True)
class VideoEncoder:
    """A video backbone and its input transforms."""

    backbone: Backbone
    normalisation: Normalisation
    spec: SampleSpec

    def pixels(self, batch: Batch) -> Tensor:
        """Return the normalised frames of a batch of one clip each, BCTHW, on the backbone's device."""
        device = next(self.backbone.parameters()).device
        return self.normalisation(batch.video[0].to(device))


def video_encoder_of(opened: TrainedRun) -> VideoEncoder:
    """Return the main video backbone of a run; raise UserError if it has none."""
    parts = opened.config.objective.parts
    part = "video" if "video" in parts else parts[0]
    backbone = getattr(getattr(opened.objective, part), "backbone", None)
    if not isinstance(backbone, Backbone):
        raise UserError(f"{opened.run} has no video backbone, only an audio backbone; expected a run with video")
    return VideoEncoder(backbone, opened.config.objective.normalisation, _whole_video(opened))


def _whole_video(opened: TrainedRun) -> SampleSpec:
    """Return a spec with frames from equal parts of a video, in the size that the backbone was trained on."""
    config = opened.config
    views = config.objective.encoded_views()[-1]  # for a head, the views of its tests
    frames = getattr(config.backbone, "frames", None) or max(views.clips.frame_counts, default=_FRAMES)
    crop = views.views[0].crop
    if crop.is_random or crop.count > 1:
        crop = CentreCrop(size=crop.size, short_side=crop.size)
    clips = Segments(frames=frames, placement="centre")
    return SampleSpec(views=ViewsSpec(clips=clips, views=(ViewSpec(crop=crop),)), timeline=True, is_training=False)
