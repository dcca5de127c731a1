"""Byte-level BPE by the `tokenizers` library, trained on the captions: every text of every language can be written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer as Bpe
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from ..errors import Problem
from ..parts import part

START, END, PAD = "<start>", "<end>", "<pad>"


@part
class Tokenizer:
    """Texts → ids (B, L) and mask (B, L), padded to the longest. `table` is what `tokenizers` calls its JSON.

    A text becomes <start> … <end>; the null prompt is the empty text. One of more than `length` tokens is cut.
    """

    def __init__(self, table: str, length: int = 64):
        self.bpe = bpe_of(table)
        self.length = length
        self.start, self.end, self.pad = (self.bpe.token_to_id(t) for t in (START, END, PAD))

    @classmethod
    def train(cls, texts: Iterable[str], size: int = 4096, length: int = 64) -> Tokenizer:
        """Learn up to `size` tokens from `texts`: NFKC, lower case, byte-level BPE (Sennrich et al. 2016)."""
        bpe = Bpe(models.BPE())
        bpe.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        bpe.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=[PAD, START, END], initial_alphabet=alphabet, show_progress=False
        )
        bpe.train_from_iterator(texts, trainer)
        return cls(json.dumps(json.loads(bpe.to_str()), ensure_ascii=False), length)

    def __len__(self) -> int:
        return self.bpe.get_vocab_size()

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = [e.ids[: self.length - 2] for e in self.bpe.encode_batch(list(texts), add_special_tokens=False)]
        longest = max((len(r) for r in rows), default=0) + 2
        ids = torch.full((len(rows), longest), self.pad)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row) + 2] = torch.tensor([self.start, *row, self.end])
            mask[i, : len(row) + 2] = True
        return ids, mask

    def spans(self, text: str) -> list[tuple[int, int]]:
        """For each token of the text, <start> and <end> too, the characters it stands for: none for those two."""
        encoded = self.bpe.encode(text, add_special_tokens=False)
        return [(0, 0), *encoded.offsets[: self.length - 2], (0, 0)]


def bpe_of(table: str) -> Bpe:
    """What `tokenizers` makes of its JSON. Raises Problem where it is none."""
    try:
        return Bpe.from_str(table)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers raises bare Exception, and a panic of Rust is not even that
        raise Problem(f"tokenizer table is not one that tokenizers reads: {error}") from None
