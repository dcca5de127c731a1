"""Exact accuracy on `scenes`: which parts of a prompt the pictures got right, by the parser and not by a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..data.scenes import score, wilson
from ..data.scenes.source import UNSEEN
from ..data.scenes.words import Spec, read
from .interval import Interval

SAID = {
    "clean": "nothing foreign",
    "counts": "count",
    "colours": "colour",
    "shapes": "object",
    "bound": "colour and object together",
    "sizes": "size",
    "relation": "relation",
}


def composition(prompts: Sequence[Spec | str], pictures: Sequence[Any]) -> dict[str, tuple[Interval, int]]:
    """{what: (share of the pictures that have it right, of how many prompts that say it)}, with Wilson's intervals.

    "all" is the whole prompt; then each part that some prompt says; "unseen pairs" is the whole prompt, of those with
    a (colour, object) pair that the training set has not. Pictures are what `data.scenes.parse` takes.
    """
    specs = [read(p) if isinstance(p, str) else p for p in prompts]
    whole = score(specs, pictures)
    found = {"all": (whole.hits, whole.n)} | {SAID[part]: counts for part, counts in whole.parts.items() if counts[1]}
    rare = [i for i, s in enumerate(specs) if any((g.colour, g.shape) in UNSEEN for g in s.groups)]
    if rare:
        some = score([specs[i] for i in rare], [pictures[i] for i in rare])
        found["unseen pairs"] = some.hits, some.n
    return {what: (Interval(hits / n, *wilson(hits, n)), n) for what, (hits, n) in found.items()}
