"""phosphene doctor: the usual faults of a run, a recipe or data, by measurement."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phosphene.cli.options import parse
from phosphene.errors import Problem

if TYPE_CHECKING:
    from phosphene.doctor import Looked, Patient


def main(argv: Sequence[str]) -> int:
    """The exit code: 0 where nothing was found, 1 where something was. Problem where nothing could be looked at."""
    what, *rest = argv or ["--help"]
    recipe = _recipe(what)
    if what in ("-h", "--help") or recipe is None:
        [told] = parse([*argv] or ["--help"], "phosphene doctor", doctor)
        what = told.pop("what")
        patient = _of_path(what, told)
    else:
        knobs, told = parse(rest, f"phosphene doctor {what}", recipe, _options)
        patient = _of_recipe(what, recipe(**knobs), told)
    return _report(patient, told["json"])


def doctor(what: str, *, data: str = "", test: str = "", look: int = 4000, json: bool = False):
    """Looks for the usual faults of a run, a recipe or data: what it saw, why that is wrong, what to change.

    Exit code 0: nothing found; 1: something found; 2: it could not look. docs/doctor.md lists the faults.

    what  a run's folder, a recipe (with its knobs: `phosphene doctor mnist.ddpm --data PATH`), or a data spec
    data  of a run: the spec of its data, where that is not where its settings say
    test  the spec of pictures that must not be among the training's; else the data's other split, if it has one
    look  rows of data to look at, evenly spread
    json  print everything as JSON
    """


def _options(*, test: str = "", look: int = 4000, json: bool = False):
    """
    test  the spec of pictures that must not be among the training's
    look  rows of data to look at, and to build the recipe with
    json  print everything as JSON
    """


def _recipe(what: str):
    from phosphene.cli.train import find
    from phosphene.recipes import RECIPES

    own = what.rpartition(":")[0].endswith(".py")
    return find(what) if what in RECIPES or own else None


def _of_path(what: str, told: dict) -> Patient:
    from phosphene import doctor
    from phosphene.weights import bundle

    if told["look"] < 1:
        raise Problem(f"look={told['look']}: at least 1 row was expected")
    folder, look, test = Path(what), told["look"], told["test"] or None
    run = ("settings.json", "checkpoints", "model.safetensors")
    if folder.is_dir() and any((folder / name).exists() for name in run):
        return doctor.of_run(folder, told["data"] or None, test, look, lambda record: _built(folder, record))
    if what in bundle.shipped() or what.endswith(".safetensors"):
        raise Problem(f"{what} is a model; give the folder of the run that made it, a recipe or a data spec")
    return doctor.of_data(what, test, look)


def _built(folder: Path, record: dict):
    """The system of a run that is not finished, by the recipe that its folder is named after; None without one."""
    from phosphene.recipes import RECIPES

    knobs = {k: v for k, v in record.get("recipe", {}).items() if k != "start"}
    if folder.resolve().name not in RECIPES:
        return None
    plan, _ = RECIPES[folder.resolve().name](**knobs).plan(rows=sys.maxsize, beside=folder.parent)
    return plan.system


def _of_recipe(name: str, recipe, told: dict) -> Patient:
    from phosphene import doctor

    if told["look"] < 1:
        raise Problem(f"look={told['look']}: at least 1 row was expected")
    plan, spec = recipe.plan(rows=min(told["look"], 2048))
    return doctor.of_plan(name, plan, spec, told["test"] or None, told["look"])


def _report(patient: Patient, as_json: bool) -> int:
    looked = list(_shown(patient, as_json))
    if as_json:
        print(json.dumps(_plain(patient, looked), ensure_ascii=False, indent=1))
    found = sum(one.finding is not None for one in looked)
    if not any(not one.unable for one in looked):
        why = next((one.unable for one in looked), "; ".join(patient.remarks) or "there is nothing of it")
        raise Problem(f"{patient.name}: nothing could be looked at: {why}")
    if not as_json:
        _console().print(
            f"{found} found, {len(looked)} looked for" if found else f"nothing found, {len(looked)} looked for"
        )
    return 1 if found else 0


def _shown(patient: Patient, quiet: bool):
    """Looks for every fault; says of each, as soon as it is known, what came of it."""
    from rich.markup import escape

    from phosphene.doctor import examine

    console = _console()
    if not quiet:
        console.print(
            f"[bold]{escape(patient.name)}[/bold]: a {patient.kind}"
            if patient.kind != "data"
            else f"{escape(patient.name)}: data"
        )
    for one in examine(patient):
        if not quiet:
            mark = (
                "[red]found[/red]"
                if one.finding
                else "[yellow]  ?  [/yellow]"
                if one.unable
                else "[green] ok  [/green]"
            )
            console.print(f"{mark}  {escape(one.name)}" + (f": {escape(one.unable)}" if one.unable else ""))
            if one.finding:
                for title, text in (
                    ("seen", one.finding.seen),
                    ("wrong", one.finding.wrong),
                    ("change", one.finding.change),
                ):
                    console.print(_indented(title, text))
        yield one
    for remark in () if quiet else patient.remarks:
        console.print(f"note: {escape(remark)}")


def _console():
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, soft_wrap=not sys.stdout.isatty())


def _indented(title: str, text: str):
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    table.add_column(width=13, justify="right")
    table.add_column()
    table.add_row(Text(title, style="dim"), Text(text))
    return table


def _plain(patient: Patient, looked: list[Looked]) -> dict:
    found = [{"name": one.name, **vars(one.finding)} for one in looked if one.finding]
    return {
        "kind": patient.kind,
        "name": patient.name,
        "looked": [one.name for one in looked if not one.unable],
        "unable": {one.name: one.unable for one in looked if one.unable},
        "findings": found,
        "remarks": patient.remarks,
    }
