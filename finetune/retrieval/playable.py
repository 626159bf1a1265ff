"""Hits as files: a self-contained web page that plays each hit's time span, and a PNG with frames of each hit.

Each hit is shown with its score, texts and time span.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trichord.core.console import track
from trichord.core.errors import Cause, SampleError, UserError
from trichord.core.files import whole_file, write_whole
from trichord.finetune.retrieval.index import Hit
from trichord.finetune.retrieval.media import read_sample
from trichord.shards.building.transcode import Mode, Part, Preset, make_medium
from trichord.shards.decoding.video import open_video
from trichord.shards.inspection.sheet import Row, Strip, draw_sheet
from trichord.shards.inspection.show import picture_of_sound, thumbnail
from trichord.shards.record import VIDEO_EXTENSIONS

MOST_BYTES = 64 << 20  # of all videos in a page, because a browser holds them all in memory
_PLAYED = {"mp4": "video/mp4", "m4v": "video/mp4", "webm": "video/webm"}
_ABOUT_A_FRAME_S = 0.05  # a hit that ends this much before its video still counts as the whole video


def save_hits(title: str, hits: Sequence[Hit], sheet: Path | None, page: Path | None) -> None:
    """Draw the hits as a PNG and write them as a web page, where a path is given."""
    if sheet is not None:
        draw_hits(title, hits, sheet)
    if page is not None:
        write_hits(title, hits, page)


def write_hits(title: str, hits: Sequence[Hit], out: Path, most_bytes: int = MOST_BYTES) -> None:
    """Write the page; a hit whose video cannot be read, or would make the page too large, is replaced by an error."""
    cards, left_bytes = [], most_bytes
    for rank, hit in enumerate(track(hits, "cutting hits"), 1):
        try:
            kind, data = _clip(hit)
            if len(data) > left_bytes:
                detail = f"{len(data) / 1e6:.1f} MB, the page has {left_bytes / 1e6:.1f} MB left. Next: a smaller -k"
                raise SampleError(Cause.TOO_MANY_BYTES, detail)
            left_bytes -= len(data)
            source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
            shown = f'<video controls loop muted playsinline preload="metadata" src="{source}"></video>'
        except SampleError as error:
            shown = f'<p class="missing">{html.escape(str(error))}</p>'
        cards.append(_card(rank, hit, shown))
    head, _, tail = Path(__file__).with_name("hits_page.html").read_text(encoding="utf-8").partition("{{cards}}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, head.replace("{{title}}", html.escape(title)) + "\n".join(cards) + tail)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}. Next: another --html") from error


def _clip(hit: Hit) -> tuple[str, bytes]:
    """Return the time span of a hit as a video: the original file if it is all of it and browsers play its format."""
    raw = read_sample(hit.root, hit.shard, hit.key)
    extension = next((each for each in VIDEO_EXTENSIONS if each in raw.members), "")
    medium = make_medium(raw.video(), extension, Mode.COPY, Preset())
    is_all = hit.start_s <= 0 and hit.end_s > medium.duration_s - _ABOUT_A_FRAME_S
    if is_all and extension in _PLAYED:
        return _PLAYED[extension], medium.data
    part = Part() if is_all else Part(hit.start_s, hit.end_s)
    return _PLAYED["mp4"], make_medium(raw.video(), extension, Mode.ENCODE, Preset(), part).data


def _card(rank: int, hit: Hit, shown: str) -> str:
    caption, key, shard = map(html.escape, (hit.caption, hit.key, hit.shard))
    labels = "".join(f"<li>{html.escape(label)}</li>" for label in hit.label.split("\n") if label)
    seconds = f"{hit.start_s:.1f} to {hit.end_s:.1f} s"
    return f"""<article>
{shown}
<h2>{caption or key}</h2>
<p><b>{rank}</b> <data value="{hit.score}">{hit.score:.4f}</data> <span>{seconds}</span></p>
<ul>{labels}</ul>
<p class="of">{key} in {shard}</p>
</article>"""


_FRAMES = 8


def draw_hits(title: str, hits: Sequence[Hit], out: Path) -> None:
    """Write a PNG; a hit whose video cannot be read is replaced by an error."""
    rows = []
    for hit in track(hits, "drawing hits"):
        try:
            rows.append(_row(hit))
        except SampleError as error:
            rows.append(Row(hit.key, (hit.shard,), error=str(error)))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as file:
            draw_sheet(title, rows).save(file, "PNG")
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}. Next: another --sheet") from error


def _row(hit: Hit) -> Row:
    video = open_video(read_sample(hit.root, hit.shard, hit.key).video())
    middles_T = hit.start_s + (np.arange(_FRAMES) + 0.5) * (hit.end_s - hit.start_s) / _FRAMES
    places_T = np.searchsorted(video.times_s, middles_T + 1e-6, side="right") - 1
    frames_THWC = video.frames(np.clip(places_T, 0, len(video) - 1))
    facts = (f"score {hit.score:.4f}", f"{hit.start_s:.1f} to {hit.end_s:.1f} s of {video.duration_s:.1f}", hit.shard)
    labels = tuple(hit.label.split("\n")) if hit.label else ()
    captions = (hit.caption,) if hit.caption else ()
    return Row(
        hit.key,
        facts,
        captions,
        labels,
        seconds=hit.end_s - hit.start_s,
        strips=(Strip("", tuple(map(thumbnail, frames_THWC)), None),),
        spectrogram=picture_of_sound(video, hit.start_s, hit.end_s),
    )
