"""Retrieval tests between captions, videos and sounds, on every clip once.

MSR-VTT's 1k-A protocol is a set with one caption for each video. In sets with several, such as its full split and
MSVD, each caption is a query, and the best of a video's own captions counts. Figures corrected for hubs have their own
names.
Legend: B clips of a batch, n rows of this rank, E features.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trichord.core.console import show_figures, track
from trichord.core.errors import UserError
from trichord.finetune.evaluation.report import write_report
from trichord.finetune.retrieval.embedder import Embedder
from trichord.finetune.zeroshot.spec import ZeroShotSpec
from trichord.pretrain.collectives import sum_over_ranks
from trichord.pretrain.engine.allocator import thread_plan
from trichord.pretrain.engine.distributed import World, join_world, leave_world
from trichord.pretrain.engine.prefetch import Prefetcher
from trichord.pretrain.retrieval.ranks import measure
from trichord.pretrain.retrieval.scores import MISSING, Side
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.evaluation import evaluation_batches
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig
from trichord.shards.sample import ClipTransform

_PAIRS = (("text", "video"), ("text", "audio"), ("audio", "video"))


@dataclass(frozen=True)
class RetrievalTest:
    """The sets to test on, and how they are read."""

    data: tuple[str, ...]
    captions: Literal["all", "first"] = "all"
    bank: tuple[str, ...] = ()
    batch_size: int = 8  # of each rank
    workers: int = 0
    cache: Path | None = None

    def stream(self, roots: Sequence[str]) -> StreamConfig:
        """Return the settings for reading sets."""
        return StreamConfig(
            sources=tuple(SourceConfig(root=root) for root in roots),
            batch_size=self.batch_size,
            workers=self.workers,
            cache_dir=self.cache,
        )


@dataclass(frozen=True)
class RetrievalResult:
    """Figures by measurement, and the numbers of clips read, over all ranks."""

    figures: dict[str, dict[str, float]]
    clips: int
    bad: int
    digests: list[str]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each measurement."""
        return [{"measured": name, **found} for name, found in self.figures.items()]


def run_retrieval(arguments: Namespace) -> int:
    """Test retrieval on the sets of parsed arguments; rank 0 prints the figures and writes the reports."""
    world = join_world()
    torch.set_num_threads(thread_plan(world.placement.local_size))
    embedder = Embedder.load(arguments.run_folder, world.device)
    names = ("captions", "batch_size", "workers", "cache")
    test = RetrievalTest(
        data=tuple(arguments.data), bank=tuple(arguments.bank), **{name: getattr(arguments, name) for name in names}
    )
    result = evaluate(embedder, test, world)
    if world.rank == 0:
        step = embedder.opened.about["step"]
        folder = arguments.out or (arguments.run_folder if step is not None else None)
        written = report(folder, arguments.name, arguments.run_folder, embedder, test, result) if folder else ()
        show_figures(f"retrieval by {arguments.run_folder}", result.rows(), arguments.json)
        if written and not arguments.json:
            print(f"written: {', '.join(map(str, written))}")
    leave_world()
    return 0


def evaluate(embedder: Embedder, test: RetrievalTest, world: World) -> RetrievalResult:
    """Embed all clips, each rank its share, and rank them among all; all ranks take part and get the same result."""
    config = test.stream(test.data)
    sides, clips, bad = _sides(embedder, config, test, world)
    banks: dict[str, Tensor] = {}
    if test.bank:
        held, _, _ = _sides(embedder, test.stream(test.bank), test, world)
        banks = {modality: side.rows_nD[side.clips_n >= 0] for modality, side in held.items()}
    figures: dict[str, dict[str, float]] = {}
    for one, other in _PAIRS:
        if one in sides and other in sides and _is_there(sides[one]) and _is_there(sides[other]):
            usable = {name: rows for name, rows in banks.items() if _count(len(rows), rows)}
            figures |= measure({one: sides[one], other: sides[other]}, banks=usable)
    if not figures:
        raise UserError(f"{', '.join(test.data)}: no clip has a caption or a sound to search with")
    return RetrievalResult(figures, clips, bad, [source.manifest.digest() for source in config.open_sources()])


def _sides(
    embedder: Embedder, config: StreamConfig, test: RetrievalTest, world: World
) -> tuple[dict[str, Side], int, int]:
    """Return this rank's rows of each modality, and the numbers of usable and unusable clips of all ranks."""
    spec = embedder.sample_spec().model_copy(update={"caption": test.captions})
    found: dict[str, list[Tensor]] = {modality: [] for modality in embedder.modalities}
    numbers: dict[str, list[int]] = {modality: [] for modality in embedder.modalities}
    usable = bad = 0
    prefetcher = Prefetcher(evaluation_batches(config, ClipTransform(spec), world.rank, world.size), world.device)
    try:
        for batch in track(prefetcher, "batches of clips"):
            clips = _clips(batch)
            usable += sum(clip >= 0 for clip in clips)
            bad += len(batch.bad)
            found["video"].append(torch.from_numpy(embedder.embed_frames(batch.video[0])))
            numbers["video"] += clips
            texts = [(clip, text) for clip, each in zip(clips, batch.text, strict=True) for text in _lines(each)]
            found["text"].append(torch.from_numpy(embedder.embed_texts([text for _, text in texts])))
            numbers["text"] += [clip for clip, _ in texts]
            if "audio" in found:
                has_sound = batch.audio_present.tolist()
                found["audio"].append(torch.from_numpy(embedder.embed_audio(batch.audio[0])))
                numbers["audio"] += [clip if has else MISSING for clip, has in zip(clips, has_sound, strict=True)]
    finally:
        prefetcher.close()
    sides = {
        modality: Side(
            torch.cat([torch.empty(0, embedder.dim), *rows]), torch.tensor(numbers[modality], dtype=torch.long)
        )
        for modality, rows in found.items()
    }
    sides = {
        modality: Side(*(each.to(world.device) for each in (side.rows_nD, side.clips_n)))
        for modality, side in sides.items()
    }
    counted = sum_over_ranks(torch.tensor([usable, bad], device=world.device)).tolist()
    return sides, counted[0], counted[1]


def _clips(batch: Batch) -> list[int]:
    """Return the numbers of the clips in the sets; MISSING for padding and unusable clips."""
    places = zip(batch.position, batch.valid.tolist(), strict=True)
    return [place if is_valid else MISSING for place, is_valid in places]


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line]


def _is_there(side: Side) -> bool:
    """Return whether any rank has a row."""
    return _count(int((side.clips_n >= 0).sum()), side.rows_nD) > 0


def _count(own: int, near: Tensor) -> int:
    return int(sum_over_ranks(torch.tensor(own, device=near.device)))


def report(
    folder: Path, name: str | None, run: Path, embedder: Embedder, test: RetrievalTest, result: RetrievalResult
) -> tuple[Path, ...]:
    """Write the results in the format of reports of heads; return the files."""
    about = embedder.opened.about
    sets = "+".join(Path(root.rstrip("/")).name for root in test.data)
    name = name or f"retrieval_{test.captions}_{sets}"
    first = next(iter(result.figures.values()))
    found = {
        "run": str(run),
        "step": about["step"],
        "data": list(test.data),
        "data_digests": result.digests,
        "clips": result.clips,
        "bad": result.bad,
        "model": {
            "inputs": " + ".join(embedder.modalities),
            "backbone": about["backbone"],
            "pretrained": about["pretrained"],
            "head": "retrieval",
            "trained": "nothing",
            "seed": about["seed"],
        },
        "views": embedder.opened.transforms.words(ZeroShotSpec()),
        "notes": [f"bank of queries: {', '.join(test.bank)}"] if test.bank else [],
        "metrics": dict(first),
        "figures": result.rows(),
    }
    return write_report(folder, name if about["step"] is None else f"{name}_step_{about['step']:08d}", found)
