"""Names and shapes of released TimeSformers, ViViTs and image ViTs: each matches one family and loads strictly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import TimesformerConfig, TimesformerForVideoClassification, VivitConfig, VivitForVideoClassification

from tests.pretrain import published_manifests as manifests
from tests.pretrain.published_manifests import Shapes
from trichord.pretrain.backbones.counting import on_meta
from trichord.pretrain.backbones.registry import published_sizes
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.weights.load import Fit, families, load_tensors
from trichord.pretrain.weights.naming import joined

RELEASED: list[tuple[str, str, Shapes]] = [
    ("timesformer-base", "TimeSformer", manifests.timesformer(8, 224, 400)),
    ("timesformer-base", "TimeSformer", manifests.timesformer(8, 224, 600)),
    ("timesformer-base", "TimeSformer", manifests.timesformer(8, 224, 174)),
    ("timesformer-hr", "TimeSformer", manifests.timesformer(16, 448, 400)),
    ("timesformer-hr", "TimeSformer", manifests.timesformer(16, 448, 174)),
    ("timesformer-large", "TimeSformer", manifests.timesformer(96, 224, 600)),
    ("timesformer-large-64", "TimeSformer", manifests.timesformer(64, 224, 174)),
    ("timesformer-base", "TimeSformer of Hugging Face", manifests.timesformer_of_hugging_face(8, 224, 400)),
    ("timesformer-hr", "TimeSformer of Hugging Face", manifests.timesformer_of_hugging_face(16, 448, 600)),
    ("timesformer-large", "TimeSformer of Hugging Face", manifests.timesformer_of_hugging_face(96, 224, 400)),
    ("vivit-1-b16x2", "ViViT of Hugging Face", manifests.vivit_of_hugging_face(400)),
    ("vivit-1-b16x2", "ViViT of Hugging Face, new names", manifests.vivit_of_hugging_face(400, new_names=True)),
]


def load(shapes: Shapes, preset: str, **allowed: object) -> Fit:
    init = InitFrom.model_validate({"path": Path("weights"), "allow_unused": ["classifier.*"]} | allowed)
    return load_tensors(manifests.tensors(shapes), init, on_meta(published_sizes()[preset]))


def without_classifier(shapes: Shapes, prefix: str) -> Shapes:
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if not name.startswith("classifier.")}


@pytest.mark.parametrize(
    ("preset", "family", "shapes"), RELEASED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_released_files_load_strictly_and_match_one_family(preset: str, family: str, shapes: Shapes) -> None:
    assert [each.name for each in families() if each.matches(shapes)] == [family]
    found = load(shapes, preset)
    assert (found.family, found.missing, found.resized) == (family, [], [])
    assert found.unused == ["classifier.weight", "classifier.bias"]


def test_models_without_a_classifier_have_their_own_families() -> None:
    for prefix, preset, shapes in (
        ("timesformer.", "timesformer-base", manifests.timesformer_of_hugging_face(8, 224, 400)),
        ("vivit.", "vivit-1-b16x2", manifests.vivit_of_hugging_face(400)),
        ("vivit.", "vivit-1-b16x2", manifests.vivit_of_hugging_face(400, new_names=True)),
    ):
        alone = without_classifier(shapes, prefix)
        assert len([each for each in families() if each.matches(alone)]) == 1
        found = load(alone, preset, allow_unused=[])
        assert (found.missing, found.unused, found.resized) == ([], [], [])


def test_manifests_equal_those_of_the_hugging_face_classes() -> None:
    with torch.device("meta"):
        timesformer = TimesformerForVideoClassification(TimesformerConfig(num_labels=400))
        vivit = VivitForVideoClassification(VivitConfig(num_labels=400))
    assert shapes_of(timesformer) == manifests.timesformer_of_hugging_face(8, 224, 400)
    assert shapes_of(vivit) == manifests.vivit_of_hugging_face(400, new_names=True)


@pytest.mark.parametrize("size", [224, 384])
@pytest.mark.parametrize("preset", [name for name in published_sizes() if name.startswith("vivit") and "b16" in name])
def test_image_models_initialise_every_vivit(preset: str, size: int) -> None:
    shapes = manifests.image_vit(size)
    has_class = published_sizes()[preset].spec.model_dump()["pooled"] == "class"
    allowed = {
        "allow_missing": ["*time_*", "*temporal*"],
        "allow_unused": ["classifier.*", *([] if has_class else ["*cls_token"])],
    }
    found = load(shapes, preset, **allowed)
    assert "backbone.patch_embed.proj.weight from 768x3x16x16 to 768x3x2x16x16" in found.resized
    assert {name.split(".")[1].partition("_")[0] for name in found.missing} <= {"time", "blocks"}
    assert "backbone.pos_embed" in found.taken


def test_separate_parts_are_joined_in_order_only_if_complete() -> None:
    file = {f"a.{n}.{part}.w": torch.full((1, 2), 10 * n + number) for n in (0, 1) for number, part in enumerate("qkv")}
    del file["a.1.k.w"]
    found = joined(file, [f"a.{{n}}.{part}.{{rest}}" for part in "qkv"], "a.{n}.qkv.{rest}")
    assert sorted(found) == ["a.0.qkv.w", "a.1.q.w", "a.1.v.w"]
    assert found["a.0.qkv.w"].tolist() == [[0, 0], [1, 1], [2, 2]]


def shapes_of(module: nn.Module) -> Shapes:
    named: dict[str, Tensor] = module.state_dict()
    return {name: tuple(tensor.shape) for name, tensor in named.items()}
