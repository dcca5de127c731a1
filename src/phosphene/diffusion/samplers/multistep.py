"""Samplers that make a better guess of x0 from earlier ones: DPM-Solver++ 2M and 3M, also as SDEs, and UniPC.

All take their first step out of α = 0 and their last one into σ = 0 with the network's guess as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ...errors import Problem, unknown
from ..denoiser import Denoise
from ..schedule import Level, Schedule, onto
from .base import Noise, Step, after, diffusing, go, move, walk

Past = list[tuple[Tensor, Tensor]]  # (λ = log(α/σ), the guess made there), the newest first


@torch.no_grad()
def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    eta: float = 0.0,
    rule: str = "midpoint",
    noise: Noise | None = None,
) -> Iterator[Step]:
    """DPM-Solver++(2M), Lu et al. 2022, Algorithm 2; with η > 0 its SDE.

    Moves with x0 extrapolated along a line in λ = log(α/σ) through the last two guesses, to the middle of the step
    (rule "midpoint") or to its mean under the solution's weight e^λ ("heun").
    """
    if rule not in ("midpoint", "heun"):
        raise unknown("rule", rule, ("midpoint", "heun"))
    past: Past = []
    for i, t, s, now, then in walk(times, schedule):
        x0 = denoise(x, t).x0
        past = _remember(past, now, x0, 2)
        guess = x0
        if len(past) == 2 and then.sigma > 0:
            (lam, _), (lam_1, x0_1) = past
            h = then.logsnr / 2 - lam
            ahead = 0.5 if rule == "midpoint" else _moments(h * (1 + eta))[0]
            guess = x0 + onto(ahead * h / (lam - lam_1), x) * (x0 - x0_1)
        x = go(x, guess, t, s, now, then, diffusing(now, then, eta), noise)
        x = after(x, (yield Step(i, s, x, x0)))


@torch.no_grad()
def dpmpp_3m(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    eta: float = 0.0,
    bend: float = 0.5,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """DPM-Solver++(3M), with η > 0 its SDE: x0 along a parabola in λ through the last three guesses.

    The guess is x0 + ⟨u⟩·d1 + bend·⟨u²⟩·d2: u goes from 0 to 1 along the step, ⟨·⟩ is the mean under the solution's
    weight, d1 the slope, d2 the second divided difference. The parabola wants bend = 1; the coefficients of k-diffusion
    and diffusers amount to 0.5, which leaves the method at second order, and are the default, for agreement.
    """
    past: Past = []
    for i, t, s, now, then in walk(times, schedule):
        x0 = denoise(x, t).x0
        past = _remember(past, now, x0, 3)
        guess = x0
        if len(past) > 1 and then.sigma > 0:
            h = then.logsnr / 2 - past[0][0]
            first, second = _moments(h * (1 + eta))
            slopes = [(a - b) * onto(h / (la - lb), x) for (la, a), (lb, b) in pairwise(past)]
            d1, d2 = slopes[0], 0.0
            if len(slopes) == 2:
                d2 = (slopes[0] - slopes[1]) * onto(h / (past[0][0] - past[2][0]), x)
                d1 = slopes[0] + d2 * onto((past[0][0] - past[1][0]) / h, x)
            guess = x0 + onto(first, x) * d1 + onto(bend * second, x) * d2
        x = go(x, guess, t, s, now, then, diffusing(now, then, eta), noise)
        x = after(x, (yield Step(i, s, x, x0)))


@torch.no_grad()
def unipc(
    denoise: Denoise, x: Tensor, times: Tensor, schedule: Schedule, *, order: int = 2, rule: str = "bh2"
) -> Iterator[Step]:
    """UniPC in x0 (Zhao et al. 2023): predict with `order` guesses, and correct.

    The guess at t, where the predictor arrived, also repairs x there at no further call, before the next move. `rule`
    is the paper's B(h): "bh1" h, "bh2" e^h − 1. The order falls to 1 at the end. An x sent back is not repaired.
    """
    if order < 1:
        raise Problem(f"order={order}: wanted 1 or more; 2 or 3 are usual")
    if rule not in ("bh1", "bh2"):
        raise unknown("rule", rule, ("bh1", "bh2"))
    past: Past = []
    arrived = None  # where the last move began: (x, its level, the guesses it used)
    for i, t, s, now, then in walk(times, schedule):
        x0 = denoise(x, t).x0
        if arrived is not None:
            x_before, before, used = arrived
            x = move(x_before, _unified(used, now, rule, x0), before, now)
        past = _remember(past, now, x0, order)
        used = past[: len(times) - 1 - i]
        arrived = (x, now, used) if used else None
        guess = _unified(used, then, rule) if used and then.sigma > 0 else x0
        x = move(x, guess, now, then)
        sent = yield Step(i, s, x, x0)
        if sent is not None:
            x, arrived = sent, None


def _unified(used: Past, to: Level, rule: str, arrived: Tensor | None = None) -> Tensor:
    """The guess that moves from used[0] to the level `to`: UniP, or UniC with the guess `arrived` made there."""
    (lam, x0), *rest = used
    h = to.logsnr / 2 - lam
    points = [((lam_k - lam) / h, guess) for lam_k, guess in rest]
    if arrived is not None:
        points.append((torch.ones_like(h), arrived))
    if not points:
        return x0
    weights = _weights(torch.stack([r for r, _ in points]), h, rule)
    return x0 + sum(onto(w / r, x0) * (guess - x0) for w, (r, guess) in zip(weights, points))


def _weights(r: Tensor, h: Tensor, rule: str) -> Tensor:
    """Weights of the differences at λ + r·h, matching as many moments as there are points (equation 9); one takes ½."""
    phi = torch.expm1(-h)
    scale = -h if rule == "bh1" else phi  # B(h)
    if len(r) == 1:
        return 0.5 * scale / phi * torch.ones_like(r)
    rows, right, term, factorial = [], [], phi / -h - 1, 1
    for k in range(1, len(r) + 1):
        rows.append(r ** (k - 1))
        right.append(term * factorial / phi)
        factorial *= k + 1
        term = term / -h - 1 / factorial
    return torch.linalg.solve(torch.stack(rows), torch.stack(right))


def _moments(h: Tensor) -> tuple[Tensor, Tensor]:
    """Means of u and u² over a step, u from 0 to 1, under the solution's weight e^(−h(1−u))."""
    total = -torch.expm1(-h)
    first = (1 - total / h) / total
    return first, (1 - 2 * first * total / h) / total


def _remember(past: Past, now: Level, x0: Tensor, most: int) -> Past:
    """What was guessed without any signal is not built upon."""
    return [(now.logsnr / 2, x0), *past][:most] if now.alpha > 0 else []
