"""The contact sheet: its contents, also with broken clips and unusual text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.shards import media
from tests.shards.inspection import hostile
from trichord.launch import cli
from trichord.shards.inspection.sheet import AXIS_WIDTH, LEFT, Row, Span, draw_sheet
from trichord.shards.inspection.show import show
from trichord.shards.reading.manifest import index_shards
from trichord.shards.transforms.view_specs import COMMON_VIEWS


def write_set(folder: Path, clips: dict[str, dict[str, bytes]]) -> Path:
    folder.mkdir()
    hostile.write_tar(folder / "00.tar", hostile.named(clips))
    index_shards(folder).save(folder)
    return folder


def test_sheet_shows_every_clip_and_names_the_broken_one(tmp_path: Path) -> None:
    words = json.dumps(
        {"captions": ["a \u0000 word " * 90, "x" * 400], "intervals": [{"label": 1, "start": 0, "end": 9}]}
    )
    clips = {
        "good": {"mp4": media.clip(10), "json": words.encode()},
        "silent": {"mp4": media.clip(10, sound=False)},
        "bad": {"mp4": b"noise" * 99},
    }
    root = write_set(tmp_path / "set", clips)
    shown = show(root, tmp_path / "deep" / "sheet.png")
    assert (shown.clips, shown.bad) == (3, 1)
    with Image.open(shown.path) as picture:
        assert picture.size == (shown.width, shown.height)
    again = show(root, tmp_path / "again.png")
    assert again.path.read_bytes() == shown.path.read_bytes()
    for name in ("svt", "test"):
        assert show(root, tmp_path / f"{name}.png", views=COMMON_VIEWS[name]).height > shown.height


def test_intervals_are_placed_by_time_and_overlaps_in_separate_rows() -> None:
    spans = (Span("a", 0.0, 2.0), Span("b", 1.0, 4.0), Span("a", 2.0, 3.0))
    pixels = np.asarray(draw_sheet("title", [Row("key", (), spans=spans, seconds=4.0)]))
    a, b = ((pixels == np.array(colour)).all(-1) for colour in ((0xC7, 0xDB, 0xF7), (0xF9, 0xD8, 0xB5)))
    columns = [(np.flatnonzero(each.any(0)) - LEFT) / AXIS_WIDTH * 4 for each in (a, b)]
    assert np.allclose([columns[0].min(), columns[0].max()], [0, 3], atol=0.02)
    assert np.allclose([columns[1].min(), columns[1].max()], [1, 4], atol=0.02)
    assert not (a.any(1) & b.any(1)).any()


def test_forged_intervals_are_counted_or_cut_and_do_not_enlarge_the_sheet(tmp_path: Path) -> None:
    crowd = json.dumps({"intervals": [{"label": 1, "start": 0, "end": 2}] * 20_000}).encode()
    never = json.dumps({"intervals": [{"label": 1, "start": float("nan"), "end": 2}]}).encode()
    root = write_set(
        tmp_path / "set",
        {"crowd": {"mp4": media.clip(4), "json": crowd}, "never": {"mp4": media.clip(4), "json": never}},
    )
    shown = show(root, tmp_path / "sheet.png")
    assert (shown.clips, shown.bad) == (2, 1) and shown.height < 2000


def test_command_writes_the_sheet(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", {"good": hostile.good_clip(1)})
    assert cli.main(["shards", "show", str(root), "--out", str(tmp_path / "sheet.png")]) == 0
    assert (tmp_path / "sheet.png").stat().st_size > 1000
