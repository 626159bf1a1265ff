"""SVT: from every view of a video, a student learns to predict its teacher's output for the video's global views.

Ranasinghe et al. 2022, "Self-supervised Video Transformer", which extends DINO (Caron et al. 2021) to video. The
teacher gets two long clips, the student these and short, small ones. Matching long clips with each other at different
frame rates is the paper's motion correspondence, matching short with long ones its cross-view correspondence. The
teacher is the exponential moving average of the student's weights (Tarvainen and Valpola 2017). Health figures detect
collapse: a teacher whose output is uniform, or the same for every clip.
Legend: B samples, V views, G = 2 global views, which the teacher gets, N = several views' samples, C colours, T frames,
H and W pixels, D features, K prototypes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trichord.pretrain.backbones.base import Backbone, Tokens
from trichord.pretrain.collectives import sum_over_ranks
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.parameter_groups import GroupRules, ParameterGroup, group_parameters
from trichord.pretrain.objectives.base import HealthRule, Objective, StepOutput
from trichord.pretrain.objectives.svt import SvtSpec
from trichord.pretrain.objectives.svt.loss import ProjectionHead, Terms, teacher_targets
from trichord.shards.reading.batch import Batch


class Network(nn.Module):
    """A backbone and the head on its pooled vector, used for both student and teacher."""

    def __init__(self, backbone: Backbone, head: ProjectionHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head


@dataclass(frozen=True)
class ViewGroup:
    """Normalised views of one shape, concatenated."""

    views: tuple[int, ...]
    frames_NCTHW: Tensor


class Svt(Objective):
    """Student, teacher, and the centre of the teacher's logits."""

    def __init__(self, spec: SvtSpec, backbone: Backbone, steps: int) -> None:
        super().__init__()
        self.spec = spec
        self.steps = steps
        head = ProjectionHead(
            backbone.dim, spec.hidden_dim, spec.bottleneck_dim, spec.prototypes, has_fixed_norm=spec.norm_last_layer
        )
        self.student = Network(backbone, head)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        # Not a persistent buffer: it is part of `state`, because it must stay float32.
        self.register_buffer("centre_K", torch.zeros(spec.prototypes), persistent=False)
        self.register_buffer("pending_K", torch.zeros(spec.prototypes + 1), persistent=False)  # sum, number of rows
        self.centre_K: Tensor
        self.pending_K: Tensor
        self.train()

    @classmethod
    def of_run(cls, spec: SvtSpec, run: RunConfig) -> Svt:
        """Build the objective from a run's config."""
        return cls(spec, run.backbone.build(), run.steps)

    def train(self, mode: bool = True) -> Svt:
        """Switch stochastic depth; the teacher's stays off unless the recipe enables it."""
        super().train(mode)
        self.teacher.train(mode and self.spec.teacher_drop_path)
        return self

    def parameter_groups(self, rules: GroupRules) -> list[ParameterGroup]:
        frozen = {}
        if self.spec.frozen_last_layer_steps:
            frozen = {"student.head.last_layer.*": self.spec.frozen_last_layer_steps}
        return group_parameters(self, rules, {"student.backbone.": self.student.backbone}, frozen)

    def training_step(self, batch: Batch, step: int) -> StepOutput:
        views = batch.video
        if len(views) != self.spec.views:
            raise ValueError(f"expected {self.spec.views} views of each sample, found {len(views)}")
        groups = self._group(views)
        targets_GBK = self._teacher_targets(groups, step)
        pooled_VBD = _encode(self.student.backbone, groups, len(views))
        rows_BVD = self.student.head.project(pooled_VBD).transpose(0, 1)
        pairs = 2 * (len(views) - 1)
        terms: Terms = self.student.head.last_layer(
            rows_BVD,
            targets_GBK,
            self.spec.student_temperature,
            1 / (len(rows_BVD) * (pairs if self.spec.loss == "code" else 1)),
            step < self.spec.frozen_last_layer_steps,
        )
        mean_V = terms.terms_BV.mean(dim=0)
        losses = {"motion": mean_V[:2].sum() / 2}
        if len(views) > 2:
            losses["cross_view"] = mean_V[2:].sum() / (pairs - 2)
        return StepOutput(
            loss=terms.loss,
            losses=losses,
            health=svt_health(mean_V.sum() / pairs, targets_GBK, self.centre_K),
            embeddings={"student": pooled_VBD[:2].detach().flatten(0, 1)},
        )

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """Move the teacher towards the student, and the centre towards the teacher's mean logits of this step."""
        update_ema(self.teacher, self.student, self.spec.teacher_momentum.at(step, self.steps))
        pending_K = sum_over_ranks(self.pending_K)
        self.centre_K.lerp_(pending_K[:-1] / pending_K[-1], 1 - self.spec.centre_momentum)
        pending_K.zero_()

    def state(self) -> dict[str, Tensor]:
        return {"centre_K": self.centre_K}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if found != {"centre_K": tuple(self.centre_K.shape)}:
            raise ValueError(f"expected a centre_K of {self.spec.prototypes} values, found {found}")
        self.centre_K.copy_(state["centre_K"])

    def health_rules(self) -> Sequence[HealthRule]:
        return svt_health_rules(max(self.steps // 10, self.spec.frozen_last_layer_steps))

    def _group(self, views: Sequence[Tensor]) -> list[ViewGroup]:
        """Group views of equal shape, so that each shape takes one call of the backbone."""
        members: dict[torch.Size, list[int]] = {}
        for number, frames_BCTHW in enumerate(views):
            members.setdefault(frames_BCTHW.shape, []).append(number)
        return [
            ViewGroup(tuple(numbers), self.spec.normalisation(torch.cat([views[number] for number in numbers])))
            for numbers in members.values()
        ]

    @torch.no_grad()
    def _teacher_targets(self, groups: Sequence[ViewGroup], step: int) -> Tensor:
        """Return the teacher's distributions for the global views, and add its logits to the sum for the centre."""
        pooled_GBD = _encode(self.teacher.backbone, groups, 2)
        logits_GBK: Tensor = self.teacher.head(pooled_GBD)
        self.pending_K[:-1] += logits_GBK.sum(dim=(0, 1))
        self.pending_K[-1] += logits_GBK.shape[0] * logits_GBK.shape[1]
        return teacher_targets(logits_GBK, self.centre_K, self.spec.teacher_temperature.at(step, self.steps))


def _encode(backbone: Backbone, groups: Sequence[ViewGroup], views: int) -> Tensor:
    """Return pooled_VBD of the first `views` views, with one call of the backbone for each shape among them."""
    pooled: dict[int, Tensor] = {}
    for group in groups:
        wanted = [view for view in group.views if view < views]
        if not wanted:
            continue
        samples = len(group.frames_NCTHW) // len(group.views)
        tokens: Tokens = backbone(group.frames_NCTHW[: samples * len(wanted)], pooled_only=True)
        pooled.update(zip(wanted, torch.split(tokens.pooled_BD, samples), strict=True))
    return torch.stack([pooled[view] for view in range(views)])


@torch.no_grad()
def svt_health(cross_entropy: Tensor, targets_GBK: Tensor, centre_K: Tensor) -> dict[str, Tensor]:
    """Return entropies and the mean cross-entropy as shares of ln K, the entropy of a uniform distribution."""
    most = math.log(targets_GBK.shape[-1])
    figures = {
        "loss_over_ln_k": cross_entropy / most,
        "teacher_entropy": torch.special.entr(targets_GBK).sum(dim=-1).mean() / most,
        "centre_norm": torch.linalg.vector_norm(centre_K),
    }
    if targets_GBK.shape[1] > 1:  # for one clip, a single prototype is no collapse
        figures["teacher_mean_entropy"] = torch.special.entr(targets_GBK.mean(dim=(0, 1))).sum() / most
    return figures


def svt_health_rules(from_step: int) -> tuple[HealthRule, ...]:
    """Return the health rules; the first steps are exempt, because early in training all clips have similar outputs."""
    sharpen = "Try a lower teacher_temperature, a centre_momentum nearer 1, or a lower learning rate."
    return (
        HealthRule(
            figure="teacher_entropy",
            side="above",
            limit=0.995,
            from_step=from_step,
            advice="The teacher's output is uniform over all prototypes, so the student learns nothing (collapse to "
            f"uniform). {sharpen}",
        ),
        HealthRule(
            figure="loss_over_ln_k",
            side="above",
            limit=0.995,
            from_step=from_step,
            advice="The loss is stuck at ln K, that of a student with uniform output (collapse to uniform, or a "
            f"learning rate that is too high). {sharpen}",
        ),
        HealthRule(
            figure="teacher_mean_entropy",
            side="below",
            limit=0.02,
            from_step=from_step,
            advice="The teacher assigns every clip to the same prototype (collapse to one). Try a centre_momentum "
            "further from 1 so that the centre adapts faster, a higher teacher_temperature, or a lower learning rate.",
        ),
    )


@torch.no_grad()
def update_ema(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Set teacher = momentum * teacher + (1 - momentum) * student; buffers are copied.

    Under ZeRO-3 each rank updates its own slice: equal modules are sliced alike, so nothing is communicated. Student
    parameters without gradient are skipped: they are unchanged since the teacher was copied.
    """
    pairs = zip(teacher.parameters(), student.parameters(), strict=True)
    moving = [(_held(old), _held(new)) for old, new in pairs if new.requires_grad]
    if moving:
        old, new = zip(*moving, strict=True)
        torch._foreach_lerp_(old, new, 1 - momentum)
    for old_buffer, new_buffer in zip(teacher.buffers(), student.buffers(), strict=True):
        old_buffer.copy_(new_buffer)


def _held(parameter: Any) -> Tensor:
    """Return this rank's data of a parameter: its slice under ZeRO-3, where the full parameter is not kept."""
    held: Tensor = parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter.data
    return held
