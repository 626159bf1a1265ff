"""Video and text in one embedding space, with audio as an optional third modality.

Learnt from the texts of classes (X-CLIP, Ni et al. 2022), from captions of the global batch (CLIP, Radford et al. 2021;
SigLIP, Zhai et al. 2023), or both in one run. With gradient accumulation the contrast is still that of the whole batch,
and its full gradient is computed one part at a time (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size
under Memory Limited Setup"): every part is embedded once without a graph, the loss is computed over all of them, and
its gradient with respect to each part's vectors is kept. Then each part runs with a graph and the same random draws,
and its backward pass starts from those gradients. Of what all parts share, such as the temperature, each part
contributes its share of the gradient.
Legend: B samples of this rank, K classes, E features of the space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from trichord.pretrain.backbones.base import AudioBackbone, Backbone, Encoder, TextBackbone
from trichord.pretrain.backbones.video_text import AudioTower, EncodedClips, VideoText, to_unit
from trichord.pretrain.collectives import mean_over_ranks, sum_over_ranks, world_size
from trichord.pretrain.config import RunConfig
from trichord.pretrain.contrast.losses import info_nce, sigmoid_loss
from trichord.pretrain.engine.parameter_groups import GroupRules, ParameterGroup, group_parameters
from trichord.pretrain.objectives.base import Objective, StepOutput
from trichord.pretrain.objectives.video_text import VideoTextSpec
from trichord.shards.reading.batch import Batch
from trichord.shards.transforms.mix import Mixing, blend_batch, draw_blend, soft_targets

PAIRS = (("video", "text"), ("audio", "text"), ("audio", "video"))
Vectors = dict[str, Tensor]  # by name: the vectors of a part or of all
Contrast = Callable[[Vectors, Vectors], Vectors]  # maps all parts' vectors and shared tensors to losses by name


class Embedded(NamedTuple):
    """Unit vectors of a batch by modality, and which samples have each modality."""

    unit: dict[str, Tensor]
    has: dict[str, Tensor]


@dataclass
class PartGradients:
    """Losses and gradients of the contrastive loss over all parts."""

    parts: int
    losses: Vectors
    left: list[Vectors]  # for each part: gradients of its vectors and its share of those of shared tensors

    def take(self, contributed: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of the next part from its vectors and the shared tensors.

        It has the value of the contrastive loss. The mean over parts has the gradients of the contrastive loss.
        """
        gradients = self.left.pop(0)
        linear = torch.stack([(contributed[name] * gradients[name]).sum() for name in gradients]).sum() * self.parts
        value = torch.stack([*self.losses.values(), linear.new_zeros(())]).sum()
        return linear - linear.detach() + value


class Previewed(NamedTuple):
    """What is known of a step before the backward passes of its parts."""

    gradients: PartGradients
    labelled: Tensor  # number of samples with a label, over all parts and ranks


class VideoTextObjective(Objective):
    """The video-text network, the audio tower, and the texts of the classes."""

    def __init__(
        self, spec: VideoTextSpec, video: Backbone, text: TextBackbone, audio: AudioBackbone | None, mixing: Mixing
    ) -> None:
        super().__init__()
        self.spec, self._mixing = spec, mixing
        text.requires_grad_(not spec.frozen_text)
        is_sigmoid = spec.captions is not None and spec.captions.loss == "sigmoid"
        self.video = VideoText(
            video,
            text,
            joint_dim=spec.joint_dim,
            has_prompts=spec.prompts,
            first_scale=spec.scale,
            first_bias=spec.bias if is_sigmoid else None,
        )
        self.video.scale.requires_grad_(spec.learn_scale)
        self.audio = None if audio is None else AudioTower(audio, self.video.dim)
        self._class_tokens_KL = None if spec.classes is None else text.tokenise(class_texts(spec))
        self._frozen_rows_KD: Tensor | None = None
        self._previewed: Previewed | None = None
        self.train()

    @classmethod
    def of_run(cls, spec: VideoTextSpec, run: RunConfig) -> VideoTextObjective:
        """Build the objective from a run's config."""
        assert run.text_backbone is not None  # the config was checked
        video = run.backbone.build()
        audio = None if run.audio_backbone is None else run.audio_backbone.build()
        mixing = Mixing(run.seed, run.data.batch_size // run.data.lanes)
        return cls(spec, video, run.text_backbone.build(), audio, mixing)

    def train(self, mode: bool = True) -> VideoTextObjective:
        """Switch dropout and similar layers; a frozen text encoder stays in eval mode."""
        super().train(mode)
        self.video.text.train(mode and not self.spec.frozen_text)
        return self

    def parameter_groups(self, rules: GroupRules) -> list[ParameterGroup]:
        encoders: dict[str, Encoder] = {"video.backbone.": self.video.backbone, "video.text.": self.video.text}
        if self.audio is not None:
            encoders["audio.backbone."] = self.audio.backbone
        return group_parameters(self, rules, encoders)

    def preview(self, parts: Sequence[Batch], step: int, draw: Callable[[int], None]) -> None:
        embedded = []
        with torch.no_grad():
            for number, part in enumerate(parts):
                draw(number)
                embedded.append(self._embed(part, self.video.encode_video(self._frames(part, step)[0])))
        has = {modality: torch.cat([each.has[modality] for each in embedded]) for modality in embedded[0].has}
        gradients = part_gradients(
            [each.unit for each in embedded],
            self._factors(),
            lambda unit, factors: self._contrast(Embedded(unit, has), factors),
        )
        labelled = sum_over_ranks(torch.stack([_has_label(part).sum() for part in parts]).sum().float())
        self._previewed = Previewed(gradients, labelled)

    def training_step(self, batch: Batch, step: int) -> StepOutput:
        frames_BCTHW, targets_BK = self._frames(batch, step)
        clips = self.video.encode_video(frames_BCTHW)
        embedded = self._embed(batch, clips)
        factors = self._factors()
        health = {"scale": factors["scale"].detach().mean()}
        if self._previewed is None:
            losses = self._contrast(embedded, factors)
            total = torch.stack([*losses.values(), clips.unit_BE.new_zeros(())]).sum()
        else:
            losses = dict(self._previewed.gradients.losses)
            total = self._previewed.gradients.take(embedded.unit | factors)
        if "text" in embedded.unit:
            health["own_text_nearest"] = _own_is_nearest(embedded)
        if targets_BK is not None:
            assert self.spec.classes is not None
            logits_BK = factors["scale"] * self.video.cosines(clips, self._class_rows())
            has_B = _has_label(batch)
            losses["classes"] = self.spec.classes.weight * self._class_loss(logits_BK, targets_BK, has_B)
            total = total + losses["classes"]
            right_B = logits_BK.argmax(dim=1) == targets_BK.argmax(dim=1)
            health["top1"] = mean_over_ranks(right_B.float(), has_B)
        if self._previewed is not None and not self._previewed.gradients.left:
            self._previewed = None
        detached = {name: loss.detach() for name, loss in losses.items()}
        return StepOutput(total, detached, health, {name: each.detach() for name, each in embedded.unit.items()})

    def _frames(self, batch: Batch, step: int) -> tuple[Tensor, Tensor | None]:
        """Return normalised frames and their class targets, both blended if the recipe sets `mix`."""
        (frames_BCTHW,) = batch.video
        classes, targets_BK = self.spec.classes, None
        if classes is not None and self._class_tokens_KL is not None:
            count = len(self._class_tokens_KL)
            filled = [labels or (0,) for labels in batch.labels]  # a sample without a label has weight 0
            targets_BK = soft_targets(filled, count, classes.label_smoothing).to(frames_BCTHW.device)
            if classes.mix is not None:
                blend = draw_blend(classes.mix, self._mixing.seed, step)
                (frames_BCTHW,), targets_BK = blend_batch(
                    [frames_BCTHW], targets_BK, blend, self._mixing.samples_per_lane
                )
        return self.spec.normalisation(frames_BCTHW), targets_BK

    def _embed(self, batch: Batch, clips: EncodedClips) -> Embedded:
        """Return the embeddings that the contrast compares."""
        valid_B = batch.valid
        unit, has = {"video": clips.unit_BE}, {"video": valid_B}
        if self.spec.captions is not None:
            unit["text"] = to_unit(self.video.encode_text(batch.text))
            has["text"] = valid_B & torch.tensor([bool(text) for text in batch.text], device=valid_B.device)
        if self.audio is not None:
            unit["audio"], has["audio"] = self.audio(batch.audio[0]), valid_B & batch.audio_present
        return Embedded(unit, has)

    def _factors(self) -> dict[str, Tensor]:
        """Return the scale by which the contrast multiplies cosines, and the bias it adds, if any."""
        return {"scale": self.video.scale(), **({} if self.video.bias is None else {"bias": self.video.bias()})}

    def _contrast(self, embedded: Embedded, factors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weighted losses of all pairs of modalities."""
        spec, losses = self.spec, {}
        weights = {
            ("video", "text"): spec.captions.weight if spec.captions else 0.0,
            ("audio", "text"): spec.audio_text_weight if spec.captions else 0.0,
            ("audio", "video"): spec.audio_video_weight,
        }
        form = spec.captions.form if spec.captions else "gathered"
        for one, other in PAIRS:
            if weights[one, other] and one in embedded.unit and other in embedded.unit:
                a_BE, b_BE = embedded.unit[one], embedded.unit[other]
                has_B = embedded.has[one] & embedded.has[other]
                if "bias" in factors:
                    found = sigmoid_loss(a_BE, b_BE, factors["scale"], factors["bias"], has_B, form=form)
                else:
                    found = info_nce(a_BE, b_BE, factors["scale"], has_B, form=form)
                losses[f"{one}_{other}"] = weights[one, other] * found
        return losses

    def _class_rows(self) -> Tensor:
        """Return the embeddings of the class texts; a frozen encoder computes its vectors once."""
        assert self._class_tokens_KL is not None
        tokens_KL = self._class_tokens_KL.to(self.video.scale.log.device)
        if not self.spec.frozen_text:
            return self.video.encode_tokens(tokens_KL)
        if self._frozen_rows_KD is None:
            with torch.no_grad():
                self._frozen_rows_KD = self.video.text(tokens_KL)
        rows_KE: Tensor = self.video.text_proj(self._frozen_rows_KD)
        return rows_KE

    def _class_loss(self, logits_BK: Tensor, targets_BK: Tensor, has_B: Tensor) -> Tensor:
        """Return this part's share of the mean over the labelled samples of all ranks and all parts of the step."""
        loss_B = functional.cross_entropy(logits_BK, targets_BK, reduction="none")
        if self._previewed is None:
            return mean_over_ranks(loss_B, has_B)
        own = torch.where(has_B, loss_B, loss_B.new_zeros(())).sum()
        return own * (world_size() * self._previewed.gradients.parts) / self._previewed.labelled.clamp_min(1)


def class_texts(spec: VideoTextSpec) -> list[str]:
    """Return the text of each class: its name in the recipe's prompt."""
    assert spec.classes is not None
    return [spec.classes.prompt.replace("{}", name) for name in spec.classes.names]


def _has_label(batch: Batch) -> Tensor:
    valid_B = batch.valid
    return valid_B & torch.tensor([bool(labels) for labels in batch.labels], device=valid_B.device)


@torch.no_grad()
def _own_is_nearest(embedded: Embedded) -> Tensor:
    """Return how often a video's own caption is the nearest of this rank's captions."""
    has_B = embedded.has["video"] & embedded.has["text"]
    cosines_BB = (embedded.unit["video"] @ embedded.unit["text"].T).masked_fill(~has_B, -2.0)
    is_own_B = cosines_BB.argmax(dim=1) == torch.arange(len(has_B), device=has_B.device)
    return mean_over_ranks(is_own_B.float(), has_B)


def part_gradients(embedded: Sequence[Vectors], shared: Vectors, contrast: Contrast) -> PartGradients:
    """Compute the contrastive loss and its gradients over the vectors of all parts, which have no graph."""
    leaves = {name: torch.cat([each[name] for each in embedded]).requires_grad_() for name in embedded[0]}
    factors = {name: each.detach().requires_grad_() for name, each in shared.items()}
    with torch.enable_grad():
        losses = contrast(leaves, factors)
        if losses:
            torch.stack(list(losses.values())).sum().backward()
    parts: list[Vectors] = [{name: _gradient(each) / len(embedded) for name, each in factors.items()} for _ in embedded]
    for name, leaf in leaves.items():
        lengths = [len(each[name]) for each in embedded]
        for part, gradient in zip(parts, _gradient(leaf).split(lengths), strict=True):
            part[name] = gradient
    return PartGradients(len(embedded), {name: each.detach() for name, each in losses.items()}, parts)


def _gradient(leaf: Tensor) -> Tensor:
    """Return a tensor's gradient, or zeros if no loss depends on it."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
