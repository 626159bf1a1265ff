"""Tokenizer of captions, of GPT-2's kind: a published one, or one learnt from captions.

Byte-level pair encoding (Radford et al. 2019, section 2.2): any text can be encoded, and decoding restores it. The same
mark precedes the first token and follows the last, as in GPT-2's own training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from trichord.core.errors import UserError
from trichord.core.reading import read_bytes, reason

MARK = "<|endoftext|>"
_MOST_BYTES = 1 << 26


class TokenisedCaptions(NamedTuple):
    """Captions of a batch as tokens, each with the mark before it and, unless it was cut, after it."""

    tokens_BL: Tensor  # padded with the mark; values beyond a caption's length have no meaning
    lengths_B: list[int]  # including the marks; 0 where there is no caption
    cut: int  # number of captions that were cut


class Vocabulary:
    """A tokenizer and the token of its mark."""

    def __init__(self, tokenizer: Tokenizer, origin: str) -> None:
        mark = tokenizer.token_to_id(MARK)
        if mark is None:
            raise UserError(f"{origin} has no token {MARK}; expected GPT-2's tokenizer or one of its kind")
        tokenizer.encode_special_tokens = True  # the mark's name within a caption is ordinary text
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer, self.mark = tokenizer, int(mark)
        self._size = 1 + max(tokenizer.get_vocab().values())  # a file may leave out some

    def __len__(self) -> int:
        return self._size

    @classmethod
    def learn(cls, captions: Iterable[str], size: int) -> Vocabulary:
        """Learn which pairs to merge, the most frequent first; few captions yield fewer than `size` tokens."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=[MARK], initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(captions, trainer)
        return cls(tokenizer, "the learnt tokenizer")

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Read a tokenizer.json."""
        try:
            return cls._parse(read_bytes(path, _MOST_BYTES), str(path))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} is not a tokenizer ({reason(error)}); expected the tokenizer.json that save_pretrained writes"
            ) from error

    @classmethod
    def of_tensor(cls, bytes_N: Tensor) -> Vocabulary:
        """Restore a vocabulary from the bytes that `to_tensor` returned; raise ValueError for others."""
        return cls._parse(bytes_N.numpy().tobytes(), "the checkpoint's tokenizer")

    @classmethod
    def _parse(cls, content: bytes, origin: str) -> Vocabulary:
        text = content.decode()
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises no class of its own
            raise ValueError(str(error).partition("\n")[0][:200]) from error
        return cls(tokenizer, origin)

    def to_tensor(self) -> Tensor:
        """Return the whole tokenizer as bytes, to be saved in a checkpoint."""
        return torch.from_numpy(np.frombuffer(self._tokenizer.to_str().encode(), dtype=np.uint8).copy())

    def write(self, captions: Sequence[str], longest: int) -> TokenisedCaptions:
        """Encode captions into at most `longest` tokens each."""
        encoded = [each.ids for each in self._tokenizer.encode_batch([plain(caption) for caption in captions])]
        rows = [
            [self.mark, *ids[:longest], *([self.mark] if len(ids) <= longest else [])] if ids else [] for ids in encoded
        ]
        width = max(2, *(len(row) for row in rows)) if rows else 2
        tokens_BL = torch.tensor([row + [self.mark] * (width - len(row)) for row in rows], dtype=torch.int64)
        return TokenisedCaptions(tokens_BL, [len(row) for row in rows], sum(len(ids) > longest for ids in encoded))

    def read_out(self, tokens: Sequence[int]) -> str:
        """Return the text of the tokens before the first mark."""
        end = tokens.index(self.mark) if self.mark in tokens else len(tokens)
        return plain(self._tokenizer.decode(list(tokens[:end]), skip_special_tokens=False))


def plain(caption: str) -> str:
    """Return a caption with its words separated by single spaces."""
    return " ".join(caption.split())
