"""phosphene compare: runs side by side, on one page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phosphene.cli.making import quiet_threads
from phosphene.cli.options import call
from phosphene.errors import Problem

POINTS = 300  # of a curve


def main(argv: Sequence[str]) -> None:
    quiet_threads()
    call(compare, argv, "phosphene compare")


def compare(
    *runs: str,
    data: str | None = None,
    n: int = 128,
    features: str = "thumbnails",
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
    from phosphene.data.sheet import contact_sheet
    from phosphene.metrics.cost import cost_apart
    from phosphene.metrics.report import Page, said
    from phosphene.request import Studio

    names, options = _names(runs), {"steps": steps, "guidance": guidance, "sampler": sampler}
    using = {"device": device, "precision": precision}
    page, rows, pictures = Page("Comparison: " + ", ".join(names)), {}, {}
    for name, run in zip(names, runs):
        asked = _asked(run, prompts, data, samples, seed)
        pairs = [(prompt, seed + i) for i, prompt in enumerate(asked)]
        studio = Studio(run, **using)
        plain = {"grammar": "plain"} if isinstance(asked[0], str) else {}
        pictures[name] = asked, [made.image for made in studio.make(pairs, {**options, **plain})]
        scores = _scored(run, data, n, features, clip, seed, options, using) if data else _left(run)
        rows[name] = {**scores, **_cost(cost_apart(run, asked, **using, **options))}
    what = list(dict.fromkeys(key for row in rows.values() for key in row))
    page.table(["", *names], [[key, *(row.get(key) for row in rows.values())] for key in what])
    page.text("In brackets: where 95 of 100 repetitions with other pictures would lie.", note=True)
    page.text("A multiplication and an addition are two FLOPs. Memory: what loading and sampling added.", note=True)
    losses = {name: points for name, run in zip(names, runs) if (points := _losses(Path(run)))}
    if losses:
        page.heading("Loss")
        page.curves(losses, "step", "loss", logarithmic=all(y > 0 for p in losses.values() for _, y in p))
    page.heading("The same seeds and prompts")
    for name, (asked, made) in pictures.items():
        captions = ["" if prompt is None else str(prompt) for prompt in asked]
        page.picture(contact_sheet(made, captions, columns=8), name)
    for name, row in rows.items():
        print(name, *[f"{key:34s} {said(row[key])}" for key in row], sep="\n  ")
    print(page.write(out))


def _names(runs: Sequence[str]) -> list[str]:
    """Short names, each once."""
    short = [Path(run).name.removesuffix(".safetensors") or run for run in runs]
    return short if len(set(short)) == len(runs) and "model" not in short else list(runs)


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


def _scored(run, data, n, features, clip, seed, options, using) -> dict[str, Any]:
    """{what: value} as evaluate's table has it."""
    from phosphene.cli.evaluate import Job, table_of
    from phosphene.data.base import open_source
    from phosphene.metrics.features import extractor

    source, eyes = open_source(data), extractor(features)
    judge = extractor(clip) if clip else eyes if getattr(eyes.clip, "text", None) is not None else None
    own = {k: v for k, v in options.items() if k != "guidance"}
    job = Job(run, source, data, source, None, eyes, judge, n, seed, 10_000, own, using)
    _, rows = table_of(job, job.run((options["guidance"],)))
    return {what: value for what, value in rows if what != "seconds a picture"}


def _left(run: str) -> dict[str, Any]:
    """The scores that `evaluate --out RUN` left in the run's folder, at the first guidance."""
    from phosphene.metrics.interval import Interval

    said = _json(Path(run) / "scores.json")
    first: dict[str, Any] = next(iter(said.get("guidance", {}).values()), {})
    found = {said.get("title", "frechet"): first.get("frechet"), "kernel distance": first.get("kernel")}
    found |= {"CLIP score": first.get("clip_score"), "R-precision": first.get("r_precision")}
    found |= {f"right: {name}": {k: it[k] for k in it if k != "n"} for name, it in first.get("accuracy", {}).items()}
    return {what: Interval(**it) for what, it in found.items() if it}


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
