"""What a recipe is: a function whose parameters are the knobs and whose result says what to train, on what, and how.

A recipe may need another one's result: `@recipe(autoencoder="emoji.autoencoder")` says that the knob `autoencoder` is
a bundle, and that where none is given, the recipe of that name is trained first, beside this run's folder.
This module and the recipes import nothing heavy until they are called: listing them is instant.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phosphene.errors import Problem, unknown

if TYPE_CHECKING:
    from phosphene.data.batches import Batches
    from phosphene.systems.base import System
    from phosphene.training import Progress


@dataclass
class Plan:
    """What a recipe function returns.

    settings  of `training.train`: steps, lr, …
    sample    system -> PIL picture or pictures (B, 3, H, W), for the grids of the run's folder
    score     system -> {name: number}: how good it is, cheap enough for each `score_every` steps and the end
    finish    (system) -> None, with the averaged weights, before the bundle is written
    whole     system -> the system that it is a part of, such as a cascade: that is sampled, scored, reported and saved
    report    (system) -> lines that say how good it became, for the user and the card
    card      the model card, Markdown
    dtype     of the matrices in the bundle
    """

    system: System
    data: Batches
    settings: dict[str, Any]
    sample: Callable[[System], Any] | None = None
    score: Callable[[System], dict[str, float]] | None = None
    finish: Callable[[System], None] | None = None
    whole: Callable[[System], System] = lambda system: system
    report: Callable[[System], list[str]] | None = None
    card: str = ""
    dtype: str | None = None


@dataclass
class Recipe:
    """A recipe with its knobs turned; nothing is built before `train` or `plan`."""

    name: str
    function: Callable[..., Plan]
    needs: dict[str, str]
    knobs: dict[str, Any] = field(default_factory=dict)

    def train(self, out: str | Path | None = None, resume: bool = False) -> Iterator[Progress]:
        """Trains what is needed first, then the recipe itself, into the folder `out` (runs/NAME).

        Ends with out/model.safetensors. Raises Problem where `out` holds another run.
        """
        import torch

        from phosphene.training import band, train
        from phosphene.weights import bundle

        out = Path(out or Path("runs") / self.name)
        given = yield from self._needed(out, resume)
        torch.manual_seed(self.knobs.get("seed", 0))  # the first weights
        plan = self.function(**self.knobs, **given)

        said: list[str] = []

        def save(system: System, path: Path, card: str | None = None) -> None:
            if plan.finish:
                plan.finish(system)
            said.extend(plan.report(plan.whole(system.eval())) if plan.report else [])
            bundle.save(plan.whole(system), path, card="\n".join([card or "", "", *said]), dtype=plan.dtype)

        def of_whole(ask: Callable[[System], Any] | None) -> Callable[[System], Any] | None:
            return ask and (lambda system: ask(plan.whole(system)))

        knobs = {k: str(v) if isinstance(v, Path) else v for k, v in self.knobs.items()}
        steps = train(
            plan.system, plan.data, out=out, resume=resume, sample=of_whole(plan.sample), score=of_whole(plan.score),
            card=plan.card, save=save, knobs=knobs, recipe=self.name, **plan.settings,
        )  # fmt: skip
        watch = band.Watch(out)
        with contextlib.closing(steps):  # a caller that leaves early leaves the training, too
            for progress in steps:
                yield watch.look(replace(progress, notes=(*progress.notes, *said)))

    def _needed(self, out: Path, resume: bool):
        """{knob: system} of what the recipe needs, trained first where it is not there."""
        from phosphene.recipes import RECIPES
        from phosphene.recipes.needs import fitting
        from phosphene.weights import bundle

        given = {}
        for knob, name in self.needs.items():
            path = self.knobs.get(knob)
            if path is None:
                path = out.parent / name
                if not (path / "model.safetensors").is_file():
                    first = RECIPES[name](**self._shared(RECIPES[name]))
                    yield from _noted(
                        first.train(path, resume=path.exists()), f"{self.name} needs {name}: training it first"
                    )
            given[knob] = fitting(bundle.load(path), knob, name, path)
        self.knobs = {k: v for k, v in self.knobs.items() if k not in self.needs}
        return given

    def plan(self, rows: int = 2048, beside: Path = Path("runs")) -> tuple[Plan, str | None]:
        """(what `train` would train, the spec of its data), on `rows` rows of it and with nothing trained: for a look.

        What the recipe needs is taken from `beside`, or else built in the same way, with first weights.
        """
        import torch

        from phosphene.data.base import at_most
        from phosphene.recipes import RECIPES
        from phosphene.recipes.needs import fitting
        from phosphene.weights import bundle

        knobs, given = {k: v for k, v in self.knobs.items() if k not in self.needs}, {}
        for knob, name in self.needs.items():
            path = self.knobs.get(knob) or beside / name
            if self.knobs.get(knob) or (path / "model.safetensors").is_file():
                given[knob] = fitting(bundle.load(path), knob, name, path)
                continue
            first, _ = RECIPES[name](**self._shared(RECIPES[name])).plan(rows, beside)
            first.system.eval()
            if first.finish:
                first.finish(first.system)
            given[knob] = first.whole(first.system)
        with at_most(rows):
            torch.manual_seed(knobs.get("seed", 0))
            plan = self.function(**knobs, **given)
        default = inspect.signature(self.function).parameters.get("data")
        return plan, knobs.get("data", default.default if default else None)

    def _shared(self, other: Callable) -> dict[str, Any]:
        """The knobs given here that the other recipe has too and that mean the same: the data and its form."""
        known = inspect.signature(other).parameters
        return {k: v for k, v in self.knobs.items() if k in known and k in ("data", "size", "seed", "groups")}


def recipe(**needs: str) -> Callable[[Callable[..., Plan]], Callable[..., Recipe]]:
    """Decorator. The function gets its knobs as keywords; a knob in `needs` reaches it as the loaded system."""

    def decorate(function: Callable[..., Plan]) -> Callable[..., Recipe]:
        name = f"{_family(function.__module__)}.{function.__name__}"

        @functools.wraps(function)
        def make(**knobs: Any) -> Recipe:
            known = inspect.signature(function).parameters
            for knob in knobs:
                if knob not in known:
                    raise unknown(f"knob of {name}", knob, known)
            for knob in ("steps", "batch", "size", "width"):  # before anything that is needed is trained
                if knobs.get(knob) is not None and knobs[knob] < 1:
                    raise Problem(f"{knob}={knobs[knob]}: at least 1 was expected")
            return Recipe(name, function, dict(needs), knobs)

        return make

    return decorate


def _family(module: str) -> str:
    """phosphene.recipes.scenes.latent → scenes; a user's own my_recipe → my_recipe."""
    own = module.removeprefix("phosphene.recipes.")
    return own.split(".")[0] if own != module else module.rpartition(".")[2]


def _noted(steps: Iterator[Progress], note: str) -> Iterator[Progress]:
    for i, progress in enumerate(steps):
        yield replace(progress, notes=(note, *progress.notes)) if i == 0 else progress


def every(steps: int, times: int = 6) -> int:
    """How many steps lie between what is done `times` times in a run."""
    return max(1, steps // times)


def source_of(spec: str, **options: Any):
    """The source of a spec with these options added, where it does not say them itself.

    Only scenes are drawn at a size and in a number; pictures that are there are brought to the size later.
    """
    from phosphene.data.base import open_source, parse_spec

    what, said, _ = parse_spec(spec)
    more = [f"{k}={v}" for k, v in options.items() if k not in said and (what == "scenes" or k not in ("size", "n"))]
    joined = spec + ("," if ":" in spec.removeprefix(what) else ":") + ",".join(more) if more else spec
    return open_source(joined)


def check_choice(what: str, value: str, known: dict[str, Any]) -> Any:
    """known[value]; Problem for another value."""
    if value not in known:
        raise unknown(what, value, known)
    return known[value]
