"""Semantic maps: prompts that say of every pixel what stands there, and their encoder (Rombach et al. 2022, §4.3.2).

A map has a place for each place of the picture, so it is not attended to as tokens are: it is brought to x's size and
concatenated to x. Cross-attention is for what has no place (words, a class) or says its place itself (boxes).
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.cond import Cond
from ..errors import Problem, regular
from ..parts import part

LOOKS = "a grey or palette PNG whose values are the labels' numbers"
LARGEST = 4096  # pixels a side


@dataclass(frozen=True)
class LabelMap:
    """Every pixel's label, height × width numbers from 0 to 255, row by row."""

    height: int
    width: int
    labels: bytes

    def __post_init__(self):
        if len(self.labels) != self.height * self.width or not 0 < max(self.height, self.width) <= LARGEST:
            raise Problem(f"a map of {self.height}×{self.width} pixels and {len(self.labels)} labels")

    @classmethod
    def of(cls, labels: np.ndarray) -> LabelMap:
        """From numbers (H, W)."""
        return cls(labels.shape[0], labels.shape[1], labels.astype(np.uint8).tobytes())

    @classmethod
    def read(cls, text: str) -> LabelMap:
        """A file's map, or one as `str` writes it. Problem where it is none."""
        if found := re.fullmatch(r"(\d{1,4})x(\d{1,4}):([\w+/=]+)", text):
            width, height = int(found[1]), int(found[2])
            try:
                pixels = zlib.decompressobj().decompress(base64.b64decode(found[3]), width * height + 1)
            except (ValueError, zlib.error):
                raise Problem(f"map {text[:20]!r}… is damaged") from None
            return cls(height, width, pixels)
        regular(text)
        try:
            with Image.open(Path(text)) as image:
                mode, size = image.mode, image.size
                labels = np.asarray(image) if mode in ("L", "P") and max(size) <= LARGEST else None
        except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
            raise Problem(f"map {text!r} cannot be read; {LOOKS} was expected") from None
        if labels is None:
            raise Problem(f"{text}: a picture of mode {mode}, {size[0]}x{size[1]} pixels; {LOOKS} was expected")
        return cls.of(labels)

    @property
    def array(self) -> np.ndarray:
        """uint8 (H, W)."""
        return np.frombuffer(self.labels, np.uint8).reshape(self.height, self.width)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}:{base64.b64encode(zlib.compress(self.labels, 9)).decode()}"


@part
class MapEncoder(nn.Module):
    """Maps → image (B, labels + 1, side, side): in each place the share of each label; τ_θ here only counts.

    The last channel is 1 everywhere for the null prompt, whose labels are not known, and else 0.

    labels  their names, in the order of their numbers;  side  of x: the picture's over f
    """

    def __init__(self, labels: Sequence[str], side: int):
        super().__init__()
        self.labels, self.side = list(labels), side

    @property
    def shown(self) -> int:
        """How many channels the network is shown beside x."""
        return len(self.labels) + 1

    def forward(self, prompts: Sequence[LabelMap | str | None]) -> Cond:
        """Raises Problem for what is no map, and for a number that no label has."""
        return Cond(image=torch.stack([self.shares(p) for p in prompts]))

    def shares(self, prompt: LabelMap | str | None) -> Tensor:
        """One prompt's channels, (labels + 1, side, side)."""
        if isinstance(prompt, str):
            prompt = LabelMap.read(prompt) if prompt.strip() else None
        if prompt is None:
            return torch.cat([torch.zeros(len(self.labels), self.side, self.side), torch.ones(1, self.side, self.side)])
        if not isinstance(prompt, LabelMap):
            raise Problem(f"prompt {prompt!r} is a {type(prompt).__name__}; this model wants a map: {LOOKS}")
        labels = torch.from_numpy(prompt.array.astype(np.int64))
        if labels.max() >= len(self.labels):
            known = ", ".join(f"{i} {name}" for i, name in enumerate(self.labels))
            raise Problem(f"map: label {int(labels.max())} is unknown; known are {known}")
        each = F.one_hot(labels, self.shown).permute(2, 0, 1).float()
        return F.adaptive_avg_pool2d(each, self.side)
