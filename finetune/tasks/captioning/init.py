"""Initialises the language model of captions: published weights with their tokenizer, or a learnt tokenizer."""

from __future__ import annotations

import sys

from trichord.core.errors import UserError
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.tasks.annotations import read_annotations
from trichord.finetune.tasks.captioning.hub import tokenizer_file
from trichord.finetune.tasks.captioning.language import load_language
from trichord.finetune.tasks.captioning.model import Captioner
from trichord.finetune.tasks.captioning.vocabulary import Vocabulary, plain
from trichord.pretrain.collectives import gather_texts, rank


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
    own = [plain(caption) for _, annotation in read_annotations(config) for caption in annotation.captions]
    captions = gather_texts(own)
    if not any(captions):
        roots = ", ".join(source.root for source in config.data.sources)
        raise UserError(
            f"{roots} has no captions to train on. Next: trichord shards show, which shows what clips have. Shards "
            "store captions in {key}.txt, or as captions in {key}.json"
        )
    return Vocabulary.learn(sorted(captions), size)
