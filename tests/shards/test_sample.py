"""The transform of a sample: the frames, sound and text of the clip, independent of ranks and workers."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from pydantic import ValidationError

from tests.shards import media
from trichord.shards.audio.sound_specs import KaldiFbank, SpecAugment
from trichord.shards.audio.spectrogram import spectrogram
from trichord.shards.reading.batch import Batch, Timeline
from trichord.shards.reading.manifest import index_shards
from trichord.shards.reading.stream import batches
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig
from trichord.shards.record import RawSample
from trichord.shards.sample import ClipTransform
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import DenseWindow, Segments
from trichord.shards.transforms.crops import CentreCrop, RandomResizedCrop
from trichord.shards.transforms.view_specs import ColourJitter, ViewSpec, ViewsSpec, svt_views

WINDOW = DenseWindow(frames=4, clip_seconds=0.8, placement="uniform")
PLAIN = ViewsSpec(clips=WINDOW, views=(ViewSpec(crop=CentreCrop(size=48, short_side=48)),))
SOUND = KaldiFbank(mels=64, frames=None)
RANDOM_VIEW = ViewSpec(
    crop=RandomResizedCrop(size=48), flip_probability=0.5, jitter=ColourJitter(brightness=0.4, probability=0.8)
)
RANDOM = SampleSpec(
    views=ViewsSpec(clips=Segments(frames=4), views=(RANDOM_VIEW,)),
    sound=KaldiFbank(mels=64, frames=64, spec_augment=SpecAugment(frequency_width=8, time_width=16)),
)


def _raw(data: bytes, **document: object) -> RawSample:
    return RawSample("k", "s.tar", {"mp4": data, "json": json.dumps(document).encode()})


def test_frames_and_sound_cover_the_same_interval() -> None:
    data = media.encode(media.moving_picture(50, 48, 48), media.tone(2.0), options={"g": "12"})
    transform = ClipTransform(SampleSpec(views=PLAIN, sound=SOUND, sound_seconds=0.8, is_training=False))
    example = transform(_raw(data, captions=["a", "b"], labels=[3]), np.random.default_rng(0))
    # The middle 0.8 s of 2 s at 25 frames a second: frames 15, 20, 25, 30.
    np.testing.assert_array_equal(
        example.video[0].numpy(), media.full_decode(data)[[15, 20, 25, 30]].transpose(3, 0, 1, 2)
    )
    expected_N = (0.3 * np.sin(2 * np.pi * 440 * (0.6 + np.arange(12800) / 16000))).astype(np.float32)
    assert example.audio_present
    loud = spectrogram(SOUND, expected_N) > 0  # far above the noise of the encoder
    torch.testing.assert_close(example.audio[0][loud], spectrogram(SOUND, expected_N)[loud], atol=0.05, rtol=0)
    assert example.text in ("a", "b") and example.labels == (3,)


@pytest.mark.parametrize("sound", [None, np.zeros(44100, np.float32)], ids=["no track", "digital silence"])
def test_clip_without_sound_has_zeros_of_the_right_shape(sound: media.Samples | None) -> None:
    data = media.encode(media.moving_picture(25), sound)
    example = ClipTransform(SampleSpec(views=PLAIN, sound=SOUND, sound_seconds=0.8))(
        _raw(data), np.random.default_rng(0)
    )
    heard = ClipTransform(SampleSpec(views=PLAIN, sound=SOUND, sound_seconds=0.8))(
        _raw(media.clip(25)), np.random.default_rng(0)
    )
    assert not example.audio_present and heard.audio_present
    assert example.audio[0].shape == heard.audio[0].shape and not example.audio[0].any()


def test_each_clip_may_have_its_own_sound() -> None:
    two = ViewsSpec(
        clips=DenseWindow(frames=4, clip_seconds=0.8, placement="uniform", clips=2),
        views=PLAIN.views,
    )
    raw = _raw(
        media.encode(
            media.moving_picture(50, 48, 48),
            np.concatenate([media.tone(1.0), media.tone(1.0, frequency=1760.0)]),
            options={"g": "12"},
        )
    )
    spec = SampleSpec(views=two, sound=SOUND, sound_seconds=0.8, is_training=False)
    own = ClipTransform(spec.model_copy(update={"sound_of": "each_clip"}))(raw, np.random.default_rng(0))
    first = ClipTransform(spec)(raw, np.random.default_rng(0))
    assert len(first.audio) == 1 and len(own.audio) == len(own.video) == 2
    assert torch.equal(own.audio[0], first.audio[0])
    pitch = [int(sound.float().mean(dim=0).argmax()) for sound in own.audio]
    assert pitch[1] > pitch[0]  # the second tone is the higher one


def test_sound_of_variable_length_is_refused_with_a_remedy() -> None:
    with pytest.raises(ValidationError, match="give sound_seconds"):
        SampleSpec(views=PLAIN, sound=SOUND)


def test_adding_sound_does_not_change_the_views() -> None:
    raw = _raw(media.clip(30), captions=["a", "b", "c"])
    with_sound = ClipTransform(RANDOM)(raw, np.random.default_rng(7))
    without = ClipTransform(RANDOM.model_copy(update={"sound": None}))(raw, np.random.default_rng(7))
    assert torch.equal(with_sound.video[0], without.video[0]) and with_sound.text == without.text


def test_caption_is_one_of_the_captions_or_all_of_them_on_lines() -> None:
    raw = _raw(media.clip(30), captions=["a\ncat", "b", "c"])
    bare = _raw(media.clip(30))

    def texts(which: str, of: RawSample = raw) -> set[str]:
        transform = ClipTransform(RANDOM.model_copy(update={"caption": which}))
        return {transform(of, np.random.default_rng(seed)).text for seed in range(12)}

    assert texts("first") == {"a\ncat"} and texts("random") == {"a\ncat", "b", "c"} and texts("all") == {"a cat\nb\nc"}
    assert texts("first", bare) == texts("random", bare) == texts("all", bare) == {""}


def test_evaluation_masks_no_sound() -> None:
    raw = _raw(media.clip(30))
    spec = RANDOM.model_copy(update={"is_training": False})
    one, two = (ClipTransform(spec)(raw, np.random.default_rng(seed)) for seed in (1, 2))
    assert torch.equal(one.audio[0], two.audio[0])


def test_ten_views_of_svt_come_from_one_decode() -> None:
    example = ClipTransform(SampleSpec(views=svt_views()))(_raw(media.clip(30)), np.random.default_rng(0))
    shapes = [tuple(view.shape) for view in example.video]
    assert [shape[2] for shape in shapes] == [224, 224] + [96] * 8 and len({shape[1] for shape in shapes[2:]}) > 1
    assert all(view.dtype == torch.uint8 and view.is_contiguous() for view in example.video)


def test_transform_can_be_pickled() -> None:
    again = pickle.loads(pickle.dumps(ClipTransform(RANDOM)))  # our own object, as the data loader sends it
    raw = _raw(media.clip(30))
    first, second = ClipTransform(RANDOM)(raw, np.random.default_rng(3)), again(raw, np.random.default_rng(3))
    assert torch.equal(first.video[0], second.video[0])


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    for shard in range(4):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar"), encoder=False) as writer:
            for number in range(4):
                data = media.clip(12, seed=4 * shard + number, sound=number != 2)
                writer.write({"__key__": f"{shard}{number}", "mp4": data, "txt": f"clip {shard}{number}".encode()})
    index_shards(folder).save(folder)
    return folder


def _global_batches(folder: Path, ranks: int, workers: int, start: int, steps: int) -> list[list[Batch]]:
    config = StreamConfig(
        sources=(SourceConfig(root=str(folder)),), batch_size=8, lanes=4, block_shards=2, workers=workers, seed=5
    )
    streams = [batches(config, ClipTransform(RANDOM), rank, ranks, start) for rank in range(ranks)]
    try:
        return [[next(stream) for stream in streams] for _ in range(steps)]
    finally:
        for stream in streams:
            stream.close()


@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 0), (2, 2), (4, 1)])
def test_decoded_and_augmented_batches_are_the_same_for_any_ranks_and_workers(
    shard_set: Path, ranks: int, workers: int
) -> None:
    reference = _global_batches(shard_set, 1, 0, 0, 4)
    for start in (0, 2):
        found = _global_batches(shard_set, ranks, workers, start, 2)
        for (one,), several in zip(reference[start:], found, strict=False):
            assert one.key == [key for part in several for key in part.key]
            assert one.text == [text for part in several for text in part.text]
            assert torch.equal(one.video[0], torch.cat([part.video[0] for part in several]))
            assert torch.equal(one.audio[0], torch.cat([part.audio[0] for part in several]))
            assert torch.equal(one.audio_present, torch.cat([part.audio_present for part in several]))


def test_labels_are_those_of_the_video_or_of_overlapping_intervals() -> None:
    # The middle 0.8 s of 2 s: 0.6 to 1.4. An interval that only touches an end does not overlap.
    spans = {0: (0.0, 0.6), 1: (1.39, 2.0), 2: (0.0, 2.0), 4: (1.4, 1.9), 5: (0.9, 1.0)}
    intervals = [{"label": label, "start": start, "end": end} for label, (start, end) in spans.items()]
    raw = _raw(media.encode(media.moving_picture(50, 48, 48)), labels=[*spans, 7], intervals=intervals)
    spec = SampleSpec(views=PLAIN, timeline=True)
    whole = ClipTransform(spec)(raw, np.random.default_rng(0))
    assert (
        whole.labels == (0, 1, 2, 4, 5, 7)
        and ClipTransform(RANDOM)(raw, np.random.default_rng(0)).timeline == Timeline()
    )
    clip = ClipTransform(spec.model_copy(update={"labels": "clips"}))(raw, np.random.default_rng(0))
    assert clip.labels == (1, 2, 5) and torch.equal(clip.video[0], whole.video[0])
    (stretch,) = whole.timeline.clips_s
    assert stretch == pytest.approx((0.6, 1.4)) and whole.timeline.duration_s == pytest.approx(2.0)
    assert whole.timeline.annotation == raw.annotation()
