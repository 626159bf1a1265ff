"""Files of CLIP and X-CLIP in the released format, with tiny random weights, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.pretrain.clip_manifests import Shapes, released_clip, released_xclip
from trichord.pretrain.backbones.clip_text import ClipTextSpec
from trichord.pretrain.backbones.xclip import XClipSpec

_SIZES = {"dim": 64, "depth": 1, "heads": 1, "patch": 8, "size": 16, "frames": 2, "joint_dim": 64, "joint_heads": 1}
XCLIP = XClipSpec.model_validate(_SIZES)
CLIP = XClipSpec.model_validate({**_SIZES, "frames": 8, "messages": False, "integration_depth": 0})
TEXT = ClipTextSpec(dim=64, depth=1, heads=1, joint_dim=64, length=16)


def random_tensors(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """Draw tensors that distinguish inputs, with a scale that does not make one class certain."""
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    return found | {"logit_scale": torch.tensor(4.5)}


def write_clip(path: Path, seed: int = 0) -> Path:
    """Write a file of CLIP."""
    save_file(random_tensors(released_clip(CLIP, TEXT), seed), path)
    return path


def write_xclip(path: Path, seed: int = 0) -> Path:
    """Write a file of X-CLIP, including video-specific prompts."""
    save_file(random_tensors(released_xclip(XCLIP, TEXT), seed), path)
    return path
