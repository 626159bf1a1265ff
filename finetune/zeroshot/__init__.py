"""Zero-shot recognition: classification of videos with texts only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trichord.finetune.zeroshot.classifier import Recogniser


def open_model(
    source: str | Path, *, part: str | None = None, backbone: Mapping[str, Any] | None = None, device: str | None = None
) -> Recogniser:
    """Load a run of video and text, or a file of X-CLIP or CLIP; `backbone` gives what a file's shapes do not."""
    import torch

    from trichord.finetune.zeroshot.classifier import Recogniser
    from trichord.finetune.zeroshot.opening import open_video_text
    from trichord.pretrain.engine.device import pick_device

    opened = open_video_text(Path(source), part, backbone)
    return Recogniser(opened, pick_device(0) if device is None else torch.device(device))
