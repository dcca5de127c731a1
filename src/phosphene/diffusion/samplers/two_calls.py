"""Samplers that ask the network twice a step: Heun, DPM-Solver++ 2S ancestral and SDE."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..denoiser import Denoise
from ..schedule import Schedule
from .base import Noise, Step, after, ancestral, eps_of, fresh, go, move, walk, x0_of


@torch.no_grad()
def heun(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = float("inf"),
    churn_noise: float = 1.0,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """Karras et al. 2022, Algorithm 2: churn up a little, then Heun's method in x/α against σ/α.

    Moves with the mean of ε at t and ε at s; first order into σ = 0 and out of α = 0. Churn (S_churn, spread over all
    steps) goes up by the forward process to σ/α·(1+γ), γ = min(churn/steps, √2−1), where churn_min ≤ σ/α ≤ churn_max;
    churn_noise is S_noise.
    """
    gamma = min(churn / (len(times) - 1), 2**0.5 - 1)
    for i, t, s, now, then in walk(times, schedule):
        if gamma > 0 and now.alpha > 0 and churn_min <= now.ratio <= churn_max:
            up = schedule.at(-2 * (now.ratio * (1 + gamma)).log())
            x = schedule.step(x, t, up, churn_noise * fresh(noise, x, up, t))
            t, now = up, schedule(up)
        guess = x0 = denoise(x, t).x0
        if then.sigma > 0 and now.alpha > 0:
            ahead = move(x, x0, now, then)
            mean = (eps_of(x, x0, now) + eps_of(ahead, denoise(ahead, s).x0, then)) / 2
            guess = x0_of(x, mean, now)
        x = move(x, guess, now, then)
        x = after(x, (yield Step(i, s, x, x0)))


@torch.no_grad()
def dpmpp_2s(
    denoise: Denoise, x: Tensor, times: Tensor, schedule: Schedule, *, eta: float = 1.0, noise: Noise | None = None
) -> Iterator[Step]:
    """DPM-Solver++(2S), ancestral with η > 0 (Lu et al. 2022, Algorithm 1 with r = ½; k-diffusion).

    The move down to σ_s·√(1−τ) is made with the guess at its middle in log(σ/α); then σ_s·√τ of fresh noise.
    """
    for i, t, s, now, then in walk(times, schedule):
        guess = x0 = denoise(x, t).x0
        tau = ancestral(now, then, eta)
        down = then.ratio * (1 - tau).sqrt()
        if down > 0 and now.alpha > 0:
            middle = schedule.at(-(now.ratio * down).log())
            guess = denoise(move(x, x0, now, schedule(middle)), middle).x0
        x = go(x, guess, t, s, now, then, tau, noise)
        x = after(x, (yield Step(i, s, x, x0)))


@torch.no_grad()
def dpmpp_sde(
    denoise: Denoise, x: Tensor, times: Tensor, schedule: Schedule, *, eta: float = 1.0, noise: Noise | None = None
) -> Iterator[Step]:
    """DPM-Solver++(SDE) of k-diffusion: a stochastic half step in log(σ/α), then the step with the guess from there."""
    for i, t, s, now, then in walk(times, schedule):
        guess = x0 = denoise(x, t).x0
        if then.sigma > 0 and now.alpha > 0:
            middle = schedule.at((now.logsnr + then.logsnr) / 2)
            halfway = schedule(middle)
            half = go(x, x0, t, middle, now, halfway, ancestral(now, halfway, eta), noise)
            guess = denoise(half, middle).x0
        x = go(x, guess, t, s, now, then, ancestral(now, then, eta), noise)
        x = after(x, (yield Step(i, s, x, x0)))
