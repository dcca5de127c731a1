"""What a study is: a question, the runs that it wants, and a generator that measures and ends with what it found.

    STUDY = Study("Does …?", {"eps": Need("scenes.ddpm"), "x0": Need("scenes.ddpm", {"predicts": "x0"})}, measured)

    def measured(job: Job) -> Iterator[str | Found]:
        for name, system in job.systems.items():
            yield f"{name}: sampling {job.n} pictures"
            …
        yield Found(("predicts", "Fréchet", "right"), rows, plot, "No difference at this scale (…).")

What it yields on the way are lines for the reader. It trains nothing but through its needs, which are recipes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phosphene.errors import Problem

if TYPE_CHECKING:
    from PIL import Image

    from phosphene.recipes import Recipe
    from phosphene.systems.base import System


@dataclass(frozen=True)
class Need:
    """A run of a recipe, with some of its knobs turned. A knob that is another Need is the bundle of that run."""

    recipe: str
    knobs: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Its place in the folder of runs: scenes.ddpm-predicts=x0."""
        said = {k: v.folder if isinstance(v, Need) else v for k, v in self.knobs.items()}
        return "-".join([self.recipe, *(f"{k}={v}" for k, v in sorted(said.items()))])

    def at(self, runs: Path) -> Path:
        return runs / self.folder

    def made(self, runs: Path = Path("runs")) -> Recipe:
        """The recipe with its knobs turned; what it needs is taken from `runs`."""
        from phosphene.recipes import RECIPES

        return RECIPES[self.recipe](**{k: v.at(runs) if isinstance(v, Need) else v for k, v in self.knobs.items()})

    def all(self) -> list[Need]:
        """This and what it needs itself, in the order in which they are trained."""
        return [*(it for v in self.knobs.values() if isinstance(v, Need) for it in v.all()), self]


@dataclass(frozen=True)
class Found:
    """What a study found.

    columns, rows   a table; a cell is a number, words, an Interval or None
    plot            the picture of it
    answer          a sentence or two, with the interval that they rest on
    pictures        others worth keeping, by their file's name: {"strips": picture}
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    plot: Image.Image
    answer: str
    pictures: dict[str, Image.Image] = field(default_factory=dict)

    def markdown(self) -> str:
        """The table."""
        from phosphene.metrics.report import said

        lines = [self.columns, ["---"] * len(self.columns), *([said(cell) for cell in row] for row in self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def plain(self) -> dict[str, Any]:
        """As JSON has it: {"answer": …, "rows": [{column: cell}]}."""
        plain = [[it._asdict() if hasattr(it, "_asdict") else it for it in row] for row in self.rows]
        return {"answer": self.answer, "rows": [dict(zip(self.columns, row, strict=True)) for row in plain]}


@dataclass(frozen=True)
class Job:
    """What a study is given: its trained systems by the names of its needs, how many pictures to make, a seed.

    runs  the folders that the systems were trained in, by the same names
    """

    systems: dict[str, System]
    n: int
    seed: int
    runs: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A question and how it is answered; `n` is how many pictures a setting, by default."""

    question: str
    needs: dict[str, Need]
    measured: Callable[[Job], Iterator[str | Found]]
    n: int = 500

    def run(self, runs: Path, out: Path, n: int | None = None, seed: int = 0) -> Iterator[str]:
        """Lines on the way; at the end `out` has table.md, study.json, plot.png and its other pictures.

        Raises Problem where a run that is needed is not there (`missing` says which), or n is too small to compare.
        """
        from phosphene.weights import bundle

        n = self.check(out, n)
        began, found = time.time(), None
        folders = {name: need.at(runs) for name, need in self.needs.items()}
        systems = {name: bundle.load(folder).eval() for name, folder in folders.items()}
        for it in self.measured(Job(systems, n, seed, folders)):
            if isinstance(it, Found):
                found = it
            else:
                yield it
        assert found is not None, "a study ends with what it found"
        about = {"question": self.question, "n": n, "seed": seed, "seconds": round(time.time() - began, 1)}
        _written(found, out, about | {"runs": {name: str(need.at(runs)) for name, need in self.needs.items()}})
        yield from ("", found.markdown(), "", found.answer, "", str(out))

    def check(self, out: Path, n: int | None = None) -> int:
        """How many pictures a setting. Raises Problem for too few to compare, and where `out` cannot be a folder."""
        n = self.n if n is None else n
        if n < 2:
            raise Problem(f"n={n}: at least 2 pictures a setting are wanted")
        if out.exists() and not out.is_dir():
            raise Problem(f"{out} is a file: a folder for the table and the plot was expected")
        return n

    def missing(self, runs: Path) -> list[Need]:
        """The needs whose runs are not there, each once, in the order in which they are to be trained."""
        there = {it.folder: it for need in self.needs.values() for it in need.all()}
        return [need for need in there.values() if not (need.at(runs) / "model.safetensors").is_file()]


def _written(found: Found, out: Path, about: dict[str, Any]) -> None:
    from phosphene.metrics.report import written

    words = f"# {about['question']}\n\n{found.answer}\n\n{found.markdown()}\n\n![plot](plot.png)\n"
    written(out / "table.md", words)
    written(out / "study.json", json.dumps(about | found.plain(), indent=1, ensure_ascii=False) + "\n")
    for name, picture in {"plot": found.plot, **found.pictures}.items():
        picture.save(out / f"{name}.png")
