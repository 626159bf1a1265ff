"""Lay out the contact sheet: text on the left; frames, intervals and spectrogram above one time axis on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

WIDTH, MARGIN, GAP = 1440, 28, 8
TEXT_WIDTH = 330
LEFT = MARGIN + TEXT_WIDTH + 24  # start of the time axis
AXIS_WIDTH = WIDTH - MARGIN - LEFT
STRIP_LABEL_WIDTH = 150  # left of the frames of a view
SOUND_HEIGHT, LANE_HEIGHT = 72, 20
MOST_LANES = 40  # of overlapping intervals; a malformed list may hold more, which are not drawn
PAPER, INK, GREY, LINE, ALARM = "#ffffff", "#1a1c20", "#6b7078", "#dde0e4", "#b3261e"
BARS = ("#c7dbf7", "#f9d8b5", "#cdebd0", "#ead3f3", "#f6cfd3", "#d3ecef")
# Colours of the spectrogram from silence (light) to loud (dark).
_SCALE = np.array([(250, 250, 252), (196, 210, 232), (112, 140, 196), (88, 62, 140), (30, 14, 52)], np.float64)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Span:
    """A named interval of the clip, in seconds."""

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Strip:
    """Frames side by side; with a `span` they are a view of that interval and have their own label."""

    label: str
    pictures: tuple[Image.Image, ...]
    span: tuple[float, float] | None


@dataclass(frozen=True)
class Row:
    """One clip; `spectrogram` is log-mel with shape FT, low frequencies first."""

    key: str
    facts: tuple[str, ...]
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()
    seconds: float = 0.0
    strips: tuple[Strip, ...] = ()
    spectrogram: npt.NDArray[np.float32] | None = None
    error: str = ""


def draw_sheet(title: str, rows: Sequence[Row]) -> Image.Image:
    """Draw all rows below one another, on a sheet of the height they need."""
    drawn = [_draw_row(row) for row in rows]
    head = MARGIN + 34
    height = head + sum(each.height + 2 * GAP + 9 for each in drawn) + MARGIN
    sheet = Image.new("RGB", (WIDTH, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 6), _fit(title, _font(18), WIDTH - 2 * MARGIN), INK, _font(18))
    top = head
    for each in drawn:
        pen.line((MARGIN, top, WIDTH - MARGIN, top), LINE, 1)
        sheet.paste(each, (0, top + GAP + 5))
        top += each.height + 2 * GAP + 9
    return sheet


def _draw_row(row: Row) -> Image.Image:
    canvas = Image.new("RGB", (WIDTH, 6000), PAPER)
    pen = ImageDraw.Draw(canvas)
    bottom = _write_text(pen, row)
    if row.error:
        for number, line in enumerate(_wrap(row.error, _font(15), AXIS_WIDTH, 4)):
            pen.text((LEFT, 2 + 21 * number), line, ALARM, _font(15))
            bottom = max(bottom, 2 + 21 * (number + 1))
        return canvas.crop((0, 0, WIDTH, bottom + 4))
    top = 0
    for strip in row.strips:
        top = _draw_strip(canvas, pen, strip, row.seconds, top)
    top = _draw_spans(pen, row, top)
    top = _draw_sound(canvas, pen, row, top)
    top = _draw_axis(pen, row.seconds, top)
    return canvas.crop((0, 0, WIDTH, max(top, bottom)))


def _write_text(pen: ImageDraw.ImageDraw, row: Row) -> int:
    top = 0
    lines = [(row.key, 17, INK, 2)] + [(fact, 13, GREY, 2) for fact in row.facts]
    lines += [(f"“{caption}”", 15, INK, 4) for caption in row.captions[:3]]
    if len(row.captions) > 3:
        more = len(row.captions) - 3
        lines.append((f"and {more} more {'caption' if more == 1 else 'captions'}", 13, GREY, 1))
    lines.append(("labels: " + (", ".join(row.labels) or "none"), 13, GREY, 3))
    for text, size, colour, most in lines if not row.error else lines[: 1 + len(row.facts)]:
        if size == 15 or text.startswith("labels: "):
            top += 5
        for line in _wrap(text, _font(size), TEXT_WIDTH, most):
            pen.text((MARGIN, top), line, colour, _font(size))
            top += size + 6
    return top


def _draw_strip(canvas: Image.Image, pen: ImageDraw.ImageDraw, strip: Strip, seconds: float, top: int) -> int:
    """Spread the clip's frames over the axis, or draw a view's frames beside its label and its interval."""
    height = max(picture.height for picture in strip.pictures)
    if strip.span is None:
        cell = AXIS_WIDTH / len(strip.pictures)
        for number, picture in enumerate(strip.pictures):
            widest = int(cell) - 4
            if picture.width > widest:
                picture = picture.resize((widest, max(1, round(picture.height * widest / picture.width))))
            canvas.paste(picture, (round(LEFT + cell * (number + 0.5) - picture.width / 2), top))
        return top + height + GAP
    start_s, end_s = strip.span
    pen.text((LEFT, top + height // 2 - 18), strip.label, INK, _font(13))
    pen.text((LEFT, top + height // 2), f"{start_s:.2f} to {end_s:.2f} s", GREY, _font(13))
    left, room = LEFT + STRIP_LABEL_WIDTH, AXIS_WIDTH - STRIP_LABEL_WIDTH
    cell = room / max(8, len(strip.pictures))
    for number, picture in enumerate(strip.pictures):
        widest = int(cell) - 4
        if picture.width > widest:
            picture = picture.resize((widest, max(1, round(picture.height * widest / picture.width))))
        canvas.paste(picture, (round(left + cell * number), top))
    bar = top + height + 3
    pen.rectangle((LEFT, bar, LEFT + AXIS_WIDTH - 1, bar + 2), LINE)
    pen.rectangle((_at(start_s, seconds), bar, max(_at(end_s, seconds), _at(start_s, seconds) + 2), bar + 2), "#5b7fc0")
    return bar + 3 + GAP


def _draw_spans(pen: ImageDraw.ImageDraw, row: Row, top: int) -> int:
    """Draw intervals as bars; those that overlap are drawn in separate lanes."""
    lanes: list[float] = []
    names = sorted({span.name for span in row.spans})
    for span in sorted(row.spans, key=lambda each: (each.start_s, each.end_s)):
        if span.start_s >= row.seconds:
            continue
        lane = next((number for number, end_s in enumerate(lanes) if end_s <= span.start_s), len(lanes))
        if lane == MOST_LANES:
            continue
        lanes[lane : lane + 1] = [span.end_s]
        left, y = _at(span.start_s, row.seconds), top + lane * (LANE_HEIGHT + 3)
        right = max(_at(span.end_s, row.seconds) - 1, left + 3)
        pen.rounded_rectangle((left, y, right, y + LANE_HEIGHT), 3, BARS[names.index(span.name) % len(BARS)])
        pen.text((left + 6, y + 2), _fit(span.name, _font(13), right - left - 10), INK, _font(13))
    return top + len(lanes) * (LANE_HEIGHT + 3) + (GAP - 3 if lanes else 0)


def _draw_sound(canvas: Image.Image, pen: ImageDraw.ImageDraw, row: Row, top: int) -> int:
    sound_FT = row.spectrogram
    if sound_FT is None or sound_FT.max() - sound_FT.min() < 1e-3:
        text = "no audio track" if sound_FT is None else "silent audio track"
        pen.rectangle((LEFT, top, LEFT + AXIS_WIDTH - 1, top + 26), "#f4f5f7")
        pen.text((LEFT + 8, top + 5), text, GREY, _font(13))
        return top + 27
    # Most of the spectrogram is noise: it stays light, so that the signal stands out.
    low, high = float(np.quantile(sound_FT, 0.35)), float(np.quantile(sound_FT, 0.998))
    level = np.clip((sound_FT - low) / max(high - low, 1e-3), 0, 1)[::-1]
    places = np.linspace(0, 1, len(_SCALE))
    colours = np.stack([np.interp(level, places, _SCALE[:, channel]) for channel in range(3)], -1).astype(np.uint8)
    picture = Image.fromarray(colours).resize((AXIS_WIDTH, SOUND_HEIGHT), Image.Resampling.BILINEAR)
    canvas.paste(picture, (LEFT, top))
    return top + SOUND_HEIGHT


def _draw_axis(pen: ImageDraw.ImageDraw, seconds: float, top: int) -> int:
    """Draw about ten ticks at round numbers."""
    if seconds <= 0:
        return top
    step = next((each for each in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if seconds / each <= 12), 20)
    for number in range(int(seconds / step + 1e-6) + 1):
        x = min(_at(number * step, seconds), LEFT + AXIS_WIDTH - 1)
        pen.line((x, top, x, top + 4), GREY, 1)
        text = f"{number * step:g} s"
        width = round(_font(12).getlength(text))
        pen.text((min(max(x - width // 2, LEFT), LEFT + AXIS_WIDTH - width), top + 5), text, GREY, _font(12))
    return top + 22


def _at(time_s: float, seconds: float) -> int:
    return round(LEFT + AXIS_WIDTH * min(max(time_s / seconds, 0.0), 1.0))


def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)


def _wrap(text: str, font: Font, width: int, most: int) -> list[str]:
    """Wrap a text at spaces, and words that are too long at any character; end in dots after `most` lines."""
    lines = [""]
    for word in _printable(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines.append(word) if lines[-1] else lines.__setitem__(-1, word)
        while font.getlength(lines[-1]) > width and len(lines) <= most:
            fits = next(n for n in range(len(lines[-1]), 0, -1) if font.getlength(lines[-1][:n]) <= width or n == 1)
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
        if len(lines) > most:
            break
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], _fit(f"{lines[most - 1]} {lines[most]}…", font, width)]


def _fit(text: str, font: Font, width: int) -> str:
    """Truncate a text so that it fits on one line."""
    text = _printable(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…" if text else ""


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:2000])
