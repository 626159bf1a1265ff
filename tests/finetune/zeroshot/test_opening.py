"""The sizes of a file are inferred from its tensors, and loaded strictly; a run is loaded as it was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.finetune.zeroshot.stage import CLIP, TEXT, XCLIP, write_clip, write_xclip
from tests.pretrain.clip_manifests import Shapes, hugging_face_xclip, released_clip, released_xclip
from tests.pretrain.test_published_clip import text_of
from trichord.core.errors import UserError
from trichord.finetune.zeroshot.loading import load_video_text, specs_of
from trichord.finetune.zeroshot.spec import ZeroShotSpec
from trichord.pretrain.backbones.clip_text.model import ClipText
from trichord.pretrain.backbones.registry import published_sizes
from trichord.pretrain.backbones.xclip import XClipSpec
from trichord.pretrain.backbones.xclip.model import XClip
from trichord.pretrain.weights.load import recognised
from trichord.pretrain.weights.naming import renamed
from trichord.shards.transforms.clip_specs import DenseWindow, FullVideo, Segments


@pytest.mark.parametrize(("write", "video"), [(write_clip, CLIP), (write_xclip, XCLIP)])
def test_file_is_loaded_by_the_shapes_of_its_tensors(tmp_path: Path, write: object, video: XClipSpec) -> None:
    assert callable(write)
    path = write(tmp_path / "weights.safetensors")
    opened = load_video_text(path)
    backbone, text = opened.model.backbone, opened.model.text
    assert isinstance(backbone, XClip) and isinstance(text, ClipText)
    assert (backbone.spec, text.spec, opened.model.has_prompts) == (video, TEXT, video.messages)
    file = load_file(path)
    assert torch.equal(backbone.cls_token.flatten(), file["visual.class_embedding"])
    assert torch.equal(text.proj.weight, file["text_projection"].T)
    assert opened.model.scale().item() == pytest.approx(file["logit_scale"].exp().item())
    assert not opened.model.training


MANIFESTS = {"clip": (released_clip,), "xclip": (released_xclip, hugging_face_xclip)}
RELEASED = [(name, each) for name in published_sizes() for each in MANIFESTS.get(name.partition("-")[0], ())]


@pytest.mark.parametrize(("name", "manifest"), RELEASED)
def test_every_published_size_is_inferred(name: str, manifest: Callable[..., Shapes]) -> None:
    video = published_sizes()[name].spec
    assert isinstance(video, XClipSpec)
    shapes = manifest(video, text_of(video))
    tensors = {each: torch.empty(shape, device="meta") for each, shape in shapes.items()}
    family = recognised(tensors, Path(name))
    ours = {renamed(each, family.table): tensor for each, tensor in family.prepare(tensors).items()}
    assert specs_of(ours, {}) == (video, text_of(video))


def test_ambiguous_shapes_require_settings(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.safetensors")
    opened = load_video_text(path, backbone={"activation": "gelu", "frames": 4})
    backbone, text = opened.model.backbone, opened.model.text
    assert isinstance(backbone, XClip) and isinstance(text, ClipText)
    assert (backbone.spec.activation, text.spec.activation, backbone.spec.frames) == ("gelu", "gelu", 4)
    with pytest.raises(UserError, match="backbone activation: Input should be"):
        load_video_text(path, backbone={"activation": "relu"})
    with pytest.raises(UserError, match="neither a run folder nor a folder of weights"):
        load_video_text(tmp_path)
    lonely = {name: each for name, each in load_file(path).items() if name.startswith("visual.")}
    save_file(lonely, tmp_path / "lonely.safetensors")
    with pytest.raises(UserError, match=r"without text\.token_embed\.weight, .*zero-shot needs video and text in one"):
        load_video_text(tmp_path / "lonely.safetensors")


def test_views_are_those_of_the_model_without_randomness(tmp_path: Path) -> None:
    transforms = load_video_text(write_xclip(tmp_path / "xclip.safetensors")).transforms
    spec = ZeroShotSpec(clips=4, crops=3, frames=16)
    views = transforms.sample_spec(spec).views
    assert views.clips == Segments(frames=16, placement="centre", clips=4)
    assert (views.views[0].crop.kind, views.views[0].flip_probability) == ("three", 0.0)
    assert transforms.words(spec) == "4x3 views of 16 frames of 16 px, softmax averaged"
    assert transforms.words(ZeroShotSpec(clips=2, average="logit")) == "2x1 views of 2 frames of 16 px, logits averaged"
    assert transforms.normalisation.mean[0] == 0.485
    clip = load_video_text(write_clip(tmp_path / "clip.safetensors")).transforms
    assert clip.normalisation.mean[0] == 0.48145466 and clip.sample_spec(ZeroShotSpec()).views.views[0].crop.size == 16
    window = DenseWindow(frames=8, stride_frames=4)
    other = type(transforms)(window, 16, 18, "bilinear", transforms.normalisation)
    assert other.sample_spec(spec).views.clips == DenseWindow(frames=16, stride_frames=4, placement="uniform", clips=4)
    whole = type(transforms)(FullVideo(frames=8), 16, 18, "bilinear", transforms.normalisation)
    with pytest.raises(UserError, match="Use one clip"):
        whole.sample_spec(spec)
