"""What a transform makes of one sample, and what a training step gets: uint8 frames, sound, text, labels, names.

Shape letters: B samples of the batch, C colours, T frames, H rows, W columns.

Shared-memory tensors used in turn by a worker: fresh ones would cost a page fault per 4 kB, a tenth of decoding.

torch's loader asks a worker for part k only after part k - prefetch was taken from it, and whoever takes parts here
copies them before taking the next. So with prefetch + 1 buffers in turn, none is written while it is still read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, NotRequired, Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor

from trichord.core.errors import Cause
from trichord.shards.record import Annotation, RawSample


class Timeline(NamedTuple):
    """A sample in time, for tests: the stretch in seconds that each of its clips stands for, and what is said of it."""

    clips_s: tuple[tuple[float, float], ...] = ()
    duration_s: float = 0.0
    annotation: Annotation = Annotation()


class Example(TypedDict):
    """One sample, decoded. A transform that gives sound gives zeros of the same shape for a clip without."""

    video: list[Tensor]  # one frames_CTHW uint8 tensor per view
    audio: list[Tensor]  # one spectrogram_TM per sound
    audio_present: bool
    text: str
    labels: tuple[int, ...]
    timeline: NotRequired[Timeline]


Sense = Literal["video", "audio"]
_SENSES: tuple[Sense, ...] = ("video", "audio")

# Runs in the workers, so it must be picklable; all its chance comes from the generator.
SampleTransform = Callable[[RawSample, np.random.Generator], Example]


class BadSample(NamedTuple):
    """A sample, or a member of an archive, that was left out."""

    shard: str
    key: str
    cause: Cause
    detail: str


class Batch(TypedDict):
    """The samples of one step on one rank, lane by lane."""

    video: list[Tensor]  # one frames_BCTHW uint8 tensor per view
    audio: list[Tensor]  # one spectrogram_BTM per sound
    audio_present: Tensor  # bool, B
    valid: Tensor  # bool, B; False only in evaluation: padding, or a sample that could not be used
    text: list[str]
    labels: list[tuple[int, ...]]
    key: list[str]
    shard: list[str]
    source: list[int]
    position: list[int]  # in evaluation the sample's place in the whole set, else -1; -1 for padding
    step: int
    bad: list[BadSample]  # samples whose place another took (training) or that are not valid (evaluation)
    left_out: list[BadSample]  # members that shards opened for this batch hold but nobody may use
    surplus: int  # samples those shards hold beyond what the manifest says; they are not read
    timeline: NotRequired[list[Timeline]]


class Named(NamedTuple):
    """An example with where it came from."""

    example: Example
    key: str
    shard: str
    source: int
    position: int = -1
    valid: bool = True


def collate(
    named: Sequence[Named], step: int, bad: list[BadSample], left_out: list[BadSample], surplus: int, stack: Stacker
) -> Batch:
    """Put examples together."""
    examples = [each.example for each in named]
    _check_shapes(named)
    batch = Batch(
        video=[
            stack(f"video {view}", [example["video"][view] for example in examples])
            for view in range(len(examples[0]["video"]))
        ],
        audio=[
            stack(f"audio {sound}", [example["audio"][sound] for example in examples])
            for sound in range(len(examples[0]["audio"]))
        ],
        audio_present=torch.tensor([bool(example["audio_present"]) for example in examples]),
        valid=torch.tensor([each.valid for each in named]),
        text=[example["text"] for example in examples],
        labels=[example["labels"] for example in examples],
        key=[each.key for each in named],
        shard=[each.shard for each in named],
        source=[each.source for each in named],
        position=[each.position for each in named],
        step=step,
        bad=bad,
        left_out=left_out,
        surplus=surplus,
    )
    if "timeline" in examples[0]:
        batch["timeline"] = [example["timeline"] for example in examples]
    return batch


def with_as_many_views(named: Sequence[Named]) -> list[Named]:
    """Fill up with empty views and sounds to the most that any example has; its timeline says which are none."""
    most = {sense: max(len(each.example[sense]) for each in named) for sense in _SENSES}
    return [each._replace(example=_filled_up(each.example, most)) for each in named]


def _filled_up(example: Example, most: Mapping[Sense, int]) -> Example:
    filled = example.copy()
    for sense in _SENSES:
        own = example[sense]
        filled[sense] = [*own, *([torch.zeros_like(own[0])] * (most[sense] - len(own)) if own else [])]
    return filled


def join(parts: Sequence[Batch], pin_memory: bool = False) -> Batch:
    """Put the workers' parts of a step together in their order; the tensors are copies, page-locked if wanted."""
    first = parts[0]
    batch = Batch(
        video=[
            _concatenate([part["video"][view] for part in parts], pin_memory) for view in range(len(first["video"]))
        ],
        audio=[
            _concatenate([part["audio"][sound] for part in parts], pin_memory) for sound in range(len(first["audio"]))
        ],
        audio_present=torch.cat([part["audio_present"] for part in parts]),
        valid=torch.cat([part["valid"] for part in parts]),
        text=[text for part in parts for text in part["text"]],
        labels=[labels for part in parts for labels in part["labels"]],
        key=[key for part in parts for key in part["key"]],
        shard=[shard for part in parts for shard in part["shard"]],
        source=[source for part in parts for source in part["source"]],
        position=[position for part in parts for position in part["position"]],
        step=first["step"],
        bad=[bad for part in parts for bad in part["bad"]],
        left_out=[member for part in parts for member in part["left_out"]],
        surplus=sum(part["surplus"] for part in parts),
    )
    if "timeline" in first:
        batch["timeline"] = [timeline for part in parts for timeline in part["timeline"]]
    return batch


def blank_like(example: Example) -> Example:
    """Make the padding: an example of the same shapes that holds nothing."""
    blank = Example(
        video=[torch.zeros_like(view) for view in example["video"]],
        audio=[torch.zeros_like(sound) for sound in example["audio"]],
        audio_present=False,
        text="",
        labels=(),
    )
    if "timeline" in example:
        blank["timeline"] = Timeline()
    return blank


def _concatenate(tensors: Sequence[Tensor], pin_memory: bool) -> Tensor:
    shape = (sum(len(tensor) for tensor in tensors), *tensors[0].shape[1:])
    return torch.cat(list(tensors), out=torch.empty(shape, dtype=tensors[0].dtype, pin_memory=pin_memory))


def _check_shapes(named: Sequence[Named]) -> None:
    """A transform must give the same shapes for every sample; name the two that differ."""
    wanted = _shapes(named[0].example)
    for each in named[1:]:
        found = _shapes(each.example)
        if found != wanted:
            raise ValueError(
                f"the transform gives {named[0].key} the shapes {wanted} and {each.key} the shapes {found} "
                "(video views, then sounds); a batch needs them equal, also for a clip without sound"
            )


def _shapes(example: Example) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    return [tuple(view.shape) for view in example["video"]], [tuple(sound.shape) for sound in example["audio"]]


class Stacker(Protocol):
    """Stacks tensors of one shape; `name` tells the batch's tensors apart."""

    def __call__(self, name: str, tensors: Sequence[Tensor]) -> Tensor: ...


class SharedRing:
    """For each name as many buffers as batches may be on their way."""

    def __init__(self, buffers: int) -> None:
        self._buffers = buffers
        self._rings: dict[str, deque[Tensor]] = {}

    def __call__(self, name: str, tensors: Sequence[Tensor]) -> Tensor:
        """Stack into the buffer that was used longest ago; called once per name and batch."""
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
    """Stack into memory of this process alone."""
    return torch.stack(list(tensors))
