"""Evaluation of retrieval equals a loop over pairs, on two ranks as on one."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset

from tests.finetune.retrieval.ranks import ask
from tests.finetune.zeroshot.stage import write_clip
from tests.pretrain.processes import run_ranks
from tests.shards import media
from trichord.core.errors import UserError
from trichord.finetune.retrieval.embedder import Embedder
from trichord.finetune.retrieval.evaluate import RetrievalTest, evaluate, report
from trichord.pretrain.engine.distributed import World, join_world, leave_world
from trichord.shards.reading.manifest import index_shards

CAPTIONS = (["a box", "it opens"], ["a book"], [], ["a cup", "tea", "it falls"], ["a door"], ["a dog"], ["a cat"])
BAD = 5
APART = 1e-6  # scores of vectors that are computed singly and in batches differ by a tenth of this


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make seven clips, one of them without a caption and one unusable, and a file of weights."""
    top = tmp_path_factory.mktemp("retrieval")
    for number in range(7):
        data = media.encode(media.moving_picture(8, 32, 32, seed=number))
        (top / f"clip{number}.mp4").write_bytes(data[: len(data) // 3] if number == BAD else data)
    for name, clip_texts in (("several", CAPTIONS), ("silent", [[]] * 7)):
        (top / name).mkdir()
        for shard in range(2):
            with webdataset.TarWriter(str(top / name / f"{shard:05d}.tar")) as out:
                for number in range(7)[4 * shard : 4 * shard + 4]:
                    data = (top / f"clip{number}.mp4").read_bytes()
                    about = json.dumps({"captions": clip_texts[number]}).encode()
                    out.write({"__key__": f"clip{number}", "mp4": data, "json": about})
        index_shards(str(top / name)).save(top / name)
    write_clip(top / "clip.safetensors")
    return top


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    yield join_world()
    leave_world()


def loop(top: Path) -> dict[str, list[float]]:
    """Rank each caption among videos, and the best caption of each video among the captions of other videos."""
    embedder = Embedder.load(top / "clip.safetensors", torch.device("cpu"))
    videos = {number: embedder.embed_video_file(top / f"clip{number}.mp4")[0] for number in range(7) if number != BAD}
    texts = [(number, embedder.embed_texts([text])[0]) for number in videos for text in CAPTIONS[number]]
    by_text = []
    for number, text_D in texts:
        own = float(text_D @ videos[number])
        by_text.append(rank(own, [float(text_D @ videos[each]) for each in videos if each != number]))
    by_video = []
    for number, video_D in videos.items():
        own_scores = [float(video_D @ text_D) for each, text_D in texts if each == number]
        if own_scores:
            others = [float(video_D @ text_D) for each, text_D in texts if each != number]
            by_video.append(rank(max(own_scores), others))
    return {"text to video": by_text, "video to text": by_video}


def rank(own: float, others: list[float]) -> float:
    """Rank a score; assert that no other score is within rounding of it."""
    assert min(abs(score - own) for score in others) > APART
    return 1.0 + sum(score > own for score in others)


def test_figures_equal_those_of_a_loop(top: Path, world: World) -> None:
    answer = ask(top / "several", top / "clip.safetensors", world)
    assert (answer.clips, answer.bad) == (6, 1)
    for name, ranks in loop(top).items():
        found = answer.figures[name]
        assert found["queries"] == len(ranks)
        assert found["median rank"] == statistics.median(ranks) and found["mean rank"] == pytest.approx(np.mean(ranks))
        for k in (1, 5):
            assert found[f"R@{k}"] == pytest.approx(sum(rank <= k for rank in ranks) / len(ranks))
    names = list(answer.figures)
    assert "video to text, best of each clip" in names
    assert any("dual softmax" in name and "transductive" in name for name in names)
    assert any("QB-Norm" in name for name in names)


def test_two_ranks_equal_one(top: Path, world: World) -> None:
    alone = ask(top / "several", top / "clip.safetensors", world)
    files = (str(top / "several"), str(top / "clip.safetensors"))
    command = ["tests.finetune.retrieval.ranks", *files]
    for printed in run_ranks(command, 2):
        figures, clips, bad = json.loads(printed.splitlines()[-1])
        assert (clips, bad) == (alone.clips, alone.bad) and figures.keys() == alone.figures.keys()
        for name, found in figures.items():
            assert found == pytest.approx(alone.figures[name]), name


def test_first_caption_option_uses_one_caption_per_clip(top: Path, world: World) -> None:
    embedder = Embedder.load(top / "clip.safetensors", world.device)
    question = RetrievalTest(data=(str(top / "several"),), captions="first")
    answer = evaluate(embedder, question, world)
    assert answer.figures["text to video"]["queries"] == 5
    assert not any("best of each clip" in name for name in answer.figures)
    as_json, as_table = report(top, None, Path("weights"), embedder, question, answer)
    found: dict[str, Any] = json.loads(as_json.read_text())
    assert as_json.name == "retrieval_first_several.json" and found["metrics"] == answer.figures["text to video"]
    assert "| text to video |" in as_table.read_text()


def test_data_without_captions_is_refused(top: Path, world: World) -> None:
    embedder = Embedder.load(top / "clip.safetensors", world.device)
    with pytest.raises(UserError, match="no clip has a caption or a sound to search with"):
        evaluate(embedder, RetrievalTest(data=(str(top / "silent"),)), world)
