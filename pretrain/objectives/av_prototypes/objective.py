"""Audio-visual prototypes: the audio and video of a clip supervise each other, through clusters and single clips.

Each modality's embeddings are clustered, and the other modality learns the clusters: as prototypes, as labels, or as
balanced assignments (`target`). In addition there is contrast (InfoNCE) of a clip's video with its audio, and of two
clips of a video within each modality. Samples without audio take no part in losses across modalities.
Legend: B samples of this rank, D features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from trichord.pretrain.backbones.base import AudioBackbone, Backbone
from trichord.pretrain.collectives import mean_over_ranks, rank, world_size
from trichord.pretrain.config import RunConfig
from trichord.pretrain.contrast.losses import info_nce, nt_xent
from trichord.pretrain.engine.parameter_groups import GroupRules, ParameterGroup, group_parameters
from trichord.pretrain.objectives.av_prototypes import AvPrototypesSpec
from trichord.pretrain.objectives.av_prototypes.rounds import PassStore, feature_pass, unaltered, within
from trichord.pretrain.objectives.av_prototypes.target import (
    Pair,
    Samples,
    SelectEmbeddings,
    Target,
    Temperature,
    Tower,
    TowerOutput,
)
from trichord.pretrain.objectives.base import HealthRule, Objective, StepOutput
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.stream import batches
from trichord.shards.reading.stream_config import StreamConfig
from trichord.shards.sample import ClipTransform


class AvPrototypes(Objective):
    """Both towers, the target, and the temperature of the contrast."""

    def __init__(self, spec: AvPrototypesSpec, video: Backbone, audio: AudioBackbone, stream: StreamConfig) -> None:
        super().__init__()
        self.spec = spec
        self._stream = stream
        classes = spec.target.classes if spec.target else ()
        self.video = Tower(video, spec.embedding_dim, spec.hidden_dim, classes)
        self.audio = Tower(audio, spec.embedding_dim, spec.hidden_dim, classes)
        self.temperature = Temperature(spec.temperature, spec.learn_temperature)
        dims = {"video": self.video.dim, "audio": self.audio.dim}
        self.target: Target | None = spec.target.build(dims, stream.batch_size, stream.seed) if spec.target else None
        self.train()

    @classmethod
    def of_run(cls, spec: AvPrototypesSpec, run: RunConfig) -> AvPrototypes:
        """Build the objective from a run's config."""
        assert run.audio_backbone is not None  # the config was checked
        return cls(spec, run.backbone.build(), run.audio_backbone.build(), run.stream())

    def parameter_groups(self, rules: GroupRules) -> list[ParameterGroup]:
        backbones = {"video.backbone.": self.video.backbone, "audio.backbone.": self.audio.backbone}
        steps_by_pattern = self.spec.target.frozen_steps_of() if self.spec.target else {}
        frozen = {f"target.{pattern}": steps for pattern, steps in steps_by_pattern.items()}
        return group_parameters(self, rules, backbones, frozen)

    def training_step(self, batch: Batch, step: int) -> StepOutput:
        pairs = self._encode(batch)
        samples = _known(batch)
        losses, total = self._contrast(pairs, samples)
        health = _agreement(pairs[0], samples)
        if self.target is not None:
            output = self.target.compute_loss(pairs, samples)
            total = total + self.spec.target_weight * output.loss
            losses |= {"target": output.loss, **output.losses}
            health |= output.health
        if self.spec.learn_temperature:
            health["temperature"] = 1 / self.temperature().detach()
        return StepOutput(
            loss=total,
            losses={name: loss.detach() for name, loss in losses.items()},
            health=health,
            embeddings={modality: pairs[0].subject(modality).detach() for modality in ("video", "audio")},
        )

    def after_update(self, step: int) -> None:
        """Start a round of clustering if one is due; the network is not updated meanwhile."""
        if self.target is not None:
            self.target.after_update(step, partial(self._run_pass, step + 1))

    def state(self) -> dict[str, Tensor]:
        return {f"target.{name}": each for name, each in self.target.state().items()} if self.target else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if self.target is not None:
            self.target.load_state(within("target", state), next(self.parameters()).device)
        elif state:
            super().load_state(state)

    def health_rules(self) -> Sequence[HealthRule]:
        return _RULES

    def _encode(self, batch: Batch) -> list[Pair]:
        """Embed all clips of all samples, each modality in one call, and pair them clip by clip."""
        clips = len(batch.video)
        video: TowerOutput = self.video(self.spec.normalisation(torch.cat(batch.video)))
        audio: TowerOutput = self.audio(torch.cat(batch.audio))
        return [Pair(*both) for both in zip(video.parts(clips), audio.parts(clips), strict=True)]

    def _contrast(self, pairs: Sequence[Pair], samples: Samples) -> tuple[dict[str, Tensor], Tensor]:
        losses = {}
        factor = self.temperature()
        total = factor.new_zeros(())
        if self.spec.cross_weight:
            each = [info_nce(pair.video.unit_BD, pair.audio.unit_BD, factor, samples.present_b) for pair in pairs]
            losses["cross"] = torch.stack(each).mean()
            total = total + self.spec.cross_weight * losses["cross"]
        if self.spec.within_weight:
            one, other = pairs
            losses["within_video"] = nt_xent(one.video.unit_BD, other.video.unit_BD, factor, samples.valid_b)
            losses["within_audio"] = nt_xent(one.audio.unit_BD, other.audio.unit_BD, factor, samples.present_b)
            total = total + self.spec.within_weight * (losses["within_video"] + losses["within_audio"]) / 2
        return losses, total

    @contextlib.contextmanager
    def _run_pass(
        self, start_step: int, steps: int, dims: Mapping[str, int], select: SelectEmbeddings
    ) -> Iterator[PassStore]:
        """Embed the clips of the coming steps without augmentation."""
        device = next(self.parameters()).device
        transform = ClipTransform(unaltered(self.spec))
        with contextlib.closing(batches(self._stream, transform, rank(), world_size(), start_step)) as reader:
            was_training = self.training
            self.eval()
            try:
                with feature_pass(reader, steps, dims, partial(self._embed, select), device) as store:
                    yield store
            finally:
                self.train(was_training)

    @torch.no_grad()
    def _embed(self, select: SelectEmbeddings, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        device = next(self.parameters()).device
        with self.casting(device):
            (pair,) = self._encode(batch.to(device))
        return select(pair, _known(batch))


def _known(batch: Batch) -> Samples:
    present_B = batch.audio_present & batch.valid
    return Samples(batch.key, batch.labels, batch.valid, present_B)


@torch.no_grad()
def _agreement(pair: Pair, samples: Samples) -> dict[str, Tensor]:
    """Return the cosine of a clip's video and audio, and how often its own audio is the nearest of this rank's."""
    if not pair.is_comparable:
        return {}
    with torch.autocast(samples.present_b.device.type, enabled=False):  # in bfloat16 many would tie
        cosines_BB = pair.video.unit_BD @ pair.audio.unit_BD.T
    is_own_B = cosines_BB.masked_fill(~samples.present_b, -2.0).argmax(dim=1) == torch.arange(
        len(cosines_BB), device=cosines_BB.device
    )
    return {
        "own_cosine": mean_over_ranks(cosines_BB.diagonal(), samples.present_b),
        "own_sound_nearest": mean_over_ranks(is_own_B.float(), samples.present_b),
    }


_MANY = "Such clusters carry little information. Try fewer clusters, a lower learning rate, or a higher cross_weight."
_RULES = (
    HealthRule(
        figure="*/largest_share",
        side="above",
        limit=0.5,
        advice="More than half of all clips are in one cluster: the embeddings are collapsing, or many clips are very "
        "similar. Try a lower learning rate or a lower rounds.giant, or inspect that cluster's clips.",
    ),
    HealthRule(
        figure="*/entropy_over_ln_k",
        side="below",
        limit=0.3,
        advice=f"A few clusters contain nearly all clips. {_MANY}",
    ),
    HealthRule(
        figure="target_over_ln_k",
        side="above",
        limit=0.995,
        from_step=500,
        advice="The loss is stuck at ln K: every clip is assigned evenly to all prototypes. Try target.epsilon=0.03, "
        "fewer prototypes, a higher target.frozen_steps, or a lower learning rate.",
    ),
)
