"""The sizes that were published, by name: what they are made of, where their weights are, what a view costs."""

from __future__ import annotations

from dataclasses import dataclass

from pretrain.backbones.spec import Spec
from pretrain.backbones.specs import TimeSformerSpec, ViViTSpec


@dataclass(frozen=True)
class Preset:
    """A published size."""

    spec: Spec
    weights: str  # whose files fit it
    giga_macs: float | None = None  # multiplications with an addition, of one view, as published or counted elsewhere


_OF_IMAGES = "begins with a ViT of images (timm, DINO)"
_TIMESFORMER = "TimeSformer (released .pyth, Hugging Face)"
_FLAX = f"released for flax alone; {_OF_IMAGES}"
_LARGE = {"dim": 1024, "depth": 24, "heads": 16}


def _vivit(model: str, **changes: object) -> ViViTSpec:
    return ViViTSpec.model_validate({"model": model} | changes)


PRESETS: dict[str, Preset] = {
    "timesformer-base": Preset(TimeSformerSpec(), f"{_TIMESFORMER}, SVT; {_OF_IMAGES}", 196),
    "timesformer-hr": Preset(TimeSformerSpec(frames=16, size=448), _TIMESFORMER, 1703),
    "timesformer-large": Preset(TimeSformerSpec(frames=96), _TIMESFORMER, 2380),
    "timesformer-large-64": Preset(TimeSformerSpec(frames=64), _TIMESFORMER, 1579),
    "vivit-1-b16x2": Preset(_vivit("joint"), f"ViViT (Hugging Face); {_OF_IMAGES}", 448),
    "vivit-2-b16x2": Preset(_vivit("factorised_encoder"), _FLAX, 284.4),
    "vivit-3-b16x2": Preset(_vivit("factorised_self_attention", pooled="mean"), _FLAX, 372.3),
    "vivit-4-b16x2": Preset(_vivit("factorised_dot_product", pooled="mean"), _FLAX, 277.1),
    "vivit-1-l16x2": Preset(_vivit("joint", **_LARGE), _FLAX, 1446),
    "vivit-2-l16x2": Preset(_vivit("factorised_encoder", time_depth=24, **_LARGE), _FLAX, 995.3),
}
