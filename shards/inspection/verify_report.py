"""The properties of one clip, which is decoded completely, and the report of all clips of a shard set.

Legend: N audio samples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trichord.core.errors import Cause
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.decoding.video import Video, open_video
from trichord.shards.record import LabelRule, RawSample

_SOUND_WINDOW_S = 30.0  # decoded at a time, so that a long track takes no more memory than a short one
_SOUND_RATE = 16000


class Sound(StrEnum):
    """Whether a clip has audio: with signal, all zero, or no track."""

    HEARD = "heard"
    ALL_ZERO = "all_zero"
    NO_TRACK = "no_track"


@dataclass(frozen=True)
class ClipFacts:
    """The properties of a decoded clip."""

    seconds: float
    frames: int
    frames_per_second: float
    width: int
    height: int
    bytes: int
    video_codec: str
    sound_codec: str | None
    sound: Sound
    damaged_frames: int  # decoded, but the decoder had to conceal errors in them
    has_caption: bool
    has_labels: bool


def check_clip(raw: RawSample, limits: DecodeLimits, labels: LabelRule | None = None) -> ClipFacts:
    """Decode everything and return the clip's properties; raise SampleError for the first defect."""
    annotation = raw.annotation()
    if labels is not None:
        labels.check(annotation)
    data = raw.video()
    video = open_video(data, limits)
    damaged = sum(bool(frame.is_corrupt) for frame in video.walk())
    sound = _check_sound(video)
    video_codec, sound_codec = video.codecs
    return ClipFacts(
        seconds=video.duration_s,
        frames=len(video),
        frames_per_second=video.frames_per_second,
        width=video.width,
        height=video.height,
        bytes=len(data),
        video_codec=video_codec,
        sound_codec=sound_codec,
        sound=sound,
        damaged_frames=damaged,
        has_caption=bool(annotation.captions),
        has_labels=bool(annotation.labels or annotation.intervals),
    )


def _check_sound(video: Video) -> Sound:
    """Decode the whole audio track, window by window, and classify it."""
    if not video.has_sound:
        return Sound.NO_TRACK
    is_audible = False
    for window in range(math.ceil(video.duration_s / _SOUND_WINDOW_S)):
        start_s = window * _SOUND_WINDOW_S
        sound_N = video.sound(start_s, min(start_s + _SOUND_WINDOW_S, video.duration_s), _SOUND_RATE)
        is_audible = is_audible or (sound_N is not None and bool(sound_N.any()))
    return Sound.HEARD if is_audible else Sound.ALL_ZERO


# The quantities of a clip whose quantiles are reported; names of fields of ClipFacts.
QUANTITIES = ("seconds", "frames", "frames_per_second", "width", "height", "bytes")
QUANTILES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}
_NAMED = 10_000  # listed over all shards; counts stay exact


class Finding(NamedTuple):
    """An error of one sample or archive member."""

    shard: str
    key: str
    cause: Cause
    detail: str


class VerifyReport:
    """The counts of a verification; it stores only six numbers of four bytes per clip."""

    def __init__(self, root: str, samples_promised: int, shards_promised: int) -> None:
        self.root = root
        self.samples_promised = samples_promised
        self.shards_promised = shards_promised
        self.samples = 0
        self.shards = 0
        self.good = 0
        self.bad: Counter[Cause] = Counter()
        self.findings: list[Finding] = []
        self.disagreements: list[str] = []
        self._tallies: Counter[tuple[str, str]] = Counter()
        self._quantities: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in QUANTITIES}

    def take(
        self,
        checked: int,
        counts: Mapping[Cause, int],
        named: Sequence[Finding],
        disagreements: Sequence[str],
        tallies: Mapping[tuple[str, str], int],
        quantities: Mapping[str, npt.NDArray[np.float32]],
    ) -> None:
        """Add the results of one shard."""
        self.shards += 1
        self.samples += checked
        self.good += len(next(iter(quantities.values())))
        self.bad.update(counts)
        self.findings.extend(named[: max(_NAMED - len(self.findings), 0)])
        self.disagreements.extend(disagreements)
        self._tallies.update(tallies)
        for name, values in quantities.items():
            self._quantities[name].append(values)

    @property
    def is_clean(self) -> bool:
        """Whether there are no errors and the shards match the manifest."""
        return not self.bad and not self.disagreements

    @property
    def exit_code(self) -> int:
        """The command's exit status: 0 if clean, else 1."""
        return 0 if self.is_clean else 1

    def share(self, what: str) -> float:
        """Return the share of good clips with a property: no_sound_track, sound_all_zero, with_caption, ..."""
        return self._tallies["clips", what] / max(self.good, 1)

    def codecs(self, kind: str) -> dict[str, int]:
        """Return the number of clips of each codec; `kind` is `video_codec` or `sound_codec`."""
        return {name: count for (about, name), count in self._tallies.most_common() if about == kind}

    def spread(self, name: str) -> dict[str, float]:
        """Return the quantiles of a quantity over the good clips."""
        values = np.concatenate([np.zeros(0, np.float32), *self._quantities[name]])
        if not len(values):
            return {}
        places = np.quantile(values, list(QUANTILES.values()), method="inverted_cdf")
        return dict(zip(QUANTILES, (round(float(value), 3) for value in places), strict=True))

    def overview(self) -> dict[str, object]:
        """Return the summary as one row."""
        hours = sum(float(values.sum(dtype=np.float64)) for values in self._quantities["seconds"]) / 3600
        return {
            "shards": self.shards,
            "of shards": self.shards_promised,
            "samples": self.samples,
            "of samples": self.samples_promised,
            "good": self.good,
            "bad": {cause.value: count for cause, count in sorted(self.bad.items())},
            "manifest disagrees": len(self.disagreements),
            "hours": round(hours, 3),
            "silent share": self.share("no_sound_track") + self.share("sound_all_zero"),
            "of that without a track": self.share("no_sound_track"),
            "caption share": self.share("with_caption"),
            "label share": self.share("with_labels"),
            "clips with damaged frames": self._tallies["clips", "with_damaged_frames"],
            "video codecs": self.codecs("video_codec"),
            "sound codecs": self.codecs("sound_codec"),
        }

    def spreads(self) -> list[dict[str, object]]:
        """Return one row of quantiles for each quantity."""
        return [{"of a clip": name.replace("_", " "), **self.spread(name)} for name in QUANTITIES if self.good]

    def listed(self) -> list[dict[str, object]]:
        """Return one row for each listed error."""
        return [
            {"shard": each.shard, "key": each.key, "cause": each.cause.value, "detail": each.detail}
            for each in self.findings
        ]
