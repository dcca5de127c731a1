"""Samplers: make a better guess of x0, then move.

A sampler is a generator of Step: `for step in ddim(denoise, x, times, schedule): ...`. It starts at x, which stands at
times[0], and goes through the times in order. A consumer may send a changed x back (`generator.send(x)`). Read base.py,
then one_step.py; the others differ in how they guess.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor

from ...errors import unknown
from ..denoiser import Denoise
from ..schedule import Schedule
from .adams import deis, lms, plms, pndm
from .base import Noise, Step, eps_of, move, start, variances, x0_of
from .multistep import dpmpp_2m, dpmpp_3m, unipc
from .one_step import ddim, ddpm, langevin, lcm
from .two_calls import dpmpp_2s, dpmpp_sde, heun

euler = ddim  # names of one function are one function

__all__ = [
    "SAMPLERS",
    "Noise",
    "Sampler",
    "Step",
    "ddim",
    "ddpm",
    "deis",
    "dpmpp_2m",
    "dpmpp_2s",
    "dpmpp_3m",
    "dpmpp_sde",
    "eps_of",
    "euler",
    "heun",
    "langevin",
    "lcm",
    "lms",
    "move",
    "plms",
    "pndm",
    "sample",
    "start",
    "unipc",
    "variances",
    "x0_of",
]


class Sampler(NamedTuple):
    """A sampler by name: the generator function, a line about it, and the options that make it this one."""

    function: Callable[..., Iterator[Step]]
    about: str
    options: dict = {}


SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler(ddim, "DDIM; eta=1 adds DDPM's noise"),
    "ddpm": Sampler(ddpm, "DDPM's Algorithm 2; variance=small, large or learned"),
    "euler": Sampler(ddim, "Euler's method on the probability flow, which is DDIM"),
    "euler_ancestral": Sampler(ddim, "Euler with fresh noise at each step", {"eta": 1.0}),
    "heun": Sampler(heun, "EDM's Algorithm 2: second order, two calls a step; churn=40 adds noise"),
    "dpmpp_2m": Sampler(dpmpp_2m, "DPM-Solver++(2M): second order at one call a step"),
    "dpmpp_2m_sde": Sampler(dpmpp_2m, "DPM-Solver++(2M) with fresh noise at each step", {"eta": 1.0}),
    "dpmpp_3m_sde": Sampler(dpmpp_3m, "DPM-Solver++(3M) with fresh noise at each step", {"eta": 1.0}),
    "dpmpp_2s_ancestral": Sampler(dpmpp_2s, "DPM-Solver++(2S), two calls a step, with fresh noise"),
    "dpmpp_sde": Sampler(dpmpp_sde, "DPM-Solver++(SDE), two calls a step, with fresh noise"),
    "unipc": Sampler(unipc, "UniPC: predictor and corrector; third order (order=2) at one call a step"),
    "plms": Sampler(plms, "PLMS, Stable Diffusion's first sampler: fourth-order weights for even steps"),
    "pndm": Sampler(pndm, "PNDM: PLMS started by three Runge-Kutta steps"),
    "lms": Sampler(lms, "linear multistep in σ/α, order=4"),
    "deis": Sampler(deis, "DEIS: linear multistep in log(σ/α), order=3"),
    "lcm": Sampler(lcm, "for consistency models: guess, noise again"),
    "langevin": Sampler(langevin, "NCSN's annealed Langevin dynamics: inner=10 calls a step"),
}


def sample(
    name: str,
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    noise: Noise | None = None,
    **options: object,
) -> Iterator[Step]:
    """The sampler of this name on (denoise, x, times, schedule); `noise` reaches those that draw any.

    Raises Problem for an unknown name, and for an option that the sampler does not know.
    """
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    function, _, defaults = SAMPLERS[name]
    known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, [k for k in known if k != "noise"])
    if "noise" in known:
        options["noise"] = noise
    return function(denoise, x, times, schedule, **{**defaults, **options})
