"""Mistaken arguments of the Python API are named, with their values and what was expected."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trichord
from trichord.shards.audio.sound_specs import KaldiFbank

FRAMES = np.zeros((4, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("embed_video", {"videos": [FRAMES], "batch_size": 0}, "batch_size=0: expected a whole number of at least 1"),
        ("embed_video", {"videos": FRAMES, "fps": 0}, "fps=0: expected a number above 0"),
        ("embed_video", {"videos": FRAMES, "return_tensors": "tf"}, "expected 'np' or 'pt'"),
        ("embed_text", {"texts": 7}, "expected a list of texts"),
        ("embed_text", {"texts": ["a", 7]}, "expected texts, found 7"),
        ("embed_text", {"texts": []}, "empty list"),
        ("embed_shards", {"shards": "nowhere", "workers": -1}, "workers=-1"),
        # Otherwise a video would be classified among letters.
        ("zeroshot", {"videos": FRAMES, "labels": "jumping"}, "labels='jumping': expected a list of texts"),
        ("zeroshot", {"videos": FRAMES, "labels": ["a", "a"]}, "expected different labels"),
        ("zeroshot", {"videos": FRAMES, "labels": []}, "found none"),
    ],
)
def test_of_a_model(top: Path, method: str, settings: dict[str, Any], message: str) -> None:
    model = trichord.load_model(top / "found", device="cpu")
    with pytest.raises(trichord.UserError, match=message):
        getattr(model, method)(**settings)


def test_labels_may_come_in_any_collection(top: Path) -> None:
    model = trichord.load_model(top / "found", device="cpu")
    expected = model.zeroshot(FRAMES, ["a", "b"])
    for labels in (np.array(["a", "b"]), {"a": 1, "b": 2}.keys(), (each for each in "ab")):
        assert model.zeroshot(FRAMES, labels) == expected


@pytest.mark.parametrize("run", ["found", "svt"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"part": "teacher"}, "its own settings"),
        ({"backbone": {"activation": "gelu"}}, "its own settings"),
        ({"device": "gpu"}, "device='gpu' cannot be used"),
        ({"device": "cuda:99"}, "device='cuda:99' cannot be used"),
    ],
)
def test_of_loading_a_run(top: Path, run: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(trichord.UserError, match=message):
        trichord.load_model(top / run, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"frames": 0}, "frames=0"),
        ({"size": 0}, "size=0"),
        ({"clip_seconds": -1}, "clip_seconds=-1"),
        ({"lanes": 0}, "lanes=0"),
        ({"seed": -1}, "seed=-1"),
        ({"start_step": -1}, "start_step=-1"),
        ({"start_step": 2, "training": False}, "start_step=2: expected 0 with training=False"),
        ({"rank": 3, "world_size": 2}, "rank=3 of world_size=2"),
        ({"rank": 3, "world_size": 2, "training": False}, "rank=3 of world_size=2"),
        ({"audio": KaldiFbank(frames=None)}, "one length: set its frames"),
        ({"shards": []}, "shards: expected at least one"),
    ],
)
def test_of_a_stream(top: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(trichord.UserError, match=message):
        trichord.stream(**{"shards": top / "texts", "batch_size": 4, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "enc"}, "no mode 'enc'. Did you mean 'encode'"),
        ({"samples_per_shard": 0}, "samples_per_shard=0"),
        ({"workers": 0}, "workers=0"),
        ({"limit": -1}, "limit=-1"),
        ({"splits": "train"}, "splits='train': expected a list of texts"),
    ],
)
def test_of_a_build(top: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(trichord.UserError, match=message):
        trichord.build_shards("folder", top, tmp_path / "out", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int8"}, "no dtype 'int8'"),
        ({"part": (3, 2)}, r"part=\(3, 2\)"),
        ({"part": "1/2"}, "part='1/2'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"window_seconds": 0}, "window_seconds=0"),
        ({"stride_seconds": 1}, "give window_seconds too"),
        ({"max_bad_fraction": 7}, "max_bad_fraction=7: expected a share"),
    ],
)
def test_of_embeddings(top: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(trichord.UserError, match=message):
        trichord.embed(top / "found", top / "texts", tmp_path / "out", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"of": "audios"}, "no modality 'audios'. Did you mean 'audio'"),
        ({"kind": "hsnw"}, "no kind 'hsnw'. Did you mean 'hnsw'"),
        ({"recall": 2}, "recall=2"),
        ({"memory_bytes": 0}, "memory_bytes=0"),
        ({"embeddings": []}, "embeddings: expected at least one"),
    ],
)
def test_of_an_index(top: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(trichord.UserError, match=message):
        trichord.build_index(**{"embeddings": top / "vectors", "out": tmp_path / "index", **settings})


def test_of_a_search(top: Path) -> None:
    index = trichord.Index.open(top / "vectors/index")
    dim = index.catalogue.dim
    expected = index.search(vector=np.ones(dim), k=3)
    assert index.search(vector=torch.ones(1, dim, requires_grad=True).bfloat16(), k=3) == expected
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"vector": np.ones((2, dim // 2))}, "expected one vector of numbers"),
        ({"vector": "abc"}, "expected one vector of numbers"),
        ({"vector": np.ones(dim), "k": 2.5}, "k=2.5: expected a whole number"),
        ({"text": 7}, "expected text as a string, found 7"),
    ]
    for settings, message in mistakes:
        with pytest.raises(trichord.UserError, match=message):
            index.search(**settings)


def test_of_evaluations_after_which_the_process_is_as_before(top: Path) -> None:
    before, threads = dict(os.environ), torch.get_num_threads()
    joined = torch.distributed.is_initialized()
    with pytest.raises(trichord.UserError, match="no captions 'al'"):
        trichord.evaluate_retrieval(top / "found", top / "texts", captions="al")  # type: ignore[arg-type]
    with pytest.raises(trichord.UserError, match="data: expected at least one"):
        trichord.evaluate_zeroshot(top / "found", [])
    with pytest.raises(trichord.UserError, match="batch_size=0"):
        trichord.evaluate(top / "actions", top / "clips", batch_size=0)
    with pytest.raises(trichord.UserError, match="does not exist"):
        trichord.evaluate_retrieval(top / "found", top / "nothing")
    assert (dict(os.environ), torch.get_num_threads()) == (before, threads)
    assert torch.distributed.is_initialized() == joined
