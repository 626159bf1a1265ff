"""The output of a transform for one sample, and batches of it: uint8 frames, audio, text, labels, keys.

Workers stack examples into shared-memory tensors that are reused in turn, since new ones would cost a page fault per
4 kB, a tenth of the decoding time. The loader of torch requests part k from a worker only after part k - prefetch was
taken from it, and the receiver here copies each part before it takes the next. So with prefetch + 1 buffers used in
turn, none is written while it is still read.

Legend: B samples of the batch, C colours, T frames, H rows, W columns, M mel filters.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from trichord.core.errors import Cause
from trichord.shards.record import Annotation, RawSample
from trichord.shards.sample_spec import Modality

_MODALITIES: tuple[Modality, ...] = ("video", "audio")


class Timeline(NamedTuple):
    """Times of a sample, for tests: the interval in seconds that each of its clips covers, and its annotation."""

    clips_s: tuple[tuple[float, float], ...] = ()
    duration_s: float = 0.0
    annotation: Annotation = Annotation()


_NO_TIMELINE = Timeline()


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One decoded sample. A transform that returns audio returns zeros of the same shape for a clip without audio."""

    video: list[Tensor]  # one frames_CTHW uint8 tensor per view
    audio: list[Tensor]  # one spectrogram_TM per sound
    audio_present: bool
    text: str
    labels: tuple[int, ...]
    timeline: Timeline = _NO_TIMELINE  # empty unless the transform is asked for it

    def inputs(self, modality: Modality) -> list[Tensor]:
        """Return the views or the sounds."""
        return {"video": self.video, "audio": self.audio}[modality]


# Runs in the workers, so it must be picklable; its only source of randomness is the generator.
SampleTransform = Callable[[RawSample, np.random.Generator], Example]


class BadSample(NamedTuple):
    """A sample, or a member of an archive, that was left out."""

    shard: str
    key: str
    cause: Cause
    detail: str


# Frozen, because the thread that prefetches a batch shares it with the training loop. A batch equals only itself, since
# the comparison of tensors has no single truth value.
@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The samples of one step on one rank, grouped by stream lane (see `order`); `len(batch)` is their number.

    Example:
        >>> part = batch.to(torch.device("cuda"), non_blocking=True).rows(slice(0, 4))
        >>> part.video[0].shape, part.key
    """

    video: list[Tensor]  # one frames_BCTHW uint8 tensor per view
    audio: list[Tensor]  # one spectrogram_BTM per sound
    audio_present: Tensor  # bool, B
    valid: Tensor  # bool, B; False only in evaluation, for padding and samples that could not be used
    text: list[str]
    labels: list[tuple[int, ...]]
    key: list[str]
    shard: list[str]
    source: list[int]
    position: list[int]  # in evaluation, the index of the sample in the whole set; -1 for padding and in training
    timeline: list[Timeline]
    step: int
    bad: list[BadSample]  # samples that were replaced by another (training) or are not valid (evaluation)
    left_out: list[BadSample]  # members, in shards opened for this batch, that must not be used
    surplus: int  # samples in those shards beyond the manifest's number; they are not read

    def __len__(self) -> int:
        return len(self.key)

    def inputs(self, modality: Modality) -> list[Tensor]:
        """Return the views or the sounds."""
        return {"video": self.video, "audio": self.audio}[modality]

    def tensors(self) -> list[Tensor]:
        """Return all tensors."""
        return [*self.video, *self.audio, self.audio_present, self.valid]

    def replace(self, **fields: Any) -> Batch:
        """Return the batch with other values of some fields."""
        return dataclasses.replace(self, **fields)

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """Return the batch with its tensors on a device; those that are there already are not copied."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking), lambda values: values)

    def rows(self, rows: slice | Sequence[int]) -> Batch:
        """Return the batch of some of its samples: for a slice, the tensors are views, for indices, copies.

        What belongs to the whole batch stays: `step`, `bad`, `left_out` and `surplus`.
        """
        numbers = range(len(self))[rows] if isinstance(rows, slice) else rows
        index = rows if isinstance(rows, slice) else list(rows)
        return self._map(lambda tensor: tensor[index], lambda values: [values[number] for number in numbers])

    @classmethod
    def cat(cls, parts: Sequence[Batch], pin_memory: bool = False) -> Batch:
        """Concatenate parts of a step in order, as copies, in page-locked memory if `pin_memory`."""
        first = parts[0]
        fields: dict[str, Any] = {
            modality: [
                _concatenate([part.inputs(modality)[number] for part in parts], pin_memory)
                for number in range(len(first.inputs(modality)))
            ]
            for modality in _MODALITIES
        }
        fields |= {name: torch.cat([getattr(part, name) for part in parts]) for name in _FLAGS}
        fields |= {name: [value for part in parts for value in getattr(part, name)] for name in _LISTS}
        return cls(
            **fields,
            step=first.step,
            bad=[bad for part in parts for bad in part.bad],
            left_out=[member for part in parts for member in part.left_out],
            surplus=sum(part.surplus for part in parts),
        )

    def _map(self, tensor: Callable[[Tensor], Tensor], values: Callable[[list[Any]], list[Any]]) -> Batch:
        """Apply functions to every tensor and to every list with a value per sample."""
        return self.replace(
            **{modality: [tensor(each) for each in self.inputs(modality)] for modality in _MODALITIES},
            **{name: tensor(getattr(self, name)) for name in _FLAGS},
            **{name: values(getattr(self, name)) for name in _LISTS},
        )


_FLAGS = ("audio_present", "valid")  # tensors with one value per sample
_LISTS = ("text", "labels", "key", "shard", "source", "position", "timeline")  # lists with one value per sample


class Named(NamedTuple):
    """An example and its origin."""

    example: Example
    key: str
    shard: str
    source: int
    position: int = -1
    valid: bool = True


def collate(
    named: Sequence[Named], step: int, bad: list[BadSample], left_out: list[BadSample], surplus: int, stack: Stacker
) -> Batch:
    """Collate examples into a batch."""
    examples = [each.example for each in named]
    _check_shapes(named)
    return Batch(
        video=[
            stack(f"video {view}", [example.video[view] for example in examples])
            for view in range(len(examples[0].video))
        ],
        audio=[
            stack(f"audio {sound}", [example.audio[sound] for example in examples])
            for sound in range(len(examples[0].audio))
        ],
        audio_present=torch.tensor([bool(example.audio_present) for example in examples]),
        valid=torch.tensor([each.valid for each in named]),
        text=[example.text for example in examples],
        labels=[example.labels for example in examples],
        key=[each.key for each in named],
        shard=[each.shard for each in named],
        source=[each.source for each in named],
        position=[each.position for each in named],
        timeline=[example.timeline for example in examples],
        step=step,
        bad=bad,
        left_out=left_out,
        surplus=surplus,
    )


def with_as_many_views(named: Sequence[Named]) -> list[Named]:
    """Pad each example with empty views and sounds to the largest number of any; its timeline has the true number."""
    most = {modality: max(len(each.example.inputs(modality)) for each in named) for modality in _MODALITIES}
    return [each._replace(example=_filled_up(each.example, most)) for each in named]


def _filled_up(example: Example, most: Mapping[Modality, int]) -> Example:
    video, audio = (
        [*own, *([torch.zeros_like(own[0])] * (most[modality] - len(own)) if own else [])]
        for modality in _MODALITIES
        for own in (example.inputs(modality),)
    )
    return dataclasses.replace(example, video=video, audio=audio)


def blank_like(example: Example) -> Example:
    """Return padding: an example of the same shapes, all zeros, without text, labels and timeline."""
    return Example(
        video=[torch.zeros_like(view) for view in example.video],
        audio=[torch.zeros_like(sound) for sound in example.audio],
        audio_present=False,
        text="",
        labels=(),
    )


def _concatenate(tensors: Sequence[Tensor], pin_memory: bool) -> Tensor:
    shape = (sum(len(tensor) for tensor in tensors), *tensors[0].shape[1:])
    return torch.cat(list(tensors), out=torch.empty(shape, dtype=tensors[0].dtype, pin_memory=pin_memory))


def _check_shapes(named: Sequence[Named]) -> None:
    """Raise ValueError that names two samples for which the transform returned different shapes."""
    expected = _shapes(named[0].example)
    for each in named[1:]:
        found = _shapes(each.example)
        if found != expected:
            raise ValueError(
                f"the transform returned the shapes {expected} for {named[0].key} and the shapes {found} for "
                f"{each.key} (video views, then sounds); they must be equal in a batch, also for clips without audio"
            )


def _shapes(example: Example) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    return [tuple(view.shape) for view in example.video], [tuple(sound.shape) for sound in example.audio]


class Stacker(Protocol):
    """Callable that stacks tensors of one shape; `name` identifies the tensor within the batch."""

    def __call__(self, name: str, tensors: Sequence[Tensor]) -> Tensor: ...


class SharedRing:
    """A stacker with, for each name, as many shared-memory buffers as batches can be in flight."""

    def __init__(self, buffers: int) -> None:
        self._buffers = buffers
        self._rings: dict[str, deque[Tensor]] = {}

    def __call__(self, name: str, tensors: Sequence[Tensor]) -> Tensor:
        """Stack into the least recently used buffer; called once per name and batch."""
        first = tensors[0]
        shape = (len(tensors), *first.shape)
        ring = self._rings.get(name)
        if ring is None or ring[0].shape != shape or ring[0].dtype != first.dtype:
            ring = self._rings[name] = deque(_make_shared(shape, first.dtype) for _ in range(self._buffers))
        ring.rotate(1)
        return torch.stack(list(tensors), out=ring[0])


def _make_shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    tensor.untyped_storage().share_memory_()
    return tensor


def stack_anew(name: str, tensors: Sequence[Tensor]) -> Tensor:
    """Stack into new memory that is private to this process."""
    return torch.stack(list(tensors))
