"""Views: crops against torchvision for the same boxes, random draws, flips by label, and the ten views of SVT."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from trichord.core.errors import Cause, SampleError
from trichord.core.seeds import generator
from trichord.shards.transforms import (
    views,  # importing shards lets torchvision be imported beside a CPU build of torch
)
from trichord.shards.transforms.clip_specs import DenseWindow, FullVideo, Segments, SlidingWindows, SvtWindow
from trichord.shards.transforms.crops import (
    CentreCrop,
    CropSpec,
    Geometry,
    Interpolation,
    MultiScaleCrop,
    RandomResizedCrop,
    RandomShortSideCrop,
    Squash,
    ThreeCrops,
)
from trichord.shards.transforms.flips import FlipRule
from trichord.shards.transforms.view_specs import ColourJitter, TorchvisionRandAugment, ViewSpec, ViewsSpec, svt_views
from trichord.shards.transforms.views import ViewPlan, Views, make_views, plan_views, render, resize_box, view_from

reference = pytest.importorskip("torchvision.transforms.v2").functional
CROPS: tuple[CropSpec, ...] = (
    RandomResizedCrop(size=32),
    MultiScaleCrop(size=32),
    RandomShortSideCrop(size=32, short_side=(40, 60)),
    CentreCrop(size=32, short_side=40),
    ThreeCrops(size=32, short_side=32),
    Squash(size=32),
)


def soft_clip(frames: int = 4, height: int = 90, width: int = 120) -> np.ndarray:
    low_res = torch.rand(frames, 3, 12, 16, generator=torch.Generator().manual_seed(2)) * 280 - 10
    soft = functional.interpolate(low_res, (height, width), mode="bicubic").clamp(0, 255).to(torch.uint8)
    return soft.permute(0, 2, 3, 1).contiguous().numpy()


def as_TCHW(frames_THWC: np.ndarray) -> Tensor:
    return torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)


def largest_difference(ours_CTHW: Tensor, theirs_TCHW: Tensor) -> int:
    return int((ours_CTHW.transpose(0, 1).int() - theirs_TCHW.int()).abs().max())


def sample(spec: ViewsSpec, seed: int = 0, labels: tuple[int, ...] = (), captions: tuple[str, ...] = ()) -> Views:
    rng = generator(seed, "views")
    plan = plan_views(spec, np.arange(100) / 25, 4.0, rng)
    frames_THWC = np.repeat(soft_clip(1, 40, 50), len(plan.needed), axis=0)
    return make_views(spec, plan, frames_THWC, rng, labels, captions)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", [(10, 20, 60, 80), (0, 0, 90, 120), (30, 40, 7, 9), (0, 5, 90, 30)])
def test_crop_and_resize_equal_torchvision(interpolation: str, box: tuple[int, int, int, int]) -> None:
    frames_THWC = soft_clip()
    kind = "bilinear" if interpolation == "bilinear" else "bicubic"
    geometry = Geometry(box, (48, 48), (0, 0, 48, 48), kind)
    ours = resize_box(frames_THWC, np.arange(4), geometry)
    in_uint8 = reference.resized_crop(as_TCHW(frames_THWC), *box, size=[48, 48], interpolation=interpolation)
    in_float = reference.resized_crop(as_TCHW(frames_THWC).float(), *box, size=[48, 48], interpolation=interpolation)
    assert ours.dtype == torch.uint8
    assert int((ours.int() - in_uint8.int()).abs().max()) <= 1
    error = (ours.float() - in_float.clamp(0, 255)).abs()
    assert float(error.max()) <= 2  # rounded and clipped twice, horizontally and vertically
    assert float(error.mean()) < 0.4


@pytest.mark.parametrize("shape", [(90, 120), (120, 90), (91, 67), (64, 64)])
def test_centre_crop_equals_torchvision(shape: tuple[int, int]) -> None:
    frames_THWC = soft_clip(3, *shape)
    ours = view_from(ViewSpec(crop=CentreCrop(size=48, short_side=57)), frames_THWC, generator(0))
    theirs = reference.center_crop(reference.resize(as_TCHW(frames_THWC), [57]), [48, 48])
    assert largest_difference(ours, theirs) <= 1


def test_squash_equals_torchvision() -> None:
    frames_THWC = soft_clip()
    ours = view_from(ViewSpec(crop=Squash(size=56)), frames_THWC, generator(0))
    assert largest_difference(ours, reference.resize(as_TCHW(frames_THWC), [56, 56])) <= 1


@pytest.mark.parametrize(("shape", "axis"), [((90, 120), 3), ((120, 90), 2)])
def test_three_crops_cover_the_long_side(shape: tuple[int, int], axis: int) -> None:
    frames_THWC = soft_clip(2, *shape)
    spec = ViewsSpec(clips=FullVideo(frames=2), views=(ViewSpec(crop=ThreeCrops(size=60, short_side=60)),))
    plan = plan_views(spec, np.array([0.0, 0.1]), 0.2, generator(0))
    made = make_views(spec, plan, frames_THWC, generator(0))
    resized = reference.resize(as_TCHW(frames_THWC), [60])
    for view, start in zip(made.tensors(), (0, 10, 20), strict=True):
        assert largest_difference(view, resized.narrow(axis, start, 60)) <= 1


def test_three_crops_share_one_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    resizes: list[Geometry] = []

    def counted(frames_THWC: np.ndarray, rows: np.ndarray, geometry: Geometry) -> Tensor:
        resizes.append(geometry)
        return resize_box(frames_THWC, rows, geometry)

    monkeypatch.setattr(views, "resize_box", counted)
    geometries = ThreeCrops(size=60, short_side=60).draw(90, 120, generator(0))
    assert len(render(soft_clip(), np.arange(4), [views.Draws(geometry, False, ()) for geometry in geometries])) == 3
    assert len(resizes) == 1


def test_random_areas_follow_torchvisions_distribution() -> None:
    """Over many draws, area, aspect and position have the same means as torchvision's; boxes are always inside."""
    transforms = pytest.importorskip("torchvision.transforms")
    spec = RandomResizedCrop(size=32, scale=(0.2, 0.9), aspect=(0.5, 2.0))
    rng = generator(0, "areas")
    ours = np.array([spec.draw(90, 120, rng)[0].box for _ in range(4000)], dtype=float)
    torch.manual_seed(0)
    blank = torch.zeros(3, 90, 120)
    theirs = np.array(
        [transforms.RandomResizedCrop.get_params(blank, [0.2, 0.9], [0.5, 2.0]) for _ in range(4000)], dtype=float
    )
    for boxes in (ours, theirs):
        assert (boxes[:, 0] + boxes[:, 2]).max() <= 90 and (boxes[:, 1] + boxes[:, 3]).max() <= 120
    for measure in (lambda b: b[:, 2] * b[:, 3] / 10800, lambda b: np.log(b[:, 3] / b[:, 2]), lambda b: b[:, 0] / 90):
        assert measure(ours).mean() == pytest.approx(measure(theirs).mean(), abs=0.02)
        assert measure(ours).std() == pytest.approx(measure(theirs).std(), abs=0.02)


@pytest.mark.parametrize(
    ("shape", "box"), [((10, 300), (0, 143, 10, 13)), ((300, 10), (143, 0, 13, 10)), ((10, 10), (0, 0, 10, 10))]
)
def test_random_area_falls_back_to_the_centre(shape: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    """No box of the requested area fits a strip, so the largest centred one of an allowed aspect is taken."""
    (geometry,) = RandomResizedCrop(size=8, scale=(1.01, 1.02)).draw(*shape, generator(0))
    assert geometry.box == box


def test_multi_scale_crop_has_five_positions_and_adjacent_scales() -> None:
    rng = generator(0, "multi")
    boxes = {MultiScaleCrop(size=32).draw(100, 200, rng)[0].box for _ in range(3000)}
    shapes = {(height, width) for _, _, height, width in boxes}
    sides = (100, 87, 75, 66)
    assert shapes == {(a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) <= 1}
    for height, width in shapes:
        places = {(top, left) for top, left, h, w in boxes if (h, w) == (height, width)}
        bottom, right = 100 - height, 200 - width
        assert places == {(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)}


def test_random_short_side_stays_in_range() -> None:
    rng = generator(0, "short")
    spec = RandomShortSideCrop(size=32, short_side=(40, 60))
    drawn = [spec.draw(90, 120, rng)[0] for _ in range(300)]
    assert {geometry.resized[0] for geometry in drawn} == set(range(40, 61))
    for geometry in drawn:
        top, left, height, width = geometry.window
        assert (height, width) == (32, 32)
        assert 0 <= top <= geometry.resized[0] - 32 and 0 <= left <= geometry.resized[1] - 32


class Resizes(TorchDispatchMode):
    """Records antialiased resize operators and their inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[str, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_aa" in func.name():
            self.given.append((func.name(), args[0]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [0, 2, 2, 5]], ids=["frames in a row", "chosen frames"])
@pytest.mark.parametrize("box", [(0, 0, 160, 200), (20, 30, 90, 120)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_uses_the_layout_of_the_fast_path(
    interpolation: Interpolation, box: tuple[int, int, int, int], rows: list[int]
) -> None:
    """The fast path is for uint8 in channels-last memory; its speed depends on the processor."""
    frames_THWC = np.random.default_rng(0).integers(0, 256, (8, 160, 200, 3), dtype=np.uint8)
    with Resizes() as resizes:
        resize_box(frames_THWC, np.array(rows), Geometry(box, (112, 112), (0, 0, 112, 112), interpolation))
    ((name, given_TCHW),) = resizes.given
    assert name == f"aten::_upsample_{interpolation}2d_aa"
    assert given_TCHW.dtype == torch.uint8 and given_TCHW.shape == (4, 3, *box[2:])
    assert given_TCHW.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("crop", CROPS, ids=lambda crop: crop.kind)
@pytest.mark.parametrize("shape", [(90, 120), (33, 16), (1, 1), (17, 301)])
def test_view_is_contiguous_uint8_and_constant_for_a_still_clip(crop: CropSpec, shape: tuple[int, int]) -> None:
    still_THWC = np.repeat(soft_clip(1, *shape), 5, axis=0)
    spec = ViewSpec(
        crop=crop,
        flip_probability=0.5,
        rand_augment=TorchvisionRandAugment(),
        jitter=ColourJitter(hue=0.1),
        grey_probability=0.2,
    )
    for seed in range(4):
        frames_CTHW = view_from(spec, still_THWC, generator(seed, "still"))
        assert frames_CTHW.shape == (3, 5, 32, 32)
        assert frames_CTHW.dtype == torch.uint8 and frames_CTHW.is_contiguous()
        assert torch.equal(frames_CTHW, frames_CTHW[:, :1].expand_as(frames_CTHW))
        assert torch.equal(frames_CTHW, view_from(spec, still_THWC, generator(seed, "still")))


def test_read_only_frames_are_not_modified() -> None:
    frames_THWC = soft_clip()
    before = frames_THWC.copy()
    frames_THWC.flags.writeable = False
    spec = ViewSpec(crop=Squash(size=90), flip_probability=1.0, jitter=ColourJitter(probability=1.0))
    view_from(spec, frames_THWC, generator(0))
    assert np.array_equal(frames_THWC, before)


def test_flip_mirrors_the_view() -> None:
    frames_THWC = soft_clip()
    plain = view_from(ViewSpec(crop=Squash(size=32)), frames_THWC, generator(0))
    flipped = view_from(ViewSpec(crop=Squash(size=32), flip_probability=1.0), frames_THWC, generator(0))
    assert torch.equal(flipped, plain.flip(-1))


def test_plan_requests_every_frame_once() -> None:
    spec = ViewsSpec(clips=SvtWindow(window_seconds=2.0), views=(ViewSpec(crop=Squash(size=1)),))
    plan = plan_views(spec, np.arange(100) / 25, 4.0, generator(0))
    assert np.all(np.diff(plan.needed) > 0)
    assert set(plan.needed) == {index for clip in plan.clips for index in clip.indices}
    frames_THWC = np.broadcast_to(plan.needed[:, None, None, None], (len(plan.needed), 1, 1, 3)).astype(np.uint8)
    made = make_views(spec, plan, frames_THWC, generator(0))
    for view, clip in zip(made.views, plan.clips, strict=True):
        assert view.frames_CTHW[0, :, 0, 0].tolist() == clip.indices.tolist()
        assert view.clip is clip


def test_svt_gives_two_globals_then_eight_locals() -> None:
    spec = svt_views(SvtWindow(window_seconds=3.0), global_size=56, local_size=24)
    made = sample(spec)
    shapes = [tuple(view.shape) for view in made.tensors()]
    assert shapes == [(3, 8, 56, 56), (3, 16, 56, 56)] + [(3, t, 24, 24) for t in (2, 2, 4, 4, 8, 8, 16, 16)]
    globals_area = [view.draws.geometry.box[2] * view.draws.geometry.box[3] / 2000 for view in made.views[:2]]
    locals_area = [view.draws.geometry.box[2] * view.draws.geometry.box[3] / 2000 for view in made.views[2:]]
    assert all(0.38 < area <= 1 for area in globals_area) and all(0.04 < area < 0.42 for area in locals_area)
    assert len({view.draws.geometry.box for view in made.views}) == 10


def test_svt_draws_flip_jitter_and_grey_at_their_rates() -> None:
    spec = svt_views(SvtWindow(window_seconds=3.0), global_size=4, local_size=4)
    draws = [view.draws for seed in range(60) for view in sample(spec, seed).views]
    names = [[name for name, _ in drawn.operations] for drawn in draws]
    assert np.mean([drawn.flipped for drawn in draws]) == pytest.approx(0.5, abs=0.08)
    assert np.mean(["contrast" in drawn for drawn in names]) == pytest.approx(0.8, abs=0.07)
    assert np.mean(["grey" in drawn for drawn in names]) == pytest.approx(0.2, abs=0.07)
    assert not any("hue" in drawn for drawn in names)
    assert all(drawn[-1] == "grey" for drawn in names if "grey" in drawn)


def test_views_are_ordered_by_clip_then_crop() -> None:
    spec = ViewsSpec(
        clips=DenseWindow(frames=2, clip_seconds=1.0, placement="uniform", clips=4),
        views=(ViewSpec(crop=ThreeCrops(size=16, short_side=16)),),
    )
    made = sample(spec)
    assert len(made.views) == 12
    assert [view.clip.start_s for view in made.views] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [view.draws.geometry.window[1] for view in made.views[:3]] == [0, 2, 4]


def test_recorded_draws_reproduce_a_view() -> None:
    spec = svt_views(SvtWindow(window_seconds=2.0), global_size=32, local_size=16)
    rng = generator(0, "again")
    plan = plan_views(spec, np.arange(100) / 25, 4.0, rng)
    frames_THWC = soft_clip(len(plan.needed))
    for view in make_views(spec, plan, frames_THWC, rng).views:
        (again,) = render(frames_THWC, plan.rows(view.clip), [view.draws])
        assert torch.equal(again, view.frames_CTHW)


MIRRORED = ViewSpec(crop=Squash(size=8), flip_probability=0.5, jitter=ColourJitter())


def test_exempt_labels_and_words_are_never_flipped() -> None:
    spec = ViewsSpec(clips=Segments(frames=2, clips=4), views=(MIRRORED,), flips=FlipRule(exempt_labels=frozenset({7})))
    plain = [view.draws for seed in range(30) for view in sample(spec, seed, labels=(1,)).views]
    exempt = [view.draws for seed in range(30) for view in sample(spec, seed, labels=(1, 7)).views]
    worded = [view.draws for seed in range(30) for view in sample(spec, seed, captions=("It moves Left.",)).views]
    untold = [view.draws for seed in range(30) for view in sample(spec, seed, captions=("A leftover cake.",)).views]
    assert 0.3 < np.mean([drawn.flipped for drawn in plain]) < 0.7
    assert not any(drawn.flipped for drawn in exempt + worded)
    assert untold == plain
    assert [d.operations for d in exempt] == [d.operations for d in plain], "a label decides about mirroring alone"


def test_swapped_labels_follow_one_flip_for_all_views() -> None:
    spec = ViewsSpec(clips=Segments(frames=2, clips=4), views=(MIRRORED,), flips=FlipRule(swap_labels=((3, 4),)))
    seen = set()
    for seed in range(40):
        made = sample(spec, seed, labels=(3, 9))
        flipped = {view.draws.flipped for view in made.views}
        assert len(flipped) == 1
        assert made.labels == ((4, 9) if flipped == {True} else (3, 9))
        seen |= flipped
    assert seen == {True, False}
    assert sample(spec, 1, labels=(9,)).labels == (9,)


def test_settings_are_checked() -> None:
    view = ViewSpec(crop=Squash(size=8))
    with pytest.raises(ValidationError, match="one for each of 10 clips"):
        ViewsSpec(clips=SvtWindow(), views=(view, view))
    with pytest.raises(ValidationError, match="varying number"):
        ViewsSpec(clips=SlidingWindows(frames=2, clip_seconds=1), views=(view, view))
    with pytest.raises(ValidationError, match="short_side 100 is smaller than the crop size 112"):
        CentreCrop(size=112, short_side=100)
    with pytest.raises(ValidationError, match="same flip_probability"):
        uneven = (view, ViewSpec(crop=Squash(size=8), flip_probability=0.5))
        ViewsSpec(clips=Segments(frames=2, clips=2), views=uneven, flips=FlipRule(swap_labels=((0, 1),)))
    with pytest.raises(ValidationError, match="one swap pair only"):
        FlipRule(swap_labels=((0, 1), (1, 2)))


def test_narrow_strip_is_refused_before_it_exhausts_memory() -> None:
    with pytest.raises(SampleError) as caught:
        CentreCrop(size=224).draw(4, 4000, generator(0))
    assert caught.value.cause is Cause.TOO_MANY_PIXELS


def test_specs_and_plans_can_be_pickled() -> None:
    spec = svt_views()
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert ViewsSpec.model_validate_json(spec.model_dump_json()) == spec
    plan = pickle.loads(pickle.dumps(plan_views(spec, np.arange(300) / 30, 10.0, generator(0))))
    assert isinstance(plan, ViewPlan) and len(plan.clips) == 10
