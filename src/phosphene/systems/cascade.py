"""Cascades: systems made of systems. The first makes a small picture, each of the others a larger one of it.

GLIDE (Nichol et al. 2021) is one of two stages, both told the words; Ho et al. 2022 say why it pays. A stage is a
system of its own: it is trained, saved and loaded alone, and another one that fits may stand in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import Problem
from ..parts import again, part
from .base import Batch, Loss, Preview, Prompt, System
from .source import Source

EACH = ("steps", "guidance", "sampler", "spacing")  # what a list says to every stage
ALL = ("negative", "grammar", "clip_skip", "level")  # what every stage is told; the rest is the first one's


@part
class Cascade(System):
    """Stages from the smallest picture to the largest: a Ddpm, then Upscalers. Training one is training stages[i].

    Raises Problem where a stage is not made to enlarge what the stage before it makes.
    """

    def __init__(self, stages: Sequence[System]):
        super().__init__()
        if not stages:
            raise Problem("a cascade wants at least one stage")
        for before, stage in pairwise(stages):
            small = getattr(stage, "small", None)
            if small != before.size:
                takes = "enlarges nothing" if small is None else f"enlarges pictures of {small}"
                raise Problem(f"a stage that {takes} cannot follow one that makes pictures of {before.size} pixels")
        self.stages = nn.ModuleList(stages)
        self.size, self.likens = int(stages[-1].size), bool(getattr(stages[0], "likens", False))
        # what `generate` uses unless it is told otherwise: what one turns is the first stage's
        self.steps, self.guidance, self.sampler, self.spacing = (getattr(stages[0], name) for name in EACH)
        self.guides = getattr(stages[0], "guides", None)  # what steers, steers the first stage

    def swapped(self, index: int, stage: System) -> Cascade:
        """A cascade with another stage in the place of stages[index]; the others are shared with this one."""
        stages = list(self.stages)
        stages[index] = stage
        return again(self, stages=stages)

    @property
    def denoiser(self) -> Any:
        """The first stage's, on whose schedule guides are asked."""
        return self.stages[0].denoiser

    @property
    def multiple(self) -> int:
        """What both sides of a picture, in pixels, must divide by."""
        return max(int(stage.multiple) * self.size // int(stage.size) for stage in self.stages)

    @property
    def turns(self) -> dict[str, list[nn.Parameter]]:
        """None. Raises Problem: the stages have nothing to do with each other's weights."""
        raise Problem("a cascade is trained stage by stage: train system.stages[0], system.stages[1], …")

    def loss(self, batch: Batch, turn: str = "model") -> Loss:
        """Raises Problem, as `turns` does."""
        raise Problem("a cascade has no loss of its own: its stages have, system.stages[0], system.stages[1], …")

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        seeds: Sequence[int],
        size: tuple[int, int] | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        **how: Any,
    ) -> Iterator[Preview]:
        """Pictures for the prompts: a Preview a step of every stage, one stage after the other; the last is the result.

        A stage's noise is a function of the seed and of the stage's name, so each makes what it makes alone.
        size    (height, width) of what the last stage makes; None is the trained size, or the image's
        image, mask   as Ddpm.generate takes them, at the full size: the first stage edits the picture made smaller, and
                what the mask keeps is kept by every stage. A first stage that likens is told the image as it is,
                of any size, and knows no mask
        how     steps, guidance, sampler, spacing: one value is the first stage's, and a list has one a stage (None: its
                own). level: one value is every upscaler's (systems/imagen.py), and a list has one for each of them.
                negative, grammar and clip_skip are every stage's, and all else is the first one's
        Raises Problem for a list of another length, for hires, and for what a stage raises it.
        """
        if how.get("hires", 1) != 1:
            raise Problem("hires: a cascade makes its pictures larger by its own stages")
        if mask is not None and (image is None or self.likens):
            raise Problem("a mask is of a picture that is edited: give it as image, to a cascade that does not liken")
        source = None if image is None else Source(image, mask)
        size = size or ((self.size, self.size) if source is None or self.likens else source.size)
        preview = None
        for k, stage in enumerate(self.stages):
            sides = self._inside(stage, size)
            if k == 0:
                given = {} if source is None else self._edited(source, sides)
            else:
                given = {"image": preview.picture()}
                if source is not None and source.mask is not None:
                    given |= _reduced(source, sides, "picture")
            for preview in stage.generate(prompts, seeds=seeds, size=sides, **given, **self._said(k, how)):
                yield preview

    def _said(self, k: int, how: dict[str, Any]) -> dict[str, Any]:
        """What of the options is stage k's."""
        its = {name: value for name, value in how.items() if k == 0 or name in ALL}
        if "level" in its and len(self.stages) > 1:
            levels = its.pop("level")
            if isinstance(levels, (list, tuple)):
                if len(levels) != len(self.stages) - 1:
                    raise Problem(f"level={list(levels)}: one, or one for each of {len(self.stages) - 1} upscalers")
                levels = levels[k - 1]
            its |= {"level": levels} if k else {}
        for name in EACH:
            value = how.get(name)
            if isinstance(value, (list, tuple)):
                if len(value) != len(self.stages):
                    raise Problem(f"{name}={list(value)}: one value, or one for each of {len(self.stages)} stages")
                its[name] = value[k]
        return its

    def _inside(self, stage: System, size: tuple[int, int]) -> tuple[int, int]:
        """The size of a stage's picture where the last one's is `size`."""
        its = int(stage.size)
        if any(side * its % self.size for side in size):
            raise Problem(f"size {size[0]}x{size[1]}: both sides must be multiples of {self.multiple} pixels here")
        return size[0] * its // self.size, size[1] * its // self.size

    def _edited(self, source: Source, size: tuple[int, int]) -> dict[str, Any]:
        """What the first stage starts from."""
        return {"image": source.picture} if self.likens else _reduced(source, size, "image")


def _reduced(source: Source, size: tuple[int, int], name: str) -> dict[str, Tensor]:
    """The picture at `size`, by the mean of its pixels, and where any of them is redrawn."""
    if (source.picture.shape[2] < size[0]) or (source.picture.shape[3] < size[1]):
        raise Problem(f"a picture of {source.size[1]}x{source.size[0]} pixels is too small for this cascade")
    given = {name: F.interpolate(source.picture, size=size, mode="area")}
    if source.mask is not None:
        given["mask"] = F.adaptive_max_pool2d(source.mask, size)
    return given
