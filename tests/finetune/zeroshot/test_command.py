"""`trichord zeroshot` and the Python API: videos and data sets, runs and files, errors with a message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import trichord
from tests.finetune.small_head import CLASSES, write_shards
from tests.finetune.zeroshot.stage import write_clip
from tests.pretrain.engine import small_run
from tests.shards import media
from trichord.launch import cli
from trichord.pretrain.engine import run as engine_run

LABELS = ["opening a box", "holding a book", "jumping"]


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make shards, a short run of video and text, a file of CLIP, a video, and lists of classes."""
    top = tmp_path_factory.mktemp("typed")
    write_shards(top / "split1", 6)
    write_shards(top / "split2", 5)
    changes = {**small_run.video_text_changes(classes={"names": list(CLASSES)}), "steps": 1}
    changes["checkpoints__every_steps"] = 1
    changes["optimiser"] = {"learning_rate": 1e-3, "weight_decay": 0.0}
    engine_run.pretrain(small_run.small_config(top / "split1", **changes), top / "runs/video_text")
    write_clip(top / "clip.safetensors")
    write_clip(top / "tuned.safetensors", seed=1)
    (top / "clip.mp4").write_bytes(media.encode(media.moving_picture(8, 32, 32)))
    (top / "known.txt").write_text("Red\n")
    (top / "warm.txt").write_text("red\ngrey\n")
    small_run.write_shards(top / "nameless")
    return top


def rows_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)["rows"]
    return found


def test_videos_are_classified_by_labels_as_in_python(
    top: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(top)
    assert cli.main(["zeroshot", "clip.mp4", "--labels", ", ".join(LABELS), "--views", "2x3", "--json"]) == 0
    rows = rows_of(capsys)  # with the newest run below runs/
    probabilities = trichord.load_model("runs/video_text").zeroshot("clip.mp4", LABELS, clips=2, crops=3)
    assert [row["probability"] for row in rows] == pytest.approx(list(probabilities.values()))
    assert [row["probability"] for row in rows] == sorted(probabilities.values(), reverse=True)
    assert sum(probabilities.values()) == pytest.approx(1.0)
    assert {row["label"] for row in rows} == set(LABELS)
    typed = ["zeroshot", "clip.mp4", "clip.mp4", "--labels", "a,b", "--weights", "clip.safetensors", "--frames", "4"]
    assert cli.main(typed) == 0
    shown = capsys.readouterr().out
    assert "prompts bare; 1x1 views of 4 frames of 16 px" in shown
    (top / "labels.txt").write_text("a\nb, with a comma\n")
    assert cli.main(["zeroshot", "clip.mp4", "--labels", "labels.txt", "--json"]) == 0
    assert {row["label"] for row in rows_of(capsys)} == {"a", "b, with a comma"}


def test_splits_are_tested_and_reported_in_the_run(
    top: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(top)
    typed = ["zeroshot", "--data", "split1", "split2", "--weights", "runs/video_text", "--prompts", "actionclip"]
    assert cli.main([*typed, "--json"]) == 0
    rows = rows_of(capsys)
    assert [row["data"] for row in rows] == ["split1", "split2", "mean of 2", "standard deviation"]
    assert [row.get("clips") for row in rows[:2]] == [6, 5]
    report = top / "runs/video_text/evaluations/zeroshot_actionclip_1x1_split1+split2_step_00000001"
    found = json.loads(report.with_suffix(".json").read_text())
    assert found["metrics"]["top1"] == rows[2]["top1"] and found["clips"] == 11
    assert found["candidates"]["split1, all 4"] == list(CLASSES)
    words = report.with_suffix(".md").read_text()
    assert "zero-shot, prompts actionclip (16), vectors averaged before each video changes them" in words
    assert "| mean of 2 |" in words
    assert cli.main(["compare", "runs/video_text", "--json"]) == 0
    assert rows_of(capsys)[0]["top1"] == rows[2]["top1"]


def test_lists_draws_and_alphas_are_tested(
    top: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(top)
    typed = ["zeroshot", "--data", "split1", "--weights", "tuned.safetensors", "--json"]
    assert cli.main([*typed, "--new-to", "known.txt", "--draws", "3x2"]) == 0
    rows = rows_of(capsys)
    assert [row["classes"] for row in rows[:3]] == ["draw 1 of 2", "draw 2 of 2", "draw 3 of 2"] and len(rows) == 5
    assert cli.main([*typed, "--classes", "warm.txt", "--out", "reports"]) == 0
    (row,) = rows_of(capsys)
    assert (row["classes"], row["clips"]) == ("warm.txt", 3)
    report = json.loads((top / "reports/evaluations/zeroshot_bare_1x1_split1.json").read_text())
    assert report["candidates"] == {"split1, warm.txt": ["red", "grey"]} and report["run"] == "tuned.safetensors"
    assert [each["class"] for each in report["classes"]] == ["red", "grey"]
    assert cli.main([*typed, "--wise-from", "clip.safetensors", "--alphas", "0", "1", "--out", "wise"]) == 0
    first, last = rows_of(capsys)
    assert (first["alpha"], last["alpha"]) == (0.0, 1.0)
    assert cli.main(typed) == 0
    assert rows_of(capsys)[0]["top1"] == last["top1"]
    assert cli.main([*typed, "--weights", "clip.safetensors"]) == 0
    assert rows_of(capsys)[0]["top1"] == first["top1"]
    assert sorted(path.name for path in (top / "wise/evaluations").glob("*.json")) == [
        "zeroshot_bare_1x1_split1_alpha_0.json",
        "zeroshot_bare_1x1_split1_alpha_1.json",
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("zeroshot", "expected video files, as in trichord zeroshot CLIP.mp4 --labels"),
        ("zeroshot clip.mp4 --data split1", "but not both"),
        ("zeroshot clip.mp4", "--labels is missing"),
        ("zeroshot clip.mp4 --labels a,b --wise-from clip.safetensors", "--wise-from: only for tests with --data"),
        ("zeroshot clip.mp4 --labels a,a", "expected different labels"),
        ("zeroshot split1 --labels a,b", "expected a video file (mp4, webm, mkv"),
        ("zeroshot gone.mp4 --labels a,b", "found no file of this name"),
        ("zeroshot known.txt --labels a,b", "found another file type"),
        ("zeroshot --data split1 --labels a,b", "a shard set has its own class names"),
        ("zeroshot --data nameless", "does not name its classes"),
        (
            "evaluate runs/video_text",
            "or test it with texts: trichord zeroshot --data SHARDS --weights runs/video_text",
        ),
        ("zeroshot --data split1 --draws 3by2", "expected draws and classes of each, such as 3x160"),
        ("zeroshot --data split1 --draws 1x9", "expected at most 4"),
        ("zeroshot --data split1 --draws 1x2 --classes warm.txt", "give only one of them"),
        ("zeroshot --data split1 --views 4x2", "such as 4x3"),
        ("zeroshot --data split1 --prompts actionclop", "Did you mean 'actionclip'"),
        ("zeroshot --data split1 --weights gone.safetensors", "found no file gone.safetensors"),
        (
            "zeroshot --data split1 --weights runs/video_text --backbone activation=gelu",
            "is a run, which has its own settings",
        ),
        ("zeroshot --data split1 --wise-from clip.safetensors", "only in one of them"),
    ],
)
def test_mistakes_exit_2_with_a_message(
    words: str, expected: str, top: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(top)
    assert cli.main(words.split()) == 2
    shown = capsys.readouterr()
    assert expected in shown.err and shown.out == ""


def test_weights_are_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["zeroshot", "clip.mp4", "--labels", "a,b"]) == 2
    assert "--weights RUN_OR_FILE is missing, and there is no run of video_text below runs/" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    script = """
import sys
from trichord.launch.cli import main
try:
    main(["zeroshot", "--help"])
except SystemExit as stop:
    assert stop.code == 0
print(sorted({"torch", "numpy", "pydantic", "webdataset"} & set(sys.modules)))
"""
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
