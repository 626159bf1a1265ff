"""X-CLIP and CLIP equal Hugging Face and open_clip, forward and backward, with weights loaded by our tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import open_clip
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import XCLIPConfig, XCLIPModel

from trichord.pretrain.backbones.clip_text import ClipTextSpec
from trichord.pretrain.backbones.clip_text.model import ClipText
from trichord.pretrain.backbones.video_text import VideoText
from trichord.pretrain.backbones.xclip import XClipSpec
from trichord.pretrain.backbones.xclip.model import XClip
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.weights.load import load_tensors

VIDEO = XClipSpec(dim=128, depth=3, heads=2, joint_dim=64, joint_heads=1, patch=4, size=12, frames=3)
TEXT = ClipTextSpec(dim=64, depth=2, heads=1, joint_dim=64, vocabulary=50, length=9)
INIT = InitFrom(path=Path("weights.pth"))
DEVIATION = 0.2


def small(**changes: object) -> XClipSpec:
    return XClipSpec.model_validate(VIDEO.model_dump() | changes)


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Randomise a network so that no parameter is zero or one by design."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * DEVIATION)


def with_random_weights(spec: XClipSpec) -> XClip:
    backbone = spec.build()
    assert isinstance(backbone, XClip)
    randomise(backbone)
    return backbone


def clip(batch: int = 2, frames: int = 3, size: int = 12) -> Tensor:
    return torch.randn(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(1))


def texts() -> Tensor:
    return torch.randint(0, 50, (5, 9), generator=torch.Generator().manual_seed(2))


def hugging_face_xclip() -> XCLIPModel:
    """Build Hugging Face's X-CLIP in the small size, with the number of heads of the released weights."""
    text = {"vocab_size": 50, "max_position_embeddings": 9, "hidden_size": 64, "intermediate_size": 256}
    vision = {"hidden_size": 128, "intermediate_size": 512, "image_size": 12, "patch_size": 4, "num_frames": 3}
    mit = {"mit_hidden_size": 64, "mit_intermediate_size": 256, "mit_num_attention_heads": 1}
    config = XCLIPConfig(
        projection_dim=64,
        prompt_num_attention_heads=1,
        text_config={**text, "num_hidden_layers": 2, "num_attention_heads": 1},
        vision_config={**vision, **mit, "num_hidden_layers": 3, "num_attention_heads": 2},
    )
    model = XCLIPModel(config)
    randomise(model)
    model.logit_scale.data.fill_(2.0)
    return model.eval()


def open_clip_model(quick_gelu: bool) -> open_clip.CLIP:
    vision = {"image_size": 12, "patch_size": 4, "width": 128, "layers": 3, "head_width": 64}
    text = {"context_length": 9, "vocab_size": 50, "width": 64, "heads": 1, "layers": 2}
    model = open_clip.CLIP(embed_dim=64, vision_cfg=vision, text_cfg=text, quick_gelu=quick_gelu)
    randomise(model)
    model.logit_scale.data.fill_(2.0)
    return model.eval()


def loaded(tensors: Mapping[str, Tensor], video: XClipSpec, text: ClipTextSpec, has_prompts: bool) -> VideoText:
    network = VideoText(XClip(video), ClipText(text), has_prompts=has_prompts).eval()
    found = load_tensors(tensors, INIT, network)
    assert (found.missing, found.unused, found.resized) == ([], [], [])
    return network


def logits(network: VideoText, frames_BCTHW: Tensor, tokens_KL: Tensor) -> Tensor:
    return network.scale() * network.cosines(network.encode_video(frames_BCTHW), network.encode_tokens(tokens_KL))


def assert_close_with_gradients(found: Tensor, expected: Tensor, inputs: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    mine, yours = (torch.autograd.grad(each, inputs, direction, retain_graph=True)[0] for each in (found, expected))
    assert yours.abs().max() > 1e-3
    torch.testing.assert_close(mine, yours, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch", [1, 4])
def test_xclip_equals_hugging_face_from_frames_and_texts_to_logits(batch: int) -> None:
    theirs = hugging_face_xclip()
    ours = loaded(theirs.state_dict(), VIDEO, TEXT, has_prompts=True)
    frames_BCTHW, tokens_KL = clip(batch).requires_grad_(), texts()
    expected = theirs(input_ids=tokens_KL, pixel_values=frames_BCTHW.transpose(1, 2))
    assert_close_with_gradients(logits(ours, frames_BCTHW, tokens_KL), expected.logits_per_video, frames_BCTHW)


def test_parts_of_xclip_equal_hugging_face() -> None:
    theirs = hugging_face_xclip()
    ours = loaded(theirs.state_dict(), VIDEO, TEXT, has_prompts=True)
    frames_BCTHW = clip().requires_grad_()
    expected = theirs.get_video_features(frames_BCTHW.transpose(1, 2))
    assert_close_with_gradients(ours.backbone(frames_BCTHW).pooled_BD, expected.pooler_output, frames_BCTHW)
    frames = ours.backbone.encode_frames(frames_BCTHW)
    grid_BtnD = expected.last_hidden_state[:, 1:].unflatten(0, (2, 3))
    assert_close_with_gradients(frames.grid_BtnD, grid_BtnD, frames_BCTHW)
    by_class_weights = theirs.visual_projection(theirs.vision_model.post_layernorm(grid_BtnD))
    assert_close_with_gradients(ours.backbone(frames_BCTHW).grid_BtnD, by_class_weights, frames_BCTHW)
    text_KE = theirs.get_text_features(texts()).pooler_output
    torch.testing.assert_close(ours.text(texts()), text_KE, atol=1e-5, rtol=0)


def test_positions_are_interpolated_like_hugging_face_does() -> None:
    theirs = hugging_face_xclip()
    ours = loaded(theirs.state_dict(), VIDEO, TEXT, has_prompts=True)
    frames_BCTHW, tokens_KL = clip(size=20).requires_grad_(), texts()
    pixels = frames_BCTHW.transpose(1, 2)
    expected = theirs(input_ids=tokens_KL, pixel_values=pixels, interpolate_pos_encoding=True)
    assert_close_with_gradients(logits(ours, frames_BCTHW, tokens_KL), expected.logits_per_video, frames_BCTHW)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_equals_open_clip_frame_by_frame(activation: str) -> None:
    theirs = open_clip_model(quick_gelu=activation == "quick_gelu")
    video = small(messages=False, integration_depth=0, activation=activation)
    text = TEXT.model_copy(update={"activation": activation})
    ours = loaded(theirs.state_dict(), video, text, has_prompts=False)
    images_BCTHW, tokens_KL = clip(frames=1).requires_grad_(), texts()
    image_BE, text_KE, scale = theirs(images_BCTHW.squeeze(2), tokens_KL)
    assert_close_with_gradients(logits(ours, images_BCTHW, tokens_KL), scale * image_BE @ text_KE.T, images_BCTHW)
    frames_BCTHW = clip(frames=4).requires_grad_()
    of_each_frame = [theirs.encode_image(frames_BCTHW[:, :, frame]) for frame in range(4)]
    mean_BE = torch.stack(of_each_frame).mean(dim=0)
    assert_close_with_gradients(ours.backbone(frames_BCTHW).pooled_BD, mean_BE, frames_BCTHW)


def test_temporal_table_uses_the_nearest_entry_for_any_number_of_frames() -> None:
    backbone = with_random_weights(VIDEO).eval()
    longer = with_random_weights(small(frames=6)).eval()
    tables = backbone.state_dict()
    tables["time_embed"] = tables["time_embed"].repeat_interleave(2, dim=1)
    longer.load_state_dict(tables)
    frames_BCTHW = clip(frames=6)
    for one, other in zip(backbone(frames_BCTHW), longer(frames_BCTHW), strict=True):
        torch.testing.assert_close(one, other)


def test_frames_interact_only_by_messages_and_integration() -> None:
    for changes, know in (
        ({}, True),
        ({"integration_depth": 0}, True),
        ({"messages": False, "integration_depth": 0}, False),
    ):
        backbone = with_random_weights(small(**changes)).eval()
        frames_BCTHW = clip().requires_grad_()
        first_frame = backbone.encode_frames(frames_BCTHW).class_BtE[:, 0]
        (gradient_BCTHW,) = torch.autograd.grad(first_frame.square().sum(), frames_BCTHW)
        assert gradient_BCTHW[:, :, 0].any()
        assert gradient_BCTHW[:, :, 1:].any().item() is know


@pytest.mark.parametrize("changes", [{}, {"messages": False}])
@pytest.mark.parametrize("drop_path", [0.0, 0.6])
def test_pooled_only_is_the_same_forward_and_backward(changes: dict[str, object], drop_path: float) -> None:
    backbone = with_random_weights(small(drop_path=drop_path, **changes)).train()
    whole, alone = ways = [gradients_of_pooled(backbone, pooled_only) for pooled_only in (False, True)]
    assert [way[0].grid_BtnD.shape[2] for way in ways] == [9, 0]
    torch.testing.assert_close(alone[0].pooled_BD, whole[0].pooled_BD, atol=1e-5, rtol=0)
    for one, other in zip(alone[1], whole[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * float(other.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"messages": False}])
def test_activation_checkpointing_keeps_gradients(changes: dict[str, object]) -> None:
    spec = small(drop_path=0.5, **changes)
    results = []
    for forgets in (False, True):
        backbone = with_random_weights(spec.model_copy(update={"activation_checkpointing": forgets})).train()
        results.append(gradients_of_pooled(backbone, pooled_only=True)[1])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def gradients_of_pooled(backbone: XClip, pooled_only: bool) -> tuple[object, tuple[Tensor, ...]]:
    frames_BCTHW = clip().requires_grad_()
    torch.manual_seed(5)
    tokens = backbone(frames_BCTHW, pooled_only)
    loss = tokens.pooled_BD.square().mul(torch.arange(1.0, 1 + backbone.dim)).sum()
    return tokens, torch.autograd.grad(loss, [frames_BCTHW, *backbone.parameters()])


def test_bf16_is_close_to_fp32() -> None:
    backbone = with_random_weights(VIDEO).eval()
    exact = backbone(clip())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = backbone(clip())
    for one, other in zip(rounded, exact, strict=True):
        assert torch.nn.functional.cosine_similarity(one.float(), other, dim=-1).min() > 0.99


@pytest.mark.parametrize("changes", [{}, {"messages": False, "integration_depth": 0}])
def test_it_compiles_to_one_graph(changes: dict[str, object]) -> None:
    backbone = with_random_weights(small(**changes)).eval()
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    for one, other in zip(compiled(clip()), backbone(clip()), strict=True):
        torch.testing.assert_close(one, other)


def test_every_parameter_is_initialised() -> None:
    network = VideoText(XClip(VIDEO), ClipText(TEXT), has_prompts=True)
    assert network.scale.log.exp().item() == pytest.approx(1 / 0.07)
    assert network.backbone.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    for part in (network.backbone, network.text, network.prompts):
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.fill_(torch.nan)
        part.initialise()
        assert not [name for name, parameter in part.named_parameters() if parameter.isnan().any()]


def test_layers_are_numbered_from_the_embeddings_to_the_integration() -> None:
    backbone = XClip(VIDEO)
    layers = {name: backbone.layer_of(name) for name, _ in backbone.named_parameters()}
    assert backbone.layers == VIDEO.depth + 2
    embeddings = {"cls_token", "pos_embed", "patch_embed.proj.weight", "norm_pre.weight", "norm_pre.bias"}
    assert {name for name, layer in layers.items() if layer == 0} == embeddings
    assert layers["blocks.0.message_fc.weight"] == 1
    assert layers["blocks.2.mlp.fc2.bias"] == 3
    assert {layers[name] for name in ("proj.weight", "norm.bias", "time_embed", "integration.0.norm1.weight")} == {4}


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="expected texts of at most 9 tokens, found 10"):
        ClipText(TEXT)(torch.zeros(1, 10, dtype=torch.long))


def test_vectors_of_other_width_are_projected() -> None:
    network = VideoText(XClip(VIDEO), ClipText(TEXT), joint_dim=32, has_prompts=True)
    assert logits(network, clip(2), texts()).shape == (2, len(texts()))
    assert network.encode_video(clip(2)).unit_BE.shape == (2, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "expected dim to be a multiple of heads, found dim 128 and heads 5"),
        (
            {"joint_heads": 5},
            "expected joint_dim to be a multiple of joint_heads, found joint_dim 64 and joint_heads 5",
        ),
        ({"size": 13}, "expected size to be a multiple of patch, found size 13 and patch 4"),
    ],
)
def test_invalid_specs_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small(**changes)
