"""Samplers that move with the network's guess as it is: DDIM (and Euler), DDPM, LCM; and annealed Langevin."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...errors import Problem, unknown
from ..denoiser import Denoise
from ..schedule import Schedule, onto, posterior
from .base import Noise, Step, after, ancestral, eps_of, fresh, go, move, variances, walk

VARIANCES = ("small", "large", "learned")


@torch.no_grad()
def ddim(
    denoise: Denoise, x: Tensor, times: Tensor, schedule: Schedule, *, eta: float = 0.0, noise: Noise | None = None
) -> Iterator[Step]:
    """τ = η²·posterior, at most 1 (Song et al. 2021, equations 12 and 16).

    η = 0 is Euler's method on the probability flow: `euler` on EDM and on rectified flow. η = 1 is DDPM with its small
    variance, and where α = 1 it is Euler ancestral.
    """
    for i, t, s, now, then in walk(times, schedule):
        x0 = denoise(x, t).x0
        x = go(x, x0, t, s, now, then, ancestral(now, then, eta), noise)
        x = after(x, (yield Step(i, s, x, x0)))


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

    "small" is σ_s²·posterior (β̃_t), "large" σ_t² − (α_t/α_s)²σ_s² (β_t), and "learned" lies between them, in the
    logarithm, by the network's share (Nichol & Dhariwal 2021, equation 15). Raises Problem for another name, and for
    "learned" with a network that has not learned its variance.
    """
    if variance not in VARIANCES:
        raise unknown("variance", variance, VARIANCES)
    for i, t, s, now, then in walk(times, schedule):
        x0, spread = denoise(x, t)
        if variance == "learned" and spread is None:
            raise Problem("variance='learned' wants a network that learned its variance; try 'small' or 'large'")
        small, large = (onto(v, x) for v in variances(now, then))
        share = {"small": 0.0, "large": 1.0, "learned": spread}[variance]
        z = fresh(noise, x, t, s) if then.sigma > 0 else None
        std = None if z is None else (0.5 * (share * large.log() + (1 - share) * small.log())).exp()
        x = move(x, x0, now, then, posterior(now, then), z, std)
        x = after(x, (yield Step(i, s, x, x0)))


@torch.no_grad()
def lcm(
    denoise: Denoise, x: Tensor, times: Tensor, schedule: Schedule, *, noise: Noise | None = None
) -> Iterator[Step]:
    """τ = 1: guess, and noise the guess again. For consistency models (Song et al. 2023, Algorithm 1)."""
    for i, t, s, now, then in walk(times, schedule):
        x0 = denoise(x, t).x0
        x = go(x, x0, t, s, now, then, 1.0, noise)
        x = after(x, (yield Step(i, s, x, x0)))


@torch.no_grad()
def langevin(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    inner: int = 10,
    size: float = 0.2,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """Annealed Langevin dynamics, the one sampler that is not a move (Song & Ermon 2019, Algorithm 1).

    At each level `inner` times x ← x + ½ε·score + √ε·z, ε = size·σ², score = −ε/σ; then on to the next level's scale,
    or to the guess x0 where the next level is clean. NCSN's ε = 2e-5 at σ = 0.01 is a size of 0.2.
    """
    if inner < 1 or size <= 0:
        raise Problem(f"inner={inner}, size={size}: Langevin dynamics takes at least 1 inner step of a positive size")
    for i, t, s, now, then in walk(times, schedule):
        for j in range(inner):
            sub = [t + (s - t) * k / inner for k in (j, j + 1)]  # each draw its own piece of the path
            drift = 0.5 * size * onto(now.sigma, x) * eps_of(x, denoise(x, t).x0, now)
            x = x - drift + size**0.5 * onto(now.sigma, x) * fresh(noise, x, *sub)
        x0 = denoise(x, t).x0
        x = x0 if then.sigma == 0 else onto(then.alpha / now.alpha, x) * x if now.alpha > 0 else x
        x = after(x, (yield Step(i, s, x, x0)))
