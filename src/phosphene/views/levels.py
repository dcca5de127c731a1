"""The loss by noise level: what a network has learned, and at which levels it has not.

Training draws a level a picture and logs the mean; which levels that mean comes from it does not say. Here every
picture is noised to every level, always by the same noise, for every model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.base import Some, open_source
from ..data.batches import Batches
from ..diffusion.denoiser import PREDICTIONS
from ..diffusion.noise import path
from ..diffusion.schedule import Level
from ..errors import Problem, unknown
from ..metrics.interval import Interval, mean_of
from ..systems.ddpm import Ddpm
from ..text.encoders import told_to
from .model import Model, opened
from .page import View
from .plot import Curve, Plot

BATCH, ENDS = 16, (-8.0, 8.0)  # pictures at once; of logsnr
READING = (
    "The mean square error of {of}, on {n} pictures, each noised to every level by the same noise; the bands "
    "are 95% intervals of the mean. Noise is on the left, the clean picture on the right. Grey is what one gets "
    "without a network: the constant always says the mean, the line is the best straight line through x. A network "
    "that knows something of these pictures at a level is below both there."
)
DASHES = {"constant": (6, 4), "line": (2, 3)}
ASKED = {"eps": "the noise eps", "x0": "the picture x0", "v": "v = alpha*eps - sigma*x0", "flow": "eps - x0 (flow)"}


class Levels(NamedTuple):
    """The loss of one model.

    logsnr   the levels, noisiest first
    loss     at each the mean over pictures, with its interval
    constant the same of who always answers with the mean of what is asked for: a²·Var + b²
    line     of x0 = μ + c·(x − α·μ), with the best number c: what a network that knows no picture could do
    """

    logsnr: list[float]
    loss: list[Interval]
    constant: list[float]
    line: list[float]


def levels(
    models: Model | Sequence[Model] = None,
    *,
    data: str,
    n: int = 64,
    points: int = 17,
    of: str | None = None,
    seed: int = 0,
    **using: Any,
) -> View:
    """The denoising loss of one or several models at `points` levels, on the same pictures with the same noise.

    data    a data spec; n of its rows, evenly spread, are looked at, with their captions or classes
    of      the error of what: a row of PREDICTIONS; what the models predict, and "eps" where that differs
    using   as Studio takes it
    Raises Problem for fewer than 2 pictures or levels, an unknown `of`, and for models without a denoiser.
    """
    listed = list(models) if isinstance(models, (list, tuple)) else [models]
    if n < 2 or points < 2:
        raise Problem(f"n={n}, points={points}: at least 2 pictures and 2 levels are wanted")
    if of is not None and of not in PREDICTIONS:
        raise unknown("prediction", of, PREDICTIONS)
    there = [opened(model, **using) for model in listed]
    names = _names([one.name for one in there])
    ways = {one.system.denoiser.predicts for one in there}
    of = of or (ways.pop() if len(ways) == 1 else "eps")
    found = {name: measure(one.system, data, n=n, points=points, of=of, seed=seed) for name, one in zip(names, there)}
    curves = [
        Curve(k, [*zip(f.logsnr, (i.value for i in f.loss))], [(i.low, i.high) for i in f.loss])
        for k, f in found.items()
    ]
    yards = _yardsticks(found)
    plot = Plot([*curves, *yards], "logsnr", f"mean square error of {ASKED.get(of, of)}", logarithmic=True)
    count = min(n, len(open_source(data)))
    reading = READING.format(of=ASKED.get(of, of), n=count)
    made = {"data": data, "n": count, "seed": seed, "of": of}
    made |= {k: v for k, v in there[0].origin.items() if k not in ("model", "weights")}
    made["models"] = [f"{name} ({one.origin.get('weights', 'in memory')})" for name, one in zip(names, there)]
    numbers = {name: f._asdict() for name, f in found.items()}
    return View("Loss by noise level", [plot], reading, made, numbers)


@torch.no_grad()
def measure(system: Ddpm, data: str, *, n: int = 64, points: int = 17, of: str = "eps", seed: int = 0) -> Levels:
    """The loss of a system at levels evenly spread in logsnr from −8 to 8, as far as its schedule goes.

    Raises Problem for data that it cannot be told of, and for a network that is shown a mask beside x.
    """
    pictures = _pictures(system, data, n, seed)
    x0 = torch.cat([batch.image for batch in pictures])[:n]
    _takes(system, x0)
    with torch.random.fork_rng(devices=[]):  # what a small picture beside x may be noised by
        torch.manual_seed(seed)
        conds = [system.cond(batch) for batch in pictures]
    eps = path(tuple(x0.shape[1:]), [seed + i for i in range(len(x0))], "levels", x0.device).start().to(x0)
    spread = float(x0.double().var(0).mean())  # Var: around the mean picture, of a number of x
    found = Levels([], [], [], [])
    for t in _times(system, points):
        level = system.denoiser.schedule(t)
        each = []
        for part, noise, cond in zip(x0.split(BATCH), eps.split(BATCH), conds):
            guess = system.denoiser(system.denoiser.schedule.jump(part, t, noise), t, cond[: len(part)]).x0
            each.append((guess - part).double().square().flatten(1).mean(1).cpu())
        constant, line = yardsticks(of, level, spread)
        found.logsnr.append(float(level.logsnr))
        found.loss.append(mean_of(asked(of, level) * torch.cat(each)))
        found.constant.append(constant)
        found.line.append(line)
    return found


def yardsticks(of: str, level: Level, spread: float) -> tuple[float, float]:
    """(constant, line) for pictures whose numbers have the variance `spread` around their mean: see Levels."""
    a, b = (float(v) for v in PREDICTIONS[of](level))
    return a**2 * spread + b**2, asked(of, level) * spread / (1 + float(level.logsnr.exp()) * spread)


def asked(of: str, level: Level) -> float:
    """What the error of x0 is times to be that of `of`: (a − b·α/σ)², as a·x0 + b·(x − α·x0)/σ changes with x0."""
    a, b = PREDICTIONS[of](level)
    return float((a - b * level.alpha / level.sigma) ** 2)


def _times(system: Ddpm, points: int) -> list[Tensor]:
    """The times of the levels, noisiest first, of those that the schedule has."""
    schedule = system.denoiser.schedule
    noisiest, cleanest = schedule(schedule.first).logsnr, schedule(schedule.last).logsnr
    grid = torch.linspace(*ENDS, points, dtype=torch.float64)
    return [schedule.at(logsnr) for logsnr in grid if noisiest <= logsnr <= cleanest]


def _pictures(system: Ddpm, data: str, n: int, seed: int) -> list[Any]:
    """At least n rows of the data, or all, as prepared batches on the system's device."""
    source = open_source(data)
    n = min(n, len(source))
    channels = system.channels if system.factor == 1 and system.channels in (1, 3) else 3
    told = told_to(system.encoder)
    batches = Batches(
        Some(source, n),
        size=(system.size, system.size),
        batch=min(n, BATCH),
        seed=seed,
        drop=0,
        prompts=told,
        channels=channels,
    )
    return [system.prepare(batches.at(k).to(system.device)) for k in range(-(-n // BATCH))]


def _takes(system: Ddpm, x0: Tensor) -> None:
    wide = getattr(system.denoiser.net, "arguments", {}).get("in_channels", x0.shape[1])
    if wide not in (x0.shape[1], 2 * x0.shape[1]):
        raise Problem(f"this network takes {wide} channels, a mask among them: its loss is not of pictures alone")


def _names(names: Sequence[str]) -> list[str]:
    return [f"{name} ({i + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _yardsticks(found: dict[str, Levels]) -> list[Curve]:
    """Constant and line: once where they are the same for all models, else those of each."""
    curves = []
    for kind, dash in DASHES.items():
        its = {name: [*zip(f.logsnr, getattr(f, kind))] for name, f in found.items()}
        alike = len({tuple(f"{y:.3g}" for _, y in points) for points in its.values()}) == 1
        named = (
            {kind: next(iter(its.values()))} if alike else {f"{kind}, {name}": points for name, points in its.items()}
        )
        curves += [Curve(name, points, dash=dash) for name, points in named.items()]
    return curves
