"""Generate a synthetic data set on disk: plan all clips, render and encode them in parallel, write the lists last."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trichord.core.console import track
from trichord.core.errors import UserError
from trichord.core.files import write_whole
from trichord.shards.synthetic import table
from trichord.shards.synthetic.casting import describe_clip
from trichord.shards.synthetic.encode import encode
from trichord.shards.synthetic.layout import Clip, WorldLayout
from trichord.shards.synthetic.plan import ClipPlan, WorldRules
from trichord.shards.synthetic.public import charades, kinetics, msrvtt, ucf
from trichord.shards.synthetic.scene import draw
from trichord.shards.synthetic.sound import play

LAYOUTS: dict[str, WorldLayout] = {
    "csv": table,
    "charades": charades,
    "kinetics": kinetics,
    "ucf": ucf,
    "msrvtt": msrvtt,
}
_RECEIPT = "world.json"
_FEW = 32  # up to this many clips, starting processes takes longer than the work


class Rendered(NamedTuple):
    """A clip before encoding: frames, audio samples (None for a clip without an audio track) and the sample rate."""

    frames_THWC: npt.NDArray[np.uint8]
    samples_N: npt.NDArray[np.float32] | None
    rate: int


@dataclass(frozen=True)
class WorldSummary:
    """The figures that the command prints at the end."""

    out: Path
    layout: str
    clips: int
    seconds: float
    groups: int
    clips_by_split: dict[str, int]
    silent: int
    held_out: int


def render(plan: ClipPlan) -> Rendered:
    """Render the frames and the audio of a plan."""
    return Rendered(draw(plan), play(plan), plan.group.sample_rate)


def make_world(
    out: Path,
    samples: int,
    seed: int,
    layout: str = "csv",
    rules: WorldRules | None = None,
    processes: int | None = None,
) -> WorldSummary:
    """Write `samples` clips and their lists below `out`; the same call again generates only missing clips."""
    if layout not in LAYOUTS:
        raise UserError(f"no layout {layout!r}; known: {', '.join(LAYOUTS)}. Next: --layout csv")
    if samples < 1:
        raise UserError(f"found {samples} samples, expected at least 1. Next: --samples 100")
    writer = LAYOUTS[layout]
    rules = writer.adapt(rules or WorldRules())
    plans = [describe_clip(seed, number, rules) for number in range(samples)]
    _claim(out, {"layout": layout, "samples": samples, "seed": seed, "rules": rules.model_dump(mode="json")})
    clips = [Clip(plan, path) for plan, path in zip(plans, writer.name_files(plans), strict=True)]
    missing = [clip for clip in clips if not (out / clip.path).exists()]
    with _rendering(missing, out, processes) as results:
        for _ in track(results, "generating clips", len(missing)):
            pass
    writer.write_lists(out, clips, rules)
    return _summary(out, layout, plans)


@contextlib.contextmanager
def _rendering(clips: list[Clip], out: Path, processes: int | None) -> Iterator[Iterator[None]]:
    workers = min(processes or os.cpu_count() or 1, len(clips) // _FEW + 1)
    folders = [out] * len(clips)
    if workers == 1:
        yield map(_make_clip, clips, folders)
        return
    # Spawned, because a fork would copy locks that threads of the parent hold.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool.map(_make_clip, clips, folders, chunksize=4)


def _make_clip(clip: Clip, out: Path) -> None:
    path = out / clip.path
    frames_THWC, samples_N, rate = render(clip.plan)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, encode(frames_THWC, samples_N, clip.plan.group.fps, rate, path.suffix))


def _claim(out: Path, facts: dict[str, object]) -> None:
    """Claim an empty folder, or one that an interrupted run with the same arguments left behind; refuse others."""
    receipt = out / _RECEIPT
    if receipt.is_file():
        try:
            found = json.loads(receipt.read_bytes())
        except ValueError as error:
            raise UserError(
                f"{receipt} is not valid JSON ({error}). Next: delete {out} or choose another --out"
            ) from error
        if isinstance(found, dict) and isinstance(found.get("rules"), dict):
            # A rule that was added since then gets its default, which generates the same clips.
            found["rules"] = {**WorldRules().model_dump(mode="json"), **found["rules"]}
        if found != facts:
            differing = sorted(name for name in facts if not isinstance(found, dict) or found.get(name) != facts[name])
            raise UserError(
                f"{out} holds a data set generated with different {', '.join(differing)}; expected a new folder or the "
                "same arguments. Next: choose another --out, or delete that folder"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{out} exists and is not a generated data set; expected a new or empty folder. Next: choose another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_whole(receipt, json.dumps(facts, indent=1))


def _summary(out: Path, layout: str, plans: list[ClipPlan]) -> WorldSummary:
    return WorldSummary(
        out=out,
        layout=layout,
        clips=len(plans),
        seconds=round(sum(plan.duration_s for plan in plans), 1),
        groups=len({plan.group.name for plan in plans}),
        clips_by_split=dict(Counter(plan.group.split for plan in plans)),
        silent=sum(plan.silent for plan in plans),
        held_out=sum(any(event.held_out for event in plan.events) for plan in plans),
    )
