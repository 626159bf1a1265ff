"""The draws of a seed never change: a NumPy release that draws other numbers would change every run."""

from __future__ import annotations

import numpy as np
import pytest

from trichord.core.seeds import derive_seed, generator
from trichord.shards.reading.order import Order
from trichord.shards.transforms.clip_specs import DenseWindow
from trichord.shards.transforms.crops import Geometry, RandomResizedCrop
from trichord.shards.transforms.mix import draw_blend
from trichord.shards.transforms.view_specs import ColourJitter, MixSpec, TorchvisionRandAugment, ViewSpec, ViewsSpec
from trichord.shards.transforms.views import make_views, plan_views


def test_derived_seeds_never_change() -> None:
    assert derive_seed() == 13020603013274838756
    assert derive_seed(0, "views", 17, "clip é") == 11510887126749950570
    assert derive_seed("0") == 10398409859443960264 != derive_seed(0)


def test_order_of_samples_of_a_seed_never_changes() -> None:
    order = Order([[5, 7, 0, 9], [4, 4]], [2.0, 1.0], seed=0, lanes=2, block_shards=2, batch_size=4)
    batches = [[(at.source, at.shard, at.index, at.lane) for at in order.batch(step)] for step in (0, 1, 1000)]
    assert batches == [
        [(0, 0, 2, 0), (0, 0, 3, 0), (0, 3, 3, 1), (0, 3, 0, 1)],
        [(0, 0, 4, 0), (1, 0, 2, 0), (1, 0, 0, 1), (0, 3, 2, 1)],
        [(0, 1, 6, 0), (1, 1, 3, 0), (0, 1, 4, 1), (0, 1, 6, 1)],
    ]


def test_view_of_a_seed_never_changes() -> None:
    view = ViewSpec(
        crop=RandomResizedCrop(size=8),
        flip_probability=0.5,
        rand_augment=TorchvisionRandAugment(),
        jitter=ColourJitter(hue=0.1),
        grey_probability=0.5,
    )
    spec = ViewsSpec(clips=DenseWindow(frames=4, clip_seconds=1.0), views=(view,))
    rng = generator(0, "views", 3, "clip")
    plan = plan_views(spec, np.arange(100) / 25, 4.0, rng)
    assert plan.needed.tolist() == [46, 52, 58, 65]
    (made,) = make_views(spec, plan, np.zeros((4, 40, 50, 3), np.uint8), rng).views
    assert made.draws.geometry == Geometry((7, 20, 25, 22), (8, 8), (0, 0, 8, 8), "bilinear")
    names, amounts = zip(*made.draws.operations, strict=True)
    assert names == ("translate_y", "contrast", "contrast", "saturation", "hue", "brightness", "grey")
    assert amounts == pytest.approx((-1.0, 1.27, 1.12648591, 1.09816861, 0.06282970, 0.72564976, 1.0))
    assert not made.draws.flipped


def test_blends_of_a_seed_never_change() -> None:
    blends = [draw_blend(MixSpec(), 0, step) for step in range(4)]
    assert [blend.kept for blend in blends] == pytest.approx([0.79439146, 0.92682655, 0.6514059, 0.42032805])
    assert [blend.box is None for blend in blends] == [True, False, False, True]
