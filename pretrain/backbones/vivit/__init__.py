"""The settings of a ViViT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from trichord.pretrain.backbones.spec import FROM_IMAGES, BackboneSpec, Size


class ViViTSpec(BackboneSpec):
    """ViViT; by default model 1 of size B/16x2: joint attention among tubelets of 2 frames."""

    builds: ClassVar[str] = "trichord.pretrain.backbones.vivit.model:ViViT"
    file_names: ClassVar[str] = "trichord.pretrain.backbones.vivit.names:FAMILIES"

    kind: Literal["vivit"] = "vivit"
    model: Literal["joint", "factorised_encoder", "factorised_self_attention", "factorised_dot_product"] = "joint"
    """The paper's models 1 to 4: attention among all tubelets, an encoder of space followed by one of time, attention
    along space and then time in each block, or half of the heads for each."""
    frames: PositiveInt = 32
    dim: PositiveInt = 768
    """Number of features of a token."""
    depth: PositiveInt = 12
    """Number of transformer blocks; for `factorised_encoder`, those of the first, spatial encoder."""
    heads: PositiveInt = 12
    """Number of attention heads, which must divide `dim`; even for `factorised_dot_product`."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Width of the MLP in each block, as a multiple of `dim`."""
    patch: PositiveInt = 16
    """Height and width of a tubelet in pixels; sizes of views must be multiples of it."""
    tubelet: PositiveInt = 2
    """Number of frames of a tubelet, of which the frames of a clip must be a multiple; 1 is the paper's uniform frame
    sampling."""
    time_depth: NonNegativeInt = 4
    """Number of blocks of the second encoder of `factorised_encoder`, over time; 0 averages over time steps instead."""
    pooled: Literal["class", "mean"] = "class"
    """Pooled vector of a clip, and in a factorised encoder of a time step: the class token, or the mean of the
    tokens."""
    first_tubelets: Literal["central", "inflated"] = "central"
    """How weights of an image model fill a tubelet: `central` applies them to its middle frame, `inflated` to the mean
    of its frames."""

    @property
    def size_step(self) -> int:
        return self.patch

    @property
    def frame_step(self) -> int:
        return self.tubelet

    @model_validator(mode="after")
    def _is_possible(self) -> ViViTSpec:
        if self.dim % self.heads:
            raise ValueError(f"expected dim to be a multiple of heads, found dim {self.dim} and heads {self.heads}")
        if self.size % self.patch:
            raise ValueError(f"expected size to be a multiple of patch, found size {self.size} and patch {self.patch}")
        if self.frames % self.tubelet:
            raise ValueError(
                f"expected frames to be a multiple of tubelet, found frames {self.frames} and tubelet {self.tubelet}"
            )
        if self.model in ("factorised_self_attention", "factorised_dot_product") and self.pooled == "class":
            raise ValueError(f"model '{self.model}' has no class token: expected pooled 'mean'")
        if self.model == "factorised_dot_product" and self.heads % 2:
            raise ValueError(f"half of the heads attend along time: expected heads to be even, found {self.heads}")
        return self

    @classmethod
    def sizes(cls) -> Mapping[str, Size]:
        large = {"dim": 1024, "depth": 24, "heads": 16}
        flax = f"released for Flax only; {FROM_IMAGES}"
        hugging_face = f"ViViT (Hugging Face); {FROM_IMAGES}"

        def size(weights: str, giga_macs: float, model: str, **more: object) -> Size:
            return Size(cls.model_validate({"model": model} | more), weights, giga_macs)

        return {
            "vivit-1-b16x2": size(hugging_face, 448, "joint"),
            "vivit-2-b16x2": size(flax, 284.4, "factorised_encoder"),
            "vivit-3-b16x2": size(flax, 372.3, "factorised_self_attention", pooled="mean"),
            "vivit-4-b16x2": size(flax, 277.1, "factorised_dot_product", pooled="mean"),
            "vivit-1-l16x2": size(flax, 1446, "joint", **large),
            "vivit-2-l16x2": size(flax, 995.3, "factorised_encoder", time_depth=24, **large),
        }
