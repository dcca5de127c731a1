"""Cond: all that a network can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cond:
    """A batch of conditions; a field that is None says nothing.

    vector  (B, D)        joins the time embedding: class, CLIP embedding, size, augmentation level
    tokens  (B, L, D)     attended to: text, layout, CLIP's context tokens
    mask    (B, L)        bool, which tokens are real (None: all of them)
    image   (B, C, H, W)  concatenated to x, at x's size: low-resolution or masked picture
    regions (B, L, h, w)  added to the cross-attention scores: paint with words
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    image: Tensor | None = None
    regions: Tensor | None = None

    def map(self, f) -> Cond:
        """Every tensor t replaced by f(t)."""
        return replace(self, **{k: f(v) for k, v in self._given().items()})

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Cond:
        """Every tensor moved to `device`, and the floating ones (all but the mask) cast to `dtype`; None: as it is."""
        return self.map(lambda v: v.to(device=device, dtype=dtype if v.is_floating_point() else None))

    def __len__(self) -> int:
        """The batch size B; 0 where nothing is said."""
        return next((len(v) for v in self._given().values()), 0)

    def __getitem__(self, rows) -> Cond:
        return self.map(lambda v: v[rows])

    def expand(self, n: int) -> Cond:
        """A Cond of one row repeated for n; a Cond of n rows as it is."""
        return self if len(self) in (0, n) else self.map(lambda v: v.expand(n, *v.shape[1:]))

    def merged(self, other: Cond) -> Cond:
        """What either says; a field that both have is the other's."""
        return replace(self, **other._given())

    @property
    def length(self) -> int:
        """The number of tokens L, padding among them; 0 where there are none."""
        return 0 if self.tokens is None else self.tokens.shape[1]

    def padded(self, multiple: int) -> Cond:
        """With as many tokens as a multiple of that; as it is where no mask could say which ones are real."""
        return self if self.mask is None else self._padded(-(-self.length // multiple) * multiple)

    @staticmethod
    def cat(conds: Sequence[Cond]) -> Cond:
        """One batch after the other. Tokens are padded to the longest, and the mask completed.

        Raises ValueError where one Cond has a field that another lacks.
        """
        longest = max((c.length for c in conds), default=0)
        padded = [c._padded(longest) for c in conds]
        if any(c.mask is not None for c in padded):
            padded = [c._masked() for c in padded]
        names = [set(c._given()) for c in padded]
        if any(n != names[0] for n in names):
            raise ValueError(f"Conds with different fields cannot be one batch: {[sorted(n) for n in names]}")
        return Cond(**{k: torch.cat([getattr(c, k) for c in padded]) for k in names[0]})

    def _given(self) -> dict[str, Tensor]:
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}

    def _masked(self) -> Cond:
        if self.tokens is None or self.mask is not None:
            return self
        return replace(self, mask=torch.ones(self.tokens.shape[:2], dtype=torch.bool, device=self.tokens.device))

    def _padded(self, length: int) -> Cond:
        if self.tokens is None or self.tokens.shape[1] == length:
            return self
        extra = length - self.tokens.shape[1]
        full = self._masked()
        pad = torch.nn.functional.pad
        regions = None if self.regions is None else pad(self.regions, (0, 0, 0, 0, 0, extra))
        return replace(
            full, tokens=pad(full.tokens, (0, 0, 0, extra)), mask=pad(full.mask, (0, extra)), regions=regions
        )
