"""Bits per dimension, by one call: −log₂ p(picture) per number of an 8-bit picture. Lower is better.

    bound  the variational bound of DDPM's chain of T steps (Ho et al. 2020; Nichol & Dhariwal 2021): an upper bound
    ode    the probability-flow ODE's own density, of pictures dequantised by uniform noise (Song et al. 2021, §4.3)

The two are numbers of two models, the chain and the ODE, made of one network, and need not agree.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..diffusion.bound import variational_bound
from ..diffusion.denoiser import Denoise
from ..diffusion.schedule import Schedule, Table
from ..errors import Problem, unknown
from ..systems.binomial import Binomial

METHODS = ("bound", "ode")
CLEANEST = 13.8  # logsnr at which the ODE's path ends: σ/α = 1e-3, an eighth of a grey level


def bits(system, pictures: Tensor, prompts=None, *, method: str | None = None, steps: int = 100, seed: int = 0):
    """Bits per dimension of pictures (B, 3, H, W) in [−1, 1], 8-bit, one number each: (B,) float64.

    method  None: the bound where the schedule counts steps, else the ODE
    steps   of the ODE, with two network calls and a gradient each; the bound has T calls
    seed    of the noise that pictures are noised or dequantised with, and of the trace's probes
    A binomial diffusion has the bound alone, of pictures in black and white, whatever else is said.
    Raises Problem for what has no likelihood of pixels: latent models, CLIP, autoencoders, upscalers.
    """
    if isinstance(system, Binomial):
        return system.bound(pictures, seed).total.double().cpu() / math.log(2)
    denoiser = getattr(system, "denoiser", None)
    if denoiser is None or getattr(system, "factor", 1) != 1 or hasattr(system, "small"):
        raise Problem(f"{type(system).__name__} has no likelihood of pixels that is known how to calculate")
    method = method or ("bound" if isinstance(denoiser.schedule, Table) else "ode")
    if method not in METHODS:
        raise unknown("method of likelihood", method, METHODS)
    x0 = system.encode(pictures.to(system.device, torch.float32))
    cond = system.encoder([None] * len(x0) if prompts is None else list(prompts))
    generator = torch.Generator().manual_seed(seed)
    if method == "bound":
        if not isinstance(denoiser.schedule, Table):
            raise Problem(f"the bound counts steps, and {type(denoiser.schedule).__name__} is continuous: method 'ode'")
        noise = lambda k: torch.randn(x0.shape, generator=generator).to(x0)  # noqa: E731
        with torch.no_grad():
            nats = variational_bound(denoiser.given(cond), x0, denoiser.schedule, noise).total
        return nats.double().cpu() / math.log(2)
    grey = ((torch.rand(x0.shape, generator=generator) - 0.5) * 2 / 255).to(x0)
    log_p = log_density(denoiser.given(cond), x0 + grey, denoiser.schedule, steps=steps, generator=generator)
    return -log_p / (x0[0].numel() * math.log(2)) + math.log2(255 / 2)  # a bin of a grey level is 2/255 wide


def log_density(
    denoise: Denoise,
    x0: Tensor,
    schedule: Schedule,
    *,
    steps: int = 100,
    probes: int = 1,
    exact: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """log p(x0) in nats of x0 (B, …) under the probability-flow ODE, (B,) float64.

    From clean to noise dx = x̂0·dα + ε̂·dσ, by Heun's rule; log p(x0) = log N(x_1) + ∫ tr ∂(dx)/∂x. With J = ∂x̂0/∂x the
    trace of a step is tr J·dα + (D − α·tr J)·d log σ. tr J is vᵀJv for `probes` random signs v (Hutchinson 1990;
    Grathwohl et al. 2019), which is unbiased, or with `exact` a gradient for each of the D numbers.
    """
    times = _times(schedule, steps)
    trace = _trace_exact if exact else _hutchinson(x0, probes, generator)
    levels = [schedule(t) for t in times]
    x, dims, log_det = levels[0].alpha.to(x0.dtype) * x0, x0[0].numel(), levels[0].alpha.log() * x0[0].numel()
    slope = lambda x, k: _slope(denoise, x, times[k], levels[k], trace, dims)  # noqa: E731
    here = slope(x, 0)
    for k, (now, then) in enumerate(itertools.pairwise(levels)):
        da, ds = then.alpha - now.alpha, then.sigma - now.sigma
        ahead = slope(_moved(x, here, here, da, ds), k + 1)
        x = _moved(x, here, ahead, da, ds)
        dlog = then.sigma.log() - now.sigma.log()
        log_det = log_det + da * (here[2] + ahead[2]) / 2 + dlog * (here[3] + ahead[3]) / 2
        # the slope at the repaired x: without it the next step would start from the guess beside the path
        here = slope(x, k + 1) if k + 2 < len(levels) else ahead
    first = levels[-1]
    var = float(first.sigma**2) if first.alpha == 1 else 1.0  # of the noise that samplers start from
    prior = -0.5 * (x.double().flatten(1).square().sum(1) / var + dims * math.log(2 * math.pi * var))
    return prior.cpu() + log_det


def _times(schedule: Schedule, steps: int) -> Tensor:
    """From the cleanest level that the schedule knows to its noisiest, evenly in log SNR."""
    if steps < 2:
        raise Problem(f"steps={steps}: the ODE wants at least 2")
    clean, noisy = (float(schedule(t).logsnr) for t in (schedule.last, schedule.first))
    even = torch.linspace(min(clean, CLEANEST), max(noisy, -CLEANEST), steps, dtype=torch.float64)
    times = torch.cat([schedule.at(even), torch.tensor([schedule.first], dtype=torch.float64)])
    return times[torch.cat([torch.tensor([True]), times.diff() > 0])]


def _slope(denoise: Denoise, x: Tensor, t: Tensor, level, trace: Callable, dims: int):
    """(x̂0, ε̂, tr ∂x̂0/∂x, σ·tr ∂ε̂/∂x); the traces float64 on the CPU. The last is bounded at both ends."""
    alpha, sigma = level.onto(x)
    guess, tr = trace(lambda x: denoise(x, t).x0, x)
    return guess, (x - alpha * guess) / sigma, tr, dims - level.alpha * tr


def _moved(x: Tensor, here, there, da: Tensor, ds: Tensor) -> Tensor:
    return x + da.to(x.dtype) * (here[0] + there[0]) / 2 + ds.to(x.dtype) * (here[1] + there[1]) / 2


def _hutchinson(like: Tensor, probes: int, generator: torch.Generator | None) -> Callable:
    """tr J as the mean of vᵀJv over random signs v, the same ones along the whole path."""
    signs = [(torch.rand(like.shape, generator=generator) < 0.5).to(like) * 2 - 1 for _ in range(probes)]

    def trace(f: Callable, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            guess = f(x)
            products = [
                (torch.autograd.grad(guess, x, v, retain_graph=i + 1 < probes)[0] * v) for i, v in enumerate(signs)
            ]
        found = sum(p.double().flatten(1).sum(1) for p in products) / probes
        return guess.detach(), found.cpu()

    return trace


def _trace_exact(f: Callable, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        guess = f(x)
        flat = guess.flatten(1)
        rows = [
            torch.autograd.grad(flat[:, i].sum(), x, retain_graph=True)[0].flatten(1)[:, i]
            for i in range(flat.shape[1])
        ]
    return guess.detach(), torch.stack(rows).double().sum(0).cpu()
