"""Backbones are created by name, and load weights strictly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import trichord

SMALL = {"dim": 16, "depth": 1, "heads": 2, "patch": 8, "frames": 2, "size": 16}


def test_a_family_or_a_published_size_with_other_settings() -> None:
    backbone = trichord.create_backbone("timesformer", **SMALL)
    assert backbone(torch.zeros(2, 3, 2, 16, 16)).pooled_BD.shape == (2, 16)
    published = trichord.create_backbone("ast-10", depth=1, dim=24, heads=3)
    assert published.dim == 24
    assert {"timesformer-base", "ast-10"} <= {row["name"] for row in trichord.list_models()}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("timesformr", {}, "Did you mean 'timesformer'"),
        ("timesformer", {"dimm": 16}, "Did you mean 'dim'"),
        ("timesformer", {"dim": 15}, "multiple of heads"),
    ],
)
def test_mistakes_are_named(name: str, settings: dict[str, int], message: str) -> None:
    with pytest.raises(trichord.UserError, match=message):
        trichord.create_backbone(name, **settings)


def test_weights_find_their_places_or_are_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    one, other = (trichord.create_backbone("timesformer", **SMALL) for _ in range(2))
    weights = {f"backbone.{name}": tensor.contiguous() for name, tensor in one.state_dict().items()}
    save_file(weights, tmp_path / "weights.safetensors")
    fit = trichord.load_weights(other, tmp_path / "weights.safetensors")
    assert "tensors loaded" in repr(fit)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    del weights["backbone.norm.weight"]
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(trichord.UserError, match="not in the file"):
        trichord.load_weights(other, tmp_path / "weights.safetensors")
    # A text is not taken for a list of its letters, among them a star, which would allow everything.
    with pytest.raises(trichord.UserError, match=r"allow_missing=.*: expected a list of texts"):
        trichord.load_weights(other, tmp_path / "weights.safetensors", allow_missing="nor*")
    trichord.load_weights(other, tmp_path / "weights.safetensors", allow_missing=["backbone.nor*"])


def test_a_run_is_no_file_of_weights(top: Path) -> None:
    with pytest.raises(trichord.UserError, match=r"is a run\. Next: trichord export"):
        trichord.load_weights(trichord.create_backbone("timesformer", **SMALL), top / "svt")
