"""From shards to hits with commands: vectors equal the model output, parts are written once, errors have a message."""

from __future__ import annotations

import json
import math
import shutil
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.finetune.retrieval.stage import small_disk
from tests.finetune.zeroshot.stage import write_clip, write_xclip
from tests.pretrain.engine import small_run
from trichord.core.errors import UserError
from trichord.finetune.retrieval.embedder import Embedder
from trichord.finetune.retrieval.index import Index
from trichord.finetune.retrieval.table import Table
from trichord.launch import cli
from trichord.pretrain.engine import run as engine_run
from trichord.pretrain.weights.file import read_tensors
from trichord.shards.reading import root
from trichord.shards.reading.archive import open_archive
from trichord.shards.reading.root import parse_root

SOUND = {"kind": "kaldi_fbank", "mels": 16, "frames": 32}
AUDIO = {"kind": "ast", "dim": 16, "depth": 1, "heads": 2, "frames": 32, "mels": 16}
Typed = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make shards with sound and captions, a run of one step, vectors, and an index of the vectors."""
    top = tmp_path_factory.mktemp("typed")
    small_run.write_shards(top / "shards", sound=True, text=True)
    changes = small_run.video_text_changes(classes=None, prompts=False, sound=SOUND)
    changes |= {"audio_backbone": AUDIO, "backbone__first_weights": "by_width", "steps": 1}
    changes["optimiser"] = {"learning_rate": 1e-3, "weight_decay": 0.0}
    engine_run.pretrain(small_run.small_config(top / "shards", **changes, checkpoints__every_steps=1), top / "runs/3")
    write_clip(top / "clip.safetensors")
    write_xclip(top / "xclip.safetensors")
    for words in ("embed runs/3 shards --out vectors --dtype float32", "index build vectors"):
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(top)
            assert cli.main(words.split()) == 0
    return top


@pytest.fixture
def typed(top: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    monkeypatch.chdir(top)

    def run(*words: str) -> list[dict[str, Any]]:
        assert cli.main([*words, "--json"]) == 0
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["rows"]
        return found

    return run


def video_of(top: Path, number: int) -> Path:
    """Extract a clip from its shard."""
    path = top / f"clip{number:03d}.mp4"
    archive = open_archive(parse_root(top / "shards"), f"{number // small_run.PER_SHARD:05d}.tar")
    path.write_bytes(archive.read(number % small_run.PER_SHARD).members["mp4"])
    archive.close()
    return path


def test_vectors_equal_the_output_of_the_model_for_the_file(top: Path) -> None:
    embedder = Embedder.load(top / "runs/3", torch.device("cpu"))
    table = Table.open(top / "vectors/00001.safetensors")
    assert list(table.texts("key")) == ["clip004", "clip005", "clip006", "clip007"]
    assert table.columns["has.audio"].tolist() == [1, 0, 1, 1] and not table.columns["audio"][1].any()
    path = video_of(top, 6)
    assert table.columns["video"][2] == pytest.approx(embedder.embed_video_file(path)[0], abs=1e-6)
    assert table.columns["audio"][2] == pytest.approx(embedder.embed_audio_file(path)[0], abs=1e-6)
    assert table.columns["text"][2] == pytest.approx(embedder.embed_texts(["thing number 6"])[0], abs=1e-6)
    for sense in ("video", "text"):
        assert np.linalg.norm(table.columns[sense], axis=1) == pytest.approx(1, abs=1e-5)
    assert table.texts("caption")[2] == "thing number 6" and table.texts("label")[2] == "0"
    assert (table.columns["start_s"][2], table.columns["end_s"][2]) == (0.0, pytest.approx(12 / 25))


def test_queries_by_text_video_sound_and_key_equal_a_matrix_product(top: Path, typed: Typed) -> None:
    tables = [Table.open(top / f"vectors/{shard:05d}.safetensors") for shard in range(4)]
    video_ND = np.concatenate([table.columns["video"] for table in tables])
    keys = [f"clip{number:03d}" for number in range(16)]
    embedder = Embedder.load(top / "runs/3", torch.device("cpu"))
    asked = {
        "text": ("a person opens a box", embedder.embed_texts(["a person opens a box"])[0]),
        "video": (str(video_of(top, 9)), video_ND[9]),
        "audio": (str(video_of(top, 7)), tables[1].columns["audio"][3]),
    }
    for name, (value, query_D) in asked.items():
        rows = typed("search", "vectors/index", f"--{name}", value, "-k", "5")
        scores = dict(zip(keys, (video_ND @ query_D).tolist(), strict=True))
        assert len({row["key"] for row in rows}) == 5
        assert [row["score"] for row in rows] == pytest.approx([scores[row["key"]] for row in rows], abs=1e-4)
        # Scores that differ by rounding may be swapped.
        best = sorted(scores.values(), reverse=True)[:5]
        assert [row["score"] for row in rows] == pytest.approx(best, abs=1e-4)
    rows = typed("search", "vectors/index", "--like", "clip003", "-k", "3", "--where", "label=1", "shard=00001.tar")
    assert {row["key"] for row in rows} == {"clip005", "clip007"}
    by_python = Index.open(top / "vectors/index").search(text="a person opens a box", k=5)
    assert [row["key"] for row in typed("search", "vectors/index", "--text", "a person opens a box", "-k", "5")] == [
        hit.key for hit in by_python
    ]


def test_sound_file_is_a_valid_query(top: Path, typed: Typed) -> None:
    samples = (8000 * np.sin(np.arange(16000) / 5)).astype(np.int16)
    with wave.open(str(top / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.tobytes())
    assert len(typed("search", "vectors/index", "--audio", "tone.wav", "-k", "4")) == 4


def test_hits_are_drawn_and_playable(top: Path, typed: Typed) -> None:
    shown = ("--sheet", "found/sheet.png", "--html", "found/page.html")
    first, second = typed("search", "vectors/index", "--like", "clip003", "-k", "2", *shown)
    page = (top / "found/page.html").read_text()
    assert page.count("<video") == 2 and page.index(first["key"]) < page.index(second["key"])
    with Image.open(top / "found/sheet.png") as sheet:
        assert sheet.size[0] == 1440 and sheet.size[1] > 200


def test_parts_are_written_once_and_split_over_jobs(top: Path, typed: Typed) -> None:
    words = ("embed", "runs/3", "shards", "--out", "again")
    assert [typed(*words, "--part", f"{part}/2")[0]["parts"] for part in (1, 2)] == [2, 2]
    times = {path: path.stat().st_mtime_ns for path in (top / "again").glob("0*")}
    assert len(times) == 4
    torn = top / "again/00002.safetensors"
    torn.write_bytes(torn.read_bytes()[:-5])
    (row,) = typed(*words)
    assert (row["parts"], row["there before"], row["of"]) == (1, 3, 4)
    assert {path for path, time in times.items() if path.stat().st_mtime_ns == time} == set(times) - {torn}
    half = Table.open(torn).columns["video"]
    assert half.dtype == np.float16
    assert half == pytest.approx(Table.open(top / "vectors/00002.safetensors").columns["video"], abs=1e-3)


def test_full_disk_leaves_no_part_that_looks_complete(
    top: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("embed", "runs/3", "shards", "--out", "full")
    with small_disk(1200):
        assert cli.main(words) == 2
    assert "00000.safetensors cannot be written" in capsys.readouterr().err
    assert [path.name for path in (top / "full").iterdir()] == ["embedding.json"]
    (row,) = typed(*words)
    assert (row["parts"], row["there before"]) == (4, 0)


def test_windows_are_rows_with_their_seconds(top: Path, typed: Typed) -> None:
    (row,) = typed("embed", "runs/3", "shards", "--out", "windows", "--windows", "0.2", "--stride", "0.1")
    windows = math.ceil(0.48 / 0.1)
    assert row["rows"] == 16 * windows
    table = Table.open(top / "windows/00000.safetensors")
    assert table.columns["start_s"][:windows] == pytest.approx(np.arange(windows) / 10)
    assert table.columns["end_s"][:windows] == pytest.approx([0.2, 0.3, 0.4, 0.48, 0.48])
    assert list(table.texts("key"))[: windows + 1] == ["clip000"] * windows + ["clip001"]
    assert len({vector.tobytes() for vector in table.columns["video"][:windows]}) > 1
    typed("index", "build", "windows", "--out", "moments")
    hits = typed("search", "moments", "--text", "a box", "-k", "3")
    assert all(hit["time"].endswith(" s") and "-" in hit["time"] for hit in hits)


def test_an_index_of_sounds_and_of_texts(top: Path, typed: Typed) -> None:
    (row,) = typed("index", "build", "vectors", "--out", "sounds", "--modality", "audio")
    assert row["rows"] == 12  # every fifth clip is silent, and one of the others as well
    (row,) = typed("index", "build", "vectors", "--out", "words", "--sense", "text")
    assert row["rows"] == 16
    (hit,) = typed("search", "words", "--text", "thing number 11", "-k", "1")
    assert hit["caption"] == "thing number 11" and hit["score"] == pytest.approx(1, abs=1e-3)


def test_index_is_changed_by_commands(top: Path, typed: Typed) -> None:
    typed("index", "build", "vectors", "--out", "changed")
    (row,) = typed("index", "remove", "changed", "clip000", "--where", "shard=00003.tar")
    assert (row["rows"], row["removed"]) == (11, 5)
    (row,) = typed("index", "merge", "changed")
    assert (row["rows"], row["removed"]) == (11, 0)
    assert typed("index", "check", "changed")[0]["segment"] == row["segment"]


def test_weights_in_a_file_are_the_same_model(top: Path, typed: Typed) -> None:
    typed("embed", "clip.safetensors", "shards", "--out", "by_file")
    typed("index", "build", "by_file")
    tensors = read_tensors(top / "clip.safetensors", None)
    torch.save(tensors, top / "copy.pth")
    hits = typed("search", "by_file/index", "--text", "a box", "--weights", "copy.pth", "-k", "2")
    assert len(hits) == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("search vectors/index --text box --weights clip.safetensors", "their products are meaningless"),
        ("search vectors --text box", "is not an index: there is no"),
        ("search vectors/index --video gone.mp4", "expected a video file"),
        ("search vectors/index --audio shards/manifest.json", "expected an audio or video file"),
        ("search vectors/index --text box --where label", "expected NAME=TEXT"),
        ("search vectors/index --text box --like clip000", "not allowed with"),
        ("search vectors/index", "one of the arguments --text --video --audio --like is required"),
        ("embed xclip.safetensors shards --out x", "prompts change texts with every video"),
        ("embed clip.safetensors shards --out vectors --dtype float32", "holds different embeddings: model"),
        ("embed runs/3 shards --out vectors --windows 1", "holds different embeddings: dtype float32"),
        ("embed runs/3 shards --out x --stride 1", "--windows is missing"),
        ("embed runs/3 shards --out x --windows none", "expected seconds above 0"),
        ("index build shards", "holds no embeddings"),
        ("index build vectors --out y --memory-gb -1", "--memory-gb -1.0: expected a number above 0"),
        ("index remove vectors/index", "expected keys to remove"),
        ("retrieval xclip.safetensors --data shards", "prompts change texts with every video"),
    ],
)
def test_mistakes_exit_2_with_a_message(
    words: str, expected: str, top: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(top)
    assert cli.main(words.split()) == 2
    shown = capsys.readouterr()
    assert expected in shown.err and shown.out == ""


def test_model_without_sound_is_an_error(top: Path) -> None:
    with pytest.raises(UserError, match="was not trained on sound"):
        Embedder.load(top / "clip.safetensors", torch.device("cpu")).embed_audio_file(video_of(top, 1))


def test_embed_is_launched_in_parts(
    top: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(top)
    words = ["launch", "--cluster", "local", "--array", "3", "--dry-run"]
    assert cli.main([*words, "embed", "runs/3", "shards", "--out", "by_jobs"]) == 0
    shown = capsys.readouterr()
    assert "trichord embed runs/3 shards --out by_jobs --part 2/3" in shown.out
    assert "embed: 16 clips in 4 shards, one part for each" in shown.err
    assert cli.main([*words, "embed", "gone", "shards", "--out", "by_jobs"]) == 2
    assert "gone is neither a run folder nor a file of weights" in capsys.readouterr().err


def test_search_runs_no_command_that_an_index_names(
    top: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, ran = "pipe:touch ran; cat shards/{name}", top / "ran"
    typed("embed", "runs/3", command, "--out", "piped")  # as its maker typed it
    typed("index", "build", "piped")
    search = ["search", "piped/index", "--like", "clip005", "--html", "piped.html", "--sheet", "piped.png"]
    for words, runs in ((search, False), ([*search, "--allow-commands"], True)):
        ran.unlink(missing_ok=True)
        monkeypatch.setattr(root, "_PERMISSION", root._Permission())
        assert cli.main(words) == 0
        page = (top / "piped.html").read_text()
        assert (ran.exists(), "<video" in page, "is a shell command. It was not typed here" in page) == (
            runs,
            runs,
            not runs,
        )


def test_a_shard_that_cannot_be_read_ends_no_other(
    top: Path, tmp_path: Path, typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(top / "shards", tmp_path / "shards")
    (tmp_path / "shards/00001.tar").write_bytes(b"noise" * 1000)
    words = ("embed", "runs/3", str(tmp_path / "shards"), "--out", str(tmp_path / "vectors"))
    (row,) = typed(*words)
    assert (row["parts"], row["rows"], row["bad"]) == (4, 12, 4)
    (tmp_path / "vectors/00001.safetensors").unlink()
    shutil.copy(top / "shards/00001.tar", tmp_path / "shards")
    (row,) = typed(*words)
    assert (row["parts"], row["rows"], row["bad"]) == (1, 4, 0)
