"""Latents against pixels at equal compute: one class-conditional model of single objects, in spaces of f = 1 to 16."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from phosphene.data.scenes import wilson
from phosphene.data.sheet import contact_sheet
from phosphene.metrics.interval import Interval
from phosphene.recipes.grids import made_of
from phosphene.recipes.parts import pictures_of
from phosphene.recipes.scenes.compressed import OneObject, classes, read_right
from phosphene.studies.base import Found, Job, Need, Study
from phosphene.studies.pictures import Judge, compared
from phosphene.systems.base import Batch
from phosphene.views.plot import Curve, Plot

STEPS = (3, 6, 12)
SHOWN = 8
NEEDS = {
    "pixels": "scenes.in_pixels", "KL, f = 4": "scenes.in_kl", "VQ, f = 4": "scenes.in_vq",
    "KL, f = 8": "scenes.in_kl8", "KL, f = 16": "scenes.in_kl16", "KL, f = 8, 48×": "scenes.in_kl48",
}  # fmt: skip


def measured(job: Job) -> Iterator[str | Found]:
    judge, told = Judge(), classes(job.n)
    rows, curves, strips = [], [], []
    for name, system in job.systems.items():
        flops, spent = training_cost(system, job.runs[name])
        points = []
        for steps in STEPS:
            yield f"{name}, {steps} steps: {job.n} pictures"
            began = time.process_time()
            pictures = made_of(system, told, job.seed, steps=steps)
            seconds = (time.process_time() - began) / job.n
            hits = sum(read_right(pictures, told))
            points.append((steps, Interval(hits / job.n, *wilson(hits, job.n))))
        x = 3 * system.size**2 / numbers(system)
        rows.append((name, numbers(system), x, spent, flops, points[-1][1], judge(pictures).frechet, 1000 * seconds))
        curves.append(Curve(name, [(s, it.value) for s, it in points], [tuple(it[1:]) for _, it in points]))
        strips.append(pictures[:SHOWN])
    plot = Plot(curves, "sampling steps", "right of single objects", span=(0.0, 1.0))
    columns = (
        "space", "numbers", "times fewer", "training, CPU s", "training, TFLOP", "right", "Fréchet", "CPU ms a picture",
    )  # fmt: skip
    sheet = contact_sheet(torch.cat(strips), [name for name in job.systems for _ in range(SHOWN)], SHOWN)
    yield Found(columns, rows, plot.drawn(), answer(rows, job.n), {"pictures": sheet})


def numbers(system: Any) -> int:
    """How many the diffusion runs on."""
    return system.channels * (system.size // system.factor) ** 2


def training_cost(system: Any, run: Path, timed: int = 3) -> tuple[float, float]:
    """What `spent` says of a run on scenes of one object, told their class."""
    batch = json.loads((run / "settings.json").read_text())["recipe"]["batch"]
    source = OneObject(system.size, batch)
    labels = [source[i].label for i in range(batch)]
    return spent(system, Batch(pictures_of(source, system.size), labels, torch.arange(batch)), run, timed)


def spent(system: Any, batch: Batch, run: Path, timed: int = 3) -> tuple[float, float]:
    """(10¹² floating-point operations, processor's seconds) of a run: of one step, measured here, times their number.

    Without the optimiser and the averaged weights, which cost the same for all; what its system stands on, such as an
    autoencoder, is not in it, and what `prepare` does was done once. batch: pictures and prompts, of the run's size.
    """
    settings = json.loads((run / "settings.json").read_text())
    steps, whole = settings["training"]["steps"], system.prepare(batch)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=settings["training"]["precision"] == "bf16")

    def step() -> None:
        with torch.enable_grad(), autocast:
            system.loss(whole).total.backward()

    with FlopCounterMode(display=False) as counter:
        step()
    began = time.process_time()
    for _ in range(timed):
        step()
    seconds = (time.process_time() - began) / timed
    system.zero_grad(set_to_none=True)
    return counter.get_total_flops() * steps / 1e12, seconds * steps


def answer(rows: list[tuple], n: int) -> str:
    """Each space against pixels."""
    right = {row[0]: row[5] for row in rows}
    pixels = right["pixels"]
    others = "; ".join(
        f"{name} {it.value:.0%}, {compared(it, pixels)}" for name, it in right.items() if name != "pixels"
    )
    return f"At equal compute, right of {n} pictures: pixels {pixels.value:.0%}; {others} (95 % intervals)."


STUDY = Study(
    "What is compressing worth, at equal compute?",
    {name: Need(recipe) for name, recipe in NEEDS.items()},
    measured,
    n=258,
)
