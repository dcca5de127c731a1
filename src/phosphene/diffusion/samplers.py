"""Samplers: make a better guess of x0, then move.

A sampler is a generator of Step: `for step in ddim(denoise, x, times, schedule): ...`. It starts at x, which stands at
times[0], and goes through the times in order. A consumer may send a changed x back (`generator.send(x)`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import Problem, unknown
from .denoiser import Denoise
from .schedule import Level, Schedule, onto, posterior

Noise = Callable[[Tensor, Tensor], Tensor]  # (t, s) -> (B, …): unit-variance increment of each picture's path


class Step(NamedTuple):
    """One step: x stands at `t` = times[index + 1], after the move; x0 is the guess it was moved by."""

    index: int
    t: Tensor
    x: Tensor
    x0: Tensor


def move(
    x: Tensor,
    x0: Tensor,
    t: Level,
    s: Level,
    tau: Tensor | float = 0.0,
    z: Tensor | None = None,
    std: Tensor | None = None,
) -> Tensor:
    """Put the guess x0 of the picture behind x, which stands at level t, back at level s.

    x_s = α_s·x0 + σ_s·√(1−τ)·ε + (std, else σ_s·√τ)·z   with   ε = (x − α_t·x0)/σ_t

    τ is the share of fresh noise (Song et al. 2021, equation 12, with σ² = σ_s²·τ). No noise goes into a clean s.
    """
    (alpha, sigma), (alpha_s, sigma_s) = t.onto(x), s.onto(x)
    tau = torch.as_tensor(tau, dtype=torch.float64)
    kept = onto(s.sigma * (1 - tau).sqrt(), x)
    x_s = alpha_s * x0 + kept * ((x - alpha * x0) / sigma)
    if z is None or not s.sigma.any():
        return x_s
    return x_s + (onto(s.sigma * tau.sqrt(), x) if std is None else std) * z


@torch.no_grad()
def ddim(
    denoise: Denoise, x: Tensor, times: Tensor, schedule: Schedule, *, eta: float = 0.0, noise: Noise | None = None
) -> Iterator[Step]:
    """τ = η²·posterior, at most 1 (Song et al. 2021, equation 16).

    η = 0 is the probability flow's Euler step on any schedule: also `euler` on EDM and on rectified flow. η = 1 is
    DDPM with its small variance, and where α = 1 it is k-diffusion's Euler ancestral.
    """
    for i, t, s in walk(times):
        now, then = schedule(t), schedule(s)
        x0 = denoise(x, t).x0
        tau = (eta**2 * posterior(now, then)).clamp(max=1) if eta else 0.0
        x = move(x, x0, now, then, tau, fresh(noise, x, t, s, then) if eta else None)
        x = after(x, (yield Step(i, s, x, x0)))


euler = ddim


@torch.no_grad()
def ddpm(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    variance: str = "small",
    noise: Noise | None = None,
) -> Iterator[Step]:
    """Algorithm 2 of Ho et al. 2020: τ = posterior, and z is weighed by one of three variances.

    "small" σ_s²·posterior (β̃); "large" σ_t² − (α_t/α_s)²σ_s² (β); "learned" between them, in the logarithm, by the
    network's learned share (Nichol & Dhariwal 2021, equation 15). Raises Problem for another name, or for "learned" with a
    network that has no learned variance.
    """
    if variance not in VARIANCES:
        raise unknown("variance", variance, VARIANCES)
    for i, t, s in walk(times):
        now, then = schedule(t), schedule(s)
        x0, spread = denoise(x, t)
        if variance == "learned" and spread is None:
            raise Problem("variance='learned' wants a network that learned its variance; try 'small' or 'large'")
        small, large = (onto(v, x) for v in variances(now, then))
        std = {"small": small.sqrt(), "large": large.sqrt()}.get(variance)
        if std is None and then.sigma > 0:
            std = (0.5 * (spread * large.log() + (1 - spread) * small.log())).exp()
        x = move(x, x0, now, then, posterior(now, then), fresh(noise, x, t, s, then), std)
        x = after(x, (yield Step(i, s, x, x0)))


VARIANCES = ("small", "large", "learned")


def variances(t: Level, s: Level) -> tuple[Tensor, Tensor]:
    """DDPM's two choices for the variance of p(x_s | x_t): σ_s²·posterior and σ_t² − (α_t/α_s)²σ_s²."""
    return s.sigma**2 * posterior(t, s), t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2


@torch.no_grad()
def dpmpp_2m(denoise: Denoise, x: Tensor, times: Tensor, schedule: Schedule) -> Iterator[Step]:
    """DPM-Solver++(2M): moves with x0 extrapolated from the last guess (Lu et al. 2022, Algorithm 2)."""
    past = None
    for i, t, s in walk(times):
        now, then = schedule(t), schedule(s)
        x0 = denoise(x, t).x0
        guess = x0
        if past is not None and then.sigma > 0:
            before, last = past
            r = (now.logsnr - before.logsnr) / (then.logsnr - now.logsnr)
            guess = x0 + onto(1 / (2 * r), x) * (x0 - last)
        past = (now, x0) if now.alpha > 0 else None
        x = move(x, guess, now, then)
        x = after(x, (yield Step(i, s, x, x0)))


# What all samplers share


def walk(times: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(index, t, the next time s) along a run. Raises Problem for fewer than two times."""
    if len(times) < 2:
        raise Problem(f"a run visits at least two times, not {len(times)}")
    for i in range(len(times) - 1):
        yield i, times[i], times[i + 1]


def after(x: Tensor, sent: Tensor | None) -> Tensor:
    """What to go on from: the x that a consumer sent back, if any."""
    return x if sent is None else sent


def fresh(noise: Noise | None, x: Tensor, t: Tensor, s: Tensor, then: Level) -> Tensor | None:
    """The path's increment between t and s; from torch's generator where no path is given; none into a clean s."""
    if then.sigma == 0:
        return None
    return torch.randn_like(x) if noise is None else noise(t, s).to(x)


# The list


class Sampler(NamedTuple):
    """A sampler by name: the generator function, a line on it, and the options that make it this one."""

    function: Callable[..., Iterator[Step]]
    about: str
    options: dict = {}


SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler(ddim, "DDIM; eta=1 adds DDPM's noise"),
    "ddpm": Sampler(ddpm, "DDPM's Algorithm 2; variance=small, large or learned"),
    "euler": Sampler(ddim, "Euler's method on the probability flow"),
    "euler_ancestral": Sampler(ddim, "Euler with fresh noise at each step", {"eta": 1.0}),
    "dpmpp_2m": Sampler(dpmpp_2m, "DPM-Solver++(2M): second order at one evaluation a step"),
}


def sample(
    name: str,
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    noise: Noise | None = None,
    **options: object,
) -> Iterator[Step]:
    """The sampler of this name on (denoise, x, times, schedule); `noise` reaches those that draw any.

    Raises Problem for an unknown name, and for an option that the sampler does not know.
    """
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    function, _, defaults = SAMPLERS[name]
    known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, [k for k in known if k != "noise"])
    if "noise" in known:
        options["noise"] = noise
    return function(denoise, x, times, schedule, **{**defaults, **options})


def start(z: Tensor, t: Tensor | float, schedule: Schedule) -> Tensor:
    """The first x of a run at time t, from unit noise z: z where α² + σ² = 1, and σ·z where α = 1."""
    return onto(schedule(t).sigma, z) * z if float(schedule(t).alpha) in (0.0, 1.0) else z
