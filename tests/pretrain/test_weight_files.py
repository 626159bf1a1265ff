"""Files of weights from anywhere: read as torch reads them, or refused with a reason, whatever they contain."""

from __future__ import annotations

import argparse
import json
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from tests.finetune.zeroshot.stage import CLIP, TEXT, random_tensors
from tests.pretrain.clip_manifests import released_clip
from tests.pretrain.test_published import init, small_network, tensors_of
from trichord.core.errors import UserError
from trichord.finetune.zeroshot.loading import load_video_text
from trichord.launch import cli
from trichord.pretrain.weights.file import read_tensors, stream_tensors
from trichord.pretrain.weights.load import load_published

FORMATS = {"zip": True, "legacy": False}


def saved(path: Path, value: Any, is_zip: bool = True, **options: Any) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=is_zip, **options)
    return path


def packed(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a zip archive as torch.save lays it out, of any content."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def with_pickle(path: Path, body: bytes) -> Path:
    """Write a file of torch.save whose pickle is this one."""
    return packed(path, {"archive/data.pkl": b"\x80\x02" + body + b".", "archive/data/0": bytes(64)})


def header(tensors: dict[str, Any], data: bytes = bytes(64)) -> bytes:
    """Return a safetensors file of any header."""
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert str(path.name) in message and len(message) < 2000
    return message


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(found[name].to(torch.float64), tensor.detach().to(torch.float64)), name


DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "uint16")
OF_KINDS = {name: torch.arange(6).to(getattr(torch, name)) for name in (*DTYPES, "float8_e4m3fn")}
WHOLE = torch.arange(24, dtype=torch.float32)
VIEWS = {
    "whole": WHOLE,
    "tied": WHOLE,
    "part": WHOLE[5:9],
    "steps": WHOLE[::3],
    "transposed": WHOLE.view(4, 6).T,
    "scalar": torch.tensor(3.5),
    "nothing": torch.zeros(0, 4),
    "parameter": nn.Parameter(torch.ones(2, 2)),
    "byte": torch.tensor([7], dtype=torch.uint8),
    "unaligned in a legacy file": torch.arange(5, dtype=torch.float64),
}


@pytest.mark.parametrize("is_zip", FORMATS.values(), ids=list(FORMATS))
@pytest.mark.parametrize("tensors", [OF_KINDS, VIEWS], ids=["types", "views"])
def test_tensors_equal_those_that_torch_loads(tensors: dict[str, Tensor], is_zip: bool, tmp_path: Path) -> None:
    if not is_zip:  # these types have no storage of their own, which the format needs
        tensors = {name: each for name, each in tensors.items() if name not in ("uint16", "float8_e4m3fn")}
    path = saved(tmp_path / "weights.pt", {"epoch": 3, "model": tensors}, is_zip)
    assert_equal(read_tensors(path), torch.load(path, weights_only=True)["model"])


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickles_of_later_protocols_are_read(protocol: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pt", VIEWS, pickle_protocol=protocol)
    assert_equal(read_tensors(path), torch.load(path, weights_only=False))


def test_plain_objects_beside_the_weights_do_no_harm(tmp_path: Path) -> None:
    beside = {
        "args": argparse.Namespace(lr=(0.1, None), names=["a"], flag=True),
        "best": np.float64(0.5),
        "curve": np.arange(3),
        "shape": torch.Size([2]),
        "device": torch.device("cpu"),
        "kind": torch.float16,
        "seen": {1, 2},
        "state": {0: {"exp_avg": torch.ones(2)}},
        ("a", "tuple"): 1,
    }
    path = saved(tmp_path / "weights.pt", {**beside, "state_dict": {"w": torch.ones(2)}})
    assert_equal(read_tensors(path), {"w": torch.ones(2)})


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    tensors = {"w": torch.arange(3.0)}
    save_file(tensors, tmp_path / "safe.pt")
    assert_equal(read_tensors(tmp_path / "safe.pt"), tensors)
    assert_equal(read_tensors(saved(tmp_path / "torch.safetensors", tensors)), tensors)


def test_reading_maps_the_file_and_copies_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pt", {"w": torch.zeros(1 << 10)})
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux lists what a process maps")
    found = read_tensors(path)["w"]
    place = found.data_ptr()
    spans = [line.split() for line in maps.read_text().splitlines() if line.endswith(path.name)]
    assert any(int(first, 16) <= place < int(last, 16) for first, last in (span[0].split("-") for span in spans))


# What a pickle may claim: a dict of one tensor, with these numbers. The storage has 16 numbers of 4 bytes.
_TENSOR = (
    b"}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n("
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu%stQ"
    b"%s%s%s\x89}tRs"
)
_LARGE, _ONE, _NONE, _MINUS = b"\x8a\x06" + (1 << 40).to_bytes(6, "little"), b"K\x01", b"K\x00", b"J\xff\xff\xff\xff"
_SIZE = b"K\x10"


def claim(
    count: bytes = _SIZE, offset: bytes = _NONE, shape: bytes = _SIZE + b"\x85", strides: bytes = _ONE + b"\x85"
) -> bytes:
    return _TENSOR % (count, offset, shape, strides)


def test_the_forged_pickles_below_are_right_but_for_one_number(tmp_path: Path) -> None:
    assert_equal(read_tensors(with_pickle(tmp_path / "w.pt", claim())), {"w": torch.zeros(16)})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (claim(count=_LARGE), "storage '0' is not all there"),
        (claim(count=_MINUS), "describes a storage in an unknown way"),
        (claim(offset=_ONE), "is larger than its storage"),
        (claim(offset=_MINUS), "no numbers of at least 0"),
        (claim(shape=_LARGE + b"\x85"), "is larger than its storage"),
        (claim(shape=_LARGE + b"\x85", strides=_NONE + b"\x85"), "is larger than its storage"),  # one number, repeated
        (claim(shape=_MINUS + b"\x85"), "no numbers of at least 0"),
        (claim(shape=_SIZE + _ONE + b"\x86"), "no numbers of at least 0"),
        (
            claim(shape=b"(" + _ONE * 70 + b"t", strides=b"(" + _ONE * 70 + b"t"),
            "of 70 dimensions, expected at most 16",
        ),
        (claim(strides=b"G" + bytes(8) + b"\x85"), "no numbers of at least 0"),
        (b"}" + b"(" * 9 + b"u", "takes a value that is not there"),
        (b"h\x05", "refers to value 5, which is not there"),
        (b"X\xff\xff\xff\x7fa", "its pickle is damaged"),
        (b"I12\n", "contains INT, which torch.save does not write"),
        (b"K\x01K\x02R", "calls what is no function"),
        (b"K\x01Q", "describes a storage in an unknown way"),
        (b"", "takes a value that is not there"),
        (b"N", "holds a NoneType; expected a dict of tensors"),
    ],
)
def test_forged_pickle_is_refused(body: bytes, reason: str, tmp_path: Path) -> None:
    assert reason in refusal(with_pickle(tmp_path / "forged.pt", body))


HOSTILE = {
    "system": b"cposix\nsystem\nX\x09\x00\x00\x00touch ran\x85R",
    "eval": b"c__builtin__\neval\nX\x01\x00\x00\x001\x85R",
    "new": b"csubprocess\nPopen\nX\x05\x00\x00\x00false\x85\x81",
    "by text": b"\x8c\x02os\x8c\x06system\x93X\x01\x00\x00\x00x\x85R",
    "only named": b"cos\nsystem\n",
    "unknown to torch": b"cnobody\nNothing\n)\x81}b",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=list(HOSTILE))
def test_nothing_that_a_pickle_names_is_imported_or_run(body: bytes, tmp_path: Path) -> None:
    path = with_pickle(tmp_path / "hostile.pt", body)
    events: list[str] = []
    watched = {"os.system", "subprocess.Popen", "pickle.find_class", "exec", "os.exec", "import"}
    is_watching = True

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if is_watching and event in watched:
            events.append(f"{event} {arguments!r:.80}")

    sys.addaudithook(note)
    try:
        assert "and trichord runs no code from weight files" in refusal(path)
    finally:
        is_watching = False
    assert events == []


BOMBS = {
    # torch.load(weights_only=True) hashes the key, which ends the process, or never ends.
    "deep key": b"})" + b"\x85" * 200_000 + b"K\x01s",
    "wide key": b"})" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(60)) + b"K\x01s",
    # It allocates what these ask for.
    "bytearray": b"}X\x01\x00\x00\x00wc__builtin__\nbytearray\n" + _LARGE + b"\x85Rs",
    "deep list": b"]" * 100_000 + b"a" * 99_999,
    "far memo": b"}r\xff\xff\xff\x7f",
    "long number": b"}X\x01\x00\x00\x00w\x8a\xff" + b"\x7f" * 255 + b"s",
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=list(BOMBS))
def test_pickle_made_to_end_the_process_is_refused(body: bytes, tmp_path: Path) -> None:
    assert refusal(with_pickle(tmp_path / "bomb.pt", body))


def _renamed(path: Path, old: str, new: str) -> Path:
    return packed(path, {name.replace(old, new): content for name, content in members_of(path).items()})


def _directory_of(path: Path, size: int) -> Path:
    """Claim another size of the archive's directory."""
    content = bytearray(packed(path, members_of(path)).read_bytes())  # torch repeats the size in another place
    end = content.rindex(b"PK\x05\x06")
    content[end + 12 : end + 16] = struct.pack("<I", size)
    path.write_bytes(content)
    return path


def _twice(path: Path) -> Path:
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(next(name for name in archive.namelist() if name.endswith("data.pkl")), b"N.")
    return path


ARCHIVES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "compressed": (lambda path: packed(path, members_of(path), zipfile.ZIP_DEFLATED), "is compressed"),
    "no pickle": (lambda path: _renamed(path, "data.pkl", "data.txt"), "without one data.pkl"),
    "two pickles": (_twice, "without one data.pkl"),
    "no storage": (lambda path: _renamed(path, "data/0", "data/7"), "storage '0' is not all there"),
    "large directory": (lambda path: _directory_of(path, 1 << 31), "is not a complete zip archive"),
    "no directory": (lambda path: _directory_of(path, 0), "without one data.pkl"),
    "big-endian": (lambda path: packed(path, {**members_of(path), "weights/byteorder": b"big"}), "big-endian"),
}


@pytest.mark.parametrize(("damage", "reason"), ARCHIVES.values(), ids=list(ARCHIVES))
def test_forged_archive_is_refused(damage: Callable[[Path], Path], reason: str, tmp_path: Path) -> None:
    assert reason in refusal(damage(saved(tmp_path / "weights.pt", {"w": torch.zeros(3)})))


@pytest.mark.parametrize("is_zip", FORMATS.values(), ids=list(FORMATS))
def test_file_cut_anywhere_is_refused(is_zip: bool, tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pt", {"w": torch.arange(40.0), "v": torch.ones(2)}, is_zip)
    whole = path.read_bytes()
    for end in (0, 3, 40, len(whole) // 3, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert refusal(path)


_F32 = {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}
HEADERS = {
    "size of all memory": (struct.pack("<Q", 1 << 50) + b"{", "its header has"),
    "deep": (struct.pack("<Q", 20_000) + b"[" * 20_000, "not a complete safetensors file"),
    "larger than its data": (header({"w": {**_F32, "shape": [1 << 40]}}), "not a complete safetensors file"),
    "negative": (header({"w": {**_F32, "shape": [-16]}}), "not a complete safetensors file"),
    "overlap": (header({"v": _F32, "w": _F32}), "not a complete safetensors file"),
    "hole": (header({"w": {**_F32, "data_offsets": [8, 72]}}, bytes(72)), "not a complete safetensors file"),
    "escape sequence": (header({"\x1b[2J": _F32}), r"the name '\x1b[2J' is not a tensor's"),
    "surrogate": (header({"\ud800": _F32}), "not a complete safetensors file"),
    "long name": (header({"w" * 9000: _F32}), "is not a tensor's"),
    "dimensions": (header({"w": {**_F32, "shape": [16] + [1] * 70}}), "71 dimensions, expected at most 16"),
    "text": (b"hello, I am text, not weights", "its header has"),
    "nothing": (b"", "not a complete safetensors file"),
}


@pytest.mark.parametrize(("content", "reason"), HEADERS.values(), ids=list(HEADERS))
def test_forged_safetensors_file_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "forged.safetensors"
    path.write_bytes(content)
    assert reason in refusal(path)
    with pytest.raises(UserError):
        list(stream_tensors(path))


def test_what_is_often_in_the_place_of_weights_is_named(tmp_path: Path) -> None:
    pointer, page = tmp_path / "pointer.safetensors", tmp_path / "page.pth"
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    page.write_bytes(b"<!DOCTYPE html>")
    assert "a pointer of Git LFS, not the file itself. Next: git lfs pull" in refusal(pointer)
    assert "a page of HTML or XML" in refusal(page)


def test_folder_of_several_safetensors_files_is_read_by_its_index(tmp_path: Path) -> None:
    halves = {"model-1.safetensors": {"a": torch.ones(2)}, "model-2.safetensors": {"b": torch.zeros(3)}}
    for name, tensors in halves.items():
        (tmp_path / name).write_bytes(save(tensors))
    index = tmp_path / "model.safetensors.index.json"
    places = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    index.write_text(json.dumps({"weight_map": places}))
    assert_equal(read_tensors(tmp_path), {"a": torch.ones(2), "b": torch.zeros(3)})
    for content, reason in (
        (
            json.dumps({"weight_map": {**places, "b": "../model-2.safetensors"}}),
            "which is no safetensors file",
        ),
        (json.dumps({"weight_map": {**places, "c": "model-1.safetensors"}}), "names tensors that its files lack: c"),
        (json.dumps({"weight_map": [1]}), "is not an index of safetensors files"),
        ("[" * 100_000, "is not an index of safetensors files"),
        ("\udcff", "is not an index of safetensors files"),
    ):
        index.write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(UserError, match=reason):
            read_tensors(tmp_path)


def test_tensor_of_another_kind_of_number_does_not_fit(tmp_path: Path) -> None:
    tensors = tensors_of(small_network())
    for kind, named in ((torch.int64, "int64"), (torch.complex64, "complex64")):
        changed = {**tensors, "backbone.cls_token": tensors["backbone.cls_token"].to(kind)}
        with pytest.raises(UserError, match=f"backbone.cls_token: {named} in the file, float32 in the network"):
            load_published(init(saved(tmp_path / "weights.pt", changed)), small_network())


def test_tensors_that_cannot_be_converted_name_the_file(tmp_path: Path) -> None:
    whole = random_tensors(released_clip(CLIP, TEXT), 0)
    path = tmp_path / "clip.safetensors"
    for change, reason in (
        ({"logit_scale": torch.zeros(2)}, "not with their shapes"),
        ({"visual.conv1.weight": torch.zeros(64, 3)}, r"the shape of backbone.patch_embed.proj.weight is \(64, 3\)"),
        # One tensor that makes a model of terabytes, and a block that does not exist for each of many names.
        ({"visual.conv1.weight": torch.zeros(1 << 19, 1, 1, 1)}, "do not fit this network"),
        ({"visual.proj": torch.zeros(0, 64)}, r"the shape of backbone.proj.weight is \(64, 0\)"),
        (
            {f"transformer.resblocks.{n}.ln_1.bias": torch.zeros(1) for n in range(300)},
            "holds 300 blocks, expected at most",
        ),
    ):
        save_file({**whole, **change}, path)
        with pytest.raises(UserError, match=reason):
            load_video_text(path)


def test_command_answers_with_one_message_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "forged.safetensors"
    damaged.write_bytes(HEADERS["escape sequence"][0])
    for words in (["weights", "inspect", str(damaged)], ["zeroshot", "--data", "nowhere", "--weights", str(damaged)]):
        assert cli.main(words) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith("error: ") and "\x1b" not in err
