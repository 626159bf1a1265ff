"""Maps of tokens: attention and similarity equal loops over places, principal directions equal eigenvectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from pydantic import TypeAdapter
from torch import Tensor

from trichord.finetune.token_maps.maps import attended_places, main_directions
from trichord.finetune.token_maps.visualise import colours_over, heat_over, write_gif, write_png
from trichord.pretrain.backbones.base import Backbone
from trichord.pretrain.backbones.registry import AnyBackbone

SMALL = {"dim": 16, "depth": 2, "heads": 2, "patch": 8, "frames": 4, "size": 24}
WITH_CLASS: dict[str, dict[str, Any]] = {
    "divided": {"kind": "timesformer", **SMALL},
    "joint": {"kind": "timesformer", **SMALL, "attention": "joint"},
    "space": {"kind": "timesformer", **SMALL, "attention": "space", "positions": "space"},
    "encoder": {"kind": "vivit", **SMALL, "model": "factorised_encoder", "tubelet": 2, "time_depth": 1},
    "xclip": {"kind": "xclip", **SMALL, "joint_dim": 16, "joint_heads": 2},
}
WITHOUT: dict[str, dict[str, Any]] = {
    "mean": {"kind": "vivit", **SMALL, "model": "factorised_self_attention", "tubelet": 2, "pooled": "mean"},
    "scan": {"kind": "videomamba", "dim": 16, "depth": 1, "patch": 8, "frames": 4, "size": 24},
}


def backbone_of(settings: dict[str, Any]) -> Backbone:
    torch.manual_seed(3)
    backbone = TypeAdapter(AnyBackbone).validate_python(settings).build().eval()
    for parameter in backbone.parameters():  # so that attention is not nearly uniform
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return backbone


def pixels(height: int = 24, width: int = 24) -> Tensor:
    return torch.randn(2, 3, 4, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", WITH_CLASS)
def test_attention_is_the_softmax_of_the_products_of_the_class_token(name: str) -> None:
    backbone = backbone_of(WITH_CLASS[name])
    places = attended_places(backbone, pixels())
    steps = 2 if name == "encoder" else 4
    assert places.kind == "attention"
    assert places.weight_Bthw.shape == (2, steps, 3, 3)
    attention = backbone.class_attention
    assert attention is not None
    given: list[Tensor] = []
    attention.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        backbone(pixels())
    tokens_NLD = given[0][:, :, 0]
    width = 16 // 2
    projected_NLE = torch.nn.functional.linear(tokens_NLD, attention.qkv.weight, attention.qkv.bias).detach()
    per_step = len(tokens_NLD) > 2
    for row, mapped_n in enumerate(
        places.weight_Bthw.flatten(0, 1).flatten(1) if per_step else places.weight_Bthw.flatten(1)
    ):
        expected_n = torch.zeros(len(mapped_n))
        for head in range(2):
            query_K = projected_NLE[row, 0, head * width : (head + 1) * width]
            keys_LK = projected_NLE[row, :, 16 + head * width : 16 + (head + 1) * width]
            weights_L = torch.tensor([float(torch.exp(query_K @ key_K / width**0.5)) for key_K in keys_LK])
            expected_n += (weights_L / weights_L.sum())[1 : 1 + len(mapped_n)] / 2
        torch.testing.assert_close(mapped_n, expected_n, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WITHOUT)
def test_without_a_class_token_maps_are_cosines_with_the_pooled_vector(name: str) -> None:
    backbone = backbone_of(WITHOUT[name])
    places = attended_places(backbone, pixels())
    assert places.kind == "similarity"
    with torch.no_grad():
        pooled_BD, grid_BtnD = backbone(pixels())
    for clip, step, row, column in np.ndindex(*places.weight_Bthw.shape):
        token_D = grid_BtnD[clip, step, 3 * row + column]
        cosine = token_D @ pooled_BD[clip] / (token_D.norm() * pooled_BD[clip].norm())
        assert float(places.weight_Bthw[clip, step, row, column]) == pytest.approx(max(0.0, float(cosine)), abs=1e-5)


def test_places_of_a_wide_frame_are_ordered_by_row() -> None:
    assert attended_places(backbone_of(WITH_CLASS["divided"]), pixels(16, 32)).weight_Bthw.shape == (2, 4, 2, 4)


def test_principal_directions_are_eigenvectors_of_the_tokens_with_a_stable_sign() -> None:
    backbone = backbone_of(WITH_CLASS["divided"])
    found_Bthwc = main_directions(backbone, pixels())
    assert torch.equal(found_Bthwc, main_directions(backbone, pixels()))
    with torch.no_grad():
        _, grid_BtnD = backbone(pixels())
    for clip in range(2):
        tokens_MD = grid_BtnD[clip].flatten(0, 1).double().numpy()
        values_D, vectors_DD = np.linalg.eigh(np.cov(tokens_MD.T))
        for direction, place in enumerate(np.argsort(values_D)[::-1][:3]):
            vector_D = vectors_DD[:, place] * np.sign(vectors_DD[np.abs(vectors_DD[:, place]).argmax(), place])
            along_M = (tokens_MD - tokens_MD.mean(axis=0)) @ vector_D
            expected_M = (along_M - along_M.min()) / (along_M.max() - along_M.min())
            np.testing.assert_allclose(found_Bthwc[clip, ..., direction].flatten().numpy(), expected_M, atol=1e-4)


def test_images_show_each_frame_with_the_map_of_its_step(tmp_path: Any) -> None:
    frames_THWC = np.full((4, 8, 8, 3), 100, np.uint8)
    weight_thw = torch.zeros(2, 2, 2)
    weight_thw[1, 0, 1] = 1.0
    over_THWC = heat_over(frames_THWC, weight_thw)
    assert (over_THWC[:2] == over_THWC[0, 0, 0]).all()  # the first two frames belong to the first step, which is dark
    assert over_THWC[3, 0, 7].sum() > over_THWC[3, 7, 0].sum()
    colours_thwc = torch.zeros(2, 2, 2, 3)
    colours_thwc[0, 1, 0, 0] = 1.0
    over_THWC = colours_over(frames_THWC, colours_thwc)
    assert over_THWC[1, 7, 0].tolist() == [185, 45, 45]  # 0.45 x 100 is visible through 0.55 x 255 of red
    assert over_THWC[1, 3, 0].tolist() == [45, 45, 45]
    write_png(tmp_path / "a.png", (frames_THWC, over_THWC))
    write_gif(tmp_path / "a.gif", (frames_THWC, over_THWC), seconds=2.0)
    assert Image.open(tmp_path / "a.png").size == (4 + 4 * 196, 4 + 2 * 196)
    moving = Image.open(tmp_path / "a.gif")
    assert moving.size == (384, 192)
    assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(moving)) == 2000
