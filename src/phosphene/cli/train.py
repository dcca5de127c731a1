"""phosphene train: a recipe, whose parameters are the knobs."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from phosphene.cli.options import parse, summary
from phosphene.errors import Problem, unknown


def main(argv: Sequence[str]) -> None:
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return
    function = find(name)
    knobs, run = parse(rest, f"phosphene train {name}", function, _run)
    _train(name, function, knobs, **run)


def find(name: str) -> Callable:
    """The recipe of this name, or the function of `file.py:function`. Raises Problem where there is none."""
    file, _, function = name.rpartition(":")
    if file.endswith(".py"):
        return _own(Path(file), function)
    from phosphene.recipes import RECIPES

    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def _own(file: Path, name: str) -> Callable:
    if not file.is_file():
        raise Problem(f"{file} is not there; a recipe of your own is given as file.py:function")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    functions = {k: v for k, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == file.stem}
    if name not in functions:
        raise unknown(f"function in {file}", name, functions)
    return functions[name]


def _run(*, out: Path | None = None, resume: bool = False):
    """
    out     the run's folder; runs/NAME if not given
    resume  go on from the newest checkpoint of that folder, as if the run had never stopped
    """


def _train(name: str, function: Callable, knobs: dict, out: Path | None, resume: bool) -> None:
    folder = out or Path("runs") / name.rpartition(":")[2]
    steps = function(**knobs).train(out=folder, resume=resume)
    from phosphene.training.display import show  # imports torch

    try:
        show(steps)
    except KeyboardInterrupt:
        print(f"stopped; the same command with --resume goes on in {folder}", file=sys.stderr)
        raise
    if os.environ.get("RANK", "0") == "0":  # one of several processes speaks for all
        print(folder / "model.safetensors")


def _help() -> str:
    from phosphene.recipes import RECIPES

    width = max(map(len, RECIPES)) + 2
    lines = [f"  {name:{width}s}{summary(function)}" for name, function in RECIPES.items()]
    return "\n".join(
        [
            "usage: phosphene train RECIPE [--knob value …] [--out runs/RECIPE] [--resume]",
            "       phosphene train file.py:function …",
            "",
            "Trains a recipe, and first whatever it needs. `phosphene train RECIPE --help` shows its knobs.",
            "Where the band of the recipe's own runs is known, it says where this one lies (docs/bands.md).",
            "",
            *lines,
        ]
    )
