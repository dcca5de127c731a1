"""phosphene list: what there is, one line each."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import phosphene
from phosphene.cli.options import call, summary
from phosphene.weights import bundle


def main(argv: Sequence[str]) -> None:
    call(show, argv, "phosphene list")


def show(*what: Literal["systems", "recipes", "samplers", "models"]):
    """Lists the systems, recipes, samplers and shipped models, or only those of the kinds that are named.

    what  systems, recipes, samplers, models
    """
    for kind in what or LISTS:
        lines = LISTS[kind]()
        width = max(map(len, lines), default=0)
        print(f"{kind}:" if lines else f"{kind}: none")
        for name, text in lines.items():
            print(f"  {name:{width}s}  {text}")


def _systems() -> dict[str, str]:
    """Every kind of system that a bundle can hold, with the first line of its file; the file is read, not imported."""
    homes = {name: str(target).split(":")[0] for name, target in bundle.KINDS.items()}
    return {name: _headline(home) for name, home in homes.items() if home.startswith("phosphene.systems.")}


def _headline(module: str) -> str:
    file = Path(phosphene.__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ")


def _recipes() -> dict[str, str]:
    from phosphene.recipes import RECIPES

    return {name: summary(function) for name, function in RECIPES.items()}


def _samplers() -> dict[str, str]:
    from phosphene.diffusion.samplers import SAMPLERS

    return {name: sampler[1] for name, sampler in SAMPLERS.items()}


def _models() -> dict[str, str]:
    return {name: _told(bundle.describe(name)) for name in bundle.shipped()}


def _told(told: bundle.Description) -> str:
    """The card's first sentence that is no headline, else what it is made of."""
    lines = [line.strip() for line in inspect.cleandoc(told.card).splitlines()]
    text = next((line for line in lines if line and not line.startswith(("#", "-", "|", ">"))), f"{told.kind}.")
    entries, styles = told.vocabulary
    if entries:
        text += f" Knows {len(entries):,} names ({', '.join(entries[:4])}, …)"
    if styles:
        text += f" in the styles {', '.join(styles)}"
    return f"{text} ({sum(told.parameters.values()) / 1e6:.1f} M parameters, {told.size / 1e6:.1f} MB)"


LISTS: dict[str, Callable[[], dict[str, str]]] = {
    "systems": _systems,
    "recipes": _recipes,
    "samplers": _samplers,
    "models": _models,
}
