"""How a picture is corrupted: x_t = α(t)·x0 + σ(t)·ε, and which times a sampler visits.

Time runs from 0 (clean) to 1 (noisiest) in every schedule, and only the schedule knows what t means. "After k of T
steps" is t = k/T. Everything here is float64 on the CPU; `onto` casts a level where it meets x.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import Problem, unknown
from ..parts import part

SPACINGS = {
    "trailing": "evenly down from the noisiest time, which is visited (Lin et al. 2023)",
    "leading": "evenly up from the cleanest time; the noisiest is not visited (the first DDIM code)",
    "linspace": "evenly from the noisiest to the cleanest, both visited",
    "karras": "evenly in (σ/α)^(1/ρ), ρ = 7 (Karras et al. 2022, equation 5)",
    "exponential": "evenly in log(σ/α)",
}


class Level(NamedTuple):
    """Signal and noise at a time: float64 on the CPU, of the shape of t."""

    alpha: Tensor
    sigma: Tensor

    @property
    def logsnr(self) -> Tensor:
        """log(α²/σ²), from −∞ (no signal) to ∞ (clean)."""
        return 2 * (self.alpha.log() - self.sigma.log())

    @property
    def ratio(self) -> Tensor:
        """σ/α: what Karras et al. call σ, the noise once the signal is scaled to 1."""
        return self.sigma / self.alpha

    def onto(self, x: Tensor) -> Level:
        """This level in x's dtype, shaped to multiply x: () stays (), (B,) becomes (B, 1, …, 1) on x's device."""
        return Level(onto(self.alpha, x), onto(self.sigma, x))


def onto(value: Tensor, x: Tensor) -> Tensor:
    """A 0-d value stays on the CPU, where it multiplies tensors of any device; (B,) goes to x as (B, 1, …, 1)."""
    if value.ndim == 0:
        return value.to(x.dtype)
    return value.to(x.dtype).to(x.device).view(-1, *[1] * (x.ndim - 1))


def posterior(t: Level, s: Level) -> Tensor:
    """The share of the noise at s that x_t and x0 leave open: 1 − (α_t/α_s · σ_s/σ_t)² = 1 − e^(−2h).

    h is the step in log(α/σ). The variance of q(x_s | x_t, x0) is σ_s² · posterior; DDPM calls it β̃.
    """
    return 1 - (t.alpha / s.alpha * s.sigma / t.sigma) ** 2


class Schedule:
    """What all schedules share. A new one gives `__call__`, `at`, `c_noise`, `draw`, and the ends `first` and `last`.

    first   the noisiest time a sampler starts from
    last    the cleanest time above 0
    T       the number of training steps, or None where time is continuous
    spacing the spacing samplers use unless told otherwise
    """

    first = 1.0
    last: float
    T: int | None = None
    spacing = "trailing"

    def __call__(self, t: Tensor | float) -> Level:
        """α and σ at time t, of t's shape."""
        raise NotImplementedError

    def at(self, logsnr: Tensor | float) -> Tensor:
        """The time at which log(α²/σ²) is `logsnr`: the inverse of the schedule. ∞ is t = 0."""
        raise NotImplementedError

    def c_noise(self, t: Tensor | float) -> Tensor:
        """What the network's time embedding is fed at time t."""
        raise NotImplementedError

    def draw(self, n: int) -> Tensor:
        """n training times (n,), from torch's own CPU generator."""
        raise NotImplementedError

    # The forward process and its reversal

    def jump(self, x0: Tensor, t: Tensor | float, eps: Tensor) -> Tensor:
        """A draw of q(x_t | x0): α_t·x0 + σ_t·ε (Ho et al. 2020, equation 4). t is 0-d or (B,)."""
        alpha, sigma = self(t).onto(x0)
        return alpha * x0 + sigma * eps

    def step(self, x: Tensor, s: Tensor | float, t: Tensor | float, eps: Tensor) -> Tensor:
        """A draw of q(x_t | x_s), s < t: a·x_s + √(σ_t² − a²σ_s²)·ε, a = α_t/α_s (Ho et al. 2020, equation 2).

        Between neighbours of a table a = √(1−β_t) and the noise is √β_t.
        """
        before, after = self(s), self(t)
        a = after.alpha / before.alpha
        fresh = (after.sigma**2 - a**2 * before.sigma**2).clamp(min=0).sqrt()
        return onto(a, x) * x + onto(fresh, x) * eps

    def posterior(self, x: Tensor, x0: Tensor, t: Tensor | float, s: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean (like x) and standard deviation (broadcastable) of q(x_s | x_t, x0), s < t.

        Mean α_s·x0 + σ_s·√(1−τ)·ε with ε = (x_t − α_t·x0)/σ_t, and σ_s·√τ, where τ = posterior(t, s)
        (Ho et al. 2020, equations 6 and 7, in the form of Song et al. 2021, equation 12).
        """
        before, after = self(t), self(s)
        tau = posterior(before, after)
        (alpha, sigma), clean = before.onto(x), after.onto(x)
        eps = (x - alpha * x0) / sigma
        return clean.alpha * x0 + onto(after.sigma * (1 - tau).sqrt(), x) * eps, onto(after.sigma * tau.sqrt(), x)

    # The times a sampler visits

    def times(
        self, steps: int, spacing: str | None = None, *, rho: float = 7.0, offset: int = 0, end: float = 0.0
    ) -> Tensor:
        """The times of a run of `steps` steps, noisiest first: (steps + 1,), the last one is `end`.

        spacing  one of SPACINGS; None is the schedule's own
        rho      of the karras spacing
        offset   leading only: entries to shift up (Stable Diffusion's files say 1)
        end      where the last step goes: 0, or 1/T as some files' schedulers want
        Raises Problem for no steps, more steps than a table has entries, or a spacing that the schedule cannot have.
        """
        spacing = spacing or self.spacing
        if spacing not in SPACINGS:
            raise unknown("spacing", spacing, SPACINGS)
        if steps != int(steps) or steps < 1:
            raise Problem(f"steps={steps}: a sampler takes a whole number of steps, at least 1")
        if spacing in ("karras", "exponential"):
            visited = self.at(-2 * self._ratios(int(steps), spacing, rho).log())
        else:
            visited = self._even(int(steps), spacing, offset)
        return torch.cat([visited, torch.tensor([end], dtype=torch.float64)])

    def _ratios(self, n: int, spacing: str, rho: float) -> Tensor:
        high, low = self(self.first).ratio, self(self.last).ratio
        if not high.isfinite():
            raise Problem(f"spacing={spacing!r} divides σ/α evenly, which is infinite at t=1 here; try 'trailing'")
        ramp = torch.linspace(0, 1, n, dtype=torch.float64)
        if spacing == "exponential":
            return high * (low / high) ** ramp
        return (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho

    def _even(self, n: int, spacing: str, offset: int) -> Tensor:
        up = torch.arange(n, dtype=torch.float64).flip(0)  # n−1 … 0
        if spacing == "trailing":
            return self.first * (up + 1) / n
        if spacing == "leading":
            return self.last + (self.first - self.last) * up / n
        return torch.linspace(self.first, self.last, n, dtype=torch.float64)


def _double(t: Tensor | float) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64, device="cpu")


@part
class Table(Schedule):
    """T discrete steps with variances β_1 … β_T: α² = Π(1−β), σ² = 1−α² (Ho et al. 2020).

    Between entries log(σ/α) is linear in t; below t = 1/T only t = 0 is defined. With `zero_snr`, √ᾱ is shifted and
    scaled so that the last entry keeps no signal at all and the first is as it was (Lin et al. 2023, Algorithm 1).
    Raises Problem for fewer than two betas or a beta outside (0, 1).
    """

    def __init__(self, betas: list[float], zero_snr: bool = False):
        betas = torch.as_tensor(betas, dtype=torch.float64)
        if betas.ndim != 1 or len(betas) < 2:
            raise Problem(f"a schedule is a list of at least 2 betas, not of shape {tuple(betas.shape)}")
        if not ((betas > 0) & (betas < 1)).all():
            raise Problem(f"betas are variances between 0 and 1; these run from {betas.min():g} to {betas.max():g}")
        self.T, self.last = len(betas), 1 / len(betas)
        signal = (1 - betas).cumprod(0)  # ᾱ
        noise = -torch.expm1(torch.log1p(-betas).cumsum(0))  # 1 − ᾱ, exact where ᾱ is near 1
        if zero_snr:
            a = signal.sqrt()
            a = (a - a[-1]) * a[0] / (a[0] - a[-1])
            signal, noise = a**2, torch.cat([noise[:1], 1 - a[1:] ** 2])
        self.log_ratio = 0.5 * (noise.log() - signal.log())  # log(σ/α) after 1 … T steps, increasing

    def __call__(self, t: Tensor | float) -> Level:
        u = _double(t) * self.T
        rounding = 1e-4 if isinstance(t, Tensor) and t.dtype != torch.float64 else 1e-9
        u = torch.where((u - u.round()).abs() < rounding, u.round(), u)  # k/T·T is k
        if ((u < 1) & (u != 0) | (u > self.T)).any():
            raise Problem(f"t={_double(t).tolist()}: this schedule knows t = 0 and 1/{self.T} ≤ t ≤ 1")
        k = u.floor().clamp(1, self.T - 1).long()
        low, high, f = self.log_ratio[k - 1], self.log_ratio[k], u - k
        between = torch.where(
            f == 0, low, torch.where(f == 1, high, low + f * (high - low))
        )  # the last may be infinite
        rho = torch.where(u == 0, -torch.inf, between)
        return Level(torch.sigmoid(-2 * rho).sqrt(), torch.sigmoid(2 * rho).sqrt())

    def at(self, logsnr: Tensor | float) -> Tensor:
        """The inverse; log-SNRs beyond the table's ends are taken to its ends, ∞ to t = 0."""
        rho = -0.5 * _double(logsnr)
        k = torch.searchsorted(self.log_ratio, rho.contiguous()).clamp(1, self.T - 1)
        low, high = self.log_ratio[k - 1], self.log_ratio[k]
        f = torch.where(rho >= high, 1.0, ((rho - low) / (high - low)).clamp(0, 1))
        return torch.where(rho == -torch.inf, 0.0, (k + f) / self.T)

    def c_noise(self, t: Tensor | float) -> Tensor:
        """t·T − 1: from 0 to T − 1."""
        return _double(t) * self.T - 1

    def draw(self, n: int) -> Tensor:
        """Uniform over the T entries (Ho et al. 2020, Algorithm 1)."""
        return torch.randint(1, self.T + 1, (n,)).double() / self.T

    def _even(self, n: int, spacing: str, offset: int) -> Tensor:
        """The same spacings on whole entries k = 1 … T."""
        if n > self.T:
            raise Problem(f"steps={n}: {spacing!r} visits entries of the schedule, which has T={self.T}")
        if spacing == "leading":
            k = 1 + offset + torch.arange(n, dtype=torch.float64).flip(0) * (self.T // n)
            if k[0] > self.T or offset < 0:
                raise Problem(f"offset={offset}: with {n} leading steps it would start at {k[0]:g} of T={self.T}")
            return k / self.T
        if spacing == "linspace":  # rounded as the libraries do, who count from 0
            return (torch.linspace(self.T - 1, 0, n, dtype=torch.float64).round() + 1) / self.T
        return (super()._even(n, spacing, offset) * self.T).round() / self.T


@part
class Linear(Table):
    """β from `start` to `end`, evenly (Ho et al. 2020, section 4)."""

    def __init__(self, T: int = 1000, start: float = 1e-4, end: float = 0.02, zero_snr: bool = False):
        super().__init__(torch.linspace(start, end, _entries(T), dtype=torch.float64), zero_snr)


@part
class ScaledLinear(Table):
    """√β evenly from √start to √end (latent diffusion, Stable Diffusion; Rombach et al. 2022)."""

    def __init__(self, T: int = 1000, start: float = 0.00085, end: float = 0.012, zero_snr: bool = False):
        super().__init__(torch.linspace(start**0.5, end**0.5, _entries(T), dtype=torch.float64) ** 2, zero_snr)


@part
class Cosine(Table):
    """ᾱ(t) = cos²((t + s)/(1 + s)·π/2), each β at most `most` (Nichol & Dhariwal 2021, equation 17)."""

    def __init__(self, T: int = 1000, s: float = 0.008, most: float = 0.999, zero_snr: bool = False):
        t = torch.arange(_entries(T) + 1, dtype=torch.float64) / T
        alpha_bar = torch.cos((t + s) / (1 + s) * torch.pi / 2) ** 2
        super().__init__((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=most), zero_snr)


@part
class Sigmoid(Table):
    """β = start + (end − start)·sigmoid(u), u evenly from −6 to 6 (GeoDiff, Xu et al. 2022)."""

    def __init__(self, T: int = 1000, start: float = 1e-4, end: float = 0.02, zero_snr: bool = False):
        u = torch.linspace(-6, 6, _entries(T), dtype=torch.float64)
        super().__init__(start + (end - start) * torch.sigmoid(u), zero_snr)


@part
class Geometric(Table):
    """Variance exploding: α = 1, σ_1 … σ_T a geometric sequence, drawn evenly (NCSN; Song & Ermon 2019, section 4.2).

    sigma_max is about the largest distance between two pictures, sigma_min too small to be seen (Song & Ermon 2020,
    section 3.1). Raises Problem for fewer than 2 levels, or levels that do not grow.
    """

    def __init__(self, T: int = 1000, sigma_min: float = 0.02, sigma_max: float = 30.0):
        if not 0 < sigma_min < sigma_max:
            raise Problem(f"sigma_min={sigma_min}, sigma_max={sigma_max}: wanted 0 < sigma_min < sigma_max")
        self.T, self.last = _entries(T), 1 / T
        self.log_ratio = torch.linspace(math.log(sigma_min), math.log(sigma_max), T, dtype=torch.float64)

    def __call__(self, t: Tensor | float) -> Level:
        level = super().__call__(t)
        return Level(torch.ones_like(level.alpha), level.ratio)


def _entries(T: int) -> int:
    if int(T) != T or T < 2:
        raise Problem(f"T={T}: a schedule has a whole number of training steps, at least 2")
    return int(T)


@part
class Karras(Schedule):
    """Variance exploding: α = 1, σ = t/(1−t), so that equal t is equal signal-to-noise as in `Flow`.

    Training draws ln σ ~ N(mean, std²); samplers run from σ_max to σ_min (Karras et al. 2022, Table 1).
    """

    spacing = "karras"

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, mean: float = -1.2, std: float = 1.2):
        if not 0 < sigma_min < sigma_max:
            raise Problem(f"sigma_min={sigma_min}, sigma_max={sigma_max}: wanted 0 < sigma_min < sigma_max")
        self.first, self.last = sigma_max / (1 + sigma_max), sigma_min / (1 + sigma_min)
        self.mean, self.std = mean, std

    def __call__(self, t: Tensor | float) -> Level:
        t = _double(t)
        return Level(torch.ones_like(t), t / (1 - t))

    def at(self, logsnr: Tensor | float) -> Tensor:
        return torch.sigmoid(-0.5 * _double(logsnr))

    def c_noise(self, t: Tensor | float) -> Tensor:
        """ln(σ)/4."""
        return self(t).sigma.log() / 4

    def draw(self, n: int) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.randn(n, dtype=torch.float64))


@part
class Flow(Schedule):
    """Straight lines from picture to noise: α = 1−t, σ = t (Liu et al. 2022, Lipman et al. 2022).

    draws   "uniform", or "logit_normal": t = sigmoid(N(mean, std²)) (Esser et al. 2024, section 3.1)
    shift   moves all times, drawn and visited, to more noise: t → shift·t / (1 + (shift−1)·t) (there, equation 23)
    T       scales what the time embedding is fed; `last`, the cleanest time of "linspace" and "leading", is 1/T
    """

    def __init__(self, draws: str = "uniform", mean: float = 0.0, std: float = 1.0, shift: float = 1.0, T: int = 1000):
        if draws not in ("uniform", "logit_normal"):
            raise unknown("draws", draws, ("uniform", "logit_normal"))
        if shift <= 0:
            raise Problem(f"shift={shift}: wanted a positive factor, 1 for none")
        self.draws, self.mean, self.std, self.shift = draws, mean, std, shift
        self.T, self.last = _entries(T), 1 / T

    def __call__(self, t: Tensor | float) -> Level:
        t = _double(t)
        return Level(1 - t, t.clone())

    def at(self, logsnr: Tensor | float) -> Tensor:
        return torch.sigmoid(-0.5 * _double(logsnr))

    def c_noise(self, t: Tensor | float) -> Tensor:
        """t·T: from 0 to T."""
        return _double(t) * self.T

    def draw(self, n: int) -> Tensor:
        if self.draws == "uniform":
            # above 0, so that no target has to be read at a clean level
            return self._shifted(1 - torch.rand(n, dtype=torch.float64))
        return self._shifted(torch.sigmoid(self.mean + self.std * torch.randn(n, dtype=torch.float64)))

    def _even(self, n: int, spacing: str, offset: int) -> Tensor:
        return self._shifted(super()._even(n, spacing, offset))

    def _shifted(self, t: Tensor) -> Tensor:
        return self.shift * t / (1 + (self.shift - 1) * t)


SCHEDULES: dict[str, type[Schedule]] = {
    "linear": Linear,
    "scaled_linear": ScaledLinear,
    "cosine": Cosine,
    "sigmoid": Sigmoid,
    "karras": Karras,
    "geometric": Geometric,
    "flow": Flow,
}
