"""Classification as an objective of the engine: backbones, a head on their vectors, and the loss.

Late fusion: each modality is pooled separately, and the vectors are concatenated before the head. A clip without audio
is kept, with a substitute for the missing vector.
Legend: B samples, K classes, D features, C colours, T frames, H and W pixels, M mel filters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from trichord.finetune.config import FinetuneConfig
from trichord.finetune.tasks.annotations import read_annotations
from trichord.finetune.tasks.base import OnTokens, TaskBackbone
from trichord.finetune.tasks.classification.head import Pool, build_layers
from trichord.finetune.tasks.classification.losses import classification_loss
from trichord.finetune.tasks.classification.spec import POOLS, ClassificationSpec, SlowFastSpec
from trichord.pretrain.backbones.base import AudioBackbone, Backbone, Encoder
from trichord.pretrain.collectives import sum_over_ranks
from trichord.pretrain.engine.rehearsal import fake_batch
from trichord.pretrain.objectives.base import HealthRule, StepOutput
from trichord.shards.reading.batch import Batch
from trichord.shards.sample_spec import Modality
from trichord.shards.transforms.mix import Mixing, blend_batch, draw_blend, soft_targets


class Branch(TaskBackbone):
    """One modality: its backbone, the pooling of its tokens, and the substitute vector of clips that lack it."""

    def __init__(self, backbone: Encoder, spec: ClassificationSpec, can_be_absent: bool, reads_tokens: bool) -> None:
        super().__init__(backbone, spec.frozen)
        self.needs_grid, self.reads_tokens = spec.head.needs_grid, reads_tokens
        places = _count_tokens(backbone, spec) if POOLS[spec.head.pool].counts_tokens else 0
        self.pool = Pool(spec.head, backbone.dim, places)
        self.can_be_absent = can_be_absent
        if can_be_absent:
            nothing_D = torch.zeros(backbone.dim)
            if spec.absent == "learned":
                self.absent_D = nn.Parameter(nothing_D)
            else:
                self.register_buffer("absent_D", nothing_D, persistent=False)

    def tokens(self, inputs: Tensor) -> Tensor:
        """Return the backbone's pooled vector of each clip, followed by its tokens if the head needs them, as BLD."""
        with self.gradient_context():
            pooled_BD, grid_BtnD = self.backbone(inputs, pooled_only=not self.needs_grid)
        if not self.needs_grid:
            return pooled_BD[:, None]  # type: ignore[no-any-return]
        return torch.cat([pooled_BD[:, None], grid_BtnD.flatten(1, 2)], dim=1)

    def forward(self, inputs: Tensor, present_B: Tensor, fast_BCTHW: Tensor | None = None) -> Tensor:
        """Return a vector of each clip; with a fast view, from the mean of the tokens of both views."""
        tokens_BLD = inputs if self.reads_tokens else self.tokens(inputs)
        if fast_BCTHW is not None:
            tokens_BLD = (tokens_BLD + self.tokens(fast_BCTHW)) / 2
        vector_BD: Tensor = self.pool(tokens_BLD)
        return torch.where(present_B[:, None], vector_BD, self.absent_D) if self.can_be_absent else vector_BD


class Classification(OnTokens):
    """The branches of the input modalities, named after them, and the head."""

    spec: ClassificationSpec

    def __init__(
        self,
        spec: ClassificationSpec,
        video: Backbone | None,
        audio: AudioBackbone | None,
        mixing: Mixing,
        reads_tokens: bool = False,
    ) -> None:
        super().__init__()
        self.spec, self.mixing, self.reads_tokens = spec, mixing, reads_tokens
        self.video = None if video is None else Branch(video, spec, False, reads_tokens)
        self.audio = None if audio is None else Branch(audio, spec, True, reads_tokens)
        dim = sum(backbone.dim for backbone in (video, audio) if backbone is not None)
        self.head = build_layers(spec.head, dim, spec.count)
        # Saved with the weights: if it is counted from the data, a resumed run need not count again.
        self.register_buffer("pos_weight_K", torch.full((spec.count,), spec.loss.fixed_pos_weight))
        self.pos_weight_K: Tensor
        self.train()

    @classmethod
    def of_run(cls, spec: ClassificationSpec, run: FinetuneConfig) -> Classification:
        """Build the objective from a run's config."""
        video = None if run.backbone is None else run.backbone.build()
        audio = None if run.audio_backbone is None else run.audio_backbone.build()
        mixing = Mixing(run.seed, run.data.batch_size // run.data.lanes)
        return cls(spec, video, audio, mixing, reads_tokens=run.features is not None)

    def tokens(self, modality: Modality, clips: Sequence[Tensor]) -> Tensor:
        """Return the tokens as BLD."""
        branch = self.video if modality == "video" else self.audio
        assert branch is not None
        return branch.tokens(self.spec.normalisation(clips[0]) if modality == "video" else clips[0])

    def logits(
        self,
        frames_BCTHW: Tensor | None,
        audio_BTM: Tensor | None,
        present_B: Tensor,
        slow_fast: SlowFastSpec | None = None,
    ) -> Tensor:
        """Return logits_BK of one view of each clip: uint8 frames, audio, and which clips have audio.

        With `slow_fast`, the view is processed as a slow and a fast one.
        """
        vectors = []
        if self.video is not None:
            assert frames_BCTHW is not None
            seen = frames_BCTHW if self.reads_tokens else self.spec.normalisation(frames_BCTHW)
            slow, fast = (seen, None) if slow_fast is None else slow_and_fast(seen, slow_fast)
            vectors.append(self.video(slow, present_B, fast))
        if self.audio is not None:
            vectors.append(self.audio(audio_BTM, present_B))
        logits_BK: Tensor = self.head(torch.cat(vectors, dim=1))
        return logits_BK.float()

    def training_step(self, batch: Batch, step: int) -> StepOutput:
        frames_BCTHW, present_B = next(iter(batch.video), None), batch.audio_present
        targets_BK = self.targets(batch).to(present_B.device)
        if self.spec.mix is not None and frames_BCTHW is not None:
            blend = draw_blend(self.spec.mix, self.mixing.seed, step)
            (frames_BCTHW,), targets_BK = blend_batch([frames_BCTHW], targets_BK, blend, self.mixing.samples_per_lane)
        logits_BK = self.logits(frames_BCTHW, batch.audio[0] if self.audio else None, present_B)
        loss = classification_loss(self.spec.loss, logits_BK, targets_BK, self.pos_weight_K)
        health = {"labels": (targets_BK > 0.5).float().sum(dim=1).mean()} if self.spec.labels == "clip" else {}
        if not self.spec.is_multi_label:
            health["top1"] = (logits_BK.argmax(dim=1) == targets_BK.argmax(dim=1)).float().mean()
        if self.audio is not None:
            health["audio_absent"] = 1 - present_B.float().mean()
        return StepOutput(loss, {self.spec.loss.kind: loss.detach()}, health, embeddings={})

    def targets(self, batch: Batch) -> Tensor:
        """Return targets_BK from the clips' labels, smoothed."""
        spec = self.spec
        return soft_targets(batch.labels, spec.count, spec.loss.label_smoothing, spec.is_multi_label)

    def health_rules(self) -> Sequence[HealthRule]:
        return (_NO_LABELS,) if self.spec.labels == "clip" else ()

    @torch.no_grad()
    def clip_scores(self, batch: Batch) -> Tensor:
        """Return the probabilities or logits (whichever the evaluation averages) of each clip of each sample, as BCK.

        Where samples have unequal numbers of clips, the scores of the padding are 0.
        """
        spec, sounds, views = self.spec, batch.audio, batch.video
        clips_B = [len(timeline.clips_s) for timeline in batch.timeline]
        scores: list[Tensor] = []
        with torch.autocast(batch.valid.device.type, self.cast_to, enabled=self.cast_to is not None):
            for clip in range(len(views) // spec.test_crops):
                rows = torch.tensor([row for row, clips in enumerate(clips_B) if clip < clips], dtype=torch.int64)
                rows = rows.to(batch.valid.device)
                if not len(rows):  # a batch at the end of a data set may have padding only
                    scores.append(rows.new_zeros(len(clips_B), spec.count, dtype=torch.float32))
                    continue
                # A clip's crops are consecutive, and all have that clip's audio.
                sound_bTM = sounds[clip][rows] if self.audio else None
                crops = [
                    self.logits(frames_BCTHW[rows], sound_bTM, batch.audio_present[rows], spec.test_slow_fast)
                    for frames_BCTHW in views[clip * spec.test_crops : (clip + 1) * spec.test_crops]
                ]
                seen_cbK = torch.stack(crops)
                seen_bK = pooled(seen_cbK if spec.average == "logit" else probabilities(seen_cbK, spec), spec)
                scores.append(seen_bK.new_zeros(len(clips_B), spec.count).index_copy(0, rows, seen_bK))
        return torch.stack(scores, dim=1)


def slow_and_fast(frames_BCTHW: Tensor, spec: SlowFastSpec) -> tuple[Tensor, Tensor]:
    """Return a few frames of each clip, from the middles of equal stretches, and all frames scaled down."""
    batch, _, frames = frames_BCTHW.shape[:3]
    middles_T = (2 * torch.arange(spec.slow_frames, device=frames_BCTHW.device) + 1) * frames // (2 * spec.slow_frames)
    frames_NCHW = frames_BCTHW.transpose(1, 2).flatten(0, 1)
    small_NCHW: Tensor = functional.interpolate(
        frames_NCHW, size=(spec.fast_size, spec.fast_size), mode="bilinear", antialias=True
    )
    return frames_BCTHW[:, :, middles_T], small_NCHW.unflatten(0, (batch, frames)).transpose(1, 2)


def pooled(given_XK: Tensor, spec: ClassificationSpec) -> Tensor:
    """Combine the scores of several crops or clips into one."""
    return given_XK.amax(dim=0) if spec.average == "max" else given_XK.mean(dim=0)


def probabilities(logits_XK: Tensor, spec: ClassificationSpec) -> Tensor:
    """Return the probability of each class: by sigmoid if classes are independent, else by softmax."""
    return logits_XK.sigmoid() if spec.is_multi_label else logits_XK.softmax(dim=-1)


@torch.no_grad()
def _count_tokens(backbone: Encoder, spec: ClassificationSpec) -> int:
    """Count the tokens of a training clip, including the pooled vector, with a forward pass."""
    batch = fake_batch(spec.sample_spec(), 1)
    inputs = spec.normalisation(batch.video[0]) if isinstance(backbone, Backbone) else batch.audio[0]
    was_training = backbone.training
    tokens = backbone.eval()(inputs)
    backbone.train(was_training)
    return 1 + int(tokens[1].flatten(1, 2).shape[1])


_NO_LABELS = HealthRule(
    figure="labels",
    side="below",
    limit=0.01,
    advice="Hardly any clip has a label: objective.labels=clip takes labels from intervals, and these shards have few "
    "or none. Check with trichord shards show, or set objective.labels=video.",
)


def prepare(config: FinetuneConfig, objective: Classification) -> None:
    """Set the positive weights from the class counts of the training clips, if they are the inverse frequency."""
    if objective.spec.loss.counts_classes:
        objective.pos_weight_K.copy_(inverse_frequency(*count_labels(config, objective.spec)))


def count_labels(config: FinetuneConfig, spec: ClassificationSpec) -> tuple[Tensor, int]:
    """Return the numbers of training clips of each class and in total; each rank counts its share of the shards."""
    counts: Counter[int] = Counter()
    clips = 0
    for annotation in read_annotations(config):
        counts.update(set(annotation.labels))
        clips += 1
    found = [*(counts[label] for label in range(spec.count)), clips]
    totals = sum_over_ranks(torch.tensor(found, dtype=torch.float64))
    return totals[:-1], int(totals[-1])


def inverse_frequency(counts_K: Tensor, clips: int) -> Tensor:
    """Return the number of clips without a class per clip with it, and 1 for a class without clips."""
    return torch.where(counts_K > 0, (clips - counts_K) / counts_K.clamp_min(1), torch.ones_like(counts_K)).float()
