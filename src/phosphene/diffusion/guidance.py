"""Guidance: functions that make a better guess of x0, by nesting. Denoise -> Denoise.

g = 1 is the plain conditional model in `classifier_free`; 0 is none in `classifier`. The outermost wrappers are `clamp`
and `dynamic_threshold`, and the move takes ε from what they return.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import Problem
from .cond import Cond
from .denoiser import Denoise, Denoised, Denoiser
from .schedule import Schedule, onto


def classifier_free(
    denoiser: Denoiser,
    conds: Sequence[tuple[Cond, float | Tensor]],
    null: Cond,
    *,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
) -> Denoise:
    """x0 = x0_∅ + Σ g·(x0_c − x0_∅): the same as ε̄ = ε_∅ + g·(ε_c − ε_∅) (Ho & Salimans 2022, whose w is g − 1).

    conds     (cond, g) for each condition, of B rows or of one: several are composed (Liu et al. 2022); g is a number,
              or a tensor (B,) where the rows have weights of their own
    null      the condition that says nothing (or the negative prompt), of B rows or of one
    interval  (low, high) in t outside of which guidance is off, g = 1 (Kynkäänniemi et al. 2024); of several conditions
              the weighted mean is taken there
    rescale   φ of Lin et al. 2023, equation 16: the guided output is brought to the conditional one's deviation
    All conditions and the null are one batch of one network call; what has no weight is not computed. The spread is
    the first condition's.
    """
    if not conds:
        raise Problem("classifier-free guidance wants at least one condition")
    if not 0 <= rescale <= 1:
        raise Problem(f"rescale={rescale}: a share from 0 (off) to 1")
    if interval is not None and not interval[0] <= interval[1]:
        raise Problem(f"interval={interval}: two times, the lower first")
    given = [c for c, _ in conds]
    on = torch.stack(torch.broadcast_tensors(*(_double(g) for _, g in conds)))  # (conditions,) or (conditions, B)
    mean = torch.where(on.sum(0) == 0, on, on / on.sum(0))

    def denoise(x: Tensor, t: Tensor) -> Denoised:
        guided = on if interval is None or interval[0] <= float(t) <= interval[1] else mean
        rest = 1 - guided.sum(0)  # the weight of x0_∅
        parts = [p for p in zip([*given, null], [*guided, rest]) if p[1].any()]
        guesses, spread = _batched(denoiser, x, t, [c for c, _ in parts])
        x0 = sum(onto(g, x) * guess for guess, (_, g) in zip(guesses, parts))
        if rescale and len(parts) > 1:
            x0 = _rescaled(denoiser, x, t, x0, guesses[0], rescale)
        return Denoised(x0, spread)

    return denoise


def divided(parts: Sequence[tuple[Sequence[int], Denoise]]) -> Denoise:
    """Some pictures of a batch by one Denoise, others by another: (places in the batch, Denoise), all places in all."""
    if len(parts) == 1:
        return parts[0][1]
    order = torch.tensor([place for places, _ in parts for place in places]).argsort()

    def denoise(x: Tensor, t: Tensor) -> Denoised:
        guesses = [one(x[places], t if t.ndim == 0 else t[places]) for places, one in parts]
        x0, spread = zip(*guesses)
        return Denoised(torch.cat(x0)[order], None if spread[0] is None else torch.cat(spread)[order])

    return denoise


def _double(weight: float | Tensor) -> Tensor:
    return torch.as_tensor(weight, dtype=torch.float64, device="cpu")


def _batched(denoiser: Denoiser, x: Tensor, t: Tensor, conds: list[Cond]) -> tuple[list[Tensor], Tensor | None]:
    """One network call for all conditions: their guesses, and the first one's spread."""
    n, b = len(conds), len(x)
    t = t if t.ndim == 0 else t.repeat(n)
    x0, spread = denoiser(x.repeat(n, *[1] * (x.ndim - 1)), t, Cond.cat([c.expand(b) for c in conds]))
    return list(x0.chunk(n)), None if spread is None else spread[:b]


def _rescaled(denoiser: Denoiser, x: Tensor, t: Tensor, x0: Tensor, x0_cond: Tensor, share: float) -> Tensor:
    """Acts on the network's output: x0 -> a·x0 + b·ε -> rescaled -> x0."""
    guided, cond = denoiser.output(x, t, x0), denoiser.output(x, t, x0_cond)
    dims = list(range(1, x.ndim))
    matched = guided * (cond.std(dims, keepdim=True) / guided.std(dims, keepdim=True))
    return denoiser.read(x, t, share * matched + (1 - share) * guided)


LogProb = Callable[[Tensor, Tensor], Tensor]  # (x, t) -> (B,), differentiable in x


def classifier(denoise: Denoise, log_prob: LogProb, guidance: float, schedule: Schedule) -> Denoise:
    """x0 + g·σ²/α·∇ log p(y|x_t) (Dhariwal & Nichol 2021, Algorithm 2: ε − g·σ·∇, read as x0).

    log_prob(x, t) -> (B,). Also for CLIP guidance: a similarity times its temperature. Where no signal is left, α = 0,
    there is nothing to judge, and the guess stays as it is.
    """

    def guided(x: Tensor, t: Tensor) -> Denoised:
        x0, spread = denoise(x, t)
        level = schedule(t)
        if not level.alpha.all():
            return Denoised(x0, spread)
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(log_prob(at, t).sum(), at)
        return Denoised(x0 + onto(guidance * level.sigma**2 / level.alpha, x) * gradient, spread)

    return guided


def rescheduled(log_prob: LogProb, own: Schedule, schedule: Schedule) -> LogProb:
    """log_prob, which knows pictures noised on its `own` schedule, for x and t of another one.

    x_t of one schedule, scaled, is that of any other at the same α/σ: p(y | x_t) = p(y | x_t·α'/α). Beyond the ends of
    its own schedule it is asked at them.
    """

    def of(x: Tensor, t: Tensor) -> Tensor:
        level = schedule(t)
        its = own.at(level.logsnr)
        return log_prob(x * onto(own(its).alpha / level.alpha, x), its)

    return log_prob if own is schedule else of


def clamp(denoise: Denoise, bound: float = 1.0) -> Denoise:
    """x0 kept within ±bound. Unlike diffusers' DDIM, ε follows the clamped x0 (as in guided-diffusion)."""

    def clamped(x: Tensor, t: Tensor) -> Denoised:
        x0, spread = denoise(x, t)
        return Denoised(x0.clamp(-bound, bound), spread)

    return clamped


def dynamic_threshold(denoise: Denoise, quantile: float = 0.995, most: float = float("inf")) -> Denoise:
    """x0 clamped to ±s and divided by s, s a picture's own quantile of |x0|, at least 1 (Imagen, section 2.3).

    `most` bounds s, as IF's files do.
    """
    if not 0 < quantile <= 1:
        raise Problem(f"quantile={quantile}: a share above 0, at most 1")

    def thresholded(x: Tensor, t: Tensor) -> Denoised:
        x0, spread = denoise(x, t)
        s = torch.quantile(x0.flatten(1).abs(), quantile, dim=1).clamp(1, most)
        s = s.view(-1, *[1] * (x.ndim - 1))
        return Denoised(x0.clamp(-s, s) / s, spread)

    return thresholded


def switch(times: Sequence[float], denoises: Sequence[Denoise]) -> Denoise:
    """denoises[i] while t > times[i], the last one from there on: a prompt that changes with time, or experts.

    times fall, and are one fewer than the denoises; otherwise Problem.
    """
    if len(denoises) != len(times) + 1 or list(times) != sorted(times, reverse=True):
        raise Problem(f"{len(denoises)} denoisers want {len(denoises) - 1} falling times, not {list(times)}")

    def switched(x: Tensor, t: Tensor) -> Denoised:
        return denoises[sum(float(t) <= at for at in times)](x, t)

    return switched
