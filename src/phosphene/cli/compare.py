"""phosphene compare: runs side by side, on one page."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phosphene.cli.making import quiet_threads
from phosphene.cli.options import call
from phosphene.errors import Problem

POINTS = 300  # of a curve
BRACKETS = (
    "In brackets: where 95 of 100 repetitions with other pictures would lie; for the kernel distance ± its deviation "
    "over subsets. Runs whose brackets overlap are not told apart. ↓ lower is better, ↑ higher."
)


def main(argv: Sequence[str]) -> None:
    quiet_threads()
    call(compare, argv, "phosphene compare")


def compare(
    *runs: str,
    data: str | None = None,
    n: int = 256,
    features: str = "clip",
    clip: str | None = None,
    prompts: tuple[str, ...] = (),
    samples: int = 8,
    steps: int | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    seed: int = 0,
    out: Path = Path("comparison.html"),
    device: str = "auto",
    precision: str = "auto",
):
    """Puts runs side by side on one page: scores with intervals, cost, loss, pictures of the same seeds and prompts.

    phosphene compare runs/scenes.latent runs/wider --data "scenes:split=test"

    runs       folders of runs, bundles, shipped models or checkpoints
    data       a data spec to score every run on, as `evaluate` does; else what evaluate --out RUN left is read
    n          pictures to score
    features, clip   of the scores, as in evaluate
    prompts    what to draw samples of; else what the data says, else what the runs' own data said
    samples    pictures of each run on the page
    steps, guidance, sampler, seed   of every run; each one's own if not given
    out        the page
    device     auto, cpu, cuda, mps
    precision  auto, fp32, bf16, fp16
    """
    if not runs:
        raise Problem("compare wants runs, such as runs/one runs/two")
    if samples < 1 or n < 2:
        raise Problem(f"samples={samples}, n={n}: at least 1 sample and 2 pictures to score are wanted")
    from phosphene.metrics.report import said

    names, options = _names(runs), {"steps": steps, "guidance": guidance, "sampler": sampler}
    using, sides = {"device": device, "precision": precision}, []
    for name, run in zip(names, runs):
        print(f"{name} …", file=sys.stderr)
        side = Side(name, _asked(run, prompts, data, samples, seed))
        side.draw(run, seed, options, using)
        side.scores, side.notes = _scored(run, data, n, features, clip, seed, options, using) if data else _left(run)
        side.about, side.losses = _about(Path(run)), _losses(Path(run))
        sides.append(side)
    for side in sides:
        rows = {**side.about, **side.scores, **side.cost}
        print(side.name, *[f"{key:34s} {said(value)}" for key, value in rows.items()], sep="\n  ")
        print(*(f"  Note: {note}." for note in side.notes), sep="\n")
    print(_page(sides, data, n).write(out))


@dataclass
class Side:
    """What the page says of one run. about, cost: {what: words}; scores: {what: value}; losses: [(step, loss)]."""

    name: str
    asked: list[Any]
    images: list[Any] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cost: dict[str, str] = field(default_factory=dict)
    losses: list[tuple[float, float]] = field(default_factory=list)

    @property
    def captions(self) -> list[str]:
        return ["" if prompt is None else str(prompt) for prompt in self.asked]

    def draw(self, run: str, seed: int, options: dict[str, Any], using: dict[str, Any]) -> None:
        """The samples, seeds one after the other, and what they cost in a process of their own."""
        from phosphene.metrics.cost import cost_apart
        from phosphene.request import Studio

        pairs = [(prompt, seed + i) for i, prompt in enumerate(self.asked)]
        plain = {"grammar": "plain"} if isinstance(self.asked[0], str) else {}
        self.images = [made.image for made in Studio(run, **using).make(pairs, {**options, **plain})]
        self.cost = _cost(cost_apart(run, self.asked, **using, **options))


def _page(sides: Sequence[Side], data: str | None, n: int) -> Any:
    from phosphene.data.sheet import contact_sheet
    from phosphene.metrics.report import Page

    names = [side.name for side in sides]
    page = Page("Comparison: " + ", ".join(names))
    page.table(["", *names], _beside([side.about for side in sides]))
    if any(side.scores for side in sides):
        page.heading("Scores")
        left = "As evaluate left them in the runs' folders."
        page.text(f"{n} pictures of each, of what {data} says." if data else left)
        page.table(["", *names], [[_arrow(what), *row] for what, *row in _beside([side.scores for side in sides])])
        page.text(BRACKETS, note=True)
        page.notes(note for side in sides for note in side.notes)
    page.heading("Cost")
    page.table(["", *names], _beside([side.cost for side in sides]))
    page.text("A multiplication and an addition are two FLOPs. Memory: what loading and sampling added.", note=True)
    if losses := {side.name: side.losses for side in sides if side.losses}:
        page.heading("Loss")
        page.curves(losses, "step", "loss", logarithmic=all(y > 0 for p in losses.values() for _, y in p))
    page.heading("The same seeds and prompts")
    if len({tuple(side.captions) for side in sides}) == 1:
        page.gallery(names, [(c, [side.images[i] for side in sides]) for i, c in enumerate(sides[0].captions)])
    else:
        for side in sides:
            page.picture(contact_sheet(side.images, side.captions, columns=8), side.name)
    return page


def _beside(columns: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """[what, its value in each column, None where it has none], in the order in which they come."""
    return [[what, *(column.get(what) for column in columns)] for what in dict.fromkeys(k for c in columns for k in c)]


def _arrow(what: str) -> str:
    """The score's name and which way is better; a share of copies is neither."""
    if what.startswith("copies"):
        return what
    return f"{what} {'↓' if what.startswith(('FD', 'FID', 'KID', 'kernel')) else '↑'}"


def _names(runs: Sequence[str]) -> list[str]:
    """Short names, each once: as many of a path's last parts as tell the runs apart."""
    parts = [Path(run).with_suffix("").parts if run.endswith(".safetensors") else Path(run).parts for run in runs]
    for last in range(1, max(map(len, parts)) + 1):
        short = ["/".join(p[-last:]) for p in parts]
        if len(set(short)) == len(runs) and "model" not in short:
            return short
    return list(runs)


def _asked(run: str, prompts: Sequence[str], data: str | None, samples: int, seed: int) -> list[Any]:
    """The prompts of the samples, as this run's model takes them: the same ones for all that take words."""
    from phosphene.cli.evaluate import told_by
    from phosphene.data.base import open_source
    from phosphene.metrics.evaluation import prompts_of
    from phosphene.metrics.statistics import some_rows
    from phosphene.weights.load import load

    told = told_by(load(run))
    if prompts and told == "caption":
        return list(prompts)
    if told == "none":
        return [None] * samples
    spec = data or _json(Path(run) / "settings.json").get("recipe", {}).get("data")
    if not spec:
        raise Problem(f"what is {run} to draw? Give --prompts, or --data SPEC")
    source = open_source(spec)
    return prompts_of(source, some_rows(source, samples, seed), told, seed)


def _scored(run, data, n, features, clip, seed, options, using) -> tuple[dict[str, Any], list[str]]:
    """({what: value} as evaluate's table has it, what one should know of them)."""
    from phosphene.cli.evaluate import Job, judge_of, of_judge, table_of
    from phosphene.data.base import open_source
    from phosphene.metrics.features import extractor

    source, eyes = open_source(data), extractor(features)
    own = {k: v for k, v in options.items() if k != "guidance"}
    job = Job(run, source, data, source, None, eyes, judge_of(eyes, clip), n, seed, 10_000, own, using)
    found = job.run((options["guidance"],))
    _, rows = table_of(job, found)
    _, doubts = of_judge(job, job.words_of_real())
    notes = [note for it, _ in found.values() for note in it.scores.notes] + doubts
    return {what: value for what, value in rows if what != "seconds a picture"}, notes


def _left(run: str) -> tuple[dict[str, Any], list[str]]:
    """The scores that `evaluate --out RUN` left in the run's folder, at the first guidance, and its notes."""
    from phosphene.metrics.interval import Interval

    said = _json(Path(run) / "scores.json")
    first: dict[str, Any] = next(iter(said.get("guidance", {}).values()), {})
    found = {said.get("title", "frechet"): first.get("frechet"), "kernel distance": first.get("kernel")}
    found |= {name: first.get(name) for name in ("precision", "recall", "density", "coverage")}
    found |= {"CLIP score": first.get("clip_score"), "R-precision": first.get("r_precision")}
    found |= {f"right: {name}": {k: it[k] for k in it if k != "n"} for name, it in first.get("accuracy", {}).items()}
    return {what: Interval(**it) for what, it in found.items() if isinstance(it, dict)}, first.get("notes", [])


def _about(run: Path) -> dict[str, str]:
    """What a run's folder says of its making; {} where it is none."""
    told = _json(run / "settings.json").get("training", {})
    named = {"steps of training": "steps", "its seed": "seed"}
    return {what: f"{told[key]:,}" for what, key in named.items() if key in told}


def _cost(it: Any) -> dict[str, str]:
    return {
        "parameters": f"{it.parameters:,}",
        "GFLOPs a picture": f"{it.flops / 1e9:.4g}",
        "seconds a picture": f"{it.seconds:.3g}",
        "peak memory": "–" if it.peak is None else f"{it.peak / 2**20:,.0f} MiB",
    }


def _losses(run: Path) -> list[tuple[float, float]]:
    """(step, mean loss) of a run's metrics.jsonl, at most POINTS of them."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
            rows.append((float(row["step"]), float(row["loss"])))
        except (ValueError, KeyError, TypeError):
            continue  # a line cut short by a kill
    rows = [row for row in rows if math.isfinite(row[1])]
    each = -(-len(rows) // POINTS) or 1
    parts = [rows[i : i + each] for i in range(0, len(rows), each)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
