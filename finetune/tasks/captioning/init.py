"""What the language of captions starts from: published weights with their tokenizer, or a tokenizer that is learnt."""

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
    """Give the language model its vocabulary, and its weights if there are any; all ranks take part."""
    spec = objective.spec.language
    if spec.weights is None:
        vocabulary = learn_vocabulary(config, spec.vocabulary)
        lines = [f"language: drawn anew; a tokenizer of {len(vocabulary)} tokens was learnt from the captions"]
    else:
        vocabulary = Vocabulary.read(tokenizer_file(spec.weights))
        lines = load_language(objective.language, spec)
    if len(vocabulary) > spec.vocabulary:
        raise UserError(
            f"the tokenizer has {len(vocabulary)} tokens and objective.language.vocabulary={spec.vocabulary}. Set "
            f"objective.language.vocabulary={len(vocabulary)}"
        )
    objective.vocabulary = vocabulary
    if rank() == 0:
        print("; ".join(lines), file=sys.stderr)


def learn_vocabulary(config: FinetuneConfig, size: int) -> Vocabulary:
    """Learn a tokenizer from all captions of the shards; each rank reads its share, and all learn the same."""
    own = [plain(caption) for _, annotation in read_annotations(config) for caption in annotation.captions]
    captions = gather_texts(own)
    if not any(captions):
        roots = ", ".join(source.root for source in config.data.sources)
        raise UserError(
            f"{roots} has no captions, and there is nothing to learn from. trichord shards show shows what clips "
            "have; shards keep captions in {key}.txt, or as captions in {key}.json"
        )
    return Vocabulary.learn(sorted(captions), size)
