"""The variational bound on −log p(x0), in nats per dimension (Ho et al. 2020, equation 5; Sohl-Dickstein et al. 2015).

L = KL(q(x_1|x0) ‖ N(0, I)) + Σ_t KL(q(x_s|x_t, x0) ‖ p(x_s|x_t)) − log p(x0|x_{1/T}),  s = t − 1/T
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .schedule import Level, Table, onto, posterior


class Bound(NamedTuple):
    """`total` = prior + terms.sum(1), (B,); `terms` (B, T) from t = 1/T, the decoder's, up to t = 1."""

    total: Tensor
    prior: Tensor
    terms: Tensor


@torch.no_grad()
def variational_bound(
    denoise: Callable,
    x0: Tensor,
    schedule: Table,
    eps: Callable[[Tensor], Tensor] | None = None,
    bins: int | None = 255,
) -> Bound:
    """Evaluates all T terms on pictures x0 (B, …), one draw of ε a term: T network calls.

    denoise  (x, t) -> Denoised, with its condition bound
    eps      k -> the noise of term k, like x0; torch's own where not given
    bins     see `term`
    """
    terms = []
    for k in range(1, schedule.T + 1):
        t = torch.tensor(k / schedule.T, dtype=torch.float64)
        noise = torch.randn_like(x0) if eps is None else eps(k)
        guess, spread = denoise(schedule.jump(x0, t, noise), t)
        terms.append(term(x0, guess, spread, schedule, t, bins))
    first = prior(x0, schedule)
    terms = torch.stack(terms, dim=1)
    return Bound(first + terms.sum(1), first, terms)


def prior(x0: Tensor, schedule: Table) -> Tensor:
    """KL(q(x_1|x0) ‖ what samplers start from), (B,): what the noisiest level still tells. Nothing to train.

    That is N(0, I), or N(0, σ²I) where α = 1.
    """
    alpha, sigma = schedule(1.0)
    var = sigma**2 if alpha == 1 else torch.ones_like(sigma)
    kl = 0.5 * (onto(alpha**2 / var, x0) * x0.square() + onto(sigma**2 / var - 1 - (sigma**2 / var).log(), x0))
    return kl.flatten(1).mean(1)


def term(
    x0: Tensor,
    guess: Tensor,
    spread: Tensor | None,
    schedule: Table,
    t: Tensor,
    bins: int | None = 255,
    where: Tensor | None = None,
) -> Tensor:
    """One term of the bound, (B,), mean over dimensions; t is 0-d or (B,), entries of the table.

    Above 1/T the divergence between the posteriors given x0 and given the guess, whose variance is DDPM's small one, or
    lies between small and large by `spread`. At 1/T −log p(x0|x), where x0 has `bins` + 1 evenly spaced values in
    [−1, 1] (255: 8-bit pictures), or a density where bins is None (latents).
    """
    now, then = schedule(t), schedule((t * schedule.T).round().sub(1) / schedule.T)
    small, large = _variances(schedule, now, then)
    log_small, log_large = onto(small.log(), x0), onto(large.log(), x0)
    log_var = log_small if spread is None else spread * log_large + (1 - spread) * log_small
    # both means are linear in x0, with the same coefficient: α_s − √(1−τ)·σ_s·α_t/σ_t
    along = then.alpha - (1 - posterior(now, then)).sqrt() * then.sigma * now.alpha / now.sigma
    apart = onto(along, x0) * (x0 - guess)
    kl = 0.5 * (log_var - log_small - 1 + (log_small - log_var).exp() + apart.square() * (-log_var).exp())
    last = (onto(then.sigma, x0) == 0).to(x0.device)
    near = torch.where(last, guess, x0)  # elsewhere a guess may be so far off that a gradient of 0 times ∞ comes back
    nats = torch.where(last, -_log_likelihood(x0, near, log_var, bins), kl)
    return (nats if where is None else nats * where).flatten(1).mean(1)


def _variances(schedule: Table, now: Level, then: Level) -> tuple[Tensor, Tensor]:
    """The small and the large variance; the small one of the last step, which is 0, is that of the step before it."""
    second = schedule(torch.tensor([2.0, 1.0], dtype=torch.float64) / schedule.T)
    before, last = (Level(second.alpha[i], second.sigma[i]) for i in (0, 1))
    small = torch.where(then.sigma == 0, _small(before, last), _small(now, then))
    return small, now.sigma**2 - (now.alpha / then.alpha * then.sigma) ** 2


def _small(t: Level, s: Level) -> Tensor:
    return s.sigma**2 * posterior(t, s)


def _log_likelihood(x0: Tensor, mean: Tensor, log_var: Tensor, bins: int | None) -> Tensor:
    """log p(x0) under N(mean, var): a density, or the probability of x0's bin; the outermost bins are open-ended."""
    std, off = (0.5 * log_var).exp(), x0 - mean
    if bins is None:
        return -0.5 * (off.square() * (-log_var).exp() + log_var + math.log(2 * math.pi))
    half = 1 / bins
    near, far = ((half - off.abs()) / std, (-half - off.abs()) / std)  # both in the lower tail, where the log is exact
    log_near = torch.special.log_ndtr(near)
    inside = log_near + torch.log(-torch.expm1(torch.special.log_ndtr(far) - log_near))
    lowest, highest = torch.special.log_ndtr((off + half) / std), torch.special.log_ndtr((half - off) / std)
    return torch.where(x0 <= -1 + half, lowest, torch.where(x0 >= 1 - half, highest, inside))
