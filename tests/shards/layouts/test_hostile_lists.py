"""Lists and annotation files that are damaged or hostile are refused with the file, in bounded time and memory."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from trichord.core.errors import UserError
from trichord.shards.layouts import open_layout

DEEP = "[" * 100_000 + "]" * 100_000
MANY = "9" * 5000
CSV_HEAD, KINETICS_HEAD = "path,caption,intervals,start\n", "label,youtube_id,time_start,time_end,split\n"
CHARADES_HEAD, CLASSES = "id,script,descriptions,actions,length\n", "c000 Run\n"
FILES: list[tuple[str, Mapping[str, str]]] = [
    ("csv", {"clips.csv": CSV_HEAD + "a.mp4," + "x" * 200_000}),
    ("csv", {"clips.csv": CSV_HEAD + "a.mp4,a\0b"}),
    ("csv", {"clips.csv": CSV_HEAD + f'a.mp4,c,"{DEEP}",'}),
    ("csv", {"clips.csv": CSV_HEAD + 'a.mp4,c,"[[""run"", 0, NaN]]",'}),
    ("csv", {"clips.csv": CSV_HEAD + "a.mp4,c,,1e999"}),
    ("csv", {"clips.csv": "\n\n"}),
    ("charades", {"Charades_v1_train.csv": CHARADES_HEAD + f"a,s,d,c{MANY} 1 2,", "Charades_v1_classes.txt": CLASSES}),
    ("charades", {"Charades_v1_train.csv": CHARADES_HEAD + "a,s,d,c000 nan 2,", "Charades_v1_classes.txt": CLASSES}),
    ("charades", {"Charades_v1_train.csv": CHARADES_HEAD + "a,s,d,,inf", "Charades_v1_classes.txt": CLASSES}),
    ("kinetics", {"train.csv": KINETICS_HEAD + f"run,a,{MANY},{MANY},train"}),
    ("kinetics", {"train.csv": "time_start,time_end,youtube_id\n1,2"}),
    ("kinetics", {"train.csv": "a.mp4,999999999"}),
    ("kinetics", {"train.csv": f"a.mp4,{MANY}"}),
    ("ucf101", {"trainlist01.txt": "Run/a.mp4", "testlist01.txt": "", "classInd.txt": f"{MANY} Run"}),
    (
        "msvd",
        {"AllVideoDescriptions.txt": "a_1_2 a caption", "train_list.txt": f"vid{MANY}", "youtube_mapping.txt": ""},
    ),
    ("msvd", {"AllVideoDescriptions.txt": "a_1_2 a caption", "youtube_mapping.txt": f"a_1_2 vid{MANY}"}),
    *(
        ("ssv2", {"labels/train.json": text, "labels/labels.json": '{"x": "0"}'})
        for text in (
            DEEP,
            "{}",
            "[1]",
            '[{"label": "x"}]',
            '[{"id": [1]}]',
            '[{"id": "a", "label": 5}]',
            "NaN",
            "[",
            "\0",
        )
    ),
    *(
        ("ssv2", {"labels/train.json": '[{"id": "a"}]', "labels/labels.json": text})
        for text in ("[]", '{"x": "one"}', '{"x": 1e300}', '{"x": ' + MANY + "}", '{"x": null}', '{"x": -1}')
    ),
    *(
        ("msrvtt", {"MSRVTT_data.json": json.dumps({"videos": videos, "sentences": sentences})})
        for videos, sentences in (
            ([{}], []),
            ([1], []),
            ({}, []),
            ([{"video_id": 5}], []),
            ([{"video_id": "a", "split": []}], []),
            ([{"video_id": "a", "category": 10**9}], []),
            ([{"video_id": "a", "category": "x"}], []),
            ([{"video_id": "a"}], [{"video_id": "a"}]),
            ([{"video_id": "a"}], [{"video_id": "a", "caption": None}]),
            ([{"video_id": "a"}], [{"video_id": "a", "caption": "\ud800"}]),
        )
    ),
    ("msrvtt", {"MSRVTT_data.json": "[]"}),
    ("msrvtt", {"MSRVTT_data.json": '{"videos": [{"video_id": "a"}], "sentences": []}', "category.txt": "music"}),
]


@pytest.mark.parametrize(("name", "files"), FILES)
def test_hostile_list_is_refused_with_its_file(name: str, files: Mapping[str, str], tmp_path: Path) -> None:
    for video in ("a.mp4", "a_1_2.avi", "Run/a.mp4", "a_000001_000002.mp4"):
        (tmp_path / video).parent.mkdir(exist_ok=True)
        (tmp_path / video).write_bytes(b"no layout opens it")
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    layout = open_layout(name)
    with pytest.raises(UserError) as caught:
        for split in layout.splits(tmp_path):
            layout.read(tmp_path, split)
    message = str(caught.value)
    assert any(file in message for file in files) or name in message
    assert len(message) < 1000


def test_list_that_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "clips.csv")
    with pytest.raises(UserError, match=r"clips\.csv cannot be read: it is a pipe"):
        open_layout("csv").splits(tmp_path)


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


IMAGES = np.zeros((2, 3, 4, 4), np.uint8)
GOOD = npz(train_images=IMAGES, train_labels=np.array([[0], [1]]))


def patched(field: int, value: int) -> bytes:
    """Return an archive with a byte of every entry's header changed; `field` counts as in the local headers."""
    found = bytearray(GOOD)
    for mark, at in ((b"PK\x03\x04", field), (b"PK\x01\x02", field + 2)):
        place = found.find(mark)
        while place >= 0:
            found[place + at] = value
            place = found.find(mark, place + 4)
    return bytes(found)


def shape_of_terabytes() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, shape in (("train_images", (10**9, 100, 100, 100)), ("train_labels", (10**15,))):
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
            archive.writestr(f"{name}.npy", header.getvalue())
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"no archive",
        GOOD[:200],
        patched(8, 99),  # a compression that there is not
        patched(6, 1),  # encrypted
        shape_of_terabytes(),
        npz(train_images=IMAGES, train_labels=np.array([-1, 0])),
        npz(train_images=IMAGES, train_labels=np.array([10**12, 0])),
        npz(train_images=IMAGES, train_labels=np.array([np.nan, 0])),
        npz(train_images=IMAGES, train_labels=np.array(["a", "b"])),
        npz(train_images=IMAGES, train_labels=np.array([1])),
    ],
)
def test_damaged_volumes_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "organmnist3d.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"organmnist3d\.npz"):
        open_layout("medmnist3d").read(tmp_path, "train")
