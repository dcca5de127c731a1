"""GLIDE's words: GPT-2's byte-pair encoding in lower case, and a transformer trained with the pictures.

Nichol et al. 2021, §4.1: the last token's state joins the time, and all of them are attended to.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer as Bpe
from tokenizers import models, pre_tokenizers
from torch import Tensor, nn

from ..diffusion.cond import Cond
from ..errors import Problem
from ..nets.transformer import TextTransformer
from ..parts import part
from .encoders import Spans, words
from .prompt import Emphasised
from .tokenizer import bpe_of


@part
class GlideTokenizer:
    """Texts → ids and mask, filled up with the last token, <|endoftext|>. `table` is the JSON of `tokenizers`."""

    def __init__(self, table: str):
        self.bpe = bpe_of(table)

    @classmethod
    def from_folder(cls, folder: str | Path) -> GlideTokenizer:
        """Of encoder.json and vocab.bpe, as they are or gzipped. Raises Problem where they are not there, or none."""
        folder = Path(folder)
        vocabulary, lines = _read(folder, "encoder.json"), _read(folder, "vocab.bpe").split("\n")
        try:
            merges = [tuple(line.split()) for line in lines[1:] if line.strip()]
            bpe = Bpe(models.BPE(json.loads(vocabulary), merges))
        except Exception as error:  # tokenizers raises bare Exception
            raise Problem(f"{folder}: encoder.json and vocab.bpe do not fit together: {error}") from None
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return cls(bpe.to_str())

    def __len__(self) -> int:
        return self.bpe.get_vocab_size()

    def __call__(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Texts → ids (B, length), and mask (B, length), true where a text is; one that is longer is cut."""
        ids = torch.full((len(texts), length), len(self) - 1)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for i, text in enumerate(texts):
            row = self.bpe.encode(text.lower()).ids[:length]
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row, dtype=torch.long), True
        return ids, mask


@part
class GlideEncoder(nn.Module):
    """Prompts → vector (B, emb_dim) and tokens (B, L, width), all of them real: padding has embeddings of its own.

    Without a tokenizer it knows the null prompt only, which is padding alone.
    """

    def __init__(self, transformer: TextTransformer, emb_dim: int, tokenizer: GlideTokenizer | None = None):
        super().__init__()
        self.transformer, self.tokenizer = transformer, tokenizer
        self.padding = nn.Parameter(0.01 * torch.randn(transformer.length, transformer.width))
        self.proj = nn.Linear(transformer.width, emb_dim)

    def forward(self, prompts: Sequence[str | Emphasised | None]) -> Cond:
        texts, length = [words(p) for p in prompts], self.transformer.length
        if self.tokenizer is not None:
            return self.read(*self.tokenizer(texts, length))
        if any(texts):
            raise Problem(
                "this model has no tokenizer, which its file does not hold: give the folder with GLIDE's encoder.json "
                "and vocab.bpe when it is loaded, tokenizer=FOLDER"
            )
        return self.read(torch.zeros(len(texts), length, dtype=torch.long), torch.zeros(len(texts), length).bool())

    def spelled(self, text: str) -> tuple[str, Spans]:
        """The text as it is read, and for each token where its characters begin and end there: nowhere for padding."""
        text, length = text.lower(), self.transformer.length
        spans = [] if self.tokenizer is None else self.tokenizer.bpe.encode(text).offsets[:length]
        return text, spans + [(0, 0)] * (length - len(spans))

    def read(self, ids: Tensor, mask: Tensor) -> Cond:
        """ids and mask (B, L) → Cond."""
        net = self.transformer
        ids, mask = ids.to(net.position.device), mask.to(net.position.device)
        # padding stands in the place of token and position together
        given = torch.where(mask[..., None], net.token(ids), self.padding - net.position)
        states = net(ids, words=given)  # (B, L, D)
        return Cond(vector=self.proj(states[:, -1]), tokens=states)


def _read(folder: Path, name: str) -> str:
    for path, opened in ((folder / name, open), (folder / f"{name}.gz", gzip.open)):
        if path.is_file():
            try:
                with opened(path, "rt", encoding="utf-8") as file:
                    return file.read()
            except (OSError, EOFError, UnicodeDecodeError) as error:
                raise Problem(f"{path} cannot be read: {error}") from None
    raise Problem(f"{folder} has no {name}: GLIDE's tokenizer is encoder.json and vocab.bpe")
