"""The band of a recipe: where loss, gradient norm and score lie, step by step, in runs that are known to be sound.

Measured, never written by hand: `benchmarks/bands.py` trains a recipe with three seeds or more, and writes what they
gave to recipes/bands/NAME.json. The band is made from these values here:

    value at step s    the mean of the log's lines in (s − s/8, s], a line weighing as many steps as it covers;
                       a score is taken as it is
    x                  ln(value) where all are above 0, else, and of a score from 0 to 1, the value
    var_j              of x over the n seeds at step j of the grid, n − 1 below
    s_j²               √(a·b): a the mean of var over j and its two neighbours on either side, b that over all steps
    band at j          mean_j ± max(k(n)·s_j·√(1 + 1/n), floor), linear in log(step) between steps of the grid

Three seeds tell little of a variance at one step, so steps lend each other theirs. k(n) = 4 + 1/(n − 2) is chosen by
simulation, so that of sound runs at most one in fifty leaves the band of a metric anywhere (docs/bands.md).
The band of a score from 0 to 1 is within 0 … 1.
"""

from __future__ import annotations

import json
import math
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from phosphene.errors import Problem
from phosphene.training.settings import FREE

if TYPE_CHECKING:
    from phosphene.training.progress import Progress

FOLDER = Path(__file__).parents[1] / "recipes" / "bands"
FORMAT = 1
WINDOW = 1 / 8  # of the steps so far: what a value is the mean of
FLOOR = 0.02  # least half-width: of ln(value), or as a share of the largest mean
FIRST, RATIO = 20, 1.25  # the grid of steps: where it begins, how far apart they are
BESIDE = ("seed", "workers", "data")  # knobs that a band does not depend on; what data has is compared by itself


class Place(NamedTuple):
    """Where a value lies: `where` is "in", "above" or "below" the band from low to high."""

    value: float
    low: float
    high: float

    @property
    def where(self) -> str:
        return "above" if not self.value <= self.high else "below" if self.value < self.low else "in"

    def __str__(self) -> str:
        return f"{self.where} the band ({self.low:.3g} – {self.high:.3g})"


@dataclass(frozen=True)
class Curve:
    """What was measured of one metric: its `values` at each of `steps`, (steps, seeds)."""

    name: str
    steps: Sequence[int]
    values: Sequence[Sequence[float]]

    @cached_property
    def logarithmic(self) -> bool:
        return not self.share and min(map(min, self.values)) > 0

    @cached_property
    def share(self) -> bool:
        """Whether it is a score from 0 to 1."""
        return self.name.startswith("score/") and all(0 <= v <= 1 for row in self.values for v in row)

    @cached_property
    def edges(self) -> list[tuple[float, float]]:
        """(low, high) at each step."""
        x = [[math.log(v) for v in row] if self.logarithmic else list(row) for row in self.values]
        means, variances = [statistics.fmean(row) for row in x], [statistics.variance(row) for row in x]
        overall, n = statistics.fmean(variances), len(x[0])
        floor = FLOOR if self.logarithmic else FLOOR * max(map(abs, means))
        found = []
        for j, mean in enumerate(means):
            near = statistics.fmean(variances[max(0, j - 2) : j + 3])
            half = max(k_of(n) * math.sqrt(math.sqrt(near * overall) * (1 + 1 / n)), floor)
            found.append((mean - half, mean + half))
        if self.logarithmic:
            return [(math.exp(low), math.exp(high)) for low, high in found]
        return [(max(0.0, low), min(1.0, high)) for low, high in found] if self.share else found

    def at(self, step: float) -> tuple[float, float] | None:
        """(low, high) at any step between the first and the last; None outside."""
        if not self.steps[0] <= step <= self.steps[-1]:
            return None
        edges = self.edges
        j = min(bisect_right(self.steps, step) - 1, len(self.steps) - 2)
        if j < 0:  # a single step
            return edges[0]
        a, b = self.steps[j], self.steps[j + 1]
        u = math.log(step / a) / math.log(b / a)
        low, high = (p + (q - p) * u for p, q in zip(edges[j], edges[j + 1], strict=True))
        return low, high


def k_of(seeds: int) -> float:
    """How many standard deviations a band is wide to either side, of as many seeds."""
    return 4 + 1 / (seeds - 2)


@dataclass(frozen=True)
class Band:
    """The bands of a recipe's metrics, and what they were measured with: `about` is the file."""

    about: dict[str, Any]
    curves: dict[str, Curve]

    @classmethod
    def read(cls, file: Path) -> Band:
        """Raises Problem where the file is not what `benchmarks/bands.py` writes."""
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
            if about["format"] != FORMAT:
                raise Problem(f"{file} is of format {about['format']}; {FORMAT} is read here")
            curves = {name: Curve(name, c["steps"], c["values"]) for name, c in about["values"].items()}
            seeds = len(about["seeds"])
            for it in curves.values():
                rows = [len(row) == seeds and all(map(math.isfinite, row)) for row in it.values]
                if not rows or seeds < 3 or len(rows) != len(it.steps) or not all(rows):
                    raise Problem(f"{file}: {it.name} has not one number for each of at least 3 seeds at each step")
                if any(b <= a for a, b in zip([0, *it.steps], it.steps)):
                    raise Problem(f"{file}: the steps of {it.name} do not rise")
            for name in ("recipe", "knobs", "training", "data", "system", "until", "seconds", "hardware", "date"):
                about[name]
            return cls(about, curves)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Problem(f"{file} is not a band as benchmarks/bands.py writes it ({error!r})") from None

    def differences(self, record: dict) -> list[str]:
        """What of a run (settings.json) is not as the band was measured: names of knobs and settings."""
        mine, found = self.about, []
        needed = set(mine["knobs"])
        for name, value in record.get("recipe", {}).items():
            if name in needed and name not in BESIDE and value != mine["knobs"][name]:
                found.append(name)
        for group in ("training", "data"):
            theirs = comparable(group, record.get(group, {}))
            found += [n for n in mine[group] if theirs.get(n) != mine[group][n] and n not in found]
        if not found and record.get("system", {}).get("shapes") != mine["system"].get("shapes"):
            found.append("the network")
        return found

    def place(self, name: str, step: int, value: float) -> Place | None:
        """Where a value lies at a step; None where the band says nothing of it."""
        edges = self.curves[name].at(step) if name in self.curves else None
        return None if edges is None else Place(value, *edges)

    def places(self, rows: Sequence[dict]) -> dict[str, Place]:
        """Where the last of the log's rows lies, by metric."""
        step, found = rows[-1]["step"], {}
        for name in self.curves:
            value = valued(rows, name)
            place = None if value is None else self.place(name, step, value)
            if place:
                found[name] = place
        return found

    def __str__(self) -> str:
        it, minutes = self.about, statistics.fmean(self.about["seconds"]) / 60
        said = f"{len(it['seeds'])} seeds of {it['recipe']}, {minutes:.0f} min each on {it['hardware']}, {it['date']}"
        return said + (f", to step {it['until']}" if it["until"] < it["training"]["steps"] else "")


def of(name: str) -> Band | None:
    """The band of a recipe; None where none has been measured. Raises Problem for a file that is damaged."""
    file = FOLDER / f"{name}.json"
    return Band.read(file) if file.is_file() else None


def of_run(folder: Path) -> tuple[Band | None, list[str]]:
    """(the band of a run's recipe, what of the run differs from what it was measured with)."""
    try:
        record = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None, []
    band = of(record.get("name") or folder.resolve().name)
    return band, band.differences(record) if band else []


def edges_of(folder: Path, rows: Sequence[dict]) -> dict[str, list[tuple[float, float, float]]]:
    """{metric: [(step, low, high)]} as far as the log goes, for a run's plot; empty without a band of its settings."""
    try:
        band, differs = of_run(folder)
    except Problem:  # `Watch` has said so
        return {}
    curves, until = {} if band is None or differs or not rows else band.curves, rows[-1]["step"] if rows else 0
    steps = {name: [*(s for s in it.steps if s < until), min(until, it.steps[-1])] for name, it in curves.items()}
    return {name: [(s, *edges) for s in steps[name] if (edges := it.at(s))] for name, it in curves.items()}


def comparable(group: str, values: dict) -> dict:
    """Of settings.json's "training" and "data", what a band depends on, wherever the data lies."""
    drop = {"seed", *FREE} if group == "training" else {"seed", "source"}
    return json.loads(json.dumps({k: v for k, v in values.items() if k not in drop}))


def valued(rows: Sequence[dict], name: str) -> float | None:
    """A metric's value at the last of the log's rows, as it is compared (see above); None where that has none."""
    if name not in rows[-1]:
        return None
    if name.startswith("score/"):
        return rows[-1][name]
    step, total, weight = rows[-1]["step"], 0.0, 0
    for i in range(len(rows) - 1, -1, -1):
        if rows[i]["step"] <= step - step * WINDOW and weight:
            break
        covers = rows[i]["step"] - (rows[i - 1]["step"] if i else 0)
        total, weight = total + covers * rows[i].get(name, math.nan), weight + covers
    return total / weight


def measured(runs: Sequence[Sequence[dict]]) -> dict[str, dict]:
    """{metric: {"steps", "values"}} of the logs of several runs: on a grid of steps; scores where they were taken."""
    steps = sorted(set.intersection(*({row["step"] for row in rows} for rows in runs)))
    grid = _grid(steps)
    names = dict.fromkeys(n for row in runs[0] for n in row if n.startswith(("loss/", "grad_norm/", "score/")))
    found = {}
    for name in names:
        wanted = steps if name.startswith("score/") else grid
        values = [[_value_at(rows, name, step) for rows in runs] for step in wanted]
        kept = [(s, row) for s, row in zip(wanted, values) if None not in row]
        found[name] = {"steps": [s for s, _ in kept], "values": [[float(f"{v:.5g}") for v in row] for _, row in kept]}
    return found


def _value_at(rows: Sequence[dict], name: str, step: int) -> float | None:
    upto = [row for row in rows if row["step"] <= step]
    return valued(upto, name)


def _grid(steps: Sequence[int]) -> list[int]:
    """Of the logged steps, some: from FIRST on each about RATIO of the one before, and the last."""
    found: list[int] = []
    for step in steps:
        if step >= (RATIO * found[-1] if found else FIRST):
            found.append(step)
    return found if found and found[-1] == steps[-1] else [*found, steps[-1]]


# While it trains ----------------------------------------------------------------------------------------------------

MEANS = {
    ("loss", "above"): "it learns more slowly than it should (the rate), or that captions and pictures do not fit",
    ("loss", "below"): "the task is easier than it should be: fewer or doubled pictures, or data in another range",
    ("grad_norm", "above"): "steps are wilder than they should be: a rate too high, or a smaller batch",
    ("grad_norm", "below"): "less of the network learns than should, or that the data is poorer",
    ("score", "above"): "what it has learned by now is not what the recipe's own runs had",
    ("score", "below"): "what it has learned by now is not what the recipe's own runs had",
}


class Watch:
    """Says of a run, as it goes, where it lies in its recipe's band."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict] | None = None  # of the log: None before the first step
        self.told: set[str] = set()
        try:
            self.band, self.differs = of_run(folder)
            self.greeting = _greeting(self.band, self.differs)
        except Problem as problem:
            self.band, self.greeting = None, f"The band cannot be shown: {problem}"

    def look(self, at: Progress) -> Progress:
        """The same with `places`, and notes: what band there is, at the first step; what leaves it, once a metric."""
        notes = []
        if self.rows is None:
            self.rows = [row for row in _rows(self.folder) if row["step"] < at.step]
            notes = [self.greeting]
        if self.band is None or not at.logged:
            return replace(at, notes=(*at.notes, *notes))
        self.rows.append(at.row())
        places = self.band.places(self.rows)
        for name, place in places.items() if not self.differs else ():
            if place.where != "in" and name not in self.told:
                self.told.add(name)
                notes.append(f"{said(name, at.step, place)} `phosphene doctor {self.folder}` looks for the cause.")
        return replace(at, places=places, notes=(*at.notes, *notes))


def said(name: str, step: int, place: Place) -> str:
    """Two sentences on a metric that is outside of its band."""
    means = MEANS[name.partition("/")[0], place.where]
    return f"At step {step} {name} is {place.value:.3g}, {place}. It may mean that {means}."


def _greeting(band: Band | None, differs: Sequence[str]) -> str:
    if band is None:
        return (
            "No band has been measured for this recipe: nothing says whether its loss and score are as they should be."
        )
    if differs:
        verb = "differ" if len(differs) > 1 else "differs"
        return f"The band is of the recipe's own settings; {', '.join(differs)} {verb}: shown for orientation only."
    return f"The band: {band}."


def _rows(folder: Path) -> list[dict]:
    """What metrics.jsonl holds, but for a line cut short."""
    found = []
    try:
        for line in (folder / "metrics.jsonl").read_text().splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
    except OSError:
        pass
    return [row for row in found if isinstance(row, dict) and "step" in row]
