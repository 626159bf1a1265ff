"""Captions, labels and annotations of a sample, as written by this project and by other tools."""

from __future__ import annotations

import json

import pytest

from trichord.core.errors import Cause, SampleError
from trichord.shards.record import Annotation, LabelRule, RawSample


def _read(document: object = None, **members: bytes) -> Annotation:
    if document is not None:
        members["json"] = json.dumps(document).encode()
    return RawSample("k", "s.tar", members).annotation()


def test_caption_of_txt_takes_precedence_over_json() -> None:
    assert _read({"captions": ["a", "b"]}, txt=b"a\n").captions == ("a", "b")
    assert _read({"caption": "a"}, txt=b"c").captions == ("c", "a")
    assert _read().captions == () and _read({"caption": float("nan")}, txt=b"c").captions == ("c",)


def test_a_class_member_is_a_label_unless_the_json_has_labels() -> None:
    assert _read(cls=b" 7\n").labels == (7,)
    assert _read({"labels": [1, 2]}, cls=b"7").labels == (1, 2)


def test_other_meanings_of_our_field_names_are_kept_as_extra() -> None:
    foreign = {"labels": ["run"], "duration": "0:10", "source": {"id": 3}, "group": 5, "fps": 25, "extra": {"own": 1}}
    found = _read(foreign)
    assert (found.labels, found.duration, found.source, found.group, found.fps) == ((), None, None, None, 25.0)
    assert found.extra == {"own": 1, "labels": ["run"], "duration": "0:10", "source": {"id": 3}, "group": 5}
    assert _read({"labels": [10**30]}).labels == ()


def test_whole_surrogate_pairs_and_other_letters_are_captions() -> None:
    document = b'{"captions": ["\\ud83d\\ude00", "caf\\u00e9", "\xc3\xa9t\xc3\xa9"]}'
    assert RawSample("k", "s.tar", {"json": document}).annotation().captions == ("\U0001f600", "caf\xe9", "\xe9t\xe9")


@pytest.mark.parametrize(
    ("members", "cause"),
    [
        ({"json": b"{"}, Cause.BAD_JSON),
        ({"json": b"[1]"}, Cause.BAD_JSON),
        ({"json": b'{"captions": [1]}'}, Cause.BAD_JSON),
        ({"json": b'{"intervals": [{"label": 0, "start": NaN, "end": 1}]}'}, Cause.BAD_JSON),
        ({"json": b'{"extra": 3}'}, Cause.BAD_JSON),
        ({"txt": b"\xff"}, Cause.BAD_TEXT),
        ({"cls": b"cat"}, Cause.BAD_TEXT),
        ({"cls": "\uff11".encode()}, Cause.BAD_TEXT),  # a full-width digit, which webdataset refuses
        ({"cls": b"-1"}, Cause.BAD_TEXT),
        ({"cls": b"1_000"}, Cause.BAD_TEXT),
        ({"cls": b"9" * 5000}, Cause.BAD_TEXT),
        ({"json": b'{"captions": ["half \\ud800 a pair"]}'}, Cause.BAD_JSON),
        ({"json": b'{"caption": "half \xed\xa0\x80 a pair"}'}, Cause.BAD_JSON),
        ({"json": b'{"extra": {"deep": ["\\udfff"]}}'}, Cause.BAD_JSON),
    ],
)
def test_impossible_values_are_bad(members: dict[str, bytes], cause: Cause) -> None:
    with pytest.raises(SampleError) as caught:
        RawSample("k", "s.tar", members).annotation()
    assert caught.value.cause == cause


@pytest.mark.parametrize(
    ("document", "rule", "expected"),
    [
        ({"labels": [2]}, LabelRule(classes=3, fewest=1, most=1), None),
        ({"labels": [3]}, LabelRule(classes=3), "label 3, expected a number below 3, the number of classes"),
        ({"labels": [0, 1]}, LabelRule(classes=3), None),
        ({"labels": [0, 1]}, LabelRule(classes=3, most=1), "2 labels, expected at most 1"),
        ({}, LabelRule(classes=3, most=1), None),
        ({}, LabelRule(classes=3, fewest=1, most=1, advice="Do so"), "0 labels, expected exactly 1. Do so"),
        ({"intervals": [{"label": 9, "start": 0, "end": 1}]}, LabelRule(classes=3), None),
        (
            {"intervals": [{"label": 9, "start": 0, "end": 1}]},
            LabelRule(classes=3, intervals=True),
            "label 9, expected a number below 3, the number of classes",
        ),
    ],
)
def test_labels_must_follow_the_rule(document: dict[str, object], rule: LabelRule, expected: str | None) -> None:
    annotation = RawSample("k", "s.tar", {"json": json.dumps(document).encode()}).annotation()
    if expected is None:
        rule.check(annotation)
        return
    with pytest.raises(SampleError) as caught:
        rule.check(annotation)
    assert (caught.value.cause, caught.value.detail) == (Cause.BAD_LABEL, expected)
