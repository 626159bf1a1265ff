"""Mixup, CutMix and soft targets: against loops over samples, and independent of the number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from trichord.core.errors import UserError
from trichord.shards.transforms.mix import Blend, blend_batch, draw_blend, partners_in_lanes, soft_targets
from trichord.shards.transforms.view_specs import MixSpec


def batch(samples: int, dtype: torch.dtype = torch.uint8) -> tuple[list[Tensor], Tensor]:
    """Two views of different sizes, and one-hot targets."""
    rng = torch.Generator().manual_seed(0)
    sizes = ((3, 2, 16, 20), (3, 4, 8, 8))
    videos = [torch.randint(0, 256, (samples, *size), generator=rng, dtype=torch.uint8).to(dtype) for size in sizes]
    return videos, soft_targets([[index % 5] for index in range(samples)], 5)


def naive_partner(sample: int, samples_per_lane: int) -> int:
    lane, place = divmod(sample, samples_per_lane)
    return lane * samples_per_lane + (place + 1) % samples_per_lane


@pytest.mark.parametrize("samples_per_lane", [2, 3, 6])
def test_partners_stay_in_their_lane(samples_per_lane: int) -> None:
    partners = partners_in_lanes(12, samples_per_lane).tolist()
    assert partners == [naive_partner(sample, samples_per_lane) for sample in range(12)]
    assert sorted(partners) == list(range(12)), "every sample is lent once"
    assert all(partner != sample for sample, partner in enumerate(partners))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_mixup_against_a_loop(dtype: torch.dtype) -> None:
    videos, targets_BK = batch(6, dtype)
    mixed, mixed_targets = blend_batch(videos, targets_BK, Blend(0.7), 3)
    for video, result in zip(videos, mixed, strict=True):
        assert result.dtype == dtype
        for sample in range(6):
            expected = 0.7 * video[sample].double() + 0.3 * video[naive_partner(sample, 3)].double()
            assert float((result[sample].double() - expected).abs().max()) <= (0.501 if dtype == torch.uint8 else 1e-4)
    for sample in range(6):
        expected = 0.7 * targets_BK[sample] + 0.3 * targets_BK[naive_partner(sample, 3)]
        assert torch.allclose(mixed_targets[sample], expected)


def test_cutmix_pastes_one_box_over_all_frames_and_views() -> None:
    videos, targets_BK = batch(4)
    mixed, mixed_targets = blend_batch(videos, targets_BK, Blend(0.75, (0.25, 0.75, 0.0, 0.5)), 2)
    for video, result in zip(videos, mixed, strict=True):
        height, width = video.shape[-2:]
        for sample in range(4):
            for row in range(height):
                for column in range(width):
                    inside = height // 4 <= row < 3 * height // 4 and column < width // 2
                    source = naive_partner(sample, 2) if inside else sample
                    assert torch.equal(result[sample, ..., row, column], video[source, ..., row, column])
    assert mixed_targets[0].tolist() == [0.75, 0.25, 0.0, 0.0, 0.0]


def test_cutmix_targets_follow_the_replaced_pixels() -> None:
    """A box across the border is clipped, and edges are whole pixels: the target counts the actual area."""
    videos, targets_BK = batch(2)
    black_and_white = [torch.stack([torch.zeros_like(video[0]), torch.full_like(video[0], 255)]) for video in videos]
    spec = MixSpec(mixup_alpha=0.0)
    for step in range(40):
        blend = draw_blend(spec, seed=3, step=step)
        assert blend.box is not None
        mixed, mixed_targets = blend_batch(black_and_white, targets_BK, blend, 2)
        white = float((mixed[0][0] == 255).float().mean())
        assert mixed_targets[0].tolist() == pytest.approx([1 - white, white, 0, 0, 0], abs=1e-6)
        assert blend.kept == pytest.approx(1 - white, abs=0.12)


@pytest.mark.parametrize("blend", [Blend(0.6), Blend(0.8, (0.1, 0.6, 0.3, 0.7))])
def test_batch_is_the_same_for_any_number_of_ranks(blend: Blend) -> None:
    """Twelve samples in lanes of two on 1, 2, 3 and 6 ranks, each of which blends its own part."""
    if blend.box is None:  # no two levels blend to nearly a half, which float32 could round either way
        levels = torch.arange(256.0, dtype=torch.float64)
        halves = (levels[:, None] * blend.kept + levels * (1 - blend.kept)) % 1 - 0.5
        assert float(halves.abs().min()) > 0.05
    videos, targets_BK = batch(12)
    whole_videos, whole_targets = blend_batch(videos, targets_BK, blend, 2)
    for ranks in (2, 3, 6):
        share = 12 // ranks
        parts = [
            blend_batch([video[start : start + share] for video in videos], targets_BK[start : start + share], blend, 2)
            for start in range(0, 12, share)
        ]
        for view, whole in enumerate(whole_videos):
            assert torch.equal(torch.cat([part[0][view] for part in parts]), whole)
        assert torch.equal(torch.cat([part[1] for part in parts]), whole_targets)


def test_a_blend_depends_on_seed_and_step_alone() -> None:
    spec = MixSpec()
    blends = [draw_blend(spec, 7, step) for step in range(400)]
    assert blends == [draw_blend(spec, 7, step) for step in range(400)]
    assert blends != [draw_blend(spec, 8, step) for step in range(400)]
    cut = [blend for blend in blends if blend.box is not None]
    assert len(cut) / 400 == pytest.approx(0.5, abs=0.07)
    for blend in cut:
        assert blend.box is not None
        top, bottom, left, right = blend.box
        assert 0 <= top < bottom <= 1 and 0 <= left < right <= 1
        assert blend.kept == pytest.approx(1 - (bottom - top) * (right - left))


def test_mixup_weights_follow_the_beta_distribution() -> None:
    kept = np.array([draw_blend(MixSpec(mixup_alpha=0.4, cutmix_alpha=0.0), 0, step).kept for step in range(2000)])
    assert kept.mean() == pytest.approx(0.5, abs=0.03)
    assert kept.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)  # the variance of Beta(a, a)


def test_disabled_mixing_keeps_the_batch() -> None:
    videos, targets_BK = batch(3)
    assert draw_blend(MixSpec(mixup_alpha=0.0, cutmix_alpha=0.0), 0, 0).kept == 1.0
    unblended = sum(draw_blend(MixSpec(probability=0.25), 0, step).kept == 1.0 for step in range(400))
    assert unblended / 400 == pytest.approx(0.75, abs=0.07)
    same, targets = blend_batch(videos, targets_BK, Blend(1.0), 1)
    assert all(ours is video for ours, video in zip(same, videos, strict=True)) and targets is targets_BK


def test_soft_targets_by_hand() -> None:
    assert soft_targets([[2], [0]], 4, smoothing=0.1).tolist() == [
        pytest.approx([0.025, 0.025, 0.925, 0.025]),
        pytest.approx([0.925, 0.025, 0.025, 0.025]),
    ]
    several = soft_targets([[0, 2], []], 3, smoothing=0.2, multi_label=True)
    assert several.tolist() == [pytest.approx([0.9, 0.1, 0.9]), pytest.approx([0.1, 0.1, 0.1])]


def test_invalid_settings_are_named() -> None:
    videos, targets_BK = batch(4)
    with pytest.raises(UserError, match="raise batch_size to at least 2 x lanes"):
        blend_batch(videos, targets_BK, Blend(0.5), 1)
    with pytest.raises(UserError, match=r"has 4, so a lane is split. data.lanes must be a multiple of ranks x engine"):
        blend_batch(videos, targets_BK, Blend(0.5), 3)
    with pytest.raises(ValueError, match="4 does not consist of whole lanes of 3"):
        partners_in_lanes(4, 3)
    with pytest.raises(ValueError, match=r"sample 1 has labels \[4\], expected numbers from 0 to 3"):
        soft_targets([[0], [4]], 4)
    with pytest.raises(ValueError, match="2 labels, expected one"):
        soft_targets([[0, 1]], 4)
    with pytest.raises(ValidationError, match="extra_forbidden"):
        MixSpec.model_validate({"alpha": 0.8})
