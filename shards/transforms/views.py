"""The views of one sample, made from decoded frames by a recipe's settings: clips, crops, flips, colours.

The parameters of a view are drawn first and then applied, the same to all of its frames; the draws are kept with the
view, for the contact sheet and for debugging. Order: crop, flip, RandAugment, colour jitter, grey. Views are ordered
clip by clip, with a clip's crops together and SVT's globals before its locals.

Pixels stay uint8: antialiased interpolation of uint8 in channels-last memory is within two levels of float (a third of
a level on average), and on x86-64 with AVX2 or later uses an integer path ten times faster than float.
Legend: T frames, H height, W width, C the three colours; frames_THWC as decoded, frames_CTHW uint8 as batches have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trichord.shards.transforms.augment import apply_operation
from trichord.shards.transforms.clips import Clip, Indices, Seconds
from trichord.shards.transforms.crops import Geometry
from trichord.shards.transforms.flips import Mirroring, judge
from trichord.shards.transforms.view_specs import Operation, RandAugment, ViewSpec, ViewsSpec

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Draws:
    """All random choices of one view."""

    geometry: Geometry
    flipped: bool
    operations: tuple[Operation, ...]  # RandAugment, then jitter, then grey


@dataclass(frozen=True, eq=False)
class View:
    """One view, its clip, and its random choices."""

    frames_CTHW: Tensor
    clip: Clip
    draws: Draws


@dataclass(frozen=True, eq=False)
class ViewPlan:
    """The clips of a sample and the union of the frames they need, so that each frame is decoded once."""

    clips: tuple[Clip, ...]
    needed: Indices

    def rows(self, clip: Clip) -> Indices:
        """Return the indices of a clip's frames among the needed ones."""
        return np.searchsorted(self.needed, clip.indices).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Views:
    """The views of a sample in the recipe's order, and its labels after mirroring."""

    views: tuple[View, ...]
    labels: tuple[int, ...]

    def tensors(self) -> list[Tensor]:
        """Return the frames_CTHW of each view."""
        return [view.frames_CTHW for view in self.views]


def plan_views(spec: ViewsSpec, times_s: Seconds, duration_s: float, rng: np.random.Generator) -> ViewPlan:
    """Choose the frames of all clips of one video; decode `needed` of the result, in that order."""
    clips = spec.clips.plan(times_s, duration_s, rng)
    return ViewPlan(tuple(clips), np.unique(np.concatenate([clip.indices for clip in clips])))


def make_views(
    spec: ViewsSpec,
    plan: ViewPlan,
    needed_THWC: Frames,
    rng: np.random.Generator,
    labels: Sequence[int] = (),
    captions: Sequence[str] = (),
) -> Views:
    """Make all views of a sample from the frames that its plan needs.

    Labels and captions affect mirroring only; all other draws are independent of them.
    """
    flip = judge(spec.flips, labels, captions)
    shared_draw = float(rng.random())
    height, width = needed_THWC.shape[1:3]
    made: list[View] = []
    for number, clip in enumerate(plan.clips):
        view_spec = spec.views[number] if len(spec.views) > 1 else spec.views[0]
        draws = draw_view(view_spec, height, width, rng, flip.mirroring, shared_draw)
        frames = render(needed_THWC, plan.rows(clip), draws, view_spec.rand_augment)
        made.extend(View(frames_CTHW, clip, drawn) for frames_CTHW, drawn in zip(frames, draws, strict=True))
    mirrored = flip.mirroring is Mirroring.TOGETHER and shared_draw < spec.views[0].flip_probability
    return Views(tuple(made), flip.mirrored_labels if mirrored else tuple(labels))


def view_from(spec: ViewSpec, frames_THWC: Frames, rng: np.random.Generator) -> Tensor:
    """Make one view of one clip's frames; if the spec has three crops, the first."""
    draws = draw_view(spec, frames_THWC.shape[1], frames_THWC.shape[2], rng)
    return render(frames_THWC, np.arange(len(frames_THWC)), draws[:1], spec.rand_augment)[0]


def draw_view(
    spec: ViewSpec,
    height: int,
    width: int,
    rng: np.random.Generator,
    mirroring: Mirroring = Mirroring.EACH,
    shared_draw: float = 1.0,
) -> list[Draws]:
    """Draw the parameters of a view for frames of this size: one set, three for `ThreeCrops`."""
    geometries = spec.crop.draw(height, width, rng)
    flip_draw = float(rng.random())
    if mirroring is not Mirroring.EACH:
        flip_draw = shared_draw if mirroring is Mirroring.TOGETHER else 1.0
    operations: tuple[Operation, ...] = ()
    if spec.rand_augment is not None:
        operations += spec.rand_augment.draw(spec.crop.size, spec.crop.size, rng)
    if spec.jitter is not None:
        operations += spec.jitter.draw(rng)
    if rng.random() < spec.grey_probability:
        operations += (("grey", 1.0),)
    return [Draws(geometry, flip_draw < spec.flip_probability, operations) for geometry in geometries]


def render(
    frames_THWC: Frames, rows: NDArray[np.int64], draws: Sequence[Draws], rand_augment: RandAugment | None = None
) -> list[Tensor]:
    """Apply drawn parameters to the chosen frames; crops of the same resized picture share the resize."""
    rendered: list[Tensor] = []
    resized_TCHW: Tensor | None = None
    before: Geometry | None = None
    for drawn in draws:
        geometry = drawn.geometry
        if resized_TCHW is None or before is None or (before.box, before.resized) != (geometry.box, geometry.resized):
            resized_TCHW = resize_box(frames_THWC, rows, geometry)
        before = geometry
        frames_CTHW = cut_window(resized_TCHW, geometry)
        if drawn.flipped:
            frames_CTHW = frames_CTHW.flip(-1)
        for operation in drawn.operations:
            if rand_augment is None:
                frames_CTHW = apply_operation(frames_CTHW, operation)
            else:
                frames_CTHW = apply_operation(frames_CTHW, operation, rand_augment.fill, rand_augment.interpolation)
        rendered.append(frames_CTHW)
    return rendered


def resize_box(frames_THWC: Frames, rows: NDArray[np.int64], geometry: Geometry) -> Tensor:
    """Cut the geometry's box from the chosen frames and resize it; return frames_TCHW in channels-last memory.

    Choosing frames and cutting in one indexing step copies only the box, and nothing for consecutive whole frames; both
    have the memory layout that the fast path needs.
    """
    top, left, height, width = geometry.box
    consecutive = len(rows) > 0 and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows)))
    chosen: slice | NDArray[np.int64] = slice(int(rows[0]), int(rows[0]) + len(rows)) if consecutive else rows
    cut_THWC = frames_THWC[chosen, top : top + height, left : left + width]
    if not cut_THWC.flags.writeable:  # torch would warn, since it has no read-only tensors
        cut_THWC = cut_THWC.copy()
    cut_TCHW = torch.from_numpy(np.ascontiguousarray(cut_THWC)).permute(0, 3, 1, 2)
    if (height, width) == geometry.resized:
        return cut_TCHW
    return functional.interpolate(cut_TCHW, geometry.resized, mode=geometry.interpolation, antialias=True)


def cut_window(frames_TCHW: Tensor, geometry: Geometry) -> Tensor:
    """Cut the geometry's window from resized frames; return contiguous frames_CTHW."""
    top, left, height, width = geometry.window
    window_TCHW = frames_TCHW[:, :, top : top + height, left : left + width]
    return window_TCHW.permute(1, 0, 2, 3).contiguous()
