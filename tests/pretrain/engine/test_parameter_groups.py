"""Parameter groups: every parameter once, by rules with expected results written by hand."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from trichord.core.errors import UserError
from trichord.pretrain.backbones.base import Backbone, Tokens
from trichord.pretrain.engine.config import GroupRules
from trichord.pretrain.engine.parameter_groups import ParameterGroup, describe, group_parameters


class TwoBlocks(Backbone):
    """A backbone of two blocks: layers 0 (embeddings), 1, 2 (blocks), 3 (everything after them)."""

    dim, layers = 4, 4

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.norm = nn.LayerNorm(4)

    def forward(self, frames_BCTHW: Tensor) -> Tokens:
        raise AssertionError("groups need no forward")

    def layer_of(self, name: str) -> int:
        first, _, rest = name.partition(".")
        return {"cls_token": 0, "norm": 3}.get(first) or (int(rest[0]) + 1 if first == "blocks" else 0)


class Model(nn.Module):
    """A student with a head, and a frozen teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.ModuleDict({"backbone": TwoBlocks(), "head": nn.Linear(4, 6)})
        self.teacher = TwoBlocks().requires_grad_(False)


def grouped(rules: GroupRules, frozen: dict[str, int] | None = None) -> list[ParameterGroup]:
    model = Model()
    backbone = model.student["backbone"]
    assert isinstance(backbone, TwoBlocks)
    return group_parameters(model, rules, {"student.backbone.": backbone}, frozen or {})


def treatment(groups: list[ParameterGroup]) -> dict[str, tuple[float, float, int]]:
    """Return the scales of each parameter; assert that no parameter is in two groups."""
    found = {}
    for group in groups:
        for name in group.parameters:
            assert name not in found
            found[name.removeprefix("student.")] = (group.lr_scale, group.decay_scale, group.frozen_steps)
    return found


def test_one_dimensional_parameters_and_biases_are_not_decayed() -> None:
    assert treatment(grouped(GroupRules())) == {
        "backbone.cls_token": (1, 1, 0),  # of three dimensions: decayed, as SVT's code has it
        "backbone.blocks.0.weight": (1, 1, 0),
        "backbone.blocks.0.bias": (1, 0, 0),
        "backbone.blocks.1.weight": (1, 1, 0),
        "backbone.blocks.1.bias": (1, 0, 0),
        "backbone.norm.weight": (1, 0, 0),
        "backbone.norm.bias": (1, 0, 0),
        "head.weight": (1, 1, 0),
        "head.bias": (1, 0, 0),
    }


def test_layers_closer_to_the_pixels_have_smaller_rates() -> None:
    groups = grouped(GroupRules(layer_decay=0.5, no_decay_names=("*.cls_token",)))
    assert treatment(groups) == {
        "backbone.cls_token": (0.125, 0, 0),
        "backbone.blocks.0.weight": (0.25, 1, 0),
        "backbone.blocks.0.bias": (0.25, 0, 0),
        "backbone.blocks.1.weight": (0.5, 1, 0),
        "backbone.blocks.1.bias": (0.5, 0, 0),
        "backbone.norm.weight": (1, 0, 0),
        "backbone.norm.bias": (1, 0, 0),
        "head.weight": (1, 1, 0),
        "head.bias": (1, 0, 0),
    }
    assert [group.name for group in groups] == [
        "layer 0, not decayed",
        "layer 1, decayed",
        "layer 1, not decayed",
        "layer 2, decayed",
        "layer 2, not decayed",
        "layer 3, decayed",
        "layer 3, not decayed",
    ]


def test_backbones_of_different_depth_are_counted_from_their_ends() -> None:
    model = nn.ModuleDict({"video": TwoBlocks(), "audio": TwoBlocks(), "head": nn.Linear(4, 6)})
    video, audio = model["video"], model["audio"]
    assert isinstance(video, TwoBlocks) and isinstance(audio, TwoBlocks)
    audio.layers = 5
    found = treatment(group_parameters(model, GroupRules(layer_decay=0.5), {"video.": video, "audio.": audio}))
    assert (found["video.norm.weight"][0], found["audio.norm.weight"][0], found["head.weight"][0]) == (1, 0.5, 1)
    assert (found["video.blocks.0.weight"][0], found["audio.blocks.0.weight"][0]) == (0.25, 0.125)


def test_everything_can_be_decayed() -> None:
    (group,) = grouped(GroupRules(no_decay_one_dimensional=False))
    assert (group.name, group.decay_scale, len(group.parameters)) == ("decayed", 1.0, 9)


def test_parameters_can_be_frozen_at_first() -> None:
    found = treatment(grouped(GroupRules(), frozen={"student.head.*": 50}))
    assert {name for name, (_, _, steps) in found.items() if steps == 50} == {"head.weight", "head.bias"}


def test_frozen_and_teacher_parameters_are_excluded_and_tied_weights_count_once() -> None:
    model = Model()
    model.student["twin"] = model.student["head"]
    groups = group_parameters(model, GroupRules())
    counted = [id(parameter) for group in groups for parameter in group.parameters.values()]
    assert sorted(counted) == sorted(id(each) for each in model.parameters() if each.requires_grad)


def test_the_table_counts_values() -> None:
    rows = describe(grouped(GroupRules()))
    assert [(row["group"], row["tensors"], row["values"]) for row in rows] == [
        ("decayed", 4, 4 + 16 + 16 + 24),
        ("not decayed", 5, 4 + 4 + 4 + 4 + 6),
    ]


@pytest.mark.parametrize(
    ("pattern", "near"), [("*.cls_tokn", "student.backbone.cls_token"), ("student.heed.weight", "student.head.weight")]
)
def test_pattern_without_a_match_suggests_similar_names(pattern: str, near: str) -> None:
    with pytest.raises(UserError, match=rf"{re.escape(pattern)}' matches none of the 9 .* Near: {near}"):
        grouped(GroupRules(no_decay_names=(pattern,)))


def test_last_matching_pattern_scales_the_rate() -> None:
    rules = GroupRules(layer_decay=0.5, lr_scales={"*.blocks.*": 10, "*.blocks.1.weight": 4, "*.of_another_network": 3})
    found = treatment(grouped(rules))
    assert found["backbone.blocks.0.weight"] == (2.5, 1, 0)
    assert found["backbone.blocks.1.weight"] == (2.0, 1, 0)
    assert found["backbone.blocks.1.bias"] == (5.0, 0, 0)
    assert found["head.weight"] == (1, 1, 0)
