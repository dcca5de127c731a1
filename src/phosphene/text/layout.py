"""Layouts: prompts that say what stands where, as boxes with labels, and their encoder (Rombach et al. 2022, §4.3.1).

A layout is written `red circle 0.1,0.2,0.5,0.6; blue square 0.6,0.1,0.9,0.4`: each object's label, then its box's left,
top, right and bottom edges as shares of the picture's sides, from its upper left corner.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..diffusion.cond import Cond
from ..errors import Problem, unknown
from ..nets.attention import visible
from ..nets.transformer import Block
from ..parts import part

LOOKS = "'red circle 0.1,0.2,0.5,0.6; …', left, top, right and bottom as shares of the sides, would be right"


@dataclass(frozen=True, order=True)
class Box:
    """An object's label and its box: edges as shares of the picture's sides, x to the right and y down."""

    label: str
    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self):
        if not (0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1):
            raise Problem(f"box {self}: edges from 0 to 1, left before right and top above bottom, were expected")

    @property
    def edges(self) -> tuple[float, float, float, float]:
        return self.left, self.top, self.right, self.bottom

    def overlap(self, other: Box) -> float:
        """Intersection over union, from 0 (apart) to 1 (the same)."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        both = max(width, 0.0) * max(height, 0.0)
        areas = [(b.right - b.left) * (b.bottom - b.top) for b in (self, other)]
        return both / (sum(areas) - both)

    def __str__(self) -> str:
        return f"{self.label} {','.join(format(edge, '.5g') for edge in self.edges)}"


@dataclass(frozen=True)
class Layout:
    """Boxes with labels; their order says nothing."""

    boxes: tuple[Box, ...]

    @classmethod
    def read(cls, text: str) -> Layout:
        """The layout that is written so; `str` writes it. Problem where it is none."""
        boxes = []
        for said in filter(None, (one.strip() for one in text.split(";"))):
            found = re.fullmatch(r"(.*\S)\s+([-+.\de]+)\s*,\s*([-+.\de]+)\s*,\s*([-+.\de]+)\s*,\s*([-+.\de]+)", said)
            try:
                edges = [float(edge) for edge in found.groups()[1:]] if found else []
            except ValueError:
                edges = []
            if not edges:
                raise Problem(f"layout: {said!r} is no box; {LOOKS}")
            boxes.append(Box(found[1], *edges))
        return cls(tuple(boxes))

    def __str__(self) -> str:
        return "; ".join(map(str, self.boxes))


@part
class LayoutEncoder(nn.Module):
    """Layouts → tokens (B, 1 + objects, width), and as vector the mean of the real ones: τ_θ for boxes.

    A token is the sum of its label's words' embeddings, so that a pair never seen is its two words, and a linear map
    of its four edges' sines and cosines. The first stands for the layout as a whole, or for the null prompt. A
    transformer without positions lets them see each other: no order is told.

    words  that labels are made of;  most  objects that a layout may have
    """

    WAVES = 6  # sines of 2^k·π·edge

    def __init__(self, words: Sequence[str], width: int = 128, layers: int = 2, heads: int = 4, most: int = 8):
        super().__init__()
        self.words, self.width, self.most = list(words), width, most
        self.word = nn.Embedding(len(self.words), width)
        self.box = nn.Linear(8 * self.WAVES, width)
        self.whole = nn.Parameter(0.02 * torch.randn(2, width))  # the null prompt, a layout
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.word.weight, std=0.5)

    def forward(self, prompts: Sequence[Layout | str | None]) -> Cond:
        """Raises Problem for what is no layout, a label's word that is not known, and more than `most` boxes."""
        layouts = [self.layout(p) for p in prompts]
        longest = max(0 if it is None else len(it.boxes) for it in layouts)
        device = self.whole.device
        edges = torch.zeros(len(layouts), longest, 4)
        bags = torch.zeros(len(layouts), longest, len(self.words))
        mask = torch.zeros(len(layouts), 1 + longest, dtype=torch.bool)
        for i, it in enumerate(layouts):
            boxes = () if it is None else sorted(it.boxes)  # so that their order changes no bit either
            mask[i, : 1 + len(boxes)] = True
            for j, box in enumerate(boxes):
                edges[i, j] = torch.tensor(box.edges)
                bags[i, j, self.ids(box.label)] = 1
        whole = self.whole[[int(it is not None) for it in layouts]]
        mask = mask.to(device)
        objects = bags.to(device) @ self.word.weight + self.box(self.waves(edges.to(device)))
        x, bias = torch.cat([whole[:, None], objects.to(whole.dtype)], dim=1), visible(mask)  # (B, 1 + L, D)
        for block in self.blocks:
            x = block(x, bias)
        tokens, real = self.norm(x), mask[..., None]
        return Cond(vector=(tokens * real).sum(1) / real.sum(1), tokens=tokens, mask=mask)

    def layout(self, prompt: Layout | str | None) -> Layout | None:
        """The layout that a prompt is or writes; None for the null prompt."""
        if isinstance(prompt, str):
            prompt = Layout.read(prompt) if prompt.strip() else None
        if prompt is not None and not isinstance(prompt, Layout):
            raise Problem(f"prompt {prompt!r} is a {type(prompt).__name__}; this model wants a layout: {LOOKS}")
        if prompt is not None and len(prompt.boxes) > self.most:
            raise Problem(f"layout: {len(prompt.boxes)} boxes; this model takes {self.most} at most")
        return prompt

    def ids(self, label: str) -> list[int]:
        """The numbers of a label's words."""
        for word in label.split():
            if word not in self.words:
                raise unknown(f"word in the label {label!r}:", word, self.words)
        return [self.words.index(word) for word in label.split()]

    def waves(self, edges: Tensor) -> Tensor:
        """(…, 4) → sines and cosines of 2^k·π·edge, k = 0 …: (…, 8·WAVES)."""
        angles = edges[..., None] * (math.pi * 2.0 ** torch.arange(self.WAVES, device=edges.device))
        return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
