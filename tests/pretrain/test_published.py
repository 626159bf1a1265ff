"""Released files of every family load by name, strictly, and without executing their contents."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import TimesformerConfig, TimesformerForVideoClassification, TimesformerModel

from trichord.core.errors import UserError
from trichord.pretrain.backbones.cnn_rnn import CnnRnnSpec
from trichord.pretrain.backbones.frame_fusion import FrameFusionSpec
from trichord.pretrain.backbones.resnet_3d import Resnet3dSpec
from trichord.pretrain.backbones.spec import BackboneSpec
from trichord.pretrain.backbones.timesformer import TimeSformerSpec
from trichord.pretrain.backbones.timesformer.model import HUGGING_FACE_TIMESFORMER
from trichord.pretrain.backbones.videomamba import VideoMambaSpec
from trichord.pretrain.backbones.vivit import ViViTSpec
from trichord.pretrain.backbones.vtn import VtnSpec
from trichord.pretrain.backbones.xclip import XClipSpec
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.objectives.svt.loss import ProjectionHead
from trichord.pretrain.objectives.svt.objective import Network
from trichord.pretrain.weights.load import load_published, load_tensors
from trichord.pretrain.weights.naming import renamed, reversed_table

SMALL = TimeSformerSpec(dim=8, depth=2, heads=2, mlp_ratio=2.0, patch=4, frames=3, size=12)
IMAGES_LACK = ("*temporal*", "*time_embed")


def small_network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    network = Network(SMALL.build(), ProjectionHead(8, 16, 4, 32, has_fixed_norm=True))
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network


def init(path: Path = Path("weights.pth"), **changes: Any) -> InitFrom:
    return InitFrom(path=path, **changes)


def tensors_of(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    theirs = expected.state_dict()
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def published_svt() -> dict[str, tuple[int, ...]]:
    """Return the tensors of kinetics400_vitb_ssl.pth: 247 of the backbone and 8 of the head."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 768),
        "pos_embed": (1, 197, 768),
        "time_embed": (1, 8, 768),
        "patch_embed.proj.weight": (768, 3, 16, 16),
        "patch_embed.proj.bias": (768,),
    }
    for block in range(12):
        for norm in ("norm1", "temporal_norm1", "norm2"):
            shapes |= {f"blocks.{block}.{norm}.{leaf}": (768,) for leaf in ("weight", "bias")}
        for linear, rows, columns in (
            ("attn.qkv", 2304, 768),
            ("attn.proj", 768, 768),
            ("temporal_attn.qkv", 2304, 768),
            ("temporal_attn.proj", 768, 768),
            ("temporal_fc", 768, 768),
            ("mlp.fc1", 3072, 768),
            ("mlp.fc2", 768, 3072),
        ):
            shapes |= {f"blocks.{block}.{linear}.weight": (rows, columns), f"blocks.{block}.{linear}.bias": (rows,)}
    shapes |= {"norm.weight": (768,), "norm.bias": (768,)}
    head: dict[str, tuple[int, ...]] = {
        "mlp.0.weight": (2048, 768),
        "mlp.0.bias": (2048,),
        "mlp.2.weight": (2048, 2048),
        "mlp.2.bias": (2048,),
        "mlp.4.weight": (256, 2048),
        "mlp.4.bias": (256,),
        "last_layer.weight_g": (65536, 1),
        "last_layer.weight_v": (65536, 256),
    }
    assert (len(shapes), len(head)) == (247, 8)
    return {f"backbone.{name}": shape for name, shape in shapes.items()} | {
        f"head.{name}": shape for name, shape in head.items()
    }


def on_meta(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def vit_b() -> Network:
    with torch.device("meta"):
        return Network(TimeSformerSpec().build(), ProjectionHead(768, 2048, 256, 65536, has_fixed_norm=True))


def test_published_svt_checkpoint_loads_strictly() -> None:
    found = load_tensors(on_meta(published_svt()), init(), vit_b())
    assert (found.missing, found.unused, found.resized) == ([], [], [])
    assert sum(tensor.numel() for name, tensor in found.taken.items() if name.startswith("backbone.")) == 121_258_752
    assert sum(tensor.numel() for name, tensor in found.taken.items() if name.startswith("head.")) == 23_138_560


@pytest.mark.parametrize(("frames", "places"), [(16, 785), (96, 197)])
def test_timesformers_of_other_frames_and_size_have_their_tables_resized(frames: int, places: int) -> None:
    published = {name: shape for name, shape in published_svt().items() if name.startswith("backbone.")}
    published |= {"backbone.pos_embed": (1, places, 768), "backbone.time_embed": (1, frames, 768)}
    file = {name.replace("backbone.", "model."): shape for name, shape in published.items()}
    file |= {"model.head.weight": (400, 768), "model.head.bias": (400,)}
    found = load_tensors(on_meta(file), init(allow_unused=["classifier.*"]), vit_b().backbone)
    assert found.unused == ["classifier.weight", "classifier.bias"]
    resized = [f"backbone.time_embed from 1x{frames}x768 to 1x8x768"]
    resized += ["backbone.pos_embed from 1x785x768 to 1x197x768"] if places == 785 else []
    assert sorted(found.resized) == sorted(resized)


def test_an_export_loads_back(tmp_path: Path) -> None:
    trained, fresh = small_network(1), small_network(2)
    save_file(tensors_of(trained), tmp_path / "teacher.safetensors")
    found = load_published(init(tmp_path / "teacher.safetensors"), fresh)
    assert_same(fresh, trained)
    assert found.lines() == [f"SVT or DINO weights: {len(trained.state_dict())} tensors loaded"]


@pytest.mark.parametrize(
    "spec",
    [
        CnnRnnSpec(frame_backbone="test_resnet", dim=8, frames=2, size=32),
        FrameFusionSpec(widths=(4, 4, 4, 4, 4), dim=8),
        Resnet3dSpec(width=8, blocks=(1, 1, 1, 1)),
        VideoMambaSpec(dim=8, depth=1, patch=4, frames=3, size=12),
        ViViTSpec(dim=8, depth=1, heads=2, patch=4, frames=2, size=12),
        VtnSpec(frame_backbone="test_vit", heads=2, depth=1, size=32, window=2),
        XClipSpec(dim=8, depth=1, heads=2, patch=4, joint_dim=8, joint_heads=2, size=12),
    ],
    ids=lambda spec: spec.kind,
)
def test_an_export_of_every_kind_of_backbone_loads_back(spec: BackboneSpec) -> None:
    trained, fresh = spec.build(), spec.build()
    load_tensors(tensors_of(trained, "backbone."), init(), fresh)
    assert_same(fresh, trained)


def test_student_and_teacher_are_both_initialised_from_the_file() -> None:
    both = nn.ModuleDict({"student": small_network(2), "teacher": small_network(3)})
    load_tensors(tensors_of(small_network(1)), init(), both)
    for network in both.values():
        assert_same(network, small_network(1))


@pytest.mark.parametrize("part", [None, "teacher", "student"])
def test_training_checkpoint_yields_its_teacher_or_the_requested_part(tmp_path: Path, part: str) -> None:
    teacher, student, fresh = small_network(1), small_network(2), small_network(3)
    content = {
        "student": tensors_of(student, "module."),
        "teacher": tensors_of(teacher),
        "motion_teacher": 0,
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_base"),
        "dino_loss": {"center": torch.zeros(1, 32)},
    }
    torch.save(content, tmp_path / "checkpoint.pth")
    load_published(init(tmp_path / "checkpoint.pth", part=part), fresh)
    assert_same(fresh, student if part == "student" else teacher)


def test_files_in_the_legacy_format_load(tmp_path: Path) -> None:
    trained, fresh = small_network(1), small_network(2)
    torch.save(tensors_of(trained), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    load_published(init(tmp_path / "old.pth"), fresh)
    assert_same(fresh, trained)


def test_numbers_beside_a_part_are_not_weights(tmp_path: Path) -> None:
    trained, fresh = small_network(1), small_network(2)
    torch.save({"model": tensors_of(trained), "max_accuracy": torch.tensor(81.0)}, tmp_path / "best.pth")
    load_published(init(tmp_path / "best.pth"), fresh)
    assert_same(fresh, trained)


def test_legacy_folder_loads(tmp_path: Path) -> None:
    trained, fresh = small_network(1), small_network(2)
    torch.save(tensors_of(trained), tmp_path / "pytorch_model.bin")
    load_published(init(tmp_path), fresh)
    assert_same(fresh, trained)


def test_missing_part_is_named(tmp_path: Path) -> None:
    torch.save({"teacher": tensors_of(small_network())}, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"c\.pth has no part pupil; found teacher"):
        load_published(init(tmp_path / "c.pth", part="pupil"), small_network())


def test_original_timesformer_files_load(tmp_path: Path) -> None:
    trained, fresh = small_network(1).backbone, small_network(2).backbone
    weights = tensors_of(trained, "model.") | {
        "model.head.weight": torch.zeros(4, 8),
        "model.head.bias": torch.zeros(4),
    }
    torch.save({"epoch": 1, "model_state": weights, "optimizer_state": {}, "cfg": "A: 1\n"}, tmp_path / "t.pyth")
    with pytest.raises(UserError, match=r"2 not in the network: classifier\.weight, classifier\.bias"):
        load_published(init(tmp_path / "t.pyth"), fresh)
    load_published(init(tmp_path / "t.pyth", allow_unused=["classifier.*"]), fresh)
    assert_same(fresh, trained)


@pytest.mark.parametrize("has_classifier", [True, False])
def test_hugging_face_timesformers_load_with_the_same_output(tmp_path: Path, has_classifier: bool) -> None:
    config = TimesformerConfig(
        image_size=12, patch_size=4, num_frames=3, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, num_labels=4, drop_path_rate=0,
    )  # fmt: skip
    theirs = TimesformerForVideoClassification(config) if has_classifier else TimesformerModel(config)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs.eval().save_pretrained(tmp_path)
    ours = SMALL.build().eval()
    found = load_published(init(tmp_path, allow_unused=["classifier.*"] if has_classifier else []), ours)
    assert len(found.taken) == len(list(ours.parameters()))
    frames_BCTHW = torch.randn(2, 3, 3, 12, 12)
    base = theirs.timesformer if has_classifier else theirs
    expected_BD = base(frames_BCTHW.transpose(1, 2)).last_hidden_state[:, 0]
    torch.testing.assert_close(ours(frames_BCTHW).pooled_BD, expected_BD, atol=1e-5, rtol=0)


def image_model() -> dict[str, Tensor]:
    """Return the tensors of a DINO or timm file of a ViT."""
    tensors = tensors_of(small_network(1).backbone)
    return {name: tensor for name, tensor in tensors.items() if "temporal" not in name and name != "time_embed"}


def test_temporal_attention_keeps_its_init_with_an_image_model() -> None:
    file, fresh = image_model(), small_network(2)
    with pytest.raises(UserError, match=re.escape("allow these names by pattern: init_from.allow_missing")):
        load_tensors(file, init(), fresh.backbone)
    found = load_tensors(file, init(allow_missing=[*IMAGES_LACK, "head.*"]), fresh)
    assert len(found.missing) == 1 + 2 * (2 + 4 + 2) + 8
    untouched = small_network(2).state_dict()
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, untouched[name] if name in found.missing else file[name.removeprefix("backbone.")])


def test_temporal_attention_may_start_as_a_copy_without_effect() -> None:
    file, fresh = image_model(), SMALL.build()
    found = load_tensors(file, init(allow_missing=["*.temporal_fc.*", "*.time_embed"], time_from_space=True), fresh)
    assert sorted(found.missing) == [
        *(f"backbone.blocks.{block}.temporal_fc.{leaf}" for block in (0, 1) for leaf in ("bias", "weight")),
        "backbone.time_embed",
    ]
    for block in fresh.blocks:
        assert_same(block.temporal_attn, block.attn)
        assert_same(block.temporal_norm1, block.norm1)
        assert not block.temporal_fc.weight.any()


def test_tables_are_resized_in_two_dimensions_and_in_time() -> None:
    larger = SMALL.model_copy(update={"size": 24, "frames": 6}).build()
    nn.init.normal_(larger.pos_embed)
    nn.init.normal_(larger.time_embed)
    fresh = SMALL.build()
    load_tensors(tensors_of(larger), init(), fresh)
    assert torch.equal(fresh.pos_embed[:, 0], larger.pos_embed[:, 0])
    for row in range(3):
        for column in range(3):
            expected_1D = larger.pos_embed[:, 1 + (2 * row) * 6 + 2 * column]
            assert torch.equal(fresh.pos_embed[:, 1 + row * 3 + column], expected_1D)
    assert torch.equal(fresh.time_embed, larger.time_embed[:, ::2])


def test_a_missing_an_unused_and_a_misshapen_tensor_are_each_named() -> None:
    file = tensors_of(small_network(1))
    del file["backbone.norm.bias"]
    file["backbone.extra"] = torch.zeros(1)
    file["head.mlp.0.bias"] = torch.zeros(7)
    fresh = small_network(2)
    with pytest.raises(UserError) as caught:
        load_tensors(file, init(), fresh)
    assert str(caught.value).splitlines() == [
        "weights.pth holds SVT or DINO weights that do not fit this network:",
        "  1 not in the file: backbone.norm.bias",
        "  1 not in the network: backbone.extra",
        "  1 of another shape: head.mlp.0.bias: 7 in the file, 16 in the network",
        "Choose the backbone that the weights were made for, or allow these names by pattern: "
        "init_from.allow_missing and init_from.allow_unused='[\"...\"]'",
    ]
    assert_same(fresh, small_network(2))


def test_a_tensor_of_another_shape_is_missing_here_and_unused_there() -> None:
    file = tensors_of(small_network(1)) | {"head.mlp.0.bias": torch.zeros(7)}
    for only in ({"allow_missing": ["head.*"]}, {"allow_unused": ["head.*"]}):
        with pytest.raises(UserError, match=r"head\.mlp\.0\.bias: 7 in the file"):
            load_tensors(file, init(**only), small_network(2))
    found = load_tensors(file, init(allow_missing=["head.*"], allow_unused=["head.*"]), small_network(2))
    assert found.missing == found.unused == ["head.mlp.0.bias"]
    assert found.lines()[1:] == ["left as initialised: head.mlp.0.bias", "left out: head.mlp.0.bias"]


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_file_with_code_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "x.pyth"
    torch.save({"model_state": tensors_of(small_network()), "cfg": Evil(tmp_path / "was_run")}, path)
    with pytest.raises(UserError) as caught:
        load_published(init(path), small_network())
    message = str(caught.value)
    of_pathlib = r"pathlib(\._local)?"  # since Python 3.13
    expected = rf"would run builtins\.getattr, {of_pathlib}\.Path, {of_pathlib}\.PosixPath, and trichord"
    assert message.startswith(f"{path} ") and re.search(expected, message)
    assert not (tmp_path / "was_run").exists()
    way_out = re.search(r"python -c '(.*)'\n", message)
    assert way_out
    exec(way_out[1])
    assert (tmp_path / "was_run").exists()
    fresh = small_network(2)
    load_published(init(tmp_path / "x.safetensors"), fresh)
    assert_same(fresh, small_network())


def test_missing_torn_and_foreign_files_are_refused(tmp_path: Path) -> None:
    for name in ("torn.safetensors", "words.bin"):
        (tmp_path / name).write_bytes(b"hello, I am text")
    for name, is_zip in (("torn.pth", True), ("torn_old.pth", False)):
        torch.save(tensors_of(small_network()), tmp_path / name, _use_new_zipfile_serialization=is_zip)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole.replace(b"cls_token", b"cls") if is_zip else whole[: len(whole) // 2])
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "nothing.pth")
    torch.save({"resnet.conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    for name, message in {
        "absent.pth": "found no file .*absent.pth",
        "torn.safetensors": "is not a complete safetensors file",
        "torn.pth": "torn.pth is a damaged file of torch.save",
        "torn_old.pth": "torn_old.pth is a damaged file of torch.save",
        "words.bin": "is not a complete file of torch.save",
        "list.pth": "holds a list; expected a dict of tensors",
        "nothing.pth": "holds tensors in none of teacher, student, .*; found epoch",
        "resnet.pth": r"its tensors are named resnet\.conv1\.weight; expected one of .*SVT or DINO \(backbone",
    }.items():
        with pytest.raises(UserError, match=message):
            load_published(init(tmp_path / name), small_network())


def test_hugging_face_table_is_invertible() -> None:
    back = reversed_table(HUGGING_FACE_TIMESFORMER)
    for name in SMALL.build().state_dict():
        theirs = renamed(f"backbone.{name}", back)
        assert theirs.startswith("timesformer.")
        assert renamed(theirs, HUGGING_FACE_TIMESFORMER) == f"backbone.{name}"
