"""Captioning as an objective of the engine: a language model that attends to a backbone's tokens.

The memory is the tokens of a video's clips, mapped to the width of the language model. Each token of a caption is
predicted from those before it and from the memory; the loss is the mean over a batch's samples of the mean negative
log-likelihood (nll) of a caption's tokens and its end mark. Every sample thus has the same weight for any length and on
any rank: ranks and parts of a batch add up to the same loss, up to rounding. A sample without a caption counts as 0.
Legend: B samples, n clips of each, N = Bn, C colours, T frames, H and W pixels, L tokens of a clip or of a caption,
M = nL tokens of the memory, D features of the backbone, E of the language model, V tokens of the vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from trichord.core.errors import UserError
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.tasks.annotations import read_annotations
from trichord.finetune.tasks.base import OnTokens, TaskBackbone
from trichord.finetune.tasks.captioning.decoding import GeneratedCaptions, generate
from trichord.finetune.tasks.captioning.language import DecoderState, Language, load_language
from trichord.finetune.tasks.captioning.spec import CaptionSpec, tokenizer_file
from trichord.finetune.tasks.captioning.vocabulary import TokenisedCaptions, Vocabulary, plain
from trichord.pretrain.backbones.base import Backbone
from trichord.pretrain.collectives import gather_texts, mean_over_ranks, rank
from trichord.pretrain.objectives.base import HealthRule, StepOutput
from trichord.shards.reading.batch import Batch
from trichord.shards.sample_spec import Modality

_TOKENIZER = "tokenizer"


class Captioner(OnTokens):
    """A backbone with its memory, the language model, and its vocabulary."""

    spec: CaptionSpec

    def __init__(self, spec: CaptionSpec, video: Backbone, reads_tokens: bool = False) -> None:
        super().__init__()
        self.spec, self.reads_tokens = spec, reads_tokens
        self.video = Memory(video, spec, reads_tokens)
        self.language = Language(spec.language)
        self.vocabulary: Vocabulary | None = None  # set with the initial weights, or by the checkpoint
        self.train()

    @classmethod
    def of_run(cls, spec: CaptionSpec, run: FinetuneConfig) -> Captioner:
        """Build the objective from a run's config."""
        assert run.backbone is not None  # the config was checked
        return cls(spec, run.backbone.build(), reads_tokens=run.features is not None)

    def tokens(self, modality: Modality, clips: Sequence[Tensor]) -> Tensor:
        """Return the tokens of n clips of each video as BnLD."""
        return self.video.tokens(clips)

    def training_step(self, batch: Batch, step: int) -> StepOutput:
        written = self._tokenise(batch.text)
        memory_BME = self.video(batch.video)
        predicted = token_losses(self.language, written, memory_BME)
        health = {
            "next_token": mean_over_ranks(predicted.is_right_BL.flatten().float(), predicted.counts_BL.flatten()),
            "without_caption": (~predicted.counts_BL.any(dim=1)).float().mean(),
            "cut": predicted.nll_B.new_tensor(written.cut / len(predicted.nll_B)),
        }
        loss = predicted.nll_B.mean()
        return StepOutput(loss, {"caption": loss.detach()}, health, embeddings={})

    @torch.no_grad()
    def generate(self, batch: Batch, seed: int) -> GeneratedCaptions:
        """Generate a caption for each sample with the recipe's decoding; expects eval mode."""
        assert self.vocabulary is not None
        device = batch.video[0].device
        with torch.autocast(device.type, self.cast_to, enabled=self.cast_to is not None):
            memory_BME = self.video(batch.video)
            return generate(
                lambda memory_RME: DecoderState(self.language, memory_RME),
                memory_BME,
                self.vocabulary,
                self.spec.decoding,
                self.spec.language.longest,
                [(seed, key) for key in batch.key],
            )

    def state(self) -> dict[str, Tensor]:
        return {} if self.vocabulary is None else {_TOKENIZER: self.vocabulary.to_tensor()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        vocabulary = Vocabulary.of_tensor(state[_TOKENIZER])
        if len(vocabulary) > self.spec.language.vocabulary:
            raise ValueError(f"a tokenizer of {len(vocabulary)} tokens, expected {self.spec.language.vocabulary}")
        self.vocabulary = vocabulary

    def health_rules(self) -> Sequence[HealthRule]:
        return _RULES

    def _tokenise(self, captions: Sequence[str]) -> TokenisedCaptions:
        longest = self.spec.language.longest
        if self.vocabulary is None:  # a trial step, where only shapes matter: captions of the maximum length
            length = longest + 2
            return TokenisedCaptions(torch.zeros(len(captions), length, dtype=torch.int64), [length] * len(captions), 0)
        return self.vocabulary.write(captions, longest)


class TokenLosses(NamedTuple):
    """A language model's predictions for given captions (teacher forcing)."""

    nll_B: Tensor  # mean nll of a caption's tokens; 0 where there is no caption
    is_right_BL: Tensor  # the most likely token is the right one
    counts_BL: Tensor  # whether it is a token of the caption or its end mark


def token_losses(language: Language, written: TokenisedCaptions, memory_BME: Tensor) -> TokenLosses:
    """Predict each token of the captions from those before it and from the memory."""
    tokens_BL = written.tokens_BL.to(memory_BME.device)
    token_counts_B = torch.tensor([max(length - 1, 0) for length in written.lengths_B], device=memory_BME.device)
    scores_BLV = language(tokens_BL[:, :-1], memory_BME)
    follows_BL = tokens_BL[:, 1:]
    counts_BL = torch.arange(follows_BL.shape[1], device=memory_BME.device) < token_counts_B[:, None]
    nll_BL = functional.cross_entropy(scores_BLV.float().transpose(1, 2), follows_BL, reduction="none")
    # Not multiplied by 0: values beyond a caption's end may be anything.
    nll_BL = torch.where(counts_BL, nll_BL, nll_BL.new_zeros(()))
    nll_B = nll_BL.sum(dim=1) / token_counts_B.clamp_min(1)
    return TokenLosses(nll_B, scores_BLV.detach().argmax(dim=2) == follows_BL, counts_BL)


_RULES = (
    HealthRule(
        figure="without_caption",
        side="above",
        limit=0.5,
        advice="More than half of the samples have no caption and contribute nothing to training. Check with trichord "
        "shards show; data.sources may be the wrong data set.",
    ),
    HealthRule(
        figure="cut",
        side="above",
        limit=0.2,
        advice="Many captions are longer than objective.language.longest and are cut. Raise it.",
    ),
)


class Memory(TaskBackbone):
    """A backbone, and the mapping of its tokens to the memory of the language model."""

    def __init__(self, backbone: Backbone, spec: CaptionSpec, reads_tokens: bool = False) -> None:
        super().__init__(backbone, spec.frozen, spec.trained)
        width = spec.language.dim
        self.spec, self.reads_tokens = spec, reads_tokens
        self.norm = nn.LayerNorm(backbone.dim) if spec.memory.layer_norm else None
        self.map = nn.Linear(backbone.dim, width) if spec.memory.mapping == "linear" else None
        if self.map is None and backbone.dim != width:
            raise UserError(
                f"objective.memory.mapping=none needs equal numbers of features: the backbone has {backbone.dim}, "
                f"the language model {width}. Set objective.memory.mapping=linear"
            )
        # Cross-attention does not know the order of clips, and a clip's tokens do not contain it.
        self.clip_embed = nn.Parameter(torch.zeros(spec.clip_count, width)) if spec.clip_count > 1 else None

    def tokens(self, clips: Sequence[Tensor]) -> Tensor:
        """Return tokens_BnLD of uint8 frames_BCTHW, one tensor for each clip of a video."""
        frames_NCTHW = self.spec.normalisation(torch.cat(list(clips)))
        with self.gradient_context():
            pooled_ND, grid_NtnD = self.backbone(frames_NCTHW, pooled_only=not self.spec.needs_grid)
        tokens_NLD = pooled_ND[:, None]
        if self.spec.needs_grid:
            tokens_NLD = torch.cat([tokens_NLD, grid_NtnD.flatten(1, 2)], dim=1)
        return torch.stack(tokens_NLD.chunk(len(clips)), dim=1)

    def forward(self, clips: Sequence[Tensor]) -> Tensor:
        """Return memory_BME of the clips of each video, or of their stored tokens with `reads_tokens`."""
        tokens_BnLD = clips[0] if self.reads_tokens else self.tokens(clips)
        if self.norm is not None:
            tokens_BnLD = self.norm(tokens_BnLD)
        seen_BnLE = tokens_BnLD if self.map is None else self.map(tokens_BnLD)
        if self.clip_embed is not None:
            seen_BnLE = seen_BnLE + self.clip_embed[:, None]
        memory_BME: Tensor = seen_BnLE.flatten(1, 2)
        return memory_BME


def prepare(config: FinetuneConfig, objective: Captioner) -> None:
    """Set the language model's vocabulary, and its published weights if any; all ranks must call it."""
    spec = objective.spec.language
    if spec.weights is None:
        vocabulary = learn_vocabulary(config, spec.vocabulary)
        lines = [f"language: random initial weights; tokenizer of {len(vocabulary)} tokens learnt from the captions"]
    else:
        vocabulary = Vocabulary.read(tokenizer_file(spec.weights))
        lines = load_language(objective.language, spec)
    if len(vocabulary) > spec.vocabulary:
        raise UserError(
            f"the tokenizer has {len(vocabulary)} tokens, but objective.language.vocabulary={spec.vocabulary}. Set "
            f"objective.language.vocabulary={len(vocabulary)}"
        )
    objective.vocabulary = vocabulary
    if rank() == 0:
        print("; ".join(lines), file=sys.stderr)


def learn_vocabulary(config: FinetuneConfig, size: int) -> Vocabulary:
    """Learn a tokenizer from all captions of the shards; each rank reads its share, and all learn the same one."""
    own = [plain(caption) for annotation in read_annotations(config) for caption in annotation.captions]
    captions = gather_texts(own)
    if not any(captions):
        roots = ", ".join(source.root for source in config.data.sources)
        raise UserError(
            f"{roots} has no captions to train on. Next: trichord shards show, which shows what clips have. Shards "
            "store captions in {key}.txt, or as captions in {key}.json"
        )
    return Vocabulary.learn(sorted(captions), size)
