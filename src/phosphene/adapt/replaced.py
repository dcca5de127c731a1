"""Words by textual inversion, and another autoencoder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import Problem
from ..parts import part
from ..systems.base import frozen
from ..weights import embedding, vae
from ..weights.low_rank import WIDTHS
from .worn import Worn


@part
class Word(Worn, nn.Module):
    """Textual inversion on a system: its encoder reads the word `name` as `count` vectors of a file."""

    kind = "embedding"

    def __init__(self, count: int, width: int):
        super().__init__()
        self.register_buffer("vectors", torch.empty(count, width))

    @classmethod
    def of(cls, vectors: Tensor) -> Word:
        """The word of vectors (n, width)."""
        word = cls(*vectors.shape)
        word.vectors = vectors
        return word

    def _on(self, system: nn.Module) -> None:
        self.words = system.encoder.words
        self.words[self.name] = self.vectors

    def _off(self) -> None:
        del self.words[self.name]


def teach(system: nn.Module, file: str | Path, word: str | None = None) -> Word:
    """Gives the system's encoder a word: `word`, by default what the file says (weights/embedding.py).

    Raises Problem where the encoder takes none, where its tokens are of another width, and for a word that it has.
    """
    found = embedding.read(file)
    encoder, wide = getattr(system, "encoder", None), found.vectors.shape[1]
    if not isinstance(getattr(encoder, "words", None), dict):
        raise Problem(
            f"{found.path} is a word for CLIP's text encoder, which this {type(system).__name__} does not have"
        )
    width = encoder.transformer.width
    if wide != width:
        whose = f", as in {WIDTHS[wide]}" if wide in WIDTHS else ""
        raise Problem(f"{found.path} has {wide} numbers a token{whose}; this model's tokens have {width}")
    word = word or found.trigger
    ids, known = encoder.tokenizer.ids(word), {trigger: encoder.tokenizer.ids(trigger) for trigger in encoder.words}
    if not ids:
        raise Problem(f"{found.path}: {word!r} is no word to CLIP's tokenizer; name another")
    for trigger in (trigger for trigger, theirs in known.items() if theirs == ids):
        raise Problem(f"{found.path}: {word!r} is a word already, {trigger!r}; name another, or remove it first")
    taught = Word.of(found.vectors)
    taught.put(system, word, found.path)
    return taught


@part
class Replaced(Worn):
    """Another autoencoder in the place of a system's own, which `remove` puts back."""

    kind = "vae"

    def __init__(self, autoencoder: nn.Module):
        self.autoencoder = frozen(autoencoder)

    def _on(self, system: nn.Module) -> None:
        self.system, self.own = system, system.autoencoder
        system.autoencoder = self.autoencoder

    def _off(self) -> None:
        self.system.autoencoder = self.own


def replace_autoencoder(system: nn.Module, file: str | Path) -> Replaced:
    """Puts the autoencoder of a file, or of the whole model in it, in the place of the system's.

    Raises Problem where it does not fit (vae.in_place_of).
    """
    other = vae.in_place_of(system, file)
    replaced = Replaced(other.to(system.device))
    replaced.put(system, Path(file).stem, Path(file) if Path(file).is_file() else None)
    return replaced
