"""What networks predict, and the Denoiser: a network, a schedule and a prediction.

Every network predicts a·x0 + b·ε for a pair (a, b) that depends on the level alone. PREDICTIONS is the only place that
knows the pairs; no sampler ever asks what the network predicts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import Problem, unknown
from ..parts import part
from . import bound
from .cond import Cond
from .schedule import Level, Schedule, Table, onto

SIGMA_DATA = 0.5  # Karras et al. 2022, Table 1


def _edm(level: Level) -> tuple[Tensor, Tensor]:
    r = _edm_norm(level)
    return level.sigma / (SIGMA_DATA * r), -level.alpha * SIGMA_DATA / r


def _edm_norm(level: Level) -> Tensor:
    return (SIGMA_DATA**2 * level.alpha**2 + level.sigma**2).sqrt()


PREDICTIONS: dict[str, Callable[[Level], tuple[Tensor, Tensor]]] = {
    "eps": lambda level: (torch.zeros_like(level.alpha), torch.ones_like(level.alpha)),  # Ho et al. 2020
    "x0": lambda level: (torch.ones_like(level.alpha), torch.zeros_like(level.alpha)),  # there, section 3.2
    "v": lambda level: (-level.sigma, level.alpha),  # Salimans & Ho 2022
    "flow": lambda level: (-torch.ones_like(level.alpha), torch.ones_like(level.alpha)),  # dx/dt where α = 1−σ
    "edm": _edm,  # Karras et al. 2022, Table 1
}


def target(predicts: str, level: Level, x0: Tensor, eps: Tensor) -> Tensor:
    """What the network should say: a·x0 + b·ε. Level is 0-d or (B,), x0 and eps (B, …)."""
    a, b = (onto(c, x0) for c in PREDICTIONS[predicts](level))
    return a * x0 + b * eps


def clean(predicts: str, level: Level, x: Tensor, out: Tensor) -> Tensor:
    """The x0 that the network's output means: (b·x − σ·out) / (b·α − a·σ), σ > 0."""
    a, b = PREDICTIONS[predicts](level)
    scale = 1 / (b * level.alpha - a * level.sigma)
    return onto(b * scale, x) * x - onto(level.sigma * scale, x) * out


# Weights of the error of x0, as functions of logsnr: so that no weight knows the prediction


@part
class Snr:
    """SNR: on the error of x0, this is the plain square of the error of ε (L_simple; Ho et al. 2020, equation 14)."""

    def __init__(self):
        pass

    def __call__(self, logsnr: Tensor) -> Tensor:
        return logsnr.exp()


@part
class MinSnr:
    """min(SNR, γ) (Hang et al. 2023, equation 8)."""

    def __init__(self, gamma: float = 5.0):
        self.gamma = gamma

    def __call__(self, logsnr: Tensor) -> Tensor:
        return logsnr.exp().clamp(max=self.gamma)


@part
class P2:
    """SNR / (k + SNR)^γ: perception prioritised (Choi et al. 2022, equation 8)."""

    def __init__(self, gamma: float = 1.0, k: float = 1.0):
        self.gamma, self.k = gamma, k

    def __call__(self, logsnr: Tensor) -> Tensor:
        snr = logsnr.exp()
        return snr / (self.k + snr) ** self.gamma


WEIGHTS = {"snr": Snr, "min_snr": MinSnr, "p2": P2}


class Denoised(NamedTuple):
    """A guess of the clean picture. `spread` in [0, 1] lies between the two variances of DDPM: (v+1)/2, or None."""

    x0: Tensor
    spread: Tensor | None = None


Denoise = Callable[[Tensor, Tensor], Denoised]  # (x, t) -> guess; the condition is bound


@part
class Denoiser(nn.Module):
    """net + schedule + prediction: a guess of x0 from x_t.

    net               forward(x, time, cond), time = schedule.c_noise(t); parts.py makes it storable
    predicts          a row of PREDICTIONS
    weight            None: the plain square of the error of what is predicted. A part that maps logsnr to a weight of
                      the error of x0 (Snr, MinSnr(gamma), P2), or its name. "bound": the variational bound itself
    learned_variance  the network returns twice the channels; the second half is DDPM's v (Nichol & Dhariwal 2021)
    Raises Problem for an unknown prediction or weight, or one that cannot be read at the schedule's noisiest level.
    """

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        predicts: str = "eps",
        weight: object = None,
        learned_variance: bool = False,
    ):
        super().__init__()
        if predicts not in PREDICTIONS:
            raise unknown("prediction", predicts, PREDICTIONS)
        if isinstance(weight, str) and weight not in (*WEIGHTS, "bound"):
            raise unknown("weight", weight, (*WEIGHTS, "bound"))
        if (weight == "bound" or learned_variance) and not isinstance(schedule, Table):
            raise Problem(
                f"the bound counts steps; {type(schedule).__name__} is continuous: take a schedule with betas"
            )
        if predicts == "eps" and schedule(schedule.first).alpha == 0:
            raise Problem(
                "predicts='eps' says nothing of x0 where no signal is left (t=1); predict 'v', 'x0' or 'flow'"
            )
        self.net, self.schedule, self.predicts, self.learned_variance = net, schedule, predicts, learned_variance
        self.weight = WEIGHTS[weight]() if isinstance(weight, str) and weight in WEIGHTS else weight

    def forward(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Denoised:
        """x (B, …) at time t, 0-d or (B,) -> the guess of x0, in x's dtype whatever the network runs in."""
        out, spread = self._ask(x, t, cond)
        return Denoised(self.read(x, t, out), spread)

    def given(self, cond: Cond | None) -> Denoise:
        """This denoiser with its condition bound: (x, t) -> Denoised."""
        return lambda x, t: self(x, t, cond)

    def read(self, x: Tensor, t: Tensor, out: Tensor) -> Tensor:
        """The x0 that the network's output `out` at (x, t) means."""
        return clean(self.predicts, self.schedule(t), x, out)

    def output(self, x: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        """What the network would have said to mean x0: the inverse of `read`."""
        level = self.schedule(t)
        alpha, sigma = level.onto(x)
        return target(self.predicts, level, x0, (x - alpha * x0) / sigma)

    def loss(
        self,
        x0: Tensor,
        cond: Cond | None = None,
        t: Tensor | None = None,
        eps: Tensor | None = None,
        where: Tensor | None = None,
    ) -> Tensor:
        """Algorithm 1 of Ho et al. 2020, one value a picture, (B,): its mean of weight·(target − out)².

        x0 (B, …); t (B,) and eps like x0 are drawn unless given; where, broadcastable to x0, weighs the error. With a
        learned variance 0.001·T·term of the bound is added. With weight="bound" T·term is the loss, nats a dimension:
        its mean over t is the variational bound, but for the constant prior.
        """
        t = self.schedule.draw(len(x0)) if t is None else t
        eps = torch.randn_like(x0) if eps is None else eps
        level = self.schedule(t)
        x = self.schedule.jump(x0, t, eps)
        out, spread = self._ask(x, t, cond)
        if self.weight == "bound":
            return self.schedule.T * bound.term(x0, self.read(x, t, out), spread, self.schedule, t, where=where)
        error = (target(self.predicts, level, x0, eps) - out).square()
        error = error if where is None else error * where
        loss = error.flatten(1).mean(1) * self._weight(level, x0)
        if spread is None:
            return loss
        # L_hybrid: the bound trains the variance only, its mean is detached (Nichol & Dhariwal 2021, equation 16)
        guess = self.read(x, t, out).detach()
        return loss + 0.001 * self.schedule.T * bound.term(x0, guess, spread, self.schedule, t, where=where)

    def _ask(self, x: Tensor, t: Tensor, cond: Cond | None) -> tuple[Tensor, Tensor | None]:
        """The network's output and spread, both in x's dtype. This is the door at which x is cast."""
        parameter = next(self.net.parameters(), x)
        scaled = x
        if self.predicts == "edm":  # the one prediction whose input is scaled: c_in
            scaled = x * onto(1 / _edm_norm(self.schedule(t)), x)
        time = self.schedule.c_noise(t).to(x.dtype).to(x.device)
        cond = (Cond() if cond is None else cond).to(dtype=parameter.dtype)
        out = self.net(scaled.to(parameter.dtype), time, cond).to(x.dtype)
        if not self.learned_variance:
            return out, None
        out, v = out.chunk(2, dim=1)
        return out, (v + 1) / 2

    def _weight(self, level: Level, x: Tensor) -> Tensor | float:
        """(B,) in x's dtype: the weight on the network's own error, converted from that on x0's."""
        if self.weight is None:
            return 1.0
        a, b = PREDICTIONS[self.predicts](level)
        weight = self.weight(level.logsnr) * (level.sigma / (b * level.alpha - a * level.sigma)) ** 2
        return weight.to(x.dtype).to(x.device)
