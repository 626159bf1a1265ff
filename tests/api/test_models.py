"""A loaded model answers for files, arrays and tensors, alone and together, as the commands and the index do."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import trichord
from tests.finetune.jobs import without_counting
from tests.pretrain.engine import small_run
from tests.shards import media
from trichord.finetune.zeroshot import classifier
from trichord.finetune.zeroshot.prompts import texts_of
from trichord.pretrain.engine import run as engine_run
from trichord.shards.sample import pick_samples


@pytest.fixture(scope="module")
def clip(top: Path) -> Path:
    """Return a video file: the first clip of the shards with texts."""
    (raw,) = pick_samples(str(top / "texts"), 1)
    path = top / "clip.mp4"
    path.write_bytes(raw.video())
    return path


@pytest.fixture(scope="module")
def found(top: Path) -> trichord.Model:
    return trichord.load_model(top / "found", device="cpu")


def test_a_video_has_the_vector_that_the_index_holds(top: Path, clip: Path, found: trichord.Model) -> None:
    index = trichord.Index.open(top / "vectors/index")
    vector_E = found.embed_video(clip)
    assert vector_E.shape == (index.catalogue.dim,)
    assert np.allclose(index.vector(index.places("clip000")[0]), vector_E, atol=2e-3)  # stored in float16
    (hit,) = index.search(vector=3 * vector_E, k=1)
    assert hit.score == pytest.approx(1, abs=2e-3)


def test_one_gives_a_vector_and_several_give_rows(clip: Path, found: trichord.Model) -> None:
    one_E, two_2E = found.embed_video(str(clip)), found.embed_video([clip, str(clip)])
    assert two_2E.shape == (2, *one_E.shape)
    assert np.allclose(two_2E, one_E, atol=1e-5)
    text_E = found.embed_text("thing number 0", return_tensors="pt")
    assert isinstance(text_E, torch.Tensor)
    assert text_E.norm().item() == pytest.approx(1, abs=1e-5)
    assert np.allclose(found.embed_text(["thing number 0", "another"])[0], text_E.numpy(), atol=1e-5)


def test_frames_may_be_arrays_or_tensors_in_either_order(found: trichord.Model) -> None:
    frames_THWC = media.moving_picture(12, 32, 48, seed=3)
    expected_E = found.embed_video(frames_THWC)
    tensor_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
    assert np.array_equal(found.embed_video(tensor_TCHW), expected_E)
    several_VE = found.embed_video(np.stack([frames_THWC, frames_THWC]), batch_size=1)
    assert np.array_equal(several_VE, np.stack([expected_E, expected_E]))


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        (np.zeros((4, 8, 8, 3), np.float32), "uint8 frames of the shape"),
        (np.zeros((4, 8, 8), np.uint8), "uint8 frames of the shape"),
        (np.zeros((0, 8, 8, 3), np.uint8), "at least one frame"),
        ([], "empty list"),
        ("nothing.mp4", "no file of this name"),
        (7, "expected the name of a video file"),
    ],
)
def test_what_is_no_video_is_refused_with_the_reason(found: trichord.Model, videos: object, message: str) -> None:
    with pytest.raises(trichord.UserError, match=message):
        found.embed_video(videos)  # type: ignore[arg-type]


def test_zero_shot_probabilities_are_those_of_cosines(clip: Path, found: trichord.Model) -> None:
    labels = ["thing number 1", "thing number 2", "something else"]
    probabilities = found.zeroshot(clip, labels)
    assert list(probabilities.values()) == sorted(probabilities.values(), reverse=True)
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
    cosines = found.embed_text(labels) @ found.embed_video(clip)
    ranked = [labels[place] for place in np.argsort(-cosines)]
    assert list(probabilities) == ranked
    assert found.zeroshot([clip, clip], labels)[1] == pytest.approx(probabilities)


def test_labels_are_encoded_once_for_a_loop_over_videos(
    clip: Path, found: trichord.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[Sequence[str]] = []
    monkeypatch.setattr(classifier, "texts_of", lambda names, *how: encoded.append(names) or texts_of(names, *how))
    answers = [found.zeroshot(clip, labels) for labels in (["x", "y"], ["x", "y"], ["y", "x"])]
    assert encoded == [("x", "y"), ("y", "x")]
    assert answers[0] == answers[1] == pytest.approx(answers[2], abs=1e-6)


def test_a_head_predicts_its_classes_and_a_captioner_a_caption(top: Path) -> None:
    (raw,) = pick_samples(str(top / "clips"), 1)
    path = top / "action.mp4"
    path.write_bytes(raw.video())
    scores = trichord.load_model(top / "actions", device="cpu").predict(path)
    assert set(scores) == {"red", "green", "blue", "grey"}
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    captions = trichord.load_model(top / "captioner", device="cpu").predict([path, path])
    assert len(captions) == 2
    assert all(isinstance(caption, str) for caption in captions)


def test_videos_of_unequal_length_are_predicted_together_as_alone(top: Path) -> None:
    model = trichord.load_model(top / "actions", device="cpu")
    videos = [media.moving_picture(frames, 32, 32, seed=frames) for frames in (8, 30)]
    together = model.predict(videos, fps=25)
    for video, scores in zip(videos, together, strict=True):
        assert model.predict(video, fps=25) == pytest.approx(scores, abs=1e-5)


def test_a_run_without_text_embeds_by_its_backbone_and_names_what_it_lacks(top: Path, clip: Path) -> None:
    model = trichord.load_model(top / "svt", device="cpu")
    assert "svt, timesformer, step 3" in repr(model)
    features = model.embed_shards(top / "texts", batch_size=5)
    assert features.vectors.shape == (small := len(features.keys), len(model.embed_video(clip)))
    assert small == len(trichord.open_shards(top / "texts"))
    assert np.allclose(features.vectors[0], model.embed_video(clip), atol=1e-5)
    assert features.labels[:3] == [(0,), (1,), (0,)]
    assert features.captions[2] == "thing number 2"
    for call in (
        lambda: model.zeroshot(clip, ["a"]),
        lambda: model.embed_text("a"),
        lambda: model.embed_audio(clip),
        lambda: model.predict(clip),
    ):
        with pytest.raises(trichord.UserError, match="svt, timesformer"):
            call()


@pytest.fixture(scope="module")
def sounding(top: Path) -> Path:
    """Return a folder with a run of video, text and sound that takes a third of a second, one with prompts, a sound."""
    shards = small_run.write_shards(top / "sounding", sound=True, text=True)
    quick: dict[str, Any] = {"steps": 1, "checkpoints__every_steps": 1, "optimiser": {"learning_rate": 1e-3}}
    heard = {"sound": {"kind": "kaldi_fbank", "mels": 16, "frames": None}, "sound_seconds": 0.335}
    spoken = small_run.video_text_changes(classes=None, prompts=False, captions={}, **heard)
    audio = {"audio_backbone": small_run.av_changes()["audio_backbone"]}
    with without_counting():
        engine_run.pretrain(small_run.small_config(shards, **spoken, **audio, **quick), top / "heard")
        engine_run.pretrain(small_run.small_config(shards, **small_run.video_text_changes(), **quick), top / "prompts")
    with wave.open(str(top / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((noise() * 32768).round().astype("<i2").tobytes())
    return top


def noise() -> NDArray[np.float32]:
    """Return half a second of noise: unlike in a tone, rounding to 16 bits changes no band much."""
    return np.random.default_rng(0).normal(scale=0.1, size=8000).clip(-0.9, 0.9).astype(np.float32)


def test_the_middle_of_a_sound_is_embedded_alike_from_a_file_and_from_samples(sounding: Path) -> None:
    model = trichord.load_model(sounding / "heard", device="cpu")
    samples_N = noise()
    of_file_E, of_samples_E = model.embed_audio([sounding / "sound.wav", samples_N])
    assert np.allclose(of_file_E, of_samples_E, atol=2e-3)
    assert np.allclose(model.embed_audio(np.stack([samples_N, samples_N])), of_samples_E, atol=1e-5)  # stereo
    assert model.embed_audio(samples_N[:10]).shape == of_file_E.shape  # with silence around it
    assert model.embed_audio(samples_N[::-1]).shape == of_file_E.shape
    with pytest.raises(trichord.UserError, match="not finite"):
        model.embed_audio(samples_N * np.nan)


def test_prompts_change_texts_only_so_videos_have_vectors(sounding: Path, clip: Path) -> None:
    model = trichord.load_model(sounding / "prompts", device="cpu")
    assert np.linalg.norm(model.embed_video(clip)) == pytest.approx(1, abs=1e-5)
    assert model.embed_shards(sounding / "sounding").vectors.shape == (16, 16)
    with pytest.raises(trichord.UserError, match="prompts change texts"):
        model.embed_text("a")
    with pytest.raises(trichord.UserError, match="was not trained on audio"):
        model.embed_audio(sounding / "sound.wav")


def test_a_mistaken_setting_is_named_with_the_nearest(found: trichord.Model, clip: Path) -> None:
    with pytest.raises(trichord.UserError, match="Did you mean 'prompts'"):
        found.zeroshot(clip, ["a", "b"], prompt="a video of {}")
    with pytest.raises(trichord.UserError, match="no such run folder or file"):
        trichord.load_model("runs/none")
