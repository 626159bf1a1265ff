"""Reading of stored features from shards, in place of the videos they were computed from."""

from __future__ import annotations

import numpy as np
import torch

from trichord.core.errors import Cause, SampleError
from trichord.pretrain.weights.file import parse_tensors
from trichord.shards.reading.batch import Example
from trichord.shards.record import LabelRule, RawSample

MEMBER = "safetensors"  # extension of the features among the members of a sample


def read_features(label_rule: LabelRule | None, raw: RawSample, rng: np.random.Generator) -> Example:
    """Read a sample's features as a transform would; only the choice of one of its captions is random."""
    if MEMBER not in raw.members:
        raise SampleError(Cause.NO_VIDEO, "no features were computed: the video could not be used")
    annotation = raw.annotation()
    if label_rule is not None:
        label_rule.check(annotation)
    captions = annotation.captions
    try:
        tensors = parse_tensors(raw.members[MEMBER])
        present, labels = bool(tensors["audio_present"].item()), tensors["labels"].to(torch.int64).flatten().tolist()
    except (ValueError, LookupError, RuntimeError) as error:
        raise SampleError(Cause.UNREADABLE_VIDEO, f"its stored features are damaged: {error}") from error
    return Example(
        video=[tensors["video"]] if "video" in tensors else [],
        audio=[tensors["audio"]] if "audio" in tensors else [],
        audio_present=present,
        text=captions[int(rng.integers(len(captions)))] if captions else "",
        labels=tuple(labels),
    )
