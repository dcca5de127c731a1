"""Encoders: prompts → Cond. τ_θ of latent diffusion, one class a kind of prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..diffusion.cond import Cond
from ..errors import Problem
from ..nets.transformer import TextTransformer
from ..parts import part
from .prompt import Emphasised
from .tokenizer import Tokenizer

Spans = list[tuple[int, int]]


def told_to(encoder: object) -> str:
    """What an encoder is told of a row of data: "caption", "label" or "none"."""
    if encoder is None or isinstance(encoder, NoEncoder):
        return "none"
    return "label" if isinstance(encoder, ClassEncoder) else "caption"


@part
class TextEncoder(nn.Module):
    """Words by our own tokenizer and transformer: tokens (B, L, width), and as vector the mean of the real ones.

    Tokens are multiplied by the weights of an Emphasised prompt, and all of that prompt's then brought back to the
    size, the root of the mean square, that they had. BREAK is a space here.
    """

    weighs = True  # takes Emphasised

    def __init__(self, tokenizer: Tokenizer, transformer: TextTransformer):
        super().__init__()
        self.tokenizer, self.transformer = tokenizer, transformer

    @property
    def width(self) -> int:
        return self.transformer.width

    def forward(self, prompts: Sequence[str | Emphasised | None]) -> Cond:
        texts = [words(p) for p in prompts]
        device = self.transformer.position.device
        ids, mask = (t.to(device) for t in self.tokenizer(texts))
        tokens = self.transformer(ids, mask)  # (B, L, D)
        real = mask[..., None].to(tokens.dtype)
        if any(isinstance(p, Emphasised) and p.weighted for p in prompts):
            weights = token_weights(prompts, self.tokenizer.spans, tokens.shape[1])
            tokens = resized(tokens, tokens * weights.to(tokens)[..., None], root_mean_square(real))
        return Cond(vector=(tokens * real).sum(1) / real.sum(1), tokens=tokens, mask=mask)

    def spelled(self, text: str) -> tuple[str, Spans]:
        """The text as it is read, and for each token where its characters begin and end there: nowhere for some."""
        return text, self.tokenizer.spans(text)


@part
class ClassEncoder(nn.Module):
    """A class number → vector (B, width); the null prompt has a row of its own, the last, unless `null` is False.

    With `tokens` also as one token to attend to, (B, 1, width): so a class reaches cross-attention as words do.
    """

    def __init__(
        self, classes: int, width: int, names: Sequence[str] | None = None, null: bool = True, tokens: bool = False
    ):
        super().__init__()
        self.tokens = tokens
        self.classes, self.width, self.names, self.null = classes, width, list(names or []), null
        self.embedding = nn.Embedding(classes + null, width)

    def forward(self, prompts: Sequence[int | str | None]) -> Cond:
        rows = torch.tensor([self._row(p) for p in prompts], device=self.embedding.weight.device)
        vector = self.embedding(rows)
        return Cond(vector=vector, tokens=vector[:, None] if self.tokens else None)

    def _row(self, prompt: int | str | None) -> int:
        if prompt is None or prompt == "":
            if not self.null:
                raise Problem(f"this model wants a class as its prompt, a number from 0 to {self.classes - 1}")
            return self.classes
        if prompt in self.names:
            return self.names.index(prompt)
        number = int(prompt) if str(prompt).isdigit() else -1
        if not 0 <= number < self.classes:
            known = f" or one of {', '.join(self.names)}" if self.names else ""
            raise Problem(f"class {prompt!r} is not one of 0 … {self.classes - 1}{known}")
        return number


@part
class NoEncoder(nn.Module):
    """For unconditional models: whatever the prompt, nothing is said."""

    def forward(self, prompts: Sequence[object]) -> Cond:
        return Cond()


def token_weights(prompts: Sequence[str | Emphasised | None], spans: Callable[[str], Spans], length: int) -> Tensor:
    """Each token's weight, (B, length): the mean of its characters', blanks aside; 1 for a token that has none.

    `spans` tells of each token of a text where its characters begin and end.
    """
    weights = torch.ones(len(prompts), length)
    for row, prompt in zip(weights, prompts):
        if isinstance(prompt, Emphasised) and prompt.weighted:
            text, of = prompt.characters()
            found = [[w for c, w in zip(text[a:b], of[a:b]) if not c.isspace()] or [1.0] for a, b in spans(text)]
            row[: len(found)] = torch.tensor([sum(ws) / len(ws) for ws in found])
    return weights


def resized(before: Tensor, after: Tensor, size: Callable[[Tensor], Tensor]) -> Tensor:
    """`after` (B, L, D), each row times the number that gives it the size of `before`; as it is where none does."""
    factor = size(before) / size(after)
    return after * torch.where(factor.isfinite(), factor, 1.0)


def root_mean_square(real: Tensor) -> Callable[[Tensor], Tensor]:
    """The size of rows of tokens, (B, 1, 1), over the real ones: real is (B, L, 1), 1 or 0."""
    return lambda x: ((x * real).square().sum((1, 2), keepdim=True) / real.sum((1, 2), keepdim=True)).sqrt()


def words(prompt: str | Emphasised | None) -> str:
    """The text of a prompt; the null prompt is the empty one. Problem for anything that is not words."""
    if prompt is None:
        return ""
    if isinstance(prompt, Emphasised):
        return str(prompt)
    if not isinstance(prompt, str):
        raise Problem(f"prompt {prompt!r} is a {type(prompt).__name__}; this model wants words")
    return prompt
