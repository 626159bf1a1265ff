"""Hits play in a page: their own seconds, escaped text, and a limited number of bytes."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.pretrain.engine import small_run
from trichord.core.errors import UserError
from trichord.finetune.retrieval.index import Hit, RowPosition
from trichord.finetune.retrieval.playable import write_hits
from trichord.shards.decoding.video import open_video
from trichord.shards.reading.archive import open_archive
from trichord.shards.reading.root import parse_root

WHOLE_S = 12 / 25


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("playable") / "shards"
    small_run.write_shards(folder, sound=True, text=True)
    return folder


def hit(shards: Path, number: int, start_s: float = 0.0, end_s: float = WHOLE_S, caption: str = "thing") -> Hit:
    """Make a hit for a clip, or for a part of it."""
    shard = f"{number // small_run.PER_SHARD:05d}.tar"
    return Hit(
        0.5, f"clip{number:03d}", shard, str(shards), caption, "0\nred & blue", start_s, end_s, RowPosition(0, number)
    )


def videos(page: Path) -> list[bytes]:
    """Return the videos in a page, as a browser would find them."""
    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            source = dict(attrs).get("src") or ""
            if tag == "video":
                kind, _, data = source.partition(";base64,")
                assert kind == "data:video/mp4"
                found.append(base64.b64decode(data, validate=True))

    Reader().feed(page.read_text())
    return found


def test_hit_of_a_whole_video_keeps_its_bytes_and_a_window_is_cut_out(shards: Path) -> None:
    page = shards.parent / "new/found.html"
    write_hits("nearest to a box", [hit(shards, 5), hit(shards, 5, 0.2, 0.4)], page)
    whole, window = videos(page)
    archive = open_archive(parse_root(shards), "00001.tar")
    assert whole == archive.read(5 - small_run.PER_SHARD).members["mp4"]
    archive.close()
    own, cut = open_video(whole), open_video(window)
    assert (len(own), len(cut)) == (12, 5) and cut.has_sound == own.has_sound
    wanted_THWC, found_THWC = own.frames(range(5, 10)).astype(float), cut.frames(range(5)).astype(float)
    others_THWC = own.frames(range(5)).astype(float)
    assert abs(found_THWC - wanted_THWC).mean() < 0.5 * abs(found_THWC - others_THWC).mean()
    assert "0.2 to 0.4 s" in page.read_text() and "0.5000" in page.read_text()


def test_captions_are_escaped(shards: Path) -> None:
    page = shards.parent / "words.html"
    evil = '</h2><script>alert(1)</script> "{{cards}}" {{title}}'
    write_hits(f"nearest to text {evil}", [hit(shards, 0, caption=evil)], page)
    text = page.read_text()
    assert (
        "<script" not in text and text.count("&lt;script&gt;") == 3
    )  # in the title of the tab, at the top and in the card
    assert "<li>red &amp; blue</li>" in text and "default-src 'none'" in text
    assert len(videos(page)) == 1 and not re.search(r"https?://", text)


def test_unplayable_hit_shows_the_reason_and_the_others_play(shards: Path) -> None:
    page = shards.parent / "some.html"
    gone = hit(shards, 1)._replace(key="gone")
    hits = [hit(shards, 0), gone, hit(shards, 2)._replace(shard="00099.tar"), hit(shards, 3)]
    write_hits("nearest", hits, page)
    first, last = videos(page)
    assert "00000.tar no longer holds gone" in page.read_text() and page.read_text().count('class="missing"') == 2
    write_hits("nearest", hits, page, most_bytes=len(first) + len(last) - 1)
    assert videos(page) == [first] and "too_many_bytes" in page.read_text()
    (shards.parent / "file").write_text("")
    with pytest.raises(UserError, match=r"page.html cannot be written: .*Next: another --html"):
        write_hits("nearest", [], shards.parent / "file/page.html")
