"""Generate a synthetic data set on disk: plan all clips, render and encode them in parallel, write the lists last.

Frames and samples are encoded as H.264 with AAC in mp4, or as MPEG-4 with MP3 in avi as in UCF101.

Legend: T frames, H x W pixels, C the three colours; N audio samples.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, cast

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from trichord.core.command import add_json, add_out, add_settings, add_workers, at_least, read_settings
from trichord.core.console import show_figures, track
from trichord.core.errors import UserError
from trichord.core.files import write_whole
from trichord.core.reading import read_object
from trichord.shards.building.encode import SCALING_REPRODUCIBLE, X264_REPRODUCIBLE
from trichord.shards.synthetic import charades, kinetics, msrvtt, table, ucf
from trichord.shards.synthetic.casting import describe_clip
from trichord.shards.synthetic.plan import ClipPlan, GeneratedClip, SyntheticLayout, SyntheticRules
from trichord.shards.synthetic.scene import draw
from trichord.shards.synthetic.sound import play


@dataclass(frozen=True)
class Codecs:
    """The codecs of a container, and their options."""

    container: str
    video: str
    video_options: tuple[tuple[str, str], ...]
    audio: str
    pixel_format: str = "yuv420p"


CODECS = {
    ".mp4": Codecs("mp4", "libx264", (*X264_REPRODUCIBLE.items(), ("preset", "veryfast"), ("crf", "21")), "aac"),
    ".avi": Codecs("avi", "mpeg4", (("flags", "+qscale"), ("global_quality", "354"), ("threads", "1")), "libmp3lame"),
}


def encode(
    frames_THWC: npt.NDArray[np.uint8],
    samples_N: npt.NDArray[np.float32] | None,
    fps: int,
    sample_rate: int,
    suffix: str = ".mp4",
) -> bytes:
    """Return the bytes of a video file; the suffix chooses the codecs, and without samples there is no audio track.

    The same frames give the same H.264 packets on every processor; MPEG-4 and audio are encoded with floating-point or
    processor-specific arithmetic, so they are reproducible only on the same kind of processor.
    """
    codecs = CODECS[suffix]
    buffer = io.BytesIO()
    reformatter = VideoReformatter()
    with av.open(buffer, "w", format=codecs.container) as container:
        video = cast(av.VideoStream, container.add_stream(codecs.video, rate=fps, options=dict(codecs.video_options)))
        video.height, video.width = frames_THWC.shape[1:3]
        video.pix_fmt = codecs.pixel_format
        video.time_base = Fraction(1, fps)
        audio: av.AudioStream | None = None
        if samples_N is not None:
            audio = cast(av.AudioStream, container.add_stream(codecs.audio, rate=sample_rate, layout="mono"))
        for index, frame_HWC in enumerate(frames_THWC):
            frame = reformatter.reformat(
                av.VideoFrame.from_ndarray(frame_HWC, format="rgb24"),
                format=codecs.pixel_format,
                interpolation=SCALING_REPRODUCIBLE,
                threads=1,
            )
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and samples_N is not None:
            sound = av.AudioFrame.from_ndarray(samples_N[None], format="fltp", layout="mono")
            sound.sample_rate, sound.pts = sample_rate, 0
            container.mux(audio.encode(sound))
            container.mux(audio.encode(None))
    return buffer.getvalue()


LAYOUTS: dict[str, SyntheticLayout] = {
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
class SyntheticSummary:
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


def make_synthetic(
    out: Path,
    samples: int,
    seed: int,
    layout: str = "csv",
    rules: SyntheticRules | None = None,
    processes: int | None = None,
) -> SyntheticSummary:
    """Write `samples` clips and their lists below `out`; the same call again generates only missing clips."""
    if layout not in LAYOUTS:
        raise UserError(f"no layout {layout!r}; known: {', '.join(LAYOUTS)}. Next: --layout csv")
    if samples < 1:
        raise UserError(f"found {samples} samples, expected at least 1. Next: --samples 100")
    writer = LAYOUTS[layout]
    rules = writer.adapt(rules or SyntheticRules())
    plans = [describe_clip(seed, number, rules) for number in range(samples)]
    _claim(out, {"layout": layout, "samples": samples, "seed": seed, "rules": rules.model_dump(mode="json")})
    clips = [GeneratedClip(plan, path) for plan, path in zip(plans, writer.name_files(plans), strict=True)]
    missing = [clip for clip in clips if not (out / clip.path).exists()]
    with _rendering(missing, out, processes) as results:
        for _ in track(results, "generating clips", len(missing)):
            pass
    writer.write_lists(out, clips, rules)
    return _summary(out, layout, plans)


@contextlib.contextmanager
def _rendering(clips: list[GeneratedClip], out: Path, processes: int | None) -> Iterator[Iterator[None]]:
    workers = min(processes or os.cpu_count() or 1, len(clips) // _FEW + 1)
    folders = [out] * len(clips)
    if workers == 1:
        yield map(_make_clip, clips, folders)
        return
    # Spawned, because a fork would copy locks that threads of the parent hold.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool.map(_make_clip, clips, folders, chunksize=4)


def _make_clip(clip: GeneratedClip, out: Path) -> None:
    path = out / clip.path
    frames_THWC, samples_N, rate = render(clip.plan)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, encode(frames_THWC, samples_N, clip.plan.group.fps, rate, path.suffix))


def _claim(out: Path, facts: dict[str, object]) -> None:
    """Claim an empty folder, or one that an interrupted run with the same arguments left behind; refuse others."""
    receipt = out / _RECEIPT
    if receipt.exists():
        found = read_object(receipt, f"Next: delete {out} or choose another --out")
        if isinstance(found.get("rules"), dict):
            # A rule that was added since then gets its default, which generates the same clips.
            found["rules"] = {**SyntheticRules().model_dump(mode="json"), **found["rules"]}
        if found != facts:
            differing = sorted(name for name in facts if found.get(name) != facts[name])
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


def _summary(out: Path, layout: str, plans: list[ClipPlan]) -> SyntheticSummary:
    return SyntheticSummary(
        out=out,
        layout=layout,
        clips=len(plans),
        seconds=round(sum(plan.duration_s for plan in plans), 1),
        groups=len({plan.group.name for plan in plans}),
        clips_by_split=dict(Counter(plan.group.split for plan in plans)),
        silent=sum(plan.silent for plan in plans),
        held_out=sum(any(event.held_out for event in plan.events) for plan in plans),
    )


def declare(parser: ArgumentParser) -> None:
    """Declare the options of `trichord shards synthetic`."""
    add_out(parser, "a new folder, or one left unfinished by the same command")
    parser.add_argument("--samples", type=at_least(1), default=200, metavar="N", help="number of clips")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="the same seed gives the same clips")
    parser.add_argument("--layout", choices=tuple(LAYOUTS), default="csv", help="format of the files")
    parser.add_argument(
        "--holdout",
        nargs="+",
        action="extend",
        default=[],
        metavar="COLOUR/SHAPE/ACTION",
        help="combinations that occur only in the test split, with * for any",
    )
    add_settings(parser, "--rules", SyntheticRules, "other properties of the clips")
    add_workers(parser)
    add_json(parser)


def run(arguments: Namespace) -> int:
    """Run `trichord shards synthetic`."""
    rules = read_settings("--rules", arguments.rules, SyntheticRules)
    if arguments.holdout:
        rules = rules.model_copy(update={"holdout": (*rules.holdout, *arguments.holdout)})
    summary = make_synthetic(
        arguments.out, arguments.samples, arguments.seed, arguments.layout, rules, processes=arguments.workers
    )
    row = {
        "clips": summary.clips,
        "seconds": summary.seconds,
        "groups": summary.groups,
        **summary.clips_by_split,
        "silent": summary.silent,
        "held out": summary.held_out,
        "layout": summary.layout,
        "folder": str(summary.out),
    }
    show_figures("synthetic data set", [row], arguments.json)
    return 0
