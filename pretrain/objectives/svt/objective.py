"""SVT: a student learns to say of every view of a video what its own slow average says of the video's global views.

Ranasinghe et al. 2022, "Self-supervised Video Transformer", which takes DINO (Caron et al. 2021) to video. The teacher
sees two long clips, the student these and short, small ones. Matching long with long at other frame rates is the
paper's motion correspondence, matching short with long its cross-view correspondence.
Legend: B samples, V views, G = 2 global views, N = several views' samples, C colours, T frames, H and W pixels,
D features, K prototypes.

What betrays a self-distillation that learns nothing: a teacher that says everything, or the same, of every clip.

Legend: B samples, G = 2 teacher views, K prototypes.

A teacher that is the exponential moving average of its student's weights (Tarvainen and Valpola 2017).
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
from trichord.pretrain.objectives.svt.head import ProjectionHead, Terms
from trichord.pretrain.objectives.svt.loss import teacher_targets
from trichord.shards.reading.batch import Batch


class Network(nn.Module):
    """A backbone and the head on its pooled vector; one is the student, one the teacher."""

    def __init__(self, backbone: Backbone, head: ProjectionHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head


@dataclass(frozen=True)
class ViewGroup:
    """Views of one shape, normalised, one after the other."""

    views: tuple[int, ...]
    frames_NCTHW: Tensor


class Svt(Objective):
    """Student, teacher, and the centre of what the teacher says."""

    def __init__(self, spec: SvtSpec, backbone: Backbone, steps: int) -> None:
        super().__init__()
        self.spec = spec
        self.steps = steps
        head = ProjectionHead(
            backbone.dim, spec.hidden_dim, spec.bottleneck_dim, spec.prototypes, has_fixed_norm=spec.norm_last_layer
        )
        self.student = Network(backbone, head)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        # Not among the buffers that are saved: it is part of `state`, for it must stay float32.
        self.register_buffer("centre_K", torch.zeros(spec.prototypes), persistent=False)
        self.register_buffer("pending_K", torch.zeros(spec.prototypes + 1), persistent=False)  # sum, number of rows
        self.centre_K: Tensor
        self.pending_K: Tensor
        self.train()

    @classmethod
    def of_run(cls, spec: SvtSpec, run: RunConfig) -> Svt:
        """Build it as a run's config has it."""
        return cls(spec, run.backbone.build(), run.steps)

    def train(self, mode: bool = True) -> Svt:
        """Switch stochastic depth; the teacher's stays off unless the recipe has it."""
        super().train(mode)
        self.teacher.train(mode and self.spec.teacher_drop_path)
        return self

    def parameter_groups(self, rules: GroupRules) -> list[ParameterGroup]:
        frozen = {}
        if self.spec.frozen_last_layer_steps:
            frozen = {"student.head.last_layer.*": self.spec.frozen_last_layer_steps}
        return group_parameters(self, rules, {"student.backbone.": self.student.backbone}, frozen)

    def training_step(self, batch: Batch, step: int) -> StepOutput:
        views = batch["video"]
        if len(views) != self.spec.views:
            raise ValueError(f"expected {self.spec.views} views of each sample, found {len(views)}")
        groups = self._group(views)
        targets_GBK = self._teach(groups, step)
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
        """Move the teacher a little towards the student, and the centre towards what the teacher said in this step."""
        follow(self.teacher, self.student, self.spec.teacher_momentum.at(step, self.steps))
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
        """Put views of equal shape together, so that each shape takes one call of the backbone."""
        members: dict[torch.Size, list[int]] = {}
        for number, frames_BCTHW in enumerate(views):
            members.setdefault(frames_BCTHW.shape, []).append(number)
        return [
            ViewGroup(tuple(numbers), self.spec.normalisation(torch.cat([views[number] for number in numbers])))
            for numbers in members.values()
        ]

    @torch.no_grad()
    def _teach(self, groups: Sequence[ViewGroup], step: int) -> Tensor:
        """Give the teacher's distributions for the global views, and keep the sum of what it said for the centre."""
        pooled_GBD = _encode(self.teacher.backbone, groups, 2)
        logits_GBK: Tensor = self.teacher.head(pooled_GBD)
        self.pending_K[:-1] += logits_GBK.sum(dim=(0, 1))
        self.pending_K[-1] += logits_GBK.shape[0] * logits_GBK.shape[1]
        return teacher_targets(logits_GBK, self.centre_K, self.spec.teacher_temperature.at(step, self.steps))


def _encode(backbone: Backbone, groups: Sequence[ViewGroup], views: int) -> Tensor:
    """Give pooled_VBD of the first views, with one call of the backbone for each shape among them."""
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
    """Give entropies and the mean cross-entropy as shares of ln K, what a uniform distribution has."""
    most = math.log(targets_GBK.shape[-1])
    figures = {
        "loss_over_ln_k": cross_entropy / most,
        "teacher_entropy": torch.special.entr(targets_GBK).sum(dim=-1).mean() / most,
        "centre_norm": torch.linalg.vector_norm(centre_K),
    }
    if targets_GBK.shape[1] > 1:  # of one clip, a single prototype is no collapse
        figures["teacher_mean_entropy"] = torch.special.entr(targets_GBK.mean(dim=(0, 1))).sum() / most
    return figures


def svt_health_rules(from_step: int) -> tuple[HealthRule, ...]:
    """Give the rules; in the beginning all clips look alike to any network, so they hold from a step on."""
    sharpen = "Try a lower teacher_temperature, a centre_momentum nearer 1, or a lower learning rate."
    return (
        HealthRule(
            figure="teacher_entropy",
            side="above",
            limit=0.995,
            from_step=from_step,
            advice="The teacher spreads its answer evenly over all prototypes, so it teaches nothing (collapse to "
            f"uniform). {sharpen}",
        ),
        HealthRule(
            figure="loss_over_ln_k",
            side="above",
            limit=0.995,
            from_step=from_step,
            advice="The loss is pinned at ln K, that of a student that answers evenly (collapse to uniform, or a "
            f"learning rate too high to learn). {sharpen}",
        ),
        HealthRule(
            figure="teacher_mean_entropy",
            side="below",
            limit=0.02,
            from_step=from_step,
            advice="The teacher gives every clip the same prototype (collapse to one). Try a centre_momentum further "
            "from 1 so that the centre keeps up, a higher teacher_temperature, or a lower learning rate.",
        ),
    )


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher = momentum * teacher + (1 - momentum) * student; buffers are copied.

    Under ZeRO-3 each rank moves its own slice: equal modules are sliced alike, so nothing is communicated. A student's
    parameter that takes no gradient is what it was when the teacher was made.
    """
    pairs = zip(teacher.parameters(), student.parameters(), strict=True)
    moving = [(_held(old), _held(new)) for old, new in pairs if new.requires_grad]
    if moving:
        old, new = zip(*moving, strict=True)
        torch._foreach_lerp_(old, new, 1 - momentum)
    for old_buffer, new_buffer in zip(teacher.buffers(), student.buffers(), strict=True):
        old_buffer.copy_(new_buffer)


def _held(parameter: Any) -> Tensor:
    """Give what this rank holds of a parameter: its slice under ZeRO-3, which keeps no whole beside it here."""
    held: Tensor = parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter.data
    return held
