"""From prompts to pictures: what the command line and `phosphene.generate` both do.

The loop is `System.generate`; here stand what goes around it: which seed goes with which prompt, the default model,
batches, pictures out of tensors, and what is written into each of them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from phosphene import receipt
from phosphene.errors import Problem
from phosphene.runtime import prepare_for_sampling
from phosphene.systems.base import Preview, Prompt
from phosphene.weights import bundle

BATCH = 16  # pictures at once; a picture does not depend on it
HIGHEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Made:
    """A picture and how it was made."""

    image: Image.Image
    receipt: dict[str, Any]


def generate(
    prompts: Prompt | Sequence[Prompt] = None,
    *,
    seed: int | Sequence[int] | None = None,
    n: int = 1,
    model: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    **options: Any,
) -> Image.Image | list[Image.Image]:
    """Pictures of the prompts: one picture as itself, several as a list.

    prompts  one or several; None where the model takes none
    seed     one or several: prompts and seeds pair up, or one of them goes with all of the others. None: drawn
    n        pictures of each pair, with seeds seed, seed + 1, …
    model    a shipped model's name, a bundle or a run's folder; None: the shipped one
    options  steps=, guidance=, sampler=, negative=, size=(height, width) and whatever else the model's system knows
    Raises Problem for what cannot be: no steps, seeds that do not fit, an unknown sampler, a size that does not divide.
    """
    listed = list(prompts) if isinstance(prompts, (list, tuple)) else [prompts]
    seeds = [] if seed is None else list(seed) if isinstance(seed, (list, tuple)) else [seed]
    pairs = paired(listed, seeds, n)
    made = list(Studio(model, device=device, precision=precision).make(pairs, options))
    return made[0].image if len(made) == 1 else [m.image for m in made]


def paired(prompts: Sequence[Prompt], seeds: Sequence[int], n: int = 1) -> list[tuple[Prompt, int]]:
    """(prompt, seed), one a picture. Raises Problem where the numbers of prompts and seeds do not fit."""
    prompts = list(prompts) or [None]
    if n < 1:
        raise Problem(f"n={n}: at least 1 picture is wanted")
    for seed in seeds:
        if not isinstance(seed, int) or not 0 <= seed <= HIGHEST_SEED - n:
            raise Problem(f"seed {seed!r}: a whole number from 0 to {HIGHEST_SEED - n} was expected")
    seeds = list(seeds) or [secrets.randbelow(2**32) for _ in prompts]
    if len(prompts) != len(seeds) and 1 not in (len(prompts), len(seeds)):
        raise Problem(f"{len(prompts)} prompts and {len(seeds)} seeds do not pair up: give as many, or one of either")
    rows = max(len(prompts), len(seeds))
    prompts = prompts * rows if len(prompts) == 1 else prompts
    seeds = seeds * rows if len(seeds) == 1 else seeds
    return [(prompt, seed + i) for prompt, seed in zip(prompts, seeds, strict=True) for i in range(n)]


class Studio:
    """A loaded model, ready to make pictures."""

    def __init__(self, model: str | Path | None = None, *, device: str = "auto", precision: str = "auto"):
        """Loads the model onto the device. Raises Problem where there is none, or where it makes no pictures."""
        self.path = bundle.find(default_model() if model is None else model)
        self.system = prepare_for_sampling(bundle.load(self.path), device, precision)
        if not hasattr(self.system, "generate"):
            raise Problem(f"{self.path} holds a {type(self.system).__name__}, which makes no pictures")
        self.origin = {
            "model": self.path.stem,
            "weights": bundle.fingerprint(self.path),
            "device": str(getattr(self.system, "device", "cpu")),
            "precision": precision,
        }

    def make(
        self,
        pairs: Sequence[tuple[Prompt, int]],
        options: dict[str, Any],
        watch: Callable[[int, Preview], None] = lambda first, preview: None,
    ) -> Iterator[Made]:
        """A picture for each (prompt, seed). `watch(first picture of the batch, preview)` sees every step."""
        options = {name: value for name, value in options.items() if value is not None}
        check(options)
        for first in range(0, len(pairs), BATCH):
            prompts, seeds = zip(*pairs[first : first + BATCH], strict=True)
            preview = None
            for preview in self.system.generate(list(prompts), seeds=list(seeds), **_each(options, len(seeds))):
                watch(first, preview)
            if preview is None:
                raise Problem(f"{self.path.name}: {type(self.system).__name__} made no picture")
            for image, prompt, seed in zip(to_images(preview.picture()), prompts, seeds, strict=True):
                yield Made(image, receipt.record(prompt, seed, image, self._settings(options)))

    def outside(self, prompt: Prompt) -> str | None:
        """A line saying that a prompt is outside of what the model knows; None where it is not, or cannot be said."""
        vocabulary = getattr(self.system, "vocabulary", None)
        if vocabulary is None or not isinstance(prompt, str):
            return None
        known, near = vocabulary(prompt)
        if known:
            return None
        hint = f"; nearest to it: {near}" if near else ""
        return f"{prompt!r} is outside the vocabulary of {self.path.stem}, so the picture is a guess{hint}"

    def _settings(self, options: dict[str, Any]) -> dict[str, Any]:
        """Everything that the pictures are a function of: what was said, else what the system chooses by itself."""
        own = {name: getattr(self.system, name, None) for name in ("sampler", "spacing", "steps", "guidance")}
        return {**own, **options, **self.origin}


def _each(options: dict[str, Any], n: int) -> dict[str, Any]:
    """A single negative prompt is that of every picture."""
    negative = options.get("negative")
    return {**options, "negative": [negative] * n} if isinstance(negative, (str, int)) else options


def default_model() -> str:
    """The name of the shipped model that is used where none is named. Raises Problem where none is shipped."""
    names = list(bundle.shipped())
    if not names:
        raise Problem("no model came with this installation: name one with --model FILE, or train one")
    return "emoji" if "emoji" in names else names[0]


def check(options: dict[str, Any]) -> None:
    """Problem for numbers that no system can take."""
    steps, size = options.get("steps"), options.get("size")
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise Problem(f"steps={steps}: a whole number of steps, at least 1, was expected")
    if size is not None and (len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size)):
        raise Problem(f"size={size}: (height, width) in pixels was expected")
    guidance = options.get("guidance")
    if guidance is not None and not abs(guidance) < 1e6:
        raise Problem(f"guidance={guidance}: a number such as 3 was expected; 1 is none")


def to_images(picture: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [−1, 1] → B pictures. Raises Problem where a network broke down into NaN."""
    if not picture.isfinite().all():
        raise Problem("the network returned NaN: try precision fp32, another sampler or less guidance")
    pixels = ((picture.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(p.squeeze(-1).numpy()) for p in pixels.permute(0, 2, 3, 1).cpu()]
