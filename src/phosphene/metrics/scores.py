"""All distances between two sets of pictures at once, with intervals and with what one should know before quoting."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..errors import Problem
from .inception_score import inception_score
from .interval import Interval, frechet_interval
from .kernel import kernel_distance
from .manifold import manifold_intervals
from .statistics import MADE_ALIKE, Statistics

LITTLE = 2048  # pictures below which a Fréchet distance is a rough figure
NEIGHBOURS = 5


@dataclass
class Scores:
    """frechet, kernel: distances, lower is better; the rest is higher is better. `notes`: what to know of them.

    manifold   precision, recall, density, coverage; empty where there are too few pictures
    """

    frechet: Interval
    kernel: Interval
    manifold: dict[str, Interval] = field(default_factory=dict)
    inception_score: Interval | None = None
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict:
        """As JSON has it."""
        found: dict = {"frechet": self.frechet._asdict(), "kernel": self.kernel._asdict(), "notes": self.notes}
        found |= {name: it._asdict() for name, it in self.manifold.items()}
        if self.inception_score:
            found["inception_score"] = self.inception_score._asdict()
        return found


def scores(made: Statistics, real: Statistics, classes: Tensor | None = None, seed: int = 0) -> Scores:
    """What is made against what is real. Raises Problem where the two were not made alike.

    The kernel distance's interval is ± its deviation over subsets; precision, recall, density and coverage are of the
    kept features, 5 neighbours; the inception score, of `classes` (Extractor), in 10 splits, ± its deviation.
    """
    for name in MADE_ALIKE:
        if made.about.get(name) != real.about.get(name):
            ours, theirs = made.about.get(name), real.about.get(name)
            raise Problem(f"{name} is {ours!r} on one side and {theirs!r} on the other: not comparable")
    kernel = kernel_distance(made.kept, real.kept, seed=seed)
    enough = min(len(made.kept), len(real.kept)) > NEIGHBOURS
    return Scores(
        frechet_interval(made.moments, made.kept, real.moments, seed=seed),
        _around(*kernel),
        manifold_intervals(real.kept, made.kept, NEIGHBOURS, seed=seed) if enough else {},
        None if classes is None else _around(*inception_score(made.kept @ classes.T, splits=min(10, len(made.kept)))),
        notes_of(made, real),
    )


def _around(mean: float, std: float) -> Interval:
    return Interval(mean, mean - std, mean + std)


def notes_of(made: Statistics, real: Statistics) -> list[str]:
    """What is too little to be trusted."""
    notes, dim = [], len(made.moments.mean)
    for what, n in (("made", made.n), ("real", real.n)):
        if n <= dim:
            notes.append(
                f"{n} {what} pictures for {dim} dimensions: their covariance is singular and the Fréchet distance "
                f"far too large; compare it only with others of exactly {n}, or quote the kernel distance"
            )
        elif n < LITTLE:
            notes.append(f"{n} {what} pictures: below {LITTLE} the Fréchet distance is clearly too large (bias ~ 1/n)")
    for what, it in (("made", made), ("real", real)):
        if it.n > len(it.kept):
            notes.append(f"{len(it.kept)} of {it.n} {what} features, drawn at random, were kept for all but Fréchet's")
    return notes
