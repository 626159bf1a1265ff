"""Draw a contact sheet of some clips: frames or views, spectrograms, captions and intervals.

Legend: T frames, H height, W width, C colour, N audio samples, F mel filters.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from trichord.core.command import command_line
from trichord.core.console import show_figures, track
from trichord.core.errors import SampleError, UserError
from trichord.core.files import whole_file
from trichord.core.seeds import generator
from trichord.shards.audio.sound_specs import KaldiFbank
from trichord.shards.audio.spectrogram import log_mel
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.decoding.video import Video, open_video
from trichord.shards.inspection.sheet import Row, Span, Strip, draw_sheet
from trichord.shards.reading.archive import open_archive
from trichord.shards.reading.manifest import Manifest
from trichord.shards.reading.root import parse_root
from trichord.shards.record import Annotation, RawSample
from trichord.shards.transforms.view_specs import COMMON_VIEWS, ViewsSpec
from trichord.shards.transforms.views import make_views, plan_views

Pixels = npt.NDArray[np.uint8]

LONGEST_S = 60.0  # what is shown of a longer clip
_FRAMES_OF_A_STRIP = 8
_STRIP_HEIGHT = 76
_MOST_STRIPS = 30
_RATE = 16000


@dataclass(frozen=True)
class Shown:
    """A written contact sheet and the number of its clips."""

    path: Path
    clips: int
    bad: int
    width: int
    height: int


def show(
    root: str | Path,
    out: Path,
    *,
    count: int = 8,
    seed: int = 0,
    views: ViewsSpec | None = None,
    limits: DecodeLimits | None = None,
    cache_dir: Path | None = None,
    manifest: Path | None = None,
) -> Shown:
    """Draw `count` clips, chosen by the seed, into a PNG; with `views`, draw the views of each clip."""
    where, listed = parse_root(root), Manifest.load(manifest or root)
    if listed.samples == 0:
        raise UserError(f"{where.text} holds no samples. Next: {command_line('shards', 'verify', where.text)}")
    chosen = np.sort(generator(seed, "show").choice(listed.samples, min(count, listed.samples), replace=False))
    ends = np.cumsum([entry.samples for entry in listed.shards])
    rows, bad = [], 0
    for number in track(chosen.tolist(), "drawing clips"):
        place = int(np.searchsorted(ends, number, side="right"))
        entry = listed.shards[place]
        position = number - (int(ends[place]) - entry.samples)
        key = f"sample {position}"
        try:
            archive = open_archive(where, entry.name, cache_dir=cache_dir, size=entry.bytes, sha256=entry.sha256)
            try:
                key = archive.keys[position] if position < len(archive) else key
                raw = archive.read(position)
            finally:
                archive.close()
            rows.append(_row(raw, listed.classes, views, seed, limits or DecodeLimits()))
        except SampleError as error:
            bad += 1
            rows.append(Row(key, (entry.name,), error=str(error)))
    sheet = draw_sheet(f"{where.text}   {len(rows)} of {listed.samples:,} clips, seed {seed}", rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as file:
        sheet.save(file, "PNG")
    return Shown(out, len(rows), bad, sheet.width, sheet.height)


def _row(raw: RawSample, classes: tuple[str, ...], views: ViewsSpec | None, seed: int, limits: DecodeLimits) -> Row:
    annotation = raw.annotation()
    data = raw.video()
    video = open_video(data, limits)
    shown_s = min(video.duration_s, LONGEST_S)
    names = [_class_name(classes, label) for label in annotation.labels]
    strips = (_whole(video, shown_s),) if views is None else _views(views, video, annotation, raw.key, seed)
    facts = (
        raw.shard,
        f"{video.duration_s:.2f} s, {len(video)} frames, {video.frames_per_second:.3g} fps",
        f"{video.width}x{video.height}, {len(data) / 1000:,.0f} kB" + _cut_note(video),
    )
    return Row(
        key=raw.key,
        facts=facts,
        captions=annotation.captions,
        labels=tuple(names),
        spans=tuple(Span(_class_name(classes, each.label), each.start, each.end) for each in annotation.intervals),
        seconds=shown_s,
        strips=strips,
        spectrogram=picture_of_sound(video, 0.0, shown_s),
    )


def _cut_note(video: Video) -> str:
    return f", first {LONGEST_S:.0f} s shown" if video.duration_s > LONGEST_S else ""


def _whole(video: Video, shown_s: float) -> Strip:
    """Return frames from the middles of equal parts of the time, to be drawn above the time axis."""
    middles_T = (np.arange(_FRAMES_OF_A_STRIP) + 0.5) * shown_s / _FRAMES_OF_A_STRIP
    indices = np.searchsorted(video.times_s, middles_T + 1e-6, side="right") - 1
    return Strip("", tuple(map(thumbnail, video.frames(indices))), None)


def _views(spec: ViewsSpec, video: Video, annotation: Annotation, key: str, seed: int) -> tuple[Strip, ...]:
    rng = generator(seed, "show", key)
    plan = plan_views(spec, video.times_s, video.duration_s, rng)
    made = make_views(spec, plan, video.frames(plan.needed), rng, annotation.labels, annotation.captions)
    strips = []
    for view in made.views[:_MOST_STRIPS]:
        frames_TCHW = view.frames_CTHW.permute(1, 2, 3, 0).numpy()
        some = np.unique(np.linspace(0, len(frames_TCHW) - 1, _FRAMES_OF_A_STRIP).round().astype(int))
        name = f"{len(frames_TCHW)} x {frames_TCHW.shape[1]}" + (", mirrored" if view.draws.flipped else "")
        pictures = tuple(thumbnail(np.ascontiguousarray(frames_TCHW[number])) for number in some)
        strips.append(Strip(name, pictures, (view.clip.start_s, view.clip.end_s)))
    return tuple(strips)


def thumbnail(frame_HWC: Pixels) -> Image.Image:
    """Return a frame scaled to the height of a strip."""
    picture = Image.fromarray(frame_HWC)
    width = max(1, round(picture.width * _STRIP_HEIGHT / picture.height))
    return picture.resize((width, _STRIP_HEIGHT), Image.Resampling.LANCZOS)


def picture_of_sound(video: Video, start_s: float, end_s: float) -> npt.NDArray[np.float32] | None:
    """Return log-mel energies with shape FT, low frequencies first; None for a clip without an audio track."""
    sound_N = video.sound(start_s, end_s, _RATE)
    if sound_N is None:
        return None
    mel_TF = log_mel(KaldiFbank(rate_hz=_RATE, mels=80), torch.from_numpy(sound_N)[None])[0]
    return np.asarray(mel_TF.T.numpy(), np.float32)


def _class_name(classes: tuple[str, ...], label: int) -> str:
    return classes[label] if 0 <= label < len(classes) else f"class {label}"


def run(arguments: Namespace) -> int:
    """Run `trichord shards show`."""
    shown = show(
        arguments.root,
        arguments.out,
        count=arguments.count,
        seed=arguments.seed,
        views=COMMON_VIEWS[arguments.views],
        cache_dir=arguments.cache,
        manifest=arguments.manifest,
    )
    row = {
        "clips": shown.clips,
        "bad": shown.bad,
        "width": shown.width,
        "height": shown.height,
        "picture": str(shown.path),
    }
    show_figures("contact sheet", [row], arguments.json)
    return 0
