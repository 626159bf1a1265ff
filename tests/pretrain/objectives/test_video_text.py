"""The video-text objective: losses by hand, parts and ranks equal to the whole batch, and cached frozen texts."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.pretrain.objectives import video_text_stage as stage
from tests.pretrain.objectives.video_text_stage import BATCH, CLASSES, batch, build
from tests.pretrain.processes import run_ranks
from trichord.pretrain.collectives import world_size
from trichord.pretrain.objectives.video_text.objective import VideoTextObjective

PLAIN: dict[str, Any] = {"sound": None, "prompts": False}
KINDS: dict[str, dict[str, Any]] = {
    "all at once": {},
    "sigmoid in a ring": {"captions": {"loss": "sigmoid", "form": "ring"}, "scale": 10.0},
    "softmax in a ring, texts frozen": {"captions": {"form": "ring"}, "frozen_text": True},
    "classes alone": {"captions": None, "sound": None},
}


def unit_rows(objective: VideoTextObjective, found: Any) -> dict[str, Tensor]:
    """Make the vectors of each modality by hand."""
    network = objective.video
    tower = objective.audio
    pooled = network.backbone(objective.spec.normalisation(found.video[0])).pooled_BD
    rows = {"video": pooled @ network.proj.weight.T}
    rows["text"] = network.text(network.text.tokenise(found.text)) @ network.text_proj.weight.T
    if tower is not None:
        rows["audio"] = tower.backbone(found.audio[0]).pooled_BD @ tower.proj.weight.T
    return {name: each / each.norm(dim=1, keepdim=True) for name, each in rows.items()}


def clip_loss(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    logits = scale * a @ b.T
    own = torch.arange(len(a))
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def siglip_loss(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    total = torch.zeros(())
    for row in range(len(a)):
        for column in range(len(b)):
            z = scale * a[row] @ b[column] + bias
            total = total - functional.logsigmoid(z if row == column else -z).sum()
    return total / len(a)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_each_pair_of_modalities_is_contrasted_among_samples_with_both(loss: str) -> None:
    objective = build(captions={"loss": loss, "weight": 0.5}, audio_text_weight=2.0, audio_video_weight=3.0).eval()
    found = batch()
    rows, scale = unit_rows(objective, found), objective.video.scale.log.exp()
    has = {
        "video": torch.ones(BATCH, dtype=torch.bool),
        "text": torch.tensor([bool(text) for text in found.text]),
        "audio": found.audio_present,
    }
    output = objective(found, 0)
    for (one, other), weight in {("video", "text"): 0.5, ("audio", "text"): 2.0, ("audio", "video"): 3.0}.items():
        both = has[one] & has[other]
        assert 0 < both.sum() < BATCH
        a, b = rows[one][both], rows[other][both]
        expected = clip_loss(a, b, scale) if loss == "softmax" else siglip_loss(a, b, scale, objective.video.bias())
        torch.testing.assert_close(output.losses[f"{one}_{other}"], weight * expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.loss, torch.stack(list(output.losses.values())).sum())


def test_videos_are_classified_by_the_texts_of_their_classes() -> None:
    objective = build(**PLAIN, captions=None).eval()
    found = batch().replace(text=[f"to {name}" for name in CLASSES])
    rows = unit_rows(objective, found)
    logits = (1 / 0.07) * rows["video"] @ rows["text"].T
    terms = []
    for row, labels in zip(logits.log_softmax(dim=1), found.labels, strict=True):
        if labels:
            targets = torch.full((len(CLASSES),), 0.1 / len(CLASSES))
            targets[labels[0]] += 0.9
            terms.append(-(targets * row).sum())
    output = objective(batch(), 0)
    assert len(terms) == 6
    torch.testing.assert_close(output.loss, torch.stack(terms).mean())
    own = [bool(row.argmax() == labels[0]) for row, labels in zip(logits, found.labels, strict=True) if labels]
    assert float(output.health["top1"]) == pytest.approx(sum(own) / len(own))


def test_prompts_adapt_each_text_to_each_video() -> None:
    objective = build(captions=None, sound=None).eval()
    network = objective.video
    assert network.prompts is not None and network.has_prompts
    seen, text_KE = (
        network.encode_video(objective.spec.normalisation(batch().video[0])),
        network.encode_text(list(CLASSES)),
    )
    assert seen.grid_BtnD is not None
    with torch.no_grad():
        network.prompts.share.fill_(0.7)
        found_BK = network.cosines(seen, text_KE)
        for video in range(BATCH):
            for text in range(len(CLASSES)):
                lit_E = network.prompts(text_KE[text : text + 1], seen.grid_BtnD[video : video + 1])[0, 0]
                expected = functional.cosine_similarity(seen.unit_BE[video], lit_E, dim=0)
                torch.testing.assert_close(found_BK[video, text], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_parts_equal_those_of_the_whole_batch(kind: str) -> None:
    whole, parted = build(**KINDS[kind]), build(**KINDS[kind])
    for objective in (whole, parted):
        objective.video.backbone.drop.p = 0.0  # type: ignore[union-attr,assignment]
    mean_losses, expected = stage.gradients(whole, ranks=1, parts=1)
    mean_losses_parted, found = stage.gradients(parted, ranks=1, parts=4)
    assert mean_losses_parted == pytest.approx(mean_losses, rel=1e-5)
    assert {"video.scale.log", "video.backbone.mix.0.weight"} <= expected.keys() == found.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-6)


def test_random_draws_are_repeated_in_the_second_pass_of_a_part() -> None:
    """With different draws in both passes, the gradient would differ from that of one graph over all parts."""
    together, parted = build(**PLAIN, classes=None), build(**PLAIN, classes=None)
    size, draw = BATCH // 2, stage.draw_as(range(2))
    embedded = []
    for part in range(2):
        draw(part)
        piece = batch(slice(part * size, (part + 1) * size))
        embedded.append(
            together._embed(piece, together.video.encode_video(together.spec.normalisation(piece.video[0])))
        )
    has = torch.cat([each.has["text"] for each in embedded])
    rows = {sense: torch.cat([each.unit[sense] for each in embedded])[has] for sense in ("video", "text")}
    loss = clip_loss(rows["video"], rows["text"], together.video.scale())
    loss.backward()
    mean_losses, found = stage.gradients(parted, ranks=1, parts=2)
    assert mean_losses["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, grad in found.items():
        torch.testing.assert_close(grad, together.get_parameter(name).grad, rtol=1e-4, atol=1e-6)


def test_two_ranks_equal_one_in_one_part_and_in_two(tmp_path: Path) -> None:
    program = """
        import sys, torch
        import torch.distributed as dist
        from tests.pretrain.objectives import video_text_stage as stage
        from tests.pretrain.objectives.test_video_text import KINDS
        dist.init_process_group("gloo")
        for name, changes in KINDS.items():
            for parts in (1, 2):
                objective = stage.build(**changes)
                objective.video.backbone.drop.p = 0.0
                found = stage.gradients(objective, 2, parts)
                torch.save(found, f"{sys.argv[1]}/{name}{parts}{dist.get_rank()}.pt")
    """
    run_ranks(["-c", textwrap.dedent(program), str(tmp_path)], ranks=2)
    assert world_size() == 1
    for name, changes in KINDS.items():
        objective = build(**changes)
        objective.video.backbone.drop.p = 0.0  # type: ignore[union-attr,assignment]
        mean_losses, expected = stage.gradients(objective, ranks=1, parts=1)
        for parts in (1, 2):
            for rank in range(2):
                theirs, found = torch.load(tmp_path / f"{name}{parts}{rank}.pt", weights_only=True)
                assert theirs == pytest.approx(mean_losses, rel=1e-5)
                for each, grad in expected.items():
                    torch.testing.assert_close(found[each], grad, rtol=1e-4, atol=1e-6)


def test_texts_are_encoded_once_by_a_frozen_encoder() -> None:
    objective = build(captions=None, sound=None, frozen_text=True)
    text = objective.video.text
    assert not any(each.requires_grad for each in text.parameters()) and not text.training
    before = text.asked
    for step in range(3):
        objective(batch(step=step), step).loss.backward()
    assert text.asked == before + 1
    assert objective.video.text_proj.weight.grad is not None


def test_scale_is_clamped_to_a_hundred_and_can_decrease_again() -> None:
    objective = build(**PLAIN, classes=None)
    with torch.no_grad():
        objective.video.scale.log.fill_(9.0)
    output = objective(batch(), 0)
    output.loss.backward()
    assert float(output.health["scale"]) == pytest.approx(100.0)
    grad = objective.video.scale.log.grad
    assert grad is not None and bool(grad.abs().sum() > 0)


def test_clips_of_several_classes_are_bad_where_classes_are_learnt() -> None:
    rule = build().spec.sample_spec().label_rule
    assert rule is not None and (rule.classes, rule.fewest, rule.most) == (3, 0, 1)
    assert build(**PLAIN, classes=None).spec.sample_spec().label_rule is None


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"classes": None, "captions": None, "prompts": False}, "there is no loss"),
        ({"classes": None}, "set prompts=false, or give classes"),
        ({"classes": {"names": ["a"], "prompt": "a thing"}}, "expected one {}"),
        ({"captions": None, "audio_video_weight": 0.0}, "sound is not used by any loss"),
    ],
)
def test_invalid_settings_are_refused_with_a_remedy(changes: dict[str, Any], advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        stage.spec(**changes)
