"""Zero-shot probabilities equal loops over views, prompts and classes, with and without video-specific prompts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.finetune.zeroshot.stage import write_clip, write_xclip
from trichord.finetune.zeroshot.classifier import Classifier, probabilities
from trichord.finetune.zeroshot.loading import load_video_text
from trichord.finetune.zeroshot.prompts import in_words, templates_of
from trichord.finetune.zeroshot.spec import ZeroShotSpec
from trichord.pretrain.backbones.video_text import VideoText

NAMES = ("PullUps", "yo_yo", "surfing", "TaiChi")
VIEWS, VIDEOS = 3, 2


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VideoText]:
    top = tmp_path_factory.mktemp("models")
    paths = {"clip": write_clip(top / "clip.safetensors"), "xclip": write_xclip(top / "xclip.safetensors")}
    return {name: load_video_text(path).model for name, path in paths.items()}


def views() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(VIDEOS, 3, 2, 16, 16, generator=generator) for _ in range(VIEWS)]


def unit(vector: Tensor) -> Tensor:
    found: Tensor = vector / vector.norm()
    return found


def naive_cosine(model: VideoText, frames_CTHW: Tensor, row_E: Tensor) -> Tensor:
    """Return the cosine of one video and one text by the parts of the network."""
    if model.prompts is None:
        pooled_BD: Tensor = model.backbone(frames_CTHW[None]).pooled_BD
        return unit(pooled_BD[0]) @ unit(row_E)
    pooled_BD, grid_BtnD = model.backbone.encode_grid(frames_CTHW[None])
    return unit(pooled_BD[0]) @ unit(model.prompts(row_E[None], grid_BtnD)[0, 0])


@torch.no_grad()
def naive(model: VideoText, spec: ZeroShotSpec, video: int) -> list[float]:
    templates = templates_of(spec.prompts)
    rows = [
        [model.encode_text([template.replace("{}", in_words(name))])[0] for name in NAMES] for template in templates
    ]
    if spec.ensemble == "embedding" and len(templates) > 1:
        means = []
        for k in range(len(NAMES)):
            own = [row[k] if model.has_prompts else unit(row[k]) for row in rows]
            means.append(torch.stack(own).mean(dim=0))
        rows = [means]
    answers = []
    for row in rows:
        by_view = []
        for view in views():
            by_view.append(torch.stack([model.scale.log.exp()[0] * naive_cosine(model, view[video], e) for e in row]))
        if spec.average == "logit":
            answers.append(torch.stack(by_view).mean(dim=0).softmax(dim=0))
        else:
            answers.append(torch.stack([each.softmax(dim=0) for each in by_view]).mean(dim=0))
    found: list[float] = torch.stack(answers).mean(dim=0).tolist()
    return found


@pytest.mark.parametrize("model", ["clip", "xclip"])
@pytest.mark.parametrize("average", ["probability", "logit"])
@pytest.mark.parametrize(
    ("prompts", "ensemble"), [("bare", "embedding"), ("actionclip", "embedding"), ("actionclip", "probability")]
)
def test_probabilities_equal_those_of_loops(
    models: dict[str, VideoText], model: str, average: str, prompts: str, ensemble: str
) -> None:
    spec = ZeroShotSpec.model_validate({"average": average, "prompts": prompts, "ensemble": ensemble})
    found_BK = probabilities(Classifier(models[model], NAMES, spec).logits(views()), spec)
    for video in range(VIDEOS):
        assert found_BK[video].tolist() == pytest.approx(naive(models[model], spec, video), abs=1e-5)


def test_the_ways_to_average_differ_and_are_named(models: dict[str, VideoText]) -> None:
    ways = [
        ZeroShotSpec(prompts="actionclip", ensemble=ensemble, average=average, clips=4, crops=3)
        for ensemble in ("embedding", "probability")
        for average in ("probability", "logit")
    ]
    found = [probabilities(Classifier(models["clip"], NAMES, spec).logits(views()), spec) for spec in ways]
    for i, one in enumerate(found):
        assert all((one - other).abs().max() > 3e-5 for other in found[:i])
    assert ways[0].words(has_prompts=False) == "prompts actionclip (16), unit vectors averaged"
    assert "before each video changes them" in ways[0].words(has_prompts=True)
    assert ways[2].words(has_prompts=False).endswith("probabilities averaged")
    assert ZeroShotSpec().words(has_prompts=True) == "prompts bare"


def test_single_texts_are_kept_where_videos_adapt_them(models: dict[str, VideoText]) -> None:
    classifier = Classifier(models["xclip"], NAMES, ZeroShotSpec())
    with torch.no_grad():
        assert torch.equal(classifier.rows_PKE[0], models["xclip"].encode_text([in_words(name) for name in NAMES]))
