"""Averaged weights against the raw ones, half-way, at the full learning rate, and at the end, where it has fallen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from phosphene.errors import Problem
from phosphene.studies.base import Found, Job, Need, Study
from phosphene.studies.pictures import COLUMNS, Judge, compared, made
from phosphene.systems.base import System
from phosphene.training import checkpoint
from phosphene.views.plot import Curve, Plot

STEPS = 50
WEIGHTS = {"averaged": "ema", "raw": "weights"}  # the checkpoint's files


def measured(job: Job) -> Iterator[str | Found]:
    system, rows = job.systems["ddpm"], []
    judge = Judge(size=system.size)
    for path in saved(job.runs["ddpm"]):
        step = int(path.name.removeprefix("step-"))
        for kind, file in WEIGHTS.items():
            yield f"{kind} weights after {step} updates: {job.n} pictures"
            put(system, path, file)
            rows.append((kind, step, *judge(made(system, job.n, job.seed, steps=STEPS, variance="small"))))
    curves = [
        Curve(kind, [(n, it.value) for _, n, it, *_ in own], [it[1:] for _, _, it, *_ in own])
        for kind in WEIGHTS
        for own in [[row for row in rows if row[0] == kind]]
    ]
    plot = Plot(curves, "updates", "Fréchet distance", logarithmic=True)
    told = []
    for step in sorted({row[1] for row in rows}):
        average, raw = (next(row for row in rows if row[:2] == (kind, step)) for kind in WEIGHTS)
        told.append(
            f"after {step} updates the averaged weights' distance is {average[2]}, {compared(average[2], raw[2])} than "
            f"the raw ones' {raw[2]}"
        )
    answer = "; ".join(told).capitalize() + f" (N = {job.n}, 95 % intervals, {STEPS} steps)."
    yield Found(("weights", "updates", *COLUMNS), rows, plot.drawn(), answer)


def saved(run: Path) -> list[Path]:
    """The run's checkpoints, first to last. Raises Problem where there are none with an average."""
    found = sorted(checkpoint.found(run / "checkpoints"), key=lambda path: int(path.name.removeprefix("step-")))
    if not found or not all((path / "ema.safetensors").is_file() for path in found):
        raise Problem(f"{run} has no checkpoints with averaged weights; a run of scenes.ddpm keeps two")
    return found


def put(system: System, path: Path, file: str) -> None:
    """One of a checkpoint's two sets of weights into the system."""
    files, _ = checkpoint.load(path)
    state = files["weights"] | files[file]  # the average is of parameters alone
    system.load_state_dict(state, strict=True)


STUDY = Study("What do averaged weights bring?", {"ddpm": Need("scenes.ddpm")}, measured, n=200)
