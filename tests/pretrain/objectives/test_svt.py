"""The SVT objective: teacher and centre by hand, and results that do not depend on parts and ranks."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from tests.pretrain.objectives import svt_stage
from tests.pretrain.objectives.svt_stage import STEPS, SmallBackbone, batch, build
from tests.pretrain.processes import run_ranks
from trichord.pretrain.engine.config import GroupRules
from trichord.pretrain.objectives.svt import SvtSpec
from trichord.pretrain.objectives.svt.loss import teacher_targets
from trichord.pretrain.objectives.svt.objective import svt_health

VIEWS = len(svt_stage.FRAMES)


def test_views_of_a_shape_share_a_call_and_the_teacher_gets_global_views_only() -> None:
    svt = build()
    svt(batch(3), 0)
    student, teacher = svt.student.backbone, svt.teacher.backbone
    assert isinstance(student, SmallBackbone) and isinstance(teacher, SmallBackbone)
    assert student.shapes == [(3, 3, 4, 8, 8), (6, 3, 6, 8, 8), (3, 3, 2, 4, 4), (3, 3, 4, 4, 4)]
    assert teacher.shapes == [(3, 3, 4, 8, 8), (3, 3, 6, 8, 8)]


@pytest.mark.parametrize(("kind", "scale"), [("code", 1 / 8), ("paper", 1.0)])
def test_loss_is_the_mean_of_its_cross_entropies(kind: str, scale: float) -> None:
    svt = build(loss=kind)
    svt.centre_K.copy_(torch.randn(21) / 10)
    found = batch(3)
    output = svt(found, 2)
    motion, cross_view = [], []
    for teacher in range(2):
        for student in range(VIEWS):
            if teacher == student:
                continue
            clips = [svt.spec.normalisation(found.video[view]) for view in (teacher, student)]
            target = svt.teacher.head(svt.teacher.backbone(clips[0]).pooled_BD) - svt.centre_K
            answer = svt.student.head(svt.student.backbone(clips[1]).pooled_BD) / 0.1
            entropy = -((target / 0.04).softmax(dim=-1) * functional.log_softmax(answer, dim=-1)).sum(dim=-1).mean()
            (motion if student < 2 else cross_view).append(entropy)
    assert (len(motion), len(cross_view)) == (2, 6)
    torch.testing.assert_close(output.loss, scale * sum(motion + cross_view), rtol=1e-6, atol=0)
    torch.testing.assert_close(output.losses["motion"], sum(motion) / 2, rtol=1e-6, atol=0)
    torch.testing.assert_close(output.losses["cross_view"], sum(cross_view) / 6, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        output.health["loss_over_ln_k"], sum(motion + cross_view) / 8 / math.log(21), rtol=1e-5, atol=0
    )
    expected = [svt.student.backbone(svt.spec.normalisation(found.video[view])).pooled_BD for view in range(2)]
    torch.testing.assert_close(output.embeddings["student"], torch.cat(expected))
    assert not output.embeddings["student"].requires_grad


def test_all_parameters_but_those_of_the_teacher_have_gradients() -> None:
    svt = build()
    svt(batch(3), 0).loss.backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in svt.teacher.parameters())
    fixed = {name for name, parameter in svt.student.named_parameters() if parameter.grad is None}
    assert fixed == {"head.last_layer.weight_g"}
    assert sum(name.startswith("teacher.") for name in svt.state_dict()) == len(svt.student.state_dict())


def test_teacher_and_centre_are_updated_as_computed_by_hand() -> None:
    momentum = {"kind": "linear", "start": 0.5, "end": 1.0}
    svt = build(teacher_momentum=momentum, centre_momentum=0.8)
    svt.centre_K.fill_(0.25)
    teacher = {name: parameter.clone() for name, parameter in svt.teacher.named_parameters()}
    teacher_logits = [
        svt.teacher.head(svt.teacher.backbone(svt.spec.normalisation(view)).pooled_BD) for view in batch(4).video[:2]
    ]
    svt(batch(4, slice(0, 1)), 3)
    svt(batch(4, slice(1, 4)), 3)
    assert (svt.centre_K == 0.25).all()
    svt.after_update(3)
    torch.testing.assert_close(
        svt.centre_K, 0.8 * torch.full((21,), 0.25) + 0.2 * torch.cat(teacher_logits).mean(dim=0)
    )
    share = 0.5 + 0.5 * 3 / (STEPS - 1)
    for name, parameter in svt.student.named_parameters():
        moved = share * teacher[name] + (1 - share) * parameter
        expected = moved if parameter.requires_grad else teacher[name]
        torch.testing.assert_close(svt.teacher.get_parameter(name), expected)
    assert float(svt.teacher.backbone.get_buffer("seen")) == float(svt.student.backbone.get_buffer("seen")) > 0
    assert not svt.pending_K.any()


def test_batch_in_two_parts_is_the_same_step() -> None:
    whole, parted = build(torch.float64), build(torch.float64)  # whose rounding stays small over three steps
    losses = svt_stage.run_steps(whole, samples=4, steps=3)
    torch.testing.assert_close(svt_stage.run_steps(parted, samples=4, steps=3, parts=2), losses, rtol=1e-9, atol=0)
    torch.testing.assert_close(parted.centre_K, whole.centre_K, rtol=1e-9, atol=1e-12)
    for one, other in zip(parted.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_two_ranks_equal_one_rank_with_the_same_batch(tmp_path: Path) -> None:
    program = """
        import sys, torch
        import torch.distributed as dist
        from tests.pretrain.objectives import svt_stage
        dist.init_process_group("gloo")
        svt = svt_stage.build(torch.float64)
        losses = svt_stage.run_steps(svt, samples=4, steps=3, rank=dist.get_rank(), ranks=2)
        found = {"losses": losses, "centre": svt.centre_K, "weights": list(svt.parameters())}
        torch.save(found, f"{sys.argv[1]}/rank{dist.get_rank()}.pt")
    """
    run_ranks(["-c", textwrap.dedent(program), str(tmp_path)], ranks=2)
    svt = build(torch.float64)
    losses = svt_stage.run_steps(svt, samples=4, steps=3)
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["losses"], losses, rtol=1e-9, atol=0)
        torch.testing.assert_close(found["centre"], svt.centre_K, rtol=1e-9, atol=1e-12)
        for one, other in zip(found["weights"], svt.parameters(), strict=True):
            torch.testing.assert_close(one, other.detach(), rtol=1e-9, atol=1e-12)
    assert losses[0] != losses[1]


def test_centre_is_restored_and_a_wrong_one_is_refused() -> None:
    svt, resumed = build(), build()
    svt_stage.run_steps(svt, samples=4, steps=2)
    resumed.load_state_dict(svt.state_dict())
    assert not torch.equal(resumed.centre_K, svt.centre_K)
    resumed.load_state({name: tensor.clone() for name, tensor in svt.state().items()})
    assert torch.equal(resumed(batch(3), 5).loss, svt(batch(3), 5).loss)
    with pytest.raises(ValueError, match=r"expected a centre_K of 21 values, found \{\}"):
        svt.load_state({})


def test_stochastic_depth_applies_to_the_student_unless_set_for_the_teacher() -> None:
    assert build().student.training and not build().teacher.training
    assert build(teacher_drop_path=True).train().teacher.training
    assert not build(teacher_drop_path=True).eval().teacher.training


def test_last_layer_is_frozen_in_its_own_group() -> None:
    svt = build(frozen_last_layer_steps=2)
    groups = svt.parameter_groups(GroupRules())
    named = [name for group in groups for name in group.parameters]
    assert sorted(named) == sorted(name for name, parameter in svt.named_parameters() if parameter.requires_grad)
    frozen = [group for group in groups if group.frozen_steps]
    assert [(list(group.parameters), group.frozen_steps) for group in frozen] == [
        (["student.head.last_layer.weight_v"], 2)
    ]
    for step, moves in ((0, False), (1, False), (2, True)):
        svt.zero_grad()
        svt(batch(3), step).loss.backward()
        gradient = svt.student.head.last_layer.weight_v.grad
        assert gradient is not None and bool(gradient.any()) == moves
        assert svt.student.head.mlp[0].weight.grad.any()


def test_collapse_is_visible_in_the_metrics() -> None:
    centre_K = torch.zeros(50)
    even = svt_health(torch.tensor(math.log(50)), torch.full((2, 4, 50), 1 / 50), centre_K)
    same = svt_health(torch.tensor(0.1), functional.one_hot(torch.full((2, 4), 7), 50).float(), centre_K)
    apart = svt_health(torch.tensor(1.0), functional.one_hot(torch.arange(8).view(2, 4), 50).float(), centre_K)
    rules = {(rule.figure, rule.side): rule for rule in build().health_rules()}
    broken = {
        name: {
            figure
            for (figure, side), rule in rules.items()
            if (health[figure] > rule.limit if side == "above" else health[figure] < rule.limit)
        }
        for name, health in (("even", even), ("same", same), ("apart", apart))
    }
    assert broken == {"even": {"teacher_entropy", "loss_over_ln_k"}, "same": {"teacher_mean_entropy"}, "apart": set()}
    torch.testing.assert_close(apart["teacher_mean_entropy"], torch.tensor(math.log(8) / math.log(50)))
    assert all(rule.from_step == 4 for rule in build(frozen_last_layer_steps=4).health_rules())
    assert "teacher_mean_entropy" not in svt_health(torch.tensor(1.0), torch.full((2, 1, 50), 1 / 50), centre_K)


def test_sharpening_and_centring_counteract() -> None:
    logits_GBK = torch.randn(2, 3, 9)
    torch.testing.assert_close(
        teacher_targets(logits_GBK, torch.full((9,), 0.5), 0.04), ((logits_GBK - 0.5) / 0.04).softmax(dim=-1)
    )
    assert (teacher_targets(logits_GBK, logits_GBK[0, 0], 0.04)[0, 0] == 1 / 9).all()


def test_the_batch_must_have_the_views() -> None:
    wrong = batch(2)
    wrong.video.pop()
    with pytest.raises(ValueError, match="expected 5 views of each sample, found 4"):
        build()(wrong, 0)


def test_defaults_are_the_published_settings() -> None:
    spec = SvtSpec()
    views = spec.sample_spec().views
    assert [view.crop.size for view in views.views] == [224] * 2 + [96] * 8 and spec.views == 10
    assert (spec.hidden_dim, spec.bottleneck_dim, spec.prototypes) == (2048, 256, 65536)
    assert [spec.teacher_momentum.at(step, 100) for step in (0, 99)] == [0.996, 1.0]
    assert (spec.student_temperature, spec.teacher_temperature.at(50, 100), spec.centre_momentum) == (0.1, 0.04, 0.9)
    with pytest.raises(ValueError, match="local_view: a crop of kind 'three' makes three views"):
        SvtSpec.model_validate({"local_view": {"crop": {"kind": "three", "size": 96}}})
