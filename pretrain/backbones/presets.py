"""The sizes that were published, by name: what they are made of, where their weights are, what a view costs."""

from __future__ import annotations

from dataclasses import dataclass

from trichord.pretrain.backbones.audio_specs import AstSpec, AudioResnetSpec, AudioSpec, AudioVtnSpec
from trichord.pretrain.backbones.spec import Spec
from trichord.pretrain.backbones.specs import (
    BackboneSpec,
    CnnRnnSpec,
    FrameFusionSpec,
    Resnet3dSpec,
    TimeSformerSpec,
    VideoMambaSpec,
    ViViTSpec,
    VtnSpec,
    XClipSpec,
)


@dataclass(frozen=True)
class Preset:
    """A published size."""

    spec: BackboneSpec | AudioSpec
    weights: str  # whose files fit it
    giga_macs: float | None = None  # multiplications with an addition, of one view, as published or counted elsewhere

    @property
    def input(self) -> str:
        """Say what one view is."""
        if isinstance(self.spec, Spec):
            return f"{self.spec.frames} x {self.spec.size}²"
        return f"{self.spec.frames} x {self.spec.mels} mels"

    @property
    def sense(self) -> str:
        """Say what the settings of a recipe begin with that are about it."""
        return "" if isinstance(self.spec, Spec) else "audio_"

    @property
    def settings(self) -> list[str]:
        """Give the settings of a recipe that make it."""
        kind = {"kind": self.spec.kind} | self.spec.model_dump(mode="json", exclude_defaults=True)
        return [f"{self.sense}backbone.{name}={value}" for name, value in kind.items()]


_OF_IMAGES = "begins with a ViT of images (timm, DINO)"
_TIMESFORMER = "TimeSformer (released .pyth, Hugging Face)"
_FLAX = f"released for flax alone; {_OF_IMAGES}"
_LARGE = {"dim": 1024, "depth": 24, "heads": 16}
_CLIP = "CLIP (OpenAI, open_clip)"
_XCLIP = f"X-CLIP (released .pth, Hugging Face); begins with {_CLIP}"
_XCLIP_LARGE = {**_LARGE, "joint_dim": 768, "joint_heads": 12}
_AST = "AST (Hugging Face; AudioSet, Speech Commands)"
_RESNET = "begins with a ResNet of images (torchvision, timm)"
_NONE = "none were released"
_FRAMES_ALONE = {"messages": False, "integration_depth": 0}


def _vivit(model: str, **changes: object) -> ViViTSpec:
    return ViViTSpec.model_validate({"model": model} | changes)


def _xclip(patch: int, frames: int, size: int = 224, **changes: object) -> XClipSpec:
    return XClipSpec.model_validate({"patch": patch, "frames": frames, "size": size} | changes)


def _videomamba(size: str, dim: int, depth: int, image_giga_macs: float) -> dict[str, Preset]:
    """Name a size with each number of frames.

    The published figure, of one image, is of patches and the maps in and out alone; what makes steps, writing and
    reading is added, and 9 operations for each step, channel and state of a scan.
    """
    weights = "VideoMamba (released .pth: Kinetics-400, SSv2, ImageNet" + ("; unmasking)" if size == "middle" else ")")
    rank = -(-dim // 16)
    more_of_a_token = 2 * 2 * dim * (2 * rank + 2 * 16 + 9 / 2 * 16)
    return {
        f"videomamba-{size}-{frames}": Preset(
            VideoMambaSpec(dim=dim, depth=depth, frames=frames),
            weights,
            frames * image_giga_macs + (1 + frames * 196) * depth * more_of_a_token / 1e9,
        )
        for frames in (8, 16, 32, 64)
    }


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
    # As published, less the prompts of 400 texts that are counted there and are no part of a backbone.
    "xclip-b32-8": Preset(_xclip(32, 8), _XCLIP, 39 - 2.3),
    "xclip-b32-16": Preset(_xclip(32, 16), _XCLIP, 75 - 2.5),
    "xclip-b16-8": Preset(_xclip(16, 8), _XCLIP, 145 - 3.1),
    "xclip-b16-16": Preset(_xclip(16, 16), _XCLIP, 287 - 3.7),
    "xclip-b16-32": Preset(_xclip(16, 32), _XCLIP, 571 - 4.9),
    "xclip-l14-8": Preset(_xclip(14, 8, **_XCLIP_LARGE), _XCLIP, 658 - 7.2),
    "xclip-l14-336-16": Preset(_xclip(14, 16, 336, **_XCLIP_LARGE), _XCLIP, 3086 - 14.0),
    "clip-b32": Preset(_xclip(32, 8, **_FRAMES_ALONE), _CLIP),
    "clip-b16": Preset(_xclip(16, 8, **_FRAMES_ALONE), _CLIP),
    "clip-l14": Preset(_xclip(14, 8, **_XCLIP_LARGE, **_FRAMES_ALONE), _CLIP),
    "clip-l14-336": Preset(_xclip(14, 8, 336, **_XCLIP_LARGE, **_FRAMES_ALONE), _CLIP),
    # 250 times what torchvision says of a ViT-B/16; the published 4218 leaves out the scores of attention.
    "vtn-vit-b": Preset(VtnSpec(frames=250), f"VTN (released .pyth); {_OF_IMAGES}", 250 * 17.564),
    **_videomamba("tiny", 192, 24, 1.1),
    **_videomamba("small", 384, 24, 4.3),
    **_videomamba("middle", 576, 32, 12.7),
    "r2plus1d-18": Preset(Resnet3dSpec(), "R(2+1)D (torchvision; Kinetics-400)", 40.519),
    "r3d-18": Preset(Resnet3dSpec(convolutions="3d"), "R3D (torchvision; Kinetics-400)", 40.697),
    "cnn-rnn-resnet50": Preset(CnnRnnSpec(), _RESNET),
    "frame-fusion-single": Preset(FrameFusionSpec(fusion="single"), _NONE),
    "frame-fusion-early": Preset(FrameFusionSpec(fusion="early"), _NONE),
    "frame-fusion-late": Preset(FrameFusionSpec(fusion="late"), _NONE),
    "frame-fusion-slow": Preset(FrameFusionSpec(fusion="slow"), _NONE),
    **{f"ast-{step}": Preset(AstSpec(time_stride=step, mel_stride=step), _AST) for step in (10, 12, 14, 16)},
    "ast-10-speech": Preset(AstSpec(frames=128), _AST),
    "audio-resnet18": Preset(AudioResnetSpec(), _RESNET),
    "audio-vtn-resnet18": Preset(AudioVtnSpec(), _NONE),
}
