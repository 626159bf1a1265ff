"""Loading of models of video and text: from a run folder, or from a published file of X-CLIP or CLIP.

A file specifies its sizes only through the shapes of its tensors. Attention heads are 64 features wide in all CLIP
variants; settings that shapes do not determine, such as the activation, are given by `backbone`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.finetune.config import read_config
from trichord.finetune.loading import load_objective
from trichord.finetune.recipe import read_run
from trichord.finetune.zeroshot.spec import VideoTransforms
from trichord.pretrain.backbones.clip_text import ClipTextSpec
from trichord.pretrain.backbones.clip_text.model import ClipText
from trichord.pretrain.backbones.video_text import AudioTower, VideoText
from trichord.pretrain.backbones.xclip import XClipSpec
from trichord.pretrain.backbones.xclip.model import XClip
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.objectives.video_text import VideoTextSpec
from trichord.pretrain.objectives.video_text.objective import VideoTextObjective
from trichord.pretrain.weights.file import FOLDER_FILES, read_tensors
from trichord.pretrain.weights.load import load_tensors, recognised, under_own_names
from trichord.shards.audio.sound_specs import SoundSpec
from trichord.shards.transforms.clip_specs import Segments
from trichord.shards.transforms.normalise import Normalisation

_HEAD_DIM = 64
# Tensors from which the sizes of a model are inferred, with their numbers of dimensions.
_OF_A_CLIP = {
    "backbone.patch_embed.proj.weight": 4,
    "backbone.pos_embed": 3,
    "backbone.proj.weight": 2,
    "text.token_embed.weight": 2,
    "text.pos_embed": 3,
    "text.proj.weight": 2,
}
_LARGEST = 1 << 20  # of a dimension
_MOST_BLOCKS = 256
_BLOCKS = _VIDEO_BLOCKS, _OVER_FRAMES, _TEXT_BLOCKS = "backbone.blocks.", "backbone.integration.", "text.blocks."
_CLIP_PIXELS = Normalisation(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class SoundEncoder:
    """The audio network that embeds into the same space, and its input settings."""

    model: AudioTower
    sound: SoundSpec
    seconds: float | None  # around a clip's middle; None: the clip's own time span


@dataclass(frozen=True)
class TrainedVideoText:
    """A model in evaluation mode, its video transforms and its description."""

    model: VideoText
    transforms: VideoTransforms
    precision: torch.dtype | None  # of autocast
    about: dict[str, Any]  # for reports: backbone, pretrained, step
    audio: SoundEncoder | None = None


def load_video_text(
    source: Path, part: str | None = None, backbone: Mapping[str, Any] | None = None
) -> TrainedVideoText:
    """Load a run folder (its newest complete checkpoint) or a file of weights; `backbone` completes a file."""
    if RunFolder(source).is_run:
        if part or backbone:
            raise UserError(
                f"{source} is a run, which has its own settings; part and backbone are only for files of weights"
            )
        return _load_run(source)
    if source.is_dir() and not any((source / name).is_file() for name in FOLDER_FILES):
        raise UserError(f"{source} is neither a run folder nor a folder of weights; expected one with checkpoints/")
    return _load_file(source, part, backbone or {})


def _load_run(run: Path) -> TrainedVideoText:
    config = read_config(read_run(run))
    spec = config.objective
    if not isinstance(spec, VideoTextSpec):
        raise UserError(
            f"{run} is a run of {spec.kind}, which has no text encoder. Expected a run of video_text, or a file of "
            "X-CLIP or CLIP"
        )
    objective, step = load_objective(config, run, torch.device("cpu"))
    assert isinstance(objective, VideoTextObjective)
    size = spec.view.crop.size
    transforms = VideoTransforms(
        spec.clips, size, round(size * 8 / 7), spec.view.crop.interpolation, spec.normalisation
    )
    precision = torch.bfloat16 if config.engine.precision == "bf16" else None
    about = {"backbone": config.backbone.kind, "pretrained": run.name, "seed": config.seed, "step": step}
    audio = None
    if objective.audio is not None and spec.sound is not None:
        audio = SoundEncoder(objective.audio.eval(), spec.sound, spec.sound_seconds)
    return TrainedVideoText(objective.video.eval(), transforms, precision, about, audio)


def _load_file(path: Path, part: str | None, changes: Mapping[str, Any]) -> TrainedVideoText:
    tensors = read_tensors(path, part)
    family = recognised(tensors, path)
    ours = under_own_names(tensors, family, path)
    if missing := [name for name in _OF_A_CLIP if name not in ours]:
        raise UserError(
            f"{path} holds {family.name} weights without {', '.join(missing)}; zero-shot needs video and text in one "
            "file, as in X-CLIP and CLIP"
        )
    _refuse_other_shapes(ours, path)
    video, text = specs_of(ours, changes)

    def load_into_new() -> VideoText:
        model = VideoText(XClip(video), ClipText(text), has_prompts="prompts.share" in ours)
        load_tensors(tensors, InitFrom(path=path, part=part), model)
        return model

    with torch.device("meta"):
        load_into_new()  # a tensor of an odd shape may make a model that no memory holds: it is refused here
    model = load_into_new()
    about = {"backbone": video.kind, "pretrained": f"{family.name} ({path.name})", "seed": None, "step": None}
    return TrainedVideoText(model.eval(), _transforms_of(video), None, about)


def _refuse_other_shapes(ours: Mapping[str, Tensor], path: Path) -> None:
    """Raise UserError if the tensors that determine sizes, or the number of blocks, are not those of a model."""
    for name, dimensions in _OF_A_CLIP.items():
        shape = tuple(ours[name].shape)
        if len(shape) != dimensions or not all(0 < size <= _LARGEST for size in shape):
            raise UserError(
                f"{path}: the shape of {name} is {shape}, expected {dimensions} dimensions of 1 to {_LARGEST:,}. "
                "Next: download it again"
            )
    if (most := max(_count(ours, each) for each in _BLOCKS)) > _MOST_BLOCKS:
        raise UserError(f"{path} holds {most:,} blocks, expected at most {_MOST_BLOCKS}. Next: download it again")


def specs_of(ours: Mapping[str, Tensor], changes: Mapping[str, Any]) -> tuple[XClipSpec, ClipTextSpec]:
    """Infer sizes from tensors under our names; `changes` are backbone settings; activation applies to both towers."""
    width, _, _, patch = ours["backbone.patch_embed.proj.weight"].shape
    joint_dim = ours["backbone.proj.weight"].shape[0]
    patches = ours["backbone.pos_embed"].shape[1] - 1
    time = ours.get("backbone.time_embed")
    found: dict[str, Any] = {
        "dim": width,
        "depth": _count(ours, _VIDEO_BLOCKS),
        "heads": max(1, width // _HEAD_DIM),
        "patch": patch,
        "size": isqrt(patches) * patch,
        "joint_dim": joint_dim,
        "joint_heads": max(1, joint_dim // _HEAD_DIM),
        "messages": "backbone.blocks.0.message_fc.weight" in ours,
        "integration_depth": _count(ours, _OVER_FRAMES),
    }
    found |= {} if time is None or time.ndim != 3 else {"frames": time.shape[1]}
    vocabulary, text_width = ours["text.token_embed.weight"].shape
    text = {
        "dim": text_width,
        "depth": _count(ours, _TEXT_BLOCKS),
        "heads": max(1, text_width // _HEAD_DIM),
        "joint_dim": ours["text.proj.weight"].shape[0],
        "vocabulary": vocabulary,
        "length": ours["text.pos_embed"].shape[1],
    }
    text |= {name: changes[name] for name in ("activation",) if name in changes}
    try:
        return XClipSpec.model_validate({**found, **changes}), ClipTextSpec.model_validate(text)
    except ValidationError as error:
        lines = (f"backbone {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise UserError("\n".join(lines)) from error


def _count(ours: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).partition(".")[0] for name in ours if name.startswith(prefix)})


def _transforms_of(video: XClipSpec) -> VideoTransforms:
    """Return the released models' transforms: X-CLIP the centre of 256 with ImageNet's statistics, CLIP its own."""
    clips = Segments(frames=video.frames, placement="centre")
    if video.messages:
        return VideoTransforms(clips, video.size, round(video.size * 8 / 7), "bilinear", Normalisation())
    return VideoTransforms(clips, video.size, video.size, "bicubic", _CLIP_PIXELS)
