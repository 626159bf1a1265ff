"""Crops by the conventions of the literature: their settings, and how they draw the part of a picture to keep.

Boxes are (top, left, height, width). The module does not import torch, so that a recipe can be checked where torch is
missing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from trichord.core.errors import Cause, SampleError

Box = tuple[int, int, int, int]
Interpolation = Literal["bilinear", "bicubic"]
MAX_ASPECT = 32  # beyond this, a picture scaled to its short side could exhaust the memory


@dataclass(frozen=True)
class Geometry:
    """Parameters of a crop: take `box` of the source, resize it to `resized` (height, width), keep `window` of that."""

    box: Box
    resized: tuple[int, int]
    window: Box
    interpolation: Interpolation


class _Crop(BaseModel, ABC):
    model_config = ConfigDict(frozen=True, extra="forbid")

    count: ClassVar[int] = 1  # crops per clip
    is_random: ClassVar[bool] = True

    size: int = Field(ge=1)
    """Height and width of the view in pixels."""
    interpolation: Interpolation = "bilinear"
    """Interpolation by which frames are resized."""

    @abstractmethod
    def draw(self, height: int, width: int, rng: np.random.Generator) -> list[Geometry]:
        """Draw a crop for a picture of this size: one geometry for each of `count` crops."""

    def _resized(self, box: Box) -> Geometry:
        """Return the geometry that resizes a box of the source to the view."""
        return Geometry(box, (self.size, self.size), (0, 0, self.size, self.size), self.interpolation)

    def _cut(
        self, height: int, width: int, resized: tuple[int, int], places: Sequence[tuple[int, int]]
    ) -> list[Geometry]:
        """Return geometries that resize the whole source and cut a square at each place."""
        whole = (0, 0, height, width)
        return [Geometry(whole, resized, (*place, self.size, self.size), self.interpolation) for place in places]


class RandomResizedCrop(_Crop):
    """A random share of the area at a random aspect, resized to a square (Inception's, as in torchvision)."""

    kind: Literal["random_resized"] = "random_resized"
    scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the frame's area that a crop takes."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest ratio of a crop's width to its height."""

    def draw(self, height: int, width: int, rng: np.random.Generator) -> list[Geometry]:
        return [self._resized(self._box(height, width, rng))]

    def _box(self, height: int, width: int, rng: np.random.Generator) -> Box:
        """Draw up to ten random boxes; if none fits, return the largest centred one of an allowed aspect."""
        low, high = math.log(self.aspect[0]), math.log(self.aspect[1])
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(low, high))
            box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < box_width <= width and 0 < box_height <= height:
                top = int(rng.integers(0, height - box_height + 1))
                left = int(rng.integers(0, width - box_width + 1))
                return top, left, box_height, box_width
        aspect = min(max(width / height, self.aspect[0]), self.aspect[1])
        box_width, box_height = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
        return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


class MultiScaleCrop(_Crop):
    """A crop at the centre or a corner, its sides the short side times a scale each (TSN; X-CLIP, VideoMamba).

    The scales of height and width differ by at most one step in the list; the crop is resized to a square.
    """

    kind: Literal["multi_scale"] = "multi_scale"
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    """Shares of the frame's short side among which the height and width of a crop are chosen."""

    def draw(self, height: int, width: int, rng: np.random.Generator) -> list[Geometry]:
        short = min(height, width)
        sides = [max(1, int(short * scale)) for scale in self.scales]
        steps = range(len(sides))
        shapes = [(sides[down], sides[across]) for down in steps for across in steps if abs(down - across) <= 1]
        box_height, box_width = shapes[int(rng.integers(len(shapes)))]
        bottom, right = height - box_height, width - box_width
        places = ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2))
        return [self._resized((*places[int(rng.integers(len(places)))], box_height, box_width))]


class RandomShortSideCrop(_Crop):
    """Short side resized to a random length, then a random square (TimeSformer and VTN: 256 to 320, 224)."""

    kind: Literal["random_short_side"] = "random_short_side"
    short_side: tuple[int, int] = (256, 320)
    """Smallest and largest length in pixels to which the short side of a frame is resized."""

    @model_validator(mode="after")
    def _fits(self) -> RandomShortSideCrop:
        _check_fits(self.size, self.short_side[0])
        return self

    def draw(self, height: int, width: int, rng: np.random.Generator) -> list[Geometry]:
        shortest, longest = self.short_side
        resized = _short_side(height, width, int(rng.integers(shortest, longest + 1)))
        top = int(rng.integers(0, resized[0] - self.size + 1))
        left = int(rng.integers(0, resized[1] - self.size + 1))
        return self._cut(height, width, resized, [(top, left)])


class CentreCrop(_Crop):
    """Short side resized to `short_side`, then the centre square."""

    is_random: ClassVar[bool] = False

    kind: Literal["centre"] = "centre"
    short_side: int = 256
    """Length in pixels to which the short side of a frame is resized."""

    @model_validator(mode="after")
    def _fits(self) -> CentreCrop:
        _check_fits(self.size, self.short_side)
        return self

    def draw(self, height: int, width: int, rng: np.random.Generator) -> list[Geometry]:
        resized = _short_side(height, width, self.short_side)
        return self._cut(height, width, resized, [(_middle(resized[0], self.size), _middle(resized[1], self.size))])


class ThreeCrops(_Crop):
    """Short side resized to `short_side`, then three squares along the long side: start, middle, end."""

    count: ClassVar[int] = 3
    is_random: ClassVar[bool] = False

    kind: Literal["three"] = "three"
    short_side: int = 256
    """Length in pixels to which the short side of a frame is resized."""

    @model_validator(mode="after")
    def _fits(self) -> ThreeCrops:
        _check_fits(self.size, self.short_side)
        return self

    def draw(self, height: int, width: int, rng: np.random.Generator) -> list[Geometry]:
        resized = _short_side(height, width, self.short_side)
        return self._cut(height, width, resized, _along_long_side(resized, self.size))


class Squash(_Crop):
    """The whole picture resized to a square, without keeping the aspect (as for some Charades results)."""

    is_random: ClassVar[bool] = False

    kind: Literal["squash"] = "squash"

    def draw(self, height: int, width: int, rng: np.random.Generator) -> list[Geometry]:
        return [self._resized((0, 0, height, width))]


CropSpec = Annotated[
    RandomResizedCrop | MultiScaleCrop | RandomShortSideCrop | CentreCrop | ThreeCrops | Squash,
    Field(discriminator="kind"),
]


def _check_fits(size: int, short_side: int) -> None:
    if short_side < size:
        raise ValueError(f"short_side {short_side} is smaller than the crop size {size}")


def _short_side(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return the size with the short side scaled to `short_side`; the long side is rounded down, as in torchvision."""
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise SampleError(Cause.TOO_MANY_PIXELS, f"{width}x{height} has an aspect ratio above {MAX_ASPECT}")
    if height <= width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def _middle(length: int, size: int) -> int:
    return round((length - size) / 2)


def _along_long_side(resized: tuple[int, int], size: int) -> list[tuple[int, int]]:
    height, width = resized
    if height > width:
        return [(top, _middle(width, size)) for top in (0, _middle(height, size), height - size)]
    return [(_middle(height, size), left) for left in (0, _middle(width, size), width - size)]
