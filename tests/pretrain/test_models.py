"""`trichord models` and `trichord weights inspect`: the sizes, their cost, and the identification of files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch import nn

from tests.pretrain import published_manifests as manifests
from tests.pretrain.published_manifests import Shapes
from trichord.launch.cli import main
from trichord.pretrain.backbones.ast import AstSpec
from trichord.pretrain.backbones.counting import as_markdown, count, list_models, on_meta, view
from trichord.pretrain.backbones.registry import AnyAudioBackbone, AnyBackbone, published_sizes
from trichord.pretrain.backbones.spec import Size
from trichord.pretrain.backbones.timesformer import TimeSformerSpec
from trichord.pretrain.backbones.timesformer.model import TimeSformer
from trichord.pretrain.engine.rehearsal import count_flops
from trichord.pretrain.weights import report as weights_report

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
FIRST_OF_KIND = {preset.spec.kind: name for name, preset in reversed(published_sizes().items())}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, object]]:
    return list_models()


def test_operations_are_within_3_percent_of_published_counts(rows: list[dict[str, object]]) -> None:
    expected = {name: preset.giga_macs for name, preset in published_sizes().items() if preset.giga_macs is not None}
    found = {str(row["name"]): row["MACs per view, G"] for row in rows}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=0.03)


def test_parameter_counts_are_the_published_ones(rows: list[dict[str, object]]) -> None:
    found = {row["name"]: row["parameters"] for row in rows}
    assert found["timesformer-base"] == 121_258_752
    # In millions, with a classifier of 400 classes and the temporal table of the paper; table 2 of ViViT.
    for name, millions in {"1": 88.9, "2": 115.1, "3": 117.3, "4": 88.9}.items():
        assert found[f"vivit-{name}-b16x2"] + 401 * 768 == pytest.approx(millions * 1e6, rel=0.003)


@pytest.mark.parametrize("name", FIRST_OF_KIND.values())
def test_equal_blocks_have_equal_cost(name: str) -> None:
    backbone = on_meta(published_sizes()[name])
    if isinstance(backbone, TimeSformer):
        for block in backbone.blocks:
            block.joins_maps = False
    with torch.no_grad():
        assert count(published_sizes()[name]).macs == count_flops(lambda: backbone(view(published_sizes()[name]))) // 2


def test_a_family_is_listed_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "vivit", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["rows"]
    assert [row["name"] for row in listed] == [name for name in published_sizes() if name.startswith("vivit")]
    assert listed[0]["input"] == "32 x 224²"
    assert main(["models", "vitiv"]) == 2
    assert "no family or size 'vitiv'. Did you mean 'vivit'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["xclip-l14-336-16", "frame-fusion-late", "ast-10-speech"])
def test_single_size_shows_the_settings_for_a_recipe(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", name]) == 0
    printed = capsys.readouterr().out
    assert name in printed
    settings = re.search("In a recipe: (.*)\n", printed)
    assert settings
    tree: Any = {}
    for setting in settings[1].split():
        place, _, value = setting.partition("=")
        tree.setdefault(place.split(".")[0], {})[place.split(".")[1]] = yaml.safe_load(value)
    spec = published_sizes()[name].spec
    adapter: TypeAdapter[Any] = TypeAdapter(AnyAudioBackbone if spec.kind == "ast" else AnyBackbone)
    assert [*map(adapter.validate_python, tree.values())] == [spec]


def test_the_documentation_has_the_table(rows: list[dict[str, object]]) -> None:
    assert as_markdown(rows) in PAGE.read_text(), "put what `trichord models --markdown` prints in docs/models.md"


def saved(shapes: Shapes, path: Path) -> Path:
    """Write a file with these names and shapes; its numbers are of single bytes, all equal."""
    save_file({name: torch.zeros(shape, dtype=torch.float8_e4m3fn) for name, shape in shapes.items()}, path)
    return path


def inspect(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    status = main(["weights", "inspect", str(path), *options])
    return status, capsys.readouterr().out


def test_file_is_identified_by_family_and_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(manifests.timesformer(16, 448, 400), tmp_path / "hr.safetensors")
    status, printed = inspect(path, capsys, "--json")
    figures = json.loads(printed)
    assert (status, figures["title"]) == (0, f"{path}: TimeSformer, 249 tensors, 122,024,080 parameters")
    fits = {row["size"]: row["fits"] for row in figures["rows"]}
    sizes = ["timesformer-hr", "timesformer-base", "timesformer-large", "timesformer-large-64"]
    assert fits == dict(zip(sizes, ["strictly"] + 3 * ["once resized"], strict=True))
    assert next(iter(fits)) == "timesformer-hr"
    _, printed = inspect(path, capsys)
    assert "outside the backbone: classifier.bias, classifier.weight" in printed
    assert (
        f"Next: backbone.kind=timesformer backbone.frames=16 backbone.size=448 init_from.path={path} "
        "init_from.allow_unused='[\"classifier.*\"]'"
    ) in printed


@pytest.fixture
def few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: published_sizes()[name] for name in ("timesformer-base", "vivit-2-b16x2", "vivit-1-b16x2")}
    monkeypatch.setattr(weights_report, "published_sizes", lambda: few)


@pytest.mark.usefixtures("few_sizes")
def test_differences_from_the_nearest_size_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = manifests.vivit_of_hugging_face(400)
    del shapes["vivit.layernorm.bias"]
    shapes |= {"vivit.extra": (3,), "vivit.embeddings.cls_token": (1, 1, 7)}
    path = saved(shapes, tmp_path / "vivit.safetensors")
    status, printed = inspect(path, capsys)
    assert status == 1
    assert "vivit-1-b16x2" in printed
    assert "not in the file: backbone.norm.bias" in printed
    assert "of another shape: backbone.cls_token: 1x1x7 in the file, 1x1x768 in the network" in printed
    assert "outside the backbone: classifier.bias, classifier.weight, vivit.extra" in printed
    assert "Next:" not in printed


@pytest.mark.usefixtures("few_sizes")
def test_image_model_fits_where_tubelets_can_be_initialised_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, printed = inspect(saved(manifests.image_vit(), tmp_path / "vit.safetensors"), capsys)
    assert status == 0
    assert "resized: backbone.pos_embed from 1x197x768 to 1x3137x768, backbone.patch_embed.proj.weight from" in printed
    verdicts = {line.split()[0]: " ".join(line.split()[1:3]) for line in printed.splitlines() if "-b" in line}
    assert (verdicts["vivit-1-b16x2"], verdicts["timesformer-base"]) == ("once resized", "as init")


def test_unknown_files_and_files_with_code_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"a.b": torch.zeros(1)}, tmp_path / "other.safetensors")
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "pickle.pth")
    for name, message in (("other.safetensors", "is not of a known family"), ("pickle.pth", "would run")):
        assert main(["weights", "inspect", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err


def test_preset_describes_a_view() -> None:
    assert Size(TimeSformerSpec(frames=16, size=448), "nobody's").spec.input_words == "16 x 448²"
    assert Size(AstSpec(frames=512), "nobody's").spec.input_words == "512 x 128 mels"
