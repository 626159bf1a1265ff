"""The losses of a head equal plain loops; missing sound is replaced; frozen parts are not trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.finetune.small_head import BINARY, BOTH, CLASSES, HEARD, labels_of, small_config, write_shards
from trichord.core.errors import UserError
from trichord.finetune.tasks.classification.head import AttentionPool, WeightedPool
from trichord.finetune.tasks.classification.losses import classification_loss
from trichord.finetune.tasks.classification.model import Classification, count_labels, inverse_frequency, probabilities
from trichord.finetune.tasks.classification.spec import ClassificationSpec
from trichord.pretrain.engine.parameter_groups import GroupRules
from trichord.pretrain.engine.rehearsal import fake_batch
from trichord.pretrain.engine.training import build
from trichord.shards.reading.batch import Batch, Timeline
from trichord.shards.transforms.mix import draw_blend

NOWHERE = Path("nowhere")


def batch_of(model: Classification, labels: list[tuple[int, ...]], present: list[bool]) -> Batch:
    generator = torch.Generator().manual_seed(1)
    batch = fake_batch(model.spec.sample_spec(), len(labels))
    made = {
        "video": [torch.randint(0, 255, v.shape, generator=generator, dtype=torch.uint8) for v in batch.video],
        "audio": [torch.randn(sound.shape, generator=generator) for sound in batch.audio],
        "audio_present": torch.tensor(present),
        "labels": labels,
    }
    return batch.replace(**made)


def small(**changes: Any) -> Classification:
    found = build(small_config(NOWHERE, **changes))
    assert isinstance(found, Classification)
    return found


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_single_label_loss_equals_a_loop(smoothing: float) -> None:
    model = small(objective__loss={"kind": "cross_entropy", "label_smoothing": smoothing})
    batch = batch_of(model, [(2,), (0,), (3,), (2,)], [True] * 4)
    logits_BK = model.logits(batch.video[0], None, batch.audio_present)
    expected = 0.0
    for row, (label,) in zip(logits_BK.tolist(), batch.labels, strict=True):
        total = sum(math.exp(each) for each in row)
        for number, each in enumerate(row):
            target = smoothing / 4 + (1 - smoothing) * (number == label)
            expected -= target * math.log(math.exp(each) / total) / 4
    output = model.training_step(batch, 0)
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    right = sum(int(row.argmax()) == label for row, (label,) in zip(logits_BK, batch.labels, strict=True))
    assert output.health["top1"].item() == right / 4


def test_multi_label_targets_are_binary_rows() -> None:
    model = small(objective__loss={"kind": "binary", "label_smoothing": 0.1, "pos_weight": 3.0})
    batch = batch_of(model, [(0, 2), (), (1,), (0, 1, 2, 3)], [True] * 4)
    truths = [[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]]
    torch.testing.assert_close(model.targets(batch), torch.tensor(truths) * 0.9 + 0.05)
    logits_BK = model.logits(batch.video[0], None, batch.audio_present)
    expected = classification_loss(model.spec.loss, logits_BK, model.targets(batch), torch.full((4,), 3.0))
    assert torch.equal(model.training_step(batch, 0).loss, expected)


def test_blended_clips_have_blended_targets() -> None:
    model = small(objective__mix={"cutmix_alpha": 0.0}, data__batch_size=8, data__lanes=2).eval()
    batch = batch_of(model, [(0,), (1,), (2,), (3,)], [True] * 4)
    loss = model.training_step(batch, 3).loss
    assert model.spec.mix is not None
    kept, partners = draw_blend(model.spec.mix, seed=5, step=3).kept, [1, 2, 3, 0]  # of the same lane
    assert 0.01 < kept < 0.99
    views = batch.video[0].float()
    mixed = (kept * views + (1 - kept) * views[partners]).round().to(torch.uint8)
    logits_BK = model.logits(mixed, None, batch.audio_present)
    for row, other in enumerate(partners):
        surprise_K = -logits_BK[row].log_softmax(0)
        loss = loss - (kept * surprise_K[row] + (1 - kept) * surprise_K[other]) / 4
    assert abs(loss.item()) < 1e-5


def test_sound_of_a_silent_clip_is_ignored_and_its_substitute_is_trained() -> None:
    model = small(**BOTH)
    batch = batch_of(model, [(0,), (1,), (2,), (3,)], [True, False, True, False])
    output = model.training_step(batch, 0)
    assert output.health["audio_absent"].item() == 0.5
    output.loss.backward()
    assert model.audio is not None and isinstance(model.audio.absent_D, torch.nn.Parameter)
    louder = [sound + 5 * ~batch.audio_present[:, None, None] for sound in batch.audio]
    assert torch.equal(model.training_step(batch.replace(audio=louder), 0).loss, output.loss)
    model.head[-1].weight.data.normal_()
    model.zero_grad()
    model.training_step(batch, 0).loss.backward()
    assert model.audio.absent_D.grad is not None and model.audio.absent_D.grad.abs().sum() > 0
    with torch.no_grad():
        model.audio.absent_D += 1.0
    moved = model.logits(batch.video[0], batch.audio[0], batch.audio_present)
    with torch.no_grad():
        model.audio.absent_D -= 1.0
    before = model.logits(batch.video[0], batch.audio[0], batch.audio_present)
    assert (moved != before).any(dim=1).tolist() == [False, True, False, True]
    assert not [name for name, _ in small(**BOTH, objective__absent="zero").named_parameters() if "absent" in name]


def test_audio_head_needs_no_pixels() -> None:
    model = small(**HEARD)
    assert model.video is None
    batch = batch_of(model, [(0,), (1,)], [True, True])
    assert batch.video[0].shape == (2, 3, 1, 1, 1)
    first = model.training_step(batch, 0).loss
    batch.video[0].zero_()
    assert torch.equal(model.training_step(batch, 0).loss, first)


@pytest.mark.parametrize("pool", ["pooled", "mean", "attention", "weighted"])
def test_pools_compute_what_their_names_say(pool: str) -> None:
    model = small(objective__head={"pool": pool, "pool_heads": 2, "hidden": [12, 8], "dropout": 0.5}).eval()
    assert model.video is not None
    frames_BCTHW = torch.randn(3, 3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    own_BD, grid_BtnD = model.video.backbone(frames_BCTHW)
    tokens_BLD = grid_BtnD.flatten(1, 2)
    if pool == "attention":
        expected_BD = _attended(model.video.pool.attend, tokens_BLD)
    elif pool == "weighted":
        expected_BD = _weighed(model.video.pool.weigh, [own_BD, *tokens_BLD.unbind(1)])
    else:
        expected_BD = own_BD if pool == "pooled" else sum(tokens_BLD.unbind(1)) / tokens_BLD.shape[1]
    torch.testing.assert_close(model.video.pool(model.video.tokens(frames_BCTHW)), expected_BD, atol=1e-5, rtol=1e-4)
    assert [tuple(layer.weight.shape) for layer in model.head if hasattr(layer, "weight")] == [
        (12, 16),
        (8, 12),
        (4, 8),
    ]


def _attended(pool: AttentionPool | None, tokens_BLD: Tensor) -> Tensor:
    assert pool is not None
    keys_BLD, values_BLD = pool.keys_values(pool.norm(tokens_BLD)).chunk(2, dim=-1)
    rows = []
    for keys_LD, values_LD in zip(keys_BLD, values_BLD, strict=True):
        parts = []
        for head in range(2):
            d = slice(head * 8, head * 8 + 8)
            weights_L = torch.softmax(keys_LD[:, d] @ pool.question_D[d] / math.sqrt(8), dim=0)
            parts.append(weights_L @ values_LD[:, d])
        rows.append(torch.cat(parts))
    return cast(Tensor, pool.out(torch.stack(rows)))


def _weighed(pool: WeightedPool | None, tokens: list[Tensor]) -> Tensor:
    """Train first, because at init it is the mean."""
    assert pool is not None and pool.weight_L.tolist() == [1.0] * len(tokens)
    pool.weight_L.data = torch.randn(len(tokens), generator=torch.Generator().manual_seed(2))
    with pytest.raises(UserError, match=f"weights for {len(tokens)} tokens, found 3"):
        pool(torch.zeros(1, 3, 16))
    each = [weight * token_BD for weight, token_BD in zip(pool.weight_L.tolist(), tokens, strict=True)]
    return torch.stack(each).sum(0) / len(tokens)


def test_frozen_backbone_is_not_trained_and_has_no_gradient() -> None:
    model = small(objective__frozen=True, backbone__drop_path=0.5)
    model.train()
    assert model.video is not None and model.head.training and not model.video.backbone.training
    (trained,) = model.parameter_groups(GroupRules(no_decay_one_dimensional=False))
    assert {name.partition(".")[0] for name in trained.parameters} == {"head", "video"}
    assert not [name for name in trained.parameters if ".backbone." in name]
    batch = batch_of(model, [(0,), (1,)], [True, True])
    model.training_step(batch, 0).loss.backward()
    assert all(each.grad is None for each in model.video.backbone.parameters())


def test_lower_layers_have_smaller_rates_end_to_end() -> None:
    config = small_config(NOWHERE, **BOTH, optimiser__rules={"layer_decay": 0.5})
    groups = Classification.of_run(config.objective, config).parameter_groups(config.optimiser.rules)
    scales = {name: group.lr_scale for group in groups for name in group.parameters}
    assert scales["head.1.weight"] == scales["audio.absent_D"] == 1.0
    assert scales["video.backbone.patch_embed.proj.weight"] == 0.25 and max(scales.values()) == 1.0
    assert len({scale for name, scale in scales.items() if name.startswith("audio.backbone.")}) > 1


def test_crops_of_a_clip_are_combined_and_padding_is_excluded() -> None:
    for average, loss in (("probability", "cross_entropy"), ("logit", "cross_entropy"), ("max", "binary")):
        three = {"crop": {"kind": "three", "size": 16, "short_side": 16}}
        changes = {"objective__average": average, "objective__loss": {"kind": loss}, "objective__test_view": three}
        model = small(**changes, **BOTH).eval()
        model.head[-1].weight.data.normal_()
        batch = batch_of(model, [(0,), (1,), (2,)], [True, False, True])
        views = [batch.video[0].flip(dim) for dim in (0, 2, 3, 4, (2, 3), (3, 4))]  # two clips of three crops
        sounds = [batch.audio[0], batch.audio[0].flip(1)]
        batch = batch.replace(video=views, audio=sounds, timeline=[clips(2), clips(1), clips(0)])
        found_BCK = model.clip_scores(batch)
        for clip in range(2):
            seen = []
            for crop in range(3):
                logits_BK = model.logits(views[clip * 3 + crop], sounds[clip], batch.audio_present)
                seen.append(logits_BK if average == "logit" else probabilities(logits_BK, model.spec))
            expected_BK = torch.stack(seen).max(0).values if average == "max" else (seen[0] + seen[1] + seen[2]) / 3
            has = [clip < count for count in (2, 1, 0)]
            torch.testing.assert_close(found_BCK[has, clip], expected_BK[has])
            assert not found_BCK[[not each for each in has], clip].any()


def clips(count: int) -> Timeline:
    return Timeline(((0.0, 1.0),) * count)


def test_labels_of_clips_are_counted_and_require_a_multi_label_loss() -> None:
    model = small(objective__labels="clip", objective__loss={"kind": "asymmetric"})
    output = model.training_step(batch_of(model, [(0, 2), (), (1,)], [True] * 3), 0)
    assert output.health["labels"].item() == 1.0 and model.spec.sample_spec().labels == "clips"
    assert [rule.figure for rule in model.health_rules()] == ["labels"] and not small().health_rules()
    with pytest.raises(ValidationError, match=r"labels=clip: .* Set loss.kind=binary"):
        small(objective__labels="clip")
    with pytest.raises(ValidationError, match=r"counts videos, but labels=clip trains on windows"):
        small(objective__labels="clip", **BINARY)


def test_positives_are_weighted_by_their_rarity(tmp_path: Path) -> None:
    config = small_config(write_shards(tmp_path / "set", 10, several=True), **BINARY)
    assert isinstance(config.objective, ClassificationSpec)
    counts_K, clips = count_labels(config, config.objective)
    labels = [labels_of(number, several=True) for number in range(10)]
    assert clips == 10 and counts_K.tolist() == [sum(label in own for own in labels) for label in range(len(CLASSES))]
    assert inverse_frequency(counts_K, clips).tolist() == pytest.approx([5 / 5, 6 / 4, 6 / 4, 1.0])


def test_pooling_that_does_not_fit_is_named() -> None:
    with pytest.raises(UserError, match="pool_heads=3 does not divide the 16 features"):
        small(objective__head={"pool": "attention", "pool_heads": 3})
