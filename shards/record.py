"""The format of a sample in a shard (`{key}.mp4`, `{key}.txt`, `{key}.json`), and the parsing of its members."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from trichord.core.console import counted
from trichord.core.errors import Cause, SampleError
from trichord.core.reading import parse_json, reason

# Extensions of the media member in shards of video2dataset, ShardWriter and trichord, in the order of preference.
VIDEO_EXTENSIONS = ("mp4", "webm", "mkv", "avi", "mov", "m4v", "mpg", "mpeg")
AUDIO_EXTENSIONS = ("m4a", "flac", "wav", "mp3", "ogg", "opus")
# Members that Python or torch would unpickle: only counted, never opened.
PICKLE_EXTENSIONS = ("pickle", "pkl", "pyd", "pth", "pt", "joblib", "npy", "npz")


_CLASS_NUMBER = re.compile(r"[0-9]{1,9}")  # int() and webdataset also read other digits, signs and underscores
ClassNumber = Annotated[int, Field(ge=0, lt=1 << 31)]


class Interval(BaseModel):
    """An action with its start and end, in seconds from the clip's first frame."""

    model_config = ConfigDict(frozen=True)

    label: ClassNumber
    start: FiniteFloat
    end: FiniteFloat


def labels_within(intervals: Iterable[Interval], start_s: float, end_s: float) -> tuple[int, ...]:
    """Return the sorted, distinct classes of the intervals whose overlap with a stretch of time is longer than zero."""
    found = {each.label for each in intervals if max(each.start, start_s) < min(each.end, end_s)}
    return tuple(sorted(found))


class Annotation(BaseModel):
    """The annotation of a clip: all that a shard holds about it besides video and audio."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    captions: tuple[str, ...] = ()
    labels: tuple[ClassNumber, ...] = ()
    intervals: tuple[Interval, ...] = ()
    source: str | None = None
    start: FiniteFloat | None = None
    end: FiniteFloat | None = None
    fps: FiniteFloat | None = None
    duration: FiniteFloat | None = None
    group: str | None = None
    split: str | None = None
    extra: dict[str, Any] = {}


class LabelRule(BaseModel):
    """The labels that a sample may have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: int
    fewest: int = 0
    most: int | None = None
    intervals: bool = False  # whether the classes of intervals must be among them as well
    advice: str = ""  # on a wrong number of labels

    def check(self, annotation: Annotation) -> None:
        """Raise SampleError if an annotation has other labels."""
        found = {*annotation.labels, *(each.label for each in annotation.intervals if self.intervals)}
        beyond = min((label for label in found if label >= self.classes), default=None)
        if beyond is not None:
            detail = f"label {beyond}, expected a number below {self.classes}, the number of classes"
            raise SampleError(Cause.BAD_LABEL, detail)
        count = len(annotation.labels)
        if count < self.fewest or (self.most is not None and count > self.most):
            wanted = f"exactly {self.most}" if self.fewest == self.most else f"at most {self.most}"
            raise SampleError(
                Cause.BAD_LABEL, f"{counted(count, 'label')}, expected {wanted}{self.advice and f'. {self.advice}'}"
            )


@dataclass(frozen=True)
class RawSample:
    """The members of one key, still encoded."""

    key: str
    shard: str
    members: Mapping[str, bytes]

    def video(self) -> bytes:
        """Return the media file; raise SampleError if there is none."""
        for extension in VIDEO_EXTENSIONS:
            if extension in self.members:
                return self.members[extension]
        raise SampleError(Cause.NO_VIDEO, f"members are {sorted(self.members)}, none of {list(VIDEO_EXTENSIONS)}")

    def annotation(self) -> Annotation:
        """Parse the json, txt and cls members; a caption that is in both json and txt is kept once."""
        document = self._document()
        captions = _captions(document)
        text = self.members.get("txt")
        if text is not None:
            caption = _decode_text(text, "txt").strip()
            if caption and caption not in captions:
                captions = (caption, *captions)
        known = {name: document[name] for name in Annotation.model_fields if name in document}
        if "cls" in self.members and "labels" not in known:
            known["labels"] = (_class_number(self.members["cls"]),)
        return _validated({**known, "captions": captions})

    def _document(self) -> dict[str, Any]:
        raw = self.members.get("json")
        if raw is None:
            return {}
        try:
            document = parse_json(raw, any_numbers=True)  # pandas writes a missing value as NaN
        except ValueError as error:
            raise SampleError(Cause.BAD_JSON, reason(error)) from error
        if not isinstance(document, dict):
            raise SampleError(Cause.BAD_JSON, f"expected an object, found {type(document).__name__}")
        return document


def _validated(known: dict[str, Any]) -> Annotation:
    """Validate the fields; those of other tools that have the same name but another meaning are kept in `extra`.

    Only `intervals` and `extra` must be valid where they are given: no other format has `intervals`.
    """
    try:
        return Annotation.model_validate(known)
    except ValidationError as error:
        invalid = {str(each["loc"][0]): each for each in error.errors()}
    for name in invalid.keys() & {"intervals", "extra"}:
        where = ".".join(str(part) for part in invalid[name]["loc"])
        raise SampleError(Cause.BAD_JSON, f"{where}: {invalid[name]['msg']}")
    kept = {**known.get("extra", {}), **{name: known[name] for name in invalid}}
    return Annotation.model_validate({**{name: known[name] for name in known.keys() - invalid.keys()}, "extra": kept})


def _captions(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the `captions` list, or the single `caption` of video2dataset as a tuple."""
    found = document.get("captions", document.get("caption"))
    if found is None:
        return ()
    if isinstance(found, float):  # pandas writes a missing caption as NaN
        return ()
    listed = [found] if isinstance(found, str) else found
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise SampleError(Cause.BAD_JSON, "captions: expected a string or a list of strings")
    return tuple(listed)


def _decode_text(raw: bytes, member: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SampleError(Cause.BAD_TEXT, f"{member} member is not UTF-8 at byte {error.start}") from error


def _class_number(raw: bytes) -> int:
    text = _decode_text(raw, "cls").strip()
    if _CLASS_NUMBER.fullmatch(text) is None:
        raise SampleError(Cause.BAD_TEXT, f"cls member holds {text[:40]!r}, expected a class number")
    return int(text)
