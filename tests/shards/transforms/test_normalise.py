"""Pixels are normalised to floats, once."""

from __future__ import annotations

import pytest
import torch

from trichord.shards.transforms.normalise import Normalisation


def test_it_equals_the_plain_formula_for_every_level() -> None:
    levels_BCTHW = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 16, 16).repeat(2, 3, 2, 1, 1)
    found = Normalisation()(levels_BCTHW)
    for colour, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        expected = (levels_BCTHW[:, colour].double() / 255 - mean) / std
        torch.testing.assert_close(found[:, colour].double(), expected, atol=1e-6, rtol=0)


def test_half_precision_is_rounded_once() -> None:
    levels_BCTHW = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 16, 16).repeat(1, 3, 1, 1, 1)
    spec = Normalisation(mean=(0.45,) * 3, std=(0.225,) * 3)
    assert torch.equal(spec(levels_BCTHW, torch.bfloat16), spec(levels_BCTHW).bfloat16())


def test_float_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected uint8 pixels, found torch\.float32"):
        Normalisation()(torch.zeros(1, 3, 1, 2, 2))
