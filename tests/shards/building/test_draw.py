"""`shards draw` takes a number of clips per class, by seed and key alone, and copies them bit for bit."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import webdataset

from trichord.core.errors import UserError
from trichord.launch import cli
from trichord.shards.building.draw import Candidate, choose, draw
from trichord.shards.reading.manifest import Manifest, index_shards
from trichord.shards.reading.order import SampleAddress
from trichord.shards.reading.root import allow_typed

CLASSES = ("red", "green", "blue")


def write_set(folder: Path, clips: Sequence[tuple[str, Sequence[int]]], per_shard: int = 7) -> Path:
    """Write clips that need not be decodable: only labels are read."""
    folder.mkdir()
    for first in range(0, len(clips), per_shard):
        with webdataset.TarWriter(str(folder / f"{first:05d}.tar")) as out:
            for key, labels in clips[first : first + per_shard]:
                document = json.dumps({"labels": list(labels), "source": key}).encode()
                out.write(
                    {"__key__": key, "mp4": key.encode() * 50, "txt": f"a clip, {key}".encode(), "json": document}
                )
    index_shards(str(folder)).model_copy(update={"classes": CLASSES, "name": "few", "split": "train"}).save(folder)
    return folder


def members(folder: Path) -> dict[str, Mapping[str, bytes]]:
    """Read a set with plain webdataset."""
    found = {}
    for entry in Manifest.load(folder).shards:
        for sample in webdataset.WebDataset(str(folder / entry.name), shardshuffle=False):
            kept = {name: value for name, value in sample.items() if not name.startswith("__")}
            found[sample["__key__"]] = {name: bytes(value) for name, value in kept.items()}
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("whole") / "set", [(f"clip{n:02d}", [n % 3]) for n in range(30)])


def test_samples_are_copied_bit_for_bit_with_equal_numbers_per_class(whole: Path, tmp_path: Path) -> None:
    drawn = draw(str(whole), tmp_path / "few", per_class=4, seed=3)
    before, after = members(whole), members(tmp_path / "few")
    assert len(after) == 12 and all(after[key] == before[key] for key in after)
    assert Counter(json.loads(each["json"])["labels"][0] for each in after.values()) == {0: 4, 1: 4, 2: 4}
    assert drawn.per_class == {0: 4, 1: 4, 2: 4} and (drawn.bad, drawn.without_label) == (0, 0)
    manifest = Manifest.load(tmp_path / "few")
    assert (manifest.classes, manifest.name, manifest.samples) == (CLASSES, "few", 12)
    assert manifest.split == "train, 4 of each class, seed 3"
    for entry in manifest.shards:
        assert entry.sha256 == hashlib.sha256((tmp_path / "few" / entry.name).read_bytes()).hexdigest()


def test_draw_depends_on_the_seed_alone_and_larger_draws_include_smaller_ones(whole: Path, tmp_path: Path) -> None:
    clips = [(key, json.loads(each["json"])["labels"]) for key, each in members(whole).items()]
    other = write_set(tmp_path / "other", clips[::-1], per_shard=11)
    two, again = draw(str(whole), tmp_path / "a", 2), draw(str(other), tmp_path / "b", 2)
    assert two.per_class == again.per_class and list(members(tmp_path / "a")) == list(members(tmp_path / "b"))
    draw(str(whole), tmp_path / "four", 4)
    assert set(members(tmp_path / "a")) < set(members(tmp_path / "four"))
    draw(str(whole), tmp_path / "seed", 2, seed=1)
    assert set(members(tmp_path / "seed")) != set(members(tmp_path / "a"))


def test_clip_of_several_classes_counts_for_each() -> None:
    labels = [((n // 3 % 3, n // 9 % 3), (), (1,))[n % 3] for n in range(40)]
    clips = [Candidate(SampleAddress(0, 0, n, 0), f"k{n}", each) for n, each in enumerate(labels)]
    before: set[str] = set()
    for per_class in (1, 2, 3, 5):
        chosen, counts = choose(clips, per_class, seed=0)
        assert counts == Counter(label for each in chosen for label in set(each.labels))
        assert all(counts[label] >= per_class for label in range(3)) and all(each.labels for each in chosen)
        assert before < {each.key for each in chosen}
        before = {each.key for each in chosen}


def test_errors_are_reported(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = [("a", [0]), ("b", [0]), ("c", [1]), ("d", [])]
    few = write_set(tmp_path / "set", clips)
    typed = ["shards", "draw", str(few), "--per-class", "2", "--out", str(tmp_path / "out"), "--json"]
    assert cli.main(typed) == 0
    shown = capsys.readouterr()
    assert "green has 1 clip, fewer than 2" in shown.err and "blue has 0 clips" in shown.err
    (row,) = json.loads(shown.out)["rows"]
    assert (row["clips"], row["short of clips"], row["without label"]) == (3, 2, 1)
    assert cli.main(typed) == 2
    assert "already contains a shard set" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"no sample has a label \(samples read: 2\)"):
        draw(str(write_set(tmp_path / "bare", [("a", []), ("b", [])])), tmp_path / "none", 1)
    with pytest.raises(UserError, match="key 'a' is shared by several samples"):
        draw(str(write_set(tmp_path / "twice", [("a", [0]), ("a", [1])], per_shard=1)), tmp_path / "none", 1)
    command = f"pipe:cat {shlex.quote(str(whole))}/{{name}}"
    allow_typed([command])
    with pytest.raises(UserError, match="add --cache DIR"):
        draw(command, tmp_path / "none", 1)
