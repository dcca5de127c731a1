"""What all samplers share: Step, the move, and the walk along the times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import Problem
from ..schedule import Level, Schedule, onto, posterior

Noise = Callable[[Tensor, Tensor], Tensor]  # (t, s) -> (B, …): unit-variance increment of each picture's path


class Step(NamedTuple):
    """One step: x stands at `t` = times[index + 1], after the move; x0 is the guess made at times[index]."""

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
    tau = torch.as_tensor(tau, dtype=torch.float64)
    eps = eps_of(x, x0, t)
    x_s = onto(s.alpha, x) * x0 + onto(s.sigma * (1 - tau).sqrt(), x) * eps
    if z is None or s.sigma == 0:
        return x_s
    return x_s + (onto(s.sigma * tau.sqrt(), x) if std is None else std) * z


def go(
    x: Tensor, x0: Tensor, t: Tensor, s: Tensor, now: Level, then: Level, tau: Tensor | float, noise: Noise | None
) -> Tensor:
    """The move from time t to s with τ of fresh noise, which is drawn only where some is wanted."""
    wanted = tau > 0 and then.sigma > 0
    return move(x, x0, now, then, tau, fresh(noise, x, t, s) if wanted else None)


def eps_of(x: Tensor, x0: Tensor, t: Level) -> Tensor:
    """The noise that a guess x0 leaves in x: (x − α·x0)/σ, σ > 0."""
    alpha, sigma = t.onto(x)
    return (x - alpha * x0) / sigma


def x0_of(x: Tensor, eps: Tensor, t: Level) -> Tensor:
    """The picture that a guess ε leaves in x: (x − σ·ε)/α, α > 0. What a method that averages ε moves with."""
    alpha, sigma = t.onto(x)
    return (x - sigma * eps) / alpha


def variances(t: Level, s: Level) -> tuple[Tensor, Tensor]:
    """DDPM's two choices for the variance of p(x_s | x_t): σ_s²·posterior (β̃) and σ_t² − (α_t/α_s)²σ_s² (β)."""
    return s.sigma**2 * posterior(t, s), t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2


def ancestral(t: Level, s: Level, eta: float) -> Tensor:
    """τ of DDIM and of the ancestral samplers: η²·posterior, at most 1 (Song et al. 2021, equation 16)."""
    _not_negative(eta)
    if eta == 0:  # also on the way up to a level of no signal, where the posterior is infinite
        return torch.zeros((), dtype=torch.float64)
    return (eta**2 * posterior(t, s)).clamp(0, 1)


def diffusing(t: Level, s: Level, eta: float) -> Tensor:
    """τ of the SDE solvers: 1 − (1 − posterior)^η = 1 − e^(−2ηh). The same as `ancestral` at η = 0 and 1."""
    _not_negative(eta)
    return 1 - (1 - posterior(t, s)) ** eta


def _not_negative(eta: float) -> None:
    if not eta >= 0:
        raise Problem(f"eta={eta}: a share of fresh noise, 0 for none")


def start(z: Tensor, t: Tensor | float, schedule: Schedule) -> Tensor:
    """The first x of a run at time t, from unit noise z: z where α² + σ² = 1, and σ·z where α = 1."""
    level = schedule(t)
    return onto(level.sigma, z) * z if level.alpha == 1 else z


def walk(times: Tensor, schedule: Schedule) -> Iterator[tuple[int, Tensor, Tensor, Level, Level]]:
    """(index, t, the next time s, the level at t, the level at s) along a run; Problem for fewer than two times."""
    if len(times) < 2:
        raise Problem(f"a run visits at least two times, not {len(times)}")
    for i in range(len(times) - 1):
        t, s = times[i], times[i + 1]
        yield i, t, s, schedule(t), schedule(s)


def after(x: Tensor, sent: Tensor | None) -> Tensor:
    """What to go on from: the x that a consumer sent back, if any."""
    return x if sent is None else sent


def fresh(noise: Noise | None, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The path's increment between t and s, like x; from torch's own generator where no path is given."""
    return torch.randn_like(x) if noise is None else noise(t, s).to(x)
