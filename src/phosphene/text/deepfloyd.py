"""What Imagen makes of a frozen text encoder's states (Saharia et al. 2022, §2.1): pooled by attention into the time.

DeepFloyd's IF does it to T5's; with our own encoder it is what scenes.imagen is told.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.cond import Cond
from ..errors import Problem
from ..nets.attention import Attention, visible
from ..nets.layers import Conventions, TimeEmbedding
from ..parts import part
from ..systems.base import frozen
from .encoders import Spans


class Pool(nn.Module):
    """States (B, L, dim) → (B, out): their mean looks at them and at itself, by attention; norms before and behind.

    A mask (B, L) leaves padding out of both.
    """

    def __init__(self, dim: int, heads: int, out: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(out)
        self.position = nn.Parameter(torch.randn(dim) / dim**0.5)  # of the mean
        self.attn = Attention(dim, heads, bias=True)
        self.attn.to_out = nn.Linear(dim, out)

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.norm1(states)
        if mask is None:
            mean, bias = x.mean(1, keepdim=True), None
        else:
            real = mask[..., None].to(x)
            mean = (x * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
            bias = visible(F.pad(mask, (1, 0), value=True))
        mean = mean + self.position  # (B, 1, dim)
        return self.norm2(self.attn(mean, torch.cat([mean, x], dim=1), bias)[:, 0])


@part
class IfEncoder(nn.Module):
    """Prompts → vector (B, emb_dim) and tokens (B, L, context_dim), by `text`, a frozen encoder that makes states.

    dim, heads   of those states, and of the pooling
    context_dim  None: the tokens are the states as they are
    level        for upscalers: the step of the schedule, from 0, up to whose noise the small picture is noised; it
                 joins the vector as times do, by time_dim sinusoids. What is told where `forward` or `at` says no other
    padded       the padding is pooled, too, as IF does; else the pooling sees real tokens alone
    """

    def __init__(
        self,
        dim: int = 4096,
        emb_dim: int = 768,
        context_dim: int | None = None,
        heads: int = 64,
        level: float | None = None,
        time_dim: int = 192,
        how: Conventions | None = None,
        text: nn.Module | None = None,
        padded: bool = True,
    ):
        super().__init__()
        self.dim, self.level, self.padded = dim, level, padded
        self.text = None if text is None else frozen(text)
        self.pool = Pool(dim, heads, emb_dim)
        self.proj = nn.Identity() if context_dim is None else nn.Linear(dim, context_dim)
        self.noised = None if level is None else TimeEmbedding(time_dim, emb_dim, None, how or Conventions(act="gelu"))

    @property
    def weighs(self) -> bool:
        return getattr(self.text, "weighs", False)

    def at(self, level: float) -> IfEncoder:
        """This encoder, its weights shared, telling another level of noise."""
        other = copy.copy(self)
        other.level = level
        return other

    def forward(self, prompts: Sequence, level: Tensor | None = None) -> Cond:
        """level (B,) in the place of the encoder's own."""
        if self.text is None:
            raise Problem(
                "this model reads T5's states, and its T5 is not there: when it is loaded, give the folder with "
                "text_encoder and tokenizer, text=FOLDER"
            )
        with torch.no_grad():
            said = self.text(prompts)
        return self.read(said.tokens, said.mask, level)

    def spelled(self, text: str) -> tuple[str, Spans]:
        """What `text`'s encoder says of a text: its tokens are T5's."""
        return self.text.spelled(text)

    def read(self, states: Tensor, mask: Tensor | None = None, level: Tensor | None = None) -> Cond:
        """States (B, L, dim) and their mask → Cond. level (B,) in the place of the encoder's own."""
        states = states.to(self.pool.position)
        vector = self.pool(states, None if self.padded else mask)
        if self.noised is not None:
            level = torch.full((len(states),), float(self.level)) if level is None else level
            vector = vector + self.noised(level.to(vector.device), len(states), None)
        return Cond(vector=vector, tokens=self.proj(states), mask=mask)
