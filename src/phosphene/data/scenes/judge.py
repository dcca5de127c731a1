"""Does a picture show what a prompt says? Verdicts on single pictures, and scores of many with interval and chance."""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from phosphene.data.scenes.draw import Scene
from phosphene.data.scenes.parse import parse
from phosphene.data.scenes.source import scene_of_mix
from phosphene.data.scenes.words import MOST, Spec, caption, read, stands
from phosphene.errors import Problem, unknown

CLEARLY = 8  # units, 1/16 of the side: so far at least a centre lies left of another to stand left of it


@dataclass(frozen=True)
class Verdict:
    """Which parts of a prompt hold of a picture; None for what the prompt does not say. True where all of them do.

    `clean`: nothing but known objects stands in it. `counts`: as many objects in all. `colours`, `shapes`: as
    many of each. `bound`: as many of each (colour, shape) pair. `sizes` and `relation` are judged where `bound` holds.
    """

    clean: bool
    counts: bool
    colours: bool
    shapes: bool
    bound: bool
    sizes: bool | None
    relation: bool | None
    found: Scene
    foreign: str | None = None

    def __bool__(self) -> bool:
        return all(v is not False for v in self.parts().values())

    def parts(self) -> dict[str, bool | None]:
        """{part: whether it holds}, without what was found."""
        return {name: getattr(self, name) for name in PARTS}


PARTS = ("clean", "counts", "colours", "shapes", "bound", "sizes", "relation")


def matches(prompt: Spec | str, picture: Any) -> Verdict:
    """Whether a picture (anything `parse` takes) shows exactly what the prompt says. Problem if it is no scene's."""
    reading = parse(picture)
    return judge(read(prompt) if isinstance(prompt, str) else prompt, reading.objects, reading.foreign)


def judge(spec: Spec, found: Scene, foreign: str | None = None) -> Verdict:
    """The verdict on objects already read."""
    wanted = [g for g in spec.groups for _ in range(g.count)]
    same = {
        part: Counter(getattr(g, part) for g in wanted) == Counter(getattr(o, part) for o in found)
        for part in ("colour", "shape")
    }
    pairs = Counter((g.colour, g.shape) for g in wanted) == Counter((o.colour, o.shape) for o in found)
    names_size = any(g.size for g in spec.groups)
    fits = [_fits(spec, order) for order in itertools.permutations(found)] if pairs else []
    sized = [relation for size, relation in fits if size]
    return Verdict(
        clean=foreign is None,
        counts=len(wanted) == len(found),
        colours=same["colour"],
        shapes=same["shape"],
        bound=pairs,
        sizes=bool(sized) if names_size else None,
        relation=any(sized or [r for _, r in fits]) if spec.relation else None,
        found=found,
        foreign=foreign,
    )


def _fits(spec: Spec, order: Scene) -> tuple[bool, bool]:
    """Whether sizes and relation hold if `order` is who is who: the first group's objects, then the second's, …"""
    wanted = [g for g in spec.groups for _ in range(g.count)]
    if any((g.colour, g.shape) != (o.colour, o.shape) for g, o in zip(wanted, order, strict=True)):
        return False, False
    first = spec.groups[0].count
    related = spec.relation is None or stands(spec.relation, list(order[:first]), list(order[first:]), CLEARLY)
    return all(g.size in (None, o.size) for g, o in zip(wanted, order, strict=True)), related


# ---------------------------------------------------------------- evaluation


class Kind(NamedTuple):
    """A kind of prompt: the groups' numbers, one of which is drawn; whether an unseen pair is in it."""

    mixes: tuple[tuple[int, ...], ...]
    unseen: bool
    about: str


KINDS = {
    "single": Kind(((1,),), False, "one object"),
    "pair": Kind(((1, 1),), False, "two different objects and where they stand"),
    "count": Kind(((2,), (3,), (4,)), False, "two to four like objects"),
    "unseen": Kind(((1,),), True, "one object of an unseen (colour, shape) pair"),
    "unseen-pair": Kind(((1, 1),), True, "two different objects, one of an unseen pair"),
}


def evaluation_scenes(kind: str, n: int, seed: int = 0) -> list[tuple[Spec, Scene]]:
    """n random specs of a kind, and for each a scene that is one. Half of the specs name the sizes."""
    if kind not in KINDS:
        raise unknown("kind of prompt", kind, KINDS)
    drawn = []
    for i in range(n):
        rng = random.Random(f"evaluate/{kind}/{seed}/{i}")
        spec, scene = scene_of_mix(rng, rng.choice(KINDS[kind].mixes), KINDS[kind].unseen)
        drawn.append((spec if rng.random() < 0.5 else spec.without_sizes(), scene))
    return drawn


def evaluate_prompts(kind: str, n: int, seed: int = 0, languages: Sequence[str] = ("en", "zh")) -> list[str]:
    """n random prompts of a kind ("single", "pair", "count", "unseen", "unseen-pair"), the languages taking turns."""
    specs = [spec for spec, _ in evaluation_scenes(kind, n, seed)]
    return [
        caption(spec, languages[i % len(languages)], random.Random(f"say/{kind}/{seed}/{i}"))
        for i, spec in enumerate(specs)
    ]


@functools.cache
def chance(kind: str, n: int = 1000) -> float:
    """How probable it is that a perfect picture of another random prompt of the kind satisfies a prompt of it.

    Measured on all n² pairs of n random prompts with n random scenes.
    """
    prompts, scenes = evaluation_scenes(kind, n, seed=-1), evaluation_scenes(kind, n, seed=-2)
    alike: dict[tuple, list[Scene]] = {}
    for _, scene in scenes:
        alike.setdefault(tuple(sorted((o.colour, o.shape) for o in scene)), []).append(scene)
    key = [tuple(sorted((g.colour, g.shape) for g in spec.groups for _ in range(g.count))) for spec, _ in prompts]
    hits = sum(bool(judge(spec, s)) for (spec, _), k in zip(prompts, key, strict=True) for s in alike.get(k, []))
    return hits / n**2


@dataclass(frozen=True)
class Score:
    """How many of n pictures show what their prompt says; `parts` has (held, said) for each part of a verdict."""

    hits: int
    n: int
    parts: dict[str, tuple[int, int]]
    chance: float | None = None

    @property
    def rate(self) -> float:
        return self.hits / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the rate."""
        return wilson(self.hits, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        beside = "" if self.chance is None else f"; chance {self.chance:.2%}"
        return f"{self.rate:.1%} of {self.n} (95 % interval {low:.1%} to {high:.1%}{beside})"


def score(prompts: Sequence[Spec | str], pictures: Sequence[Any], kind: str | None = None) -> Score:
    """Judges picture k by prompt k; `kind` puts its chance level beside. Problem if there are none, or not as many."""
    if not prompts or len(prompts) != len(pictures):
        raise Problem(
            f"score: {len(prompts)} prompts and {len(pictures)} pictures; as many of both, at least one, would be right"
        )
    verdicts = [matches(p, x) for p, x in zip(prompts, pictures, strict=True)]
    said = {part: [v for v in (getattr(v, part) for v in verdicts) if v is not None] for part in PARTS}
    parts = {part: (sum(values), len(values)) for part, values in said.items()}
    return Score(sum(map(bool, verdicts)), len(verdicts), parts, chance(kind) if kind else None)


def accepted(pictures: Sequence[Any]) -> Score:
    """How many of the pictures show some scene, one to four known objects and nothing else: what no prompt asks for."""
    readings = [parse(picture) for picture in pictures]
    hits = sum(r.foreign is None and 1 <= len(r.objects) <= MOST for r in readings)
    return Score(hits, len(readings), {})


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval for a rate of hits in n trials (Wilson 1927); z = 1.96 covers 95 %."""
    if not 0 <= hits <= n or n < 1:
        raise Problem(f"wilson: {hits} hits of {n}; 0 ≤ hits ≤ n with n ≥ 1 would be right")
    p, zz = hits / n, z * z
    middle = (p + zz / (2 * n)) / (1 + zz / n)
    half = z / (1 + zz / n) * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
