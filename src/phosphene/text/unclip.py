"""What unCLIP's decoder is told (Ramesh et al. 2022, §2.1): words, and what a picture of them means, CLIP's z_i.

z_i goes in twice: projected and added to the time embedding, and as four more tokens beside those of the words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..diffusion.cond import Cond
from ..parts import part


class Meant(str):
    """Words, and what a picture of them means: `image_emb`, CLIP's embedding (dim,), or None, which tells nothing.

    Two of them are never equal: the same words may mean different pictures.
    """

    image_emb: Tensor | None

    def __new__(cls, words: str | None, image_emb: Tensor | None = None) -> Meant:
        made = super().__new__(cls, words or "")
        made.image_emb = image_emb
        return made

    __eq__, __ne__, __hash__ = object.__eq__, object.__ne__, object.__hash__


@part
class UnclipHead(nn.Module):
    """CLIP's picture embedding as vector and as `extra` tokens, its text's as vector, its text's states as tokens.

    dim is CLIP's, text_dim that of the words' vector and states, None: CLIP's; emb_dim the width of the U-Net's time
    embedding, context_dim of its tokens.
    """

    def __init__(
        self, dim: int = 768, emb_dim: int = 1280, context_dim: int = 1536, extra: int = 4, text_dim: int | None = None
    ):
        super().__init__()
        self.extra, text_dim = extra, text_dim or dim
        self.null = nn.Parameter(torch.zeros(dim))  # in the place of a picture embedding that is not told
        self.text, self.image = nn.Linear(text_dim, emb_dim), nn.Linear(dim, emb_dim)
        self.tokens = nn.Linear(dim, extra * context_dim)
        self.states, self.norm = nn.Linear(text_dim, context_dim), nn.LayerNorm(context_dim)

    def forward(self, image: Tensor | None, text: Tensor, states: Tensor, mask: Tensor | None = None) -> Cond:
        """image (B, dim) or None, text (B, text_dim), states (B, L, text_dim), mask (B, L) → extra + L tokens."""
        image = self.null.expand(len(text), -1) if image is None else image
        extra = self.tokens(image).unflatten(1, (-1, self.extra)).transpose(1, 2)  # (B, extra, D)
        return Cond(
            vector=self.text(text) + self.image(image),
            tokens=torch.cat([extra, self.norm(self.states(states))], dim=1),
            mask=None if mask is None else nn.functional.pad(mask, (self.extra, 0), value=True),
        )


@part
class ClipWords(nn.Module):
    """The words of a decoder that learned with CLIP's own: z_t as vector, the text tower's states as tokens (karlo)."""

    def __init__(self, clip: nn.Module):
        super().__init__()
        self.clip = clip

    def forward(self, prompts: Sequence[str | None]) -> Cond:
        said = self.clip.text(prompts)
        return replace(said, vector=self.clip.text_projection(said.vector))


@part
class UnclipEncoder(nn.Module):
    """Prompts, `Meant`s or words alone, → Cond.

    words   prompts → Cond of vector (B, text_dim) and tokens (B, L, text_dim), for the head; trained with the decoder
    unit    embeddings are of length 1, and brought to √dim, about unit variance; else they are as CLIP projects them
    """

    def __init__(self, words: nn.Module, head: UnclipHead, unit: bool = True):
        super().__init__()
        self.words, self.head, self.unit = words, head, unit

    def forward(self, prompts: Sequence[Meant | str | None]) -> Cond:
        said, null = self.words(prompts), self.head.null
        seen = [getattr(prompt, "image_emb", None) for prompt in prompts]
        scale = len(null) ** 0.5 if self.unit else 1
        image = torch.stack([null if z is None else scale * z.to(null) for z in seen])  # (B, dim)
        return self.head(image, said.vector, said.tokens, said.mask)
