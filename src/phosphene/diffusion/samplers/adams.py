"""Samplers that move with a weighted mean of ε: PLMS and PNDM, LMS, DEIS. Adams and Bashforth's method, four times."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ...errors import Problem
from ..denoiser import Denoise
from ..schedule import Level, Schedule
from .base import Step, after, eps_of, move, walk, x0_of

# Adams–Bashforth weights for even steps, the newest first
EVEN = [
    [1.0],
    [3 / 2, -1 / 2],
    [23 / 12, -16 / 12, 5 / 12],
    [55 / 24, -59 / 24, 37 / 24, -9 / 24],
]


@torch.no_grad()
def plms(denoise: Denoise, x: Tensor, times: Tensor, schedule: Schedule) -> Iterator[Step]:
    """PLMS of latent diffusion: weights as if all steps were even (Liu et al. 2022, equation 12).

    The first step is Heun's, whose second call is not kept: steps + 1 calls in all.
    """
    past: list[Tensor] = []
    for i, t, s, now, then in walk(times, schedule):
        x0 = denoise(x, t).x0
        guess = x0
        if now.alpha > 0:
            past = [eps_of(x, x0, now), *past][:4]
            mean = _mean(EVEN[len(past) - 1], past)
            if len(past) == 1 and then.sigma > 0:
                ahead = move(x, x0, now, then)
                mean = (past[0] + eps_of(ahead, denoise(ahead, s).x0, then)) / 2
            guess = x0_of(x, mean, now)
        x = move(x, guess, now, then)
        x = after(x, (yield Step(i, s, x, x0)))


@torch.no_grad()
def pndm(denoise: Denoise, x: Tensor, times: Tensor, schedule: Schedule) -> Iterator[Step]:
    """PNDM: PLMS started by three steps of Runge and Kutta's, four calls each (Liu et al. 2022, Algorithm 2).

    Their middle is the middle in t. A step out of α = 0 or into σ = 0 is DDIM's.
    """
    past: list[Tensor] = []
    for i, t, s, now, then in walk(times, schedule):
        x0 = denoise(x, t).x0
        guess = x0
        if now.alpha > 0:
            past = [eps_of(x, x0, now), *past][:4]
            mean = _mean(EVEN[len(past) - 1], past)
            if len(past) < 4 and then.sigma > 0:
                mean = _runge_kutta(denoise, x, past[0], (t + s) / 2, s, now, schedule)
            guess = x0_of(x, mean, now)
        x = move(x, guess, now, then)
        x = after(x, (yield Step(i, s, x, x0)))


def _runge_kutta(
    denoise: Denoise, x: Tensor, eps: Tensor, middle: Tensor, s: Tensor, now: Level, schedule: Schedule
) -> Tensor:
    found = [eps]
    for time in (middle, middle, s):
        level = schedule(time)
        at = move(x, x0_of(x, found[-1], now), now, level)
        found.append(eps_of(at, denoise(at, time).x0, level))
    return _mean([1 / 6, 1 / 3, 1 / 3, 1 / 6], found)


def lms(denoise: Denoise, x: Tensor, times: Tensor, schedule: Schedule, *, order: int = 4) -> Iterator[Step]:
    """Linear multistep: ε along a polynomial in σ/α through the last `order` of them (k-diffusion)."""
    return _adams(denoise, x, times, schedule, order, log=False)


def deis(denoise: Denoise, x: Tensor, times: Tensor, schedule: Schedule, *, order: int = 3) -> Iterator[Step]:
    """DEIS: ε along a polynomial in log(σ/α) (Zhang & Chen 2023, ρAB). A step into σ = 0 is DDIM's."""
    return _adams(denoise, x, times, schedule, order, log=True)


@torch.no_grad()
def _adams(denoise: Denoise, x: Tensor, times: Tensor, schedule: Schedule, order: int, log: bool) -> Iterator[Step]:
    if order < 1:
        raise Problem(f"order={order}: wanted 1 or more; 2 to 4 are usual")
    past: list[tuple[Tensor, Tensor]] = []  # (σ/α, ε), the newest first
    for i, t, s, now, then in walk(times, schedule):
        x0 = denoise(x, t).x0
        guess = x0
        if now.alpha > 0:
            past = [(now.ratio, eps_of(x, x0, now)), *past][:order]
            if then.sigma > 0 or not log:
                weights = _over_step([float(ratio) for ratio, _ in past], float(then.ratio), log)
                guess = x0_of(x, _mean(weights, [eps for _, eps in past]), now)
        x = move(x, guess, now, then)
        x = after(x, (yield Step(i, s, x, x0)))


def _over_step(ratios: list[float], to: float, log: bool) -> list[float]:
    """The mean over a step, from ratios[0] to `to`, of each Lagrange polynomial through the ratios (or their logs).

    ∫ ℓ_k dρ / (ρ_s − ρ_t) by Gauss and Legendre's rule in the polynomials' own variable: exact for one, to rounding for
    the other.
    """
    nodes, to = (np.log(ratios), np.log(to)) if log else (np.array(ratios), to)
    places, weights = np.polynomial.legendre.leggauss(16)
    u = nodes[0] + (to - nodes[0]) * (places + 1) / 2
    weights = weights * np.exp(u - nodes[0]) if log else weights  # dρ = ρ du
    weights = weights / weights.sum()
    others = [np.delete(nodes, k) for k in range(len(nodes))]
    basis = [np.prod((u[:, None] - rest) / (node - rest), axis=1) for node, rest in zip(nodes, others)]
    return [float(weights @ b) for b in basis]


def _mean(weights: list[float], values: list[Tensor]) -> Tensor:
    return sum((w * v for w, v in zip(weights, values)), torch.zeros_like(values[0]))
