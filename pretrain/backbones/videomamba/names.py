"""Tensor names of VideoMamba as released: trained on images, on videos, and by unmasking, which has its own head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trichord.pretrain.weights.naming import Family, Table

if TYPE_CHECKING:
    from torch import Tensor

_PATCHES = "patch_embed.proj.weight"
_THEIRS, _OURS = "layers.{n}.mixer.", "backbone.blocks.{n}.mixer."
_TABLE: Table = (
    (f"{_THEIRS}A_b_log", f"{_OURS}back.A_log"),
    (f"{_THEIRS}D_b", f"{_OURS}back.D"),
    (f"{_THEIRS}conv1d_b.{{rest}}", f"{_OURS}back.conv1d.{{rest}}"),
    (f"{_THEIRS}x_proj_b.{{rest}}", f"{_OURS}back.x_proj.{{rest}}"),
    (f"{_THEIRS}dt_proj_b.{{rest}}", f"{_OURS}back.dt_proj.{{rest}}"),
    (f"{_THEIRS}in_proj.{{rest}}", f"{_OURS}in_proj.{{rest}}"),
    (f"{_THEIRS}out_proj.{{rest}}", f"{_OURS}out_proj.{{rest}}"),
    (f"{_THEIRS}{{rest}}", f"{_OURS}ahead.{{rest}}"),
    ("layers.{n}.norm.weight", "backbone.blocks.{n}.norm.weight"),
    ("norm.weight", "backbone.norm_f.weight"),  # in files pretrained by unmasking
    ("clip_decoder.{rest}", "clip_decoder.{rest}"),
    ("head.{rest}", "classifier.{rest}"),
    ("{rest}", "backbone.{rest}"),
)


def _with_flat_patches(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the time axis of patch kernels, of length 1, which files trained on videos have and others do not."""
    patches = tensors.get(_PATCHES)
    if patches is None or patches.ndim != 5 or patches.shape[2] != 1:
        return dict(tensors)
    return dict(tensors) | {_PATCHES: patches.squeeze(2)}


FAMILIES = (Family("VideoMamba", "layers.0.mixer.A_b_log", _TABLE, _with_flat_patches),)
