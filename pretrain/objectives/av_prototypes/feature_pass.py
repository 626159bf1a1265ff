"""A forward pass of the current network over the clips that the coming steps will read, without augmentation.

Nearly every clip of the steps until the next round thus has its own label, and no clip is embedded needlessly. The
embeddings are written to files, because they may exceed the memory.
Legend: n rows of this rank, b samples of a batch, D features.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from trichord.core.console import pulse
from trichord.core.errors import RunStopped
from trichord.pretrain.clustering.label_table import hash_keys
from trichord.pretrain.clustering.rows import FileRows
from trichord.pretrain.collectives import rank, world_size
from trichord.pretrain.objectives.av_prototypes import AvPrototypesSpec
from trichord.pretrain.objectives.av_prototypes.rounds import first_labels
from trichord.shards.reading.batch import Batch
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.view_specs import Squash, ViewSpec, ViewsSpec

Embed = Callable[[Batch], tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]  # embeddings_bD and presence_b by subject


def unaltered(spec: AvPrototypesSpec) -> SampleSpec:
    """Return the sample spec of one clip from the middle of each video, the whole frame, not masked or flipped."""
    clips = spec.clips.fixed(1)
    assert clips is not None  # every kind that the spec allows has one
    views = ViewsSpec(clips=clips, views=(ViewSpec(crop=Squash(size=spec.view.crop.size)),))
    return spec.sample_spec().model_copy(update={"views": views, "is_training": False, "sound_of": "first_clip"})


class PassStore:
    """The embeddings of a pass, in files in a folder."""

    def __init__(self, folder: Path, dims: Mapping[str, int], device: torch.device) -> None:
        self._folder, self._dims, self._device = folder, dims, device
        self._facts: dict[str, list[Tensor]] = {name: [] for name in dims}  # keys_b, places_b and truths_b, stacked
        self._passed = 0

    def write(
        self,
        files: Mapping[str, FileIO],
        embeddings: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        batch: Batch,
    ) -> None:
        """Add a batch."""
        truths_b = first_labels(batch["labels"])
        facts_3b = torch.stack([hash_keys(batch["key"]), self._passed + torch.arange(len(truths_b)), truths_b])
        self._passed += len(truths_b)
        for name, file in files.items():
            there_b = present[name].cpu()
            _write_all(file, embeddings[name].to("cpu", torch.float16)[there_b].contiguous().numpy().tobytes())
            self._facts[name].append(facts_3b[:, there_b])

    def rows(self, modality: str) -> FileRows:
        return FileRows(self._folder / modality, self._dims[modality], device=self._device)

    def keys(self, modality: str) -> Tensor:
        return torch.cat(self._facts[modality], dim=1)[0]

    def ages(self, modality: str) -> Tensor:
        places_n = torch.cat(self._facts[modality], dim=1)[1]
        return (self._passed - 1 - places_n) * world_size() + world_size() - 1 - rank()

    def truths(self, modality: str) -> Tensor:
        return torch.cat(self._facts[modality], dim=1)[2]


@contextlib.contextmanager
def feature_pass(
    reader: Iterator[Batch], steps: int, dims: Mapping[str, int], embed: Embed, device: torch.device
) -> Generator[PassStore]:
    """Embed the clips of `steps` steps and yield the store, which is deleted on exit."""
    with tempfile.TemporaryDirectory(prefix="trichord-pass-") as name, contextlib.ExitStack() as opened:
        store = PassStore(Path(name), dims, device)
        # Unbuffered, or a full disk would raise again, without advice, when the files are closed.
        files = {each: opened.enter_context((Path(name) / each).open("wb", buffering=0)) for each in dims}
        beat = opened.enter_context(pulse("batches for clustering")) if rank() == 0 else _silent
        for _ in range(steps):
            batch = next(reader)
            embeddings, present = embed(batch)
            try:
                store.write(files, embeddings, present, batch)
            except OSError as error:
                raise RunStopped(
                    f"the embeddings of a pass could not be written to {name}: {error}. Set TMPDIR to a larger disk, "
                    "lower objective.target.rounds.samples, or set objective.target.rounds.source=bank"
                ) from error
            beat()
        opened.close()
        yield store


def _write_all(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _silent() -> None:
    """Report no progress, on all ranks but rank 0."""
