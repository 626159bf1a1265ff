"""The MSR-VTT layout: two JSON files with twenty captions per video, and the retrieval lists of the 1k-A protocol."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from trichord.core.files import write_whole
from trichord.shards.synthetic.language import captions
from trichord.shards.synthetic.plan import ClipPlan, GeneratedClip, SyntheticRules
from trichord.shards.synthetic.table import write_table
from trichord.shards.synthetic.vocabulary import CLASSES

_SPLITS = {"train": "train", "val": "validate", "test": "test"}
_CAPTIONS = 20


def adapt(rules: SyntheticRules) -> SyntheticRules:
    """Return the rules with an event in every clip, whose first action is the category, and with twenty captions."""
    return rules.model_copy(update={"no_event_share": 0.0, "captions": _CAPTIONS})


def name_files(plans: Sequence[ClipPlan]) -> list[str]:
    """Return a path for each video, numbered as in the dataset: first train, then validate, then test."""
    order = sorted(range(len(plans)), key=lambda place: (list(_SPLITS).index(plans[place].group.split), place))
    names = [""] * len(plans)
    for number, place in enumerate(order):
        folder = "TestVideo" if plans[place].group.split == "test" else "TrainValVideo"
        names[place] = f"{folder}/video{number}.mp4"
    return names


def write_lists(out: Path, clips: Sequence[GeneratedClip], rules: SyntheticRules) -> None:
    """Write both JSON files, the categories and the retrieval lists; the 1k-A test is the whole test split."""
    ordered = sorted(clips, key=lambda clip: int(_video_id(clip).removeprefix("video")))
    learned = [clip for clip in ordered if clip.plan.group.split != "test"]
    tested = [clip for clip in ordered if clip.plan.group.split == "test"]
    _write_information(out / "train_val_videodatainfo.json", learned, 0)
    _write_information(out / "test_videodatainfo.json", tested, _CAPTIONS * len(learned))
    write_whole(out / "category.txt", "".join(f"{name}\t{n}\n" for n, name in enumerate(CLASSES)))
    pairs = [
        [f"ret{place}", f"msr{_video_id(clip).removeprefix('video')}", _video_id(clip), _captions(clip)[0]]
        for place, clip in enumerate(tested)
    ]
    write_table(out / "MSRVTT_JSFUSION_test.csv", ("key", "vid_key", "video_id", "sentence"), pairs)
    for size in ("7k", "9k"):
        write_table(out / f"MSRVTT_train.{size}.csv", ("video_id",), [[_video_id(clip)] for clip in learned])


def _write_information(path: Path, clips: Sequence[GeneratedClip], first_sentence: int) -> None:
    sentences = [(_video_id(clip), caption) for clip in clips for caption in _captions(clip)]
    document = {
        "info": {"description": "a synthetic data set in the layout of MSR-VTT", "version": "1.0"},
        "videos": [_describe(clip) for clip in clips],
        "sentences": [
            {"sen_id": first_sentence + place, "video_id": video, "caption": caption}
            for place, (video, caption) in enumerate(sentences)
        ],
    }
    write_whole(path, json.dumps(document))


def _describe(clip: GeneratedClip) -> dict[str, object]:
    identity = _video_id(clip)
    return {
        "id": int(identity.removeprefix("video")),
        "video_id": identity,
        "category": CLASSES.index(clip.plan.events[0].action),
        "url": f"world:{clip.plan.seed}/{clip.plan.number}",
        "start time": 0.0,
        "end time": clip.plan.duration_s,
        "split": _SPLITS[clip.plan.group.split],
    }


def _captions(clip: GeneratedClip) -> tuple[str, ...]:
    distinct = captions(clip.plan, _CAPTIONS)
    return tuple(distinct[place % len(distinct)] for place in range(_CAPTIONS))


def _video_id(clip: GeneratedClip) -> str:
    return Path(clip.path).stem
