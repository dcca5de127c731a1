"""phosphene generate: pictures of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from phosphene.cli.making import SHARED, make, quiet_threads, read_size, slug
from phosphene.cli.options import parse


def main(argv: Sequence[str]) -> None:
    own, sampling, using, place = parse(argv, "phosphene generate", generate, *SHARED)
    quiet_threads()
    from phosphene.request import rows

    walk = own["variation_seed"], own["variation_strength"], own["between"]
    pairs = rows(own["prompts"], sampling.pop("seed"), sampling.pop("n"), *walk)
    options = {
        **sampling,
        **{name: own[name] for name in ("hires", "hires_strength", "level")},
        "size": read_size(own["size"]),
    }
    make(pairs, options, using, **place, name=_way(pairs) if own["between"] else _name)


def generate(
    *prompts: str,
    size: str | None = None,
    hires: float | None = None,
    hires_strength: float | None = None,
    level: float | None = None,
    variation_seed: int | None = None,
    variation_strength: float = 0.0,
    between: int = 0,
):
    """Makes pictures of prompts, in English or Chinese: phosphene generate "a smiling cat" --seed 7

    Prompts and seeds pair up ("fox" "pizza" --seed 4 5 are two pictures, in one batch), or one goes with all others.
    Every PNG carries how it was made.

    prompts    what to draw
    size       in pixels: 64, or WIDTHxHEIGHT
    hires      2 draws it, then draws it again, from what was drawn, at twice the size
    hires_strength  how much the second drawing may change, above 0 and at most 1; half if not given
    level      of Imagen's upscalers: how noisy their small picture is made, from 0, which is believed, to 1
    variation_strength  how far to go from the seed to another: 0.1 changes little, 1 is the other. -n 4 are 4 such ways
    variation_seed  the other seed, and of -n pictures the first one's; drawn at random if not given
    between    so many pictures on the way from each prompt or seed to the next: "fox" "cat" --seed 4 --between 8
    """


def _name(_: int, made: Any) -> str:
    told = made.receipt
    towards = f"-to-{told['variation_seed']}" if "variation_seed" in told else ""
    return f"{slug(told['prompt'])}-{told['seed']}{towards}"


def _way(pairs: Sequence[tuple[Any, Any]]):
    """Names of the pictures on a way: they sort in its order."""
    (first, a), (last, b) = pairs[0], pairs[-1]
    where = f"{slug(first)}-{a}-to-{slug(last)}-{b}"
    return lambda i, _: f"{where}-{i + 1:0{len(str(len(pairs)))}d}"
