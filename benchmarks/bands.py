"""The band of a recipe: trained with several seeds, and what they gave written to recipes/bands/RECIPE.json.

    python benchmarks/bands.py scenes.latent --seeds 0 1 2 --out runs/bands    # trains what is not there yet
    python benchmarks/bands.py scenes.latent --runs RUN RUN RUN               # reads runs that are there
    python benchmarks/bands.py mnist.ddpm --seeds 0 1 2 --data PATH/mnist.npz
    python benchmarks/bands.py table                                              # writes the table of docs/bands.md

Each seed has a folder of its own, OUT/SEED, with what the recipe needs beside it, also of that seed: the band holds for
a run from nothing. Runs that were stopped go on. Knobs are the recipe's own; of runs that are read it is checked.
Where runs end at different steps, the band goes as far as all of them. `phosphene.training.band` says what is written.
"""

from __future__ import annotations

import inspect
import json
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path

from peers import processor

from phosphene.cli.options import call
from phosphene.errors import Problem
from phosphene.recipes import RECIPES
from phosphene.training import band
from phosphene.training.display import duration, show

PAGE = Path(__file__).parents[1] / "docs" / "bands.md"
MARKS = "<!-- table -->", "<!-- /table -->"


def bands(
    recipe: str, *, seeds: tuple[int, ...] = (), runs: tuple[Path, ...] = (), data: str = "",
    out: Path = Path("runs/bands"), threads: int = 2, note: str = "", to: Path = band.FOLDER,
) -> Path:  # fmt: skip
    """Trains a recipe with each of the seeds, or reads folders of runs, and writes its band.

    recipe   its name
    seeds    of runs to train, or to go on with, in OUT/SEED/RECIPE
    runs     folders of runs that are there
    data     the recipe's data, where it wants to be told
    out      where runs are trained
    threads  what the runs were computed with: written down
    note     what else is to be known of the machine, such as other work on it
    to       the folder of the file
    """
    folders = [*runs, *(out / str(seed) / recipe for seed in seeds)]
    for seed in seeds:
        knobs = {"seed": seed, **({"data": data} if data else {})}
        folder = out / str(seed) / recipe
        if not (folder / "model.safetensors").is_file():
            show(RECIPES[recipe](**knobs).train(folder, resume=folder.exists()))
    file = to / f"{recipe}.json"
    found = gathered(recipe, folders, ", ".join([processor(), f"threads: {threads}", *([note] if note else [])]))
    file.parent.mkdir(exist_ok=True)
    file.write_text(said(found), encoding="utf-8")
    made = band.Band.read(file)
    print(f"{file}: {made}; to step {found['until']} of {found['training']['steps']}")
    for name, curve in made.curves.items():
        low, high = curve.edges[-1]
        print(f"  {name:20s} at step {curve.steps[-1]}: {low:.4g} – {high:.4g}   of {curve.values[-1]}")
    for seed, seconds in zip(found["seeds"], found["seconds"]):
        print(f"  seed {seed}: {duration(seconds)}")
    return file


def table() -> str:
    """docs/bands.md's table: every recipe on scenes and mnist, with its band at its last step or without one."""
    lines = ["| recipe | seeds | loss | gradient norm | score | to step | a seed |", "|---|---|---|---|---|---|---|"]
    without = []
    for name in (name for name in RECIPES if name.startswith(("scenes.", "mnist."))):
        it = band.of(name)
        if it is None:
            without.append(f"`{name}`")
            continue
        ends = {
            kind: [_end(c) for n, c in it.curves.items() if n.startswith(kind)] for kind in ("loss", "grad", "score")
        }
        cells = [", ".join(map(str, it.about["seeds"])), *("; ".join(end) for end in ends.values())]
        until = f"{it.about['until']} of {it.about['training']['steps']}"
        seconds = duration(statistics.fmean(it.about["seconds"]))
        lines.append(f"| `{name}` | {' | '.join(cells)} | {until} | {seconds} |")
    return "\n".join([*lines, *(["", f"Without a band: {', '.join(without)}."] if without else [])])


def write_table() -> None:
    """Puts the table in its place in docs/bands.md."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    PAGE.write_text(f"{head}{MARKS[0]}\n{table()}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}", encoding="utf-8")
    print(PAGE)


def _end(curve: band.Curve) -> str:
    """The band at its last step."""
    low, high = curve.edges[-1]
    kind, _, name = curve.name.partition("/")
    return f"{f'{name} ' if kind == 'score' or name != 'model' else ''}{low:.3g} – {high:.3g}"


def gathered(recipe: str, folders: list[Path], hardware: str) -> dict:
    """What the file holds. Raises Problem for fewer than three seeds, and where the runs are not alike."""
    records = [_json(folder / "settings.json") for folder in folders]
    logs = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in folders]
    seeds = [record["training"]["seed"] for record in records]
    if len(set(seeds)) < 3 or len(set(seeds)) < len(seeds):
        raise Problem(f"the seeds of {len(folders)} runs are {seeds}: at least three, all different, were expected")
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(RECIPES[recipe]).parameters.items()
        if name not in (*band.BESIDE, *RECIPES[recipe]().needs)
    }
    about = {
        "format": band.FORMAT,
        "recipe": recipe,
        "knobs": defaults,
        **{group: band.comparable(group, records[0][group]) for group in ("training", "data")},
        "system": records[0]["system"],
    }
    until = min(rows[-1]["step"] for rows in logs)
    logs = [[row for row in rows if row["step"] <= until] for rows in logs]
    whole = band.Band({**about, "seeds": seeds, "seconds": [0.0]}, {})
    for folder, record in zip(folders, records):
        if different := whole.differences(record):
            raise Problem(f"{folder} was not run as the others, or not by the recipe's own knobs: {different}")
    return about | {
        "until": until,
        "seeds": seeds,
        "seconds": [round(rows[-1]["seconds"], 1) for rows in logs],
        "hardware": hardware,
        "torch": sorted({record["torch"] for record in records}),
        "date": datetime.now(UTC).date().isoformat(),
        "values": band.measured(logs),
    }


def said(found: dict) -> str:
    """JSON with a line a step of the values."""
    values = {}
    for name, curve in found["values"].items():
        rows = ",\n    ".join(json.dumps(row) for row in curve["values"])
        values[name] = f'{{\n   "steps": {json.dumps(curve["steps"])},\n   "values": [\n    {rows}]}}'
    head = json.dumps({k: v for k, v in found.items() if k != "values"}, indent=1, ensure_ascii=False)
    body = ",\n  ".join(f"{json.dumps(name)}: {text}" for name, text in values.items())
    return f'{head[:-2]},\n "values": {{\n  {body}}}\n}}\n'


def _json(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise Problem(f"{file}: {error}; a run's folder was expected") from None


if __name__ == "__main__":
    try:
        write_table() if sys.argv[1:] == ["table"] else call(bands, sys.argv[1:], "bands.py")
    except Problem as problem:
        sys.exit(str(problem))
