"""Colour changes, warps and RandAugment on clips: equal to torchvision's, and equal for all frames."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trichord.core.seeds import generator
from trichord.shards.transforms import augment as colour
from trichord.shards.transforms.augment import WARPS, apply_operation
from trichord.shards.transforms.view_specs import (
    FACTORS,
    TIMM_OPERATIONS,
    TORCHVISION_OPERATIONS,
    ColourJitter,
    TimmRandAugment,
    TorchvisionRandAugment,
    timm_amount,
    torchvision_amount,
)

v2 = pytest.importorskip("torchvision.transforms.v2")
reference = v2.functional

TORCHVISION_NAMES = {
    "identity": "Identity",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "saturation": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
}


@pytest.fixture(scope="module")
def clip_CTHW() -> Tensor:
    """Three frames of smooth colours with clipped bright and dark areas, and one uniform frame."""
    low_res = torch.rand(3, 3, 9, 9, generator=torch.Generator().manual_seed(1)) * 300 - 20
    soft = functional.interpolate(low_res, (48, 64), mode="bicubic").clamp(0, 255).to(torch.uint8)
    return torch.cat([soft.transpose(0, 1), torch.full((3, 1, 48, 64), 77, dtype=torch.uint8)], dim=1).contiguous()


def per_frame(clip_CTHW: Tensor) -> Tensor:
    return clip_CTHW.transpose(0, 1).contiguous()


def differences(ours_CTHW: Tensor, theirs_TCHW: Tensor) -> Tensor:
    assert ours_CTHW.dtype == torch.uint8 and ours_CTHW.is_contiguous()
    return (per_frame(ours_CTHW).int() - theirs_TCHW.int()).abs()


def assert_equal_but_rounding(ours_CTHW: Tensor, theirs_TCHW: Tensor, share: float = 0.02) -> None:
    difference = differences(ours_CTHW, theirs_TCHW)
    assert int(difference.max()) <= 1
    assert float((difference > 0).float().mean()) <= share


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize("name", FACTORS)
def test_factors_equal_torchvision(clip_CTHW: Tensor, name: str, factor: float) -> None:
    theirs = getattr(reference, f"adjust_{name}")(per_frame(clip_CTHW), factor)
    assert_equal_but_rounding(getattr(colour, name)(clip_CTHW, factor), theirs)


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.07, 0.33])
def test_hue_equals_torchvision(clip_CTHW: Tensor, shift: float) -> None:
    """We round, torchvision truncates with an epsilon: up to a tenth of the pixels differ by one level."""
    assert_equal_but_rounding(colour.hue(clip_CTHW, shift), reference.adjust_hue(per_frame(clip_CTHW), shift), 0.1)


def test_hue_turns_red_to_green_to_blue() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1, 1)
    assert colour.hue(red, 1 / 3).flatten().tolist() == [0, 255, 0]
    assert colour.hue(red, -1 / 3).flatten().tolist() == [0, 0, 255]


def test_tables_equal_torchvision_exactly(clip_CTHW: Tensor) -> None:
    frames_TCHW = per_frame(clip_CTHW)
    pairs = [
        (colour.invert(clip_CTHW), reference.invert(frames_TCHW)),
        (colour.equalize(clip_CTHW), reference.equalize(frames_TCHW)),
    ]
    pairs += [(colour.posterize(clip_CTHW, bits), reference.posterize(frames_TCHW, bits)) for bits in range(9)]
    pairs += [(colour.solarize(clip_CTHW, at), reference.solarize(frames_TCHW, at)) for at in (0, 100.5, 255)]
    for ours_CTHW, theirs_TCHW in pairs:
        assert int(differences(ours_CTHW, theirs_TCHW).max()) == 0


def test_grey_and_autocontrast_equal_torchvision(clip_CTHW: Tensor) -> None:
    """Both truncate results in float32, so that rounding may change one level."""
    frames_TCHW = per_frame(clip_CTHW)
    assert_equal_but_rounding(
        colour.grey(clip_CTHW), reference.rgb_to_grayscale(frames_TCHW, num_output_channels=3), 0.005
    )
    assert_equal_but_rounding(colour.autocontrast(clip_CTHW), reference.autocontrast(frames_TCHW), 0.005)


def test_solarize_add_by_hand() -> None:
    levels = torch.tensor([0, 100, 127, 128, 255], dtype=torch.uint8).expand(3, 1, 1, 5).contiguous()
    assert colour.solarize_add(levels, 60)[0].flatten().tolist() == [60, 160, 187, 128, 255]


def test_sharpness_keeps_small_frames_and_edges(clip_CTHW: Tensor) -> None:
    tiny = clip_CTHW[:, :, :2].contiguous()
    assert torch.equal(colour.sharpness(tiny, 0.1), tiny)
    assert torch.equal(colour.sharpness(clip_CTHW, 0.1)[..., 0], clip_CTHW[..., 0])


@pytest.mark.parametrize("bin_number", [0, 9, 22, 30])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("name", TORCHVISION_OPERATIONS)
def test_operations_equal_torchvisions_rand_augment(clip_CTHW: Tensor, name: str, sign: float, bin_number: int) -> None:
    """The magnitude of a bin comes from torchvision's own table and from ours; theirs is applied frame by frame."""
    transform = v2.RandAugment()
    magnitudes, signed = transform._AUGMENTATION_SPACE[TORCHVISION_NAMES[name]]
    table = magnitudes(31, 48, 64)
    magnitude = 0.0 if table is None else float(table[bin_number]) * (sign if signed else 1)
    theirs = [
        transform._apply_image_or_video_transform(frame, TORCHVISION_NAMES[name], magnitude, "nearest", {Tensor: 0})
        for frame in per_frame(clip_CTHW)
    ]
    amount = torchvision_amount(name, bin_number, 31, sign, 48, 64)
    assert_equal_but_rounding(apply_operation(clip_CTHW, (name, amount)), torch.stack(theirs))


@pytest.mark.parametrize(
    ("name", "amount"), [("rotate", 13.0), ("shear_x", -0.2), ("shear_y", 0.3), ("translate_x", 9)]
)
def test_bilinear_warps_equal_torchvision(clip_CTHW: Tensor, name: str, amount: float) -> None:
    ours = apply_operation(clip_CTHW, (name, amount), interpolation="bilinear")
    theirs = v2.RandAugment()._apply_image_or_video_transform(
        per_frame(clip_CTHW), TORCHVISION_NAMES[name], amount, v2.InterpolationMode.BILINEAR, {}
    )
    assert_equal_but_rounding(ours, theirs)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("name", WARPS)
def test_pixels_from_outside_have_the_fill_colour(name: str, interpolation: str) -> None:
    white = torch.full((3, 2, 20, 30), 255, dtype=torch.uint8)
    amount = 0.5 if name.startswith("shear") else 15.0
    moved = apply_operation(
        white, (name, amount), (10, 20, 30), "nearest" if interpolation == "nearest" else "bilinear"
    )
    outside = (moved == torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1, 1)).all(dim=0)
    inside = (moved == 255).all(dim=0)
    assert outside.any() and inside.any()
    if interpolation == "nearest":
        assert bool((outside | inside).all())


def test_translation_moves_by_whole_pixels(clip_CTHW: Tensor) -> None:
    assert torch.equal(apply_operation(clip_CTHW, ("translate_x", 5.0))[..., 5:], clip_CTHW[..., :-5])
    assert torch.equal(apply_operation(clip_CTHW, ("translate_y", -7.0))[..., :-7, :], clip_CTHW[..., 7:, :])


def test_every_operation_is_the_same_for_all_frames(clip_CTHW: Tensor) -> None:
    still = clip_CTHW[:, :1].expand(3, 5, 48, 64).contiguous()
    for name in {*TORCHVISION_OPERATIONS, *TIMM_OPERATIONS, "hue", "grey"}:
        amount = {"posterize": 3.0, "solarize": 90.0, "translate_x": 9.0, "rotate": 20.0}.get(name, 0.3)
        changed = apply_operation(still, (name, amount))
        assert torch.equal(changed, changed[:, :1].expand_as(changed)), name


def test_timm_magnitudes_by_hand() -> None:
    """Level 7 of 10 for frames of 200 x 100, both signs; the strength increases with the level."""
    expected = {
        "rotate": 21.0,
        "shear_x": 0.21,
        "translate_x": 63.0,
        "translate_y": 31.5,
        "posterize": 2.0,
        "solarize": 77.0,
        "solarize_add": 77.0,
        "contrast": 1.63,
    }
    for name, amount in expected.items():
        assert timm_amount(name, 7.0, 1.0, 100, 200) == pytest.approx(amount), name
    assert timm_amount("rotate", 7.0, -1.0, 100, 200) == pytest.approx(-21.0)
    assert timm_amount("contrast", 7.0, -1.0, 100, 200) == pytest.approx(0.37)
    assert timm_amount("contrast", 10.0, -1.0, 100, 200) == pytest.approx(0.1)


def test_draws_are_spread_over_all_operations_and_both_signs() -> None:
    rng = generator(0, "draws")
    torchvision_draws = [op for _ in range(700) for op in TorchvisionRandAugment().draw(100, 200, rng)]
    counts = {name: sum(drawn == name for drawn, _ in torchvision_draws) for name in TORCHVISION_OPERATIONS}
    assert len(torchvision_draws) == 1400 and min(counts.values()) > 60
    assert {math.copysign(1, amount) for name, amount in torchvision_draws if name == "rotate"} == {-1.0, 1.0}
    assert {round(abs(amount), 6) for name, amount in torchvision_draws if name == "rotate"} == {9.0}


def test_timm_draws_follow_probability_and_noise() -> None:
    rng = generator(0, "timm")
    lists = [TimmRandAugment().draw(100, 200, rng) for _ in range(500)]
    assert sum(map(len, lists)) / 2000 == pytest.approx(0.5, abs=0.05)
    levels = np.array([abs(amount) / 3 for drawn in lists for name, amount in drawn if name == "rotate"])
    assert levels.mean() == pytest.approx(7, abs=0.3)
    assert 0.3 < levels.std() < 0.7
    still = TimmRandAugment(magnitude_deviation=0.0, probability=1.0, operations=3)
    assert len(still.draw(10, 10, rng)) == 3


def test_jitter_draws_inside_their_ranges_in_random_order() -> None:
    spec = ColourJitter(brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1, probability=0.8)
    rng = generator(0, "jitter")
    draws = [spec.draw(rng) for _ in range(500)]
    assert sum(bool(drawn) for drawn in draws) / 500 == pytest.approx(0.8, abs=0.06)
    bounds = {"brightness": (0.6, 1.4), "contrast": (0.7, 1.3), "saturation": (0.8, 1.2), "hue": (-0.1, 0.1)}
    for drawn in draws:
        assert all(bounds[name][0] <= factor <= bounds[name][1] for name, factor in drawn)
    assert len({tuple(name for name, _ in drawn) for drawn in draws}) == 25  # 4! orders, and none at all
    assert ColourJitter(brightness=0, contrast=0, saturation=0, probability=1).draw(rng) == ()


def test_specs_can_be_pickled() -> None:
    for spec in (TimmRandAugment(), TorchvisionRandAugment(), ColourJitter()):
        assert pickle.loads(pickle.dumps(spec)) == spec
