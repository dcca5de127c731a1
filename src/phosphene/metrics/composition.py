"""Exact accuracy on `scenes`: which parts of a prompt the pictures got right, by the parser and not by a network."""

from __future__ import annotations

from collections.abc import Sequence

from ..data.scenes import Verdict, wilson
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


def composition(prompts: Sequence[Spec | str], verdicts: Sequence[Verdict]) -> dict[str, tuple[Interval, int]]:
    """{what: (share of the pictures that have it right, of how many prompts that say it)}, with Wilson's intervals.

    "all" is the whole prompt; then each part that some prompt says; "unseen pairs" is the whole prompt, of those with
    a (colour, object) pair that the training set has not. Verdicts are `data.scenes.matches` of prompt and picture.
    """
    held: dict[str, list[bool]] = {"all": [bool(v) for v in verdicts]}
    for part, said in SAID.items():
        held[said] = [judged for v in verdicts if (judged := getattr(v, part)) is not None]
    specs = [read(p) if isinstance(p, str) else p for p in prompts]
    rare = [any((g.colour, g.shape) in UNSEEN for g in spec.groups) for spec in specs]
    held["unseen pairs"] = [bool(v) for v, is_rare in zip(verdicts, rare, strict=True) if is_rare]
    return {what: (Interval(sum(of) / len(of), *wilson(sum(of), len(of))), len(of)) for what, of in held.items() if of}
