"""What is looked at: a model, opened, and one run of it with all that its sampler saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import __version__
from ..diffusion.denoiser import Denoise, Denoised, Denoiser
from ..errors import Problem
from ..request import Studio, check, paired
from ..systems.base import Prompt
from ..systems.ddpm import Ddpm

Model = str | Path | Studio | Ddpm | None  # a name, a file, a run's folder; what was opened already; None: the shipped


class Look(NamedTuple):
    """One look: x (1, …) stands at time t, x0 is the guess there, guided and clamped, that the sampler moves with."""

    t: Tensor
    x: Tensor
    x0: Tensor


class Run(NamedTuple):
    """All looks of a run, noisiest first, and the picture that it made, (1, 3, H, W) in [−1, 1]."""

    looks: list[Look]
    picture: Tensor


class Opened(NamedTuple):
    """A system ready to calculate, a short name, and what is said of it where something is made with it."""

    system: Ddpm
    name: str
    origin: dict[str, Any]


def opened(model: Model, **using: Any) -> Opened:
    """The model; `using` is what Studio takes besides (device=, precision=, …).

    Raises Problem where there is none, and for one that is no diffusion: it has no noise levels to look at.
    """
    found = of_any_kind(model, **using)
    if not isinstance(found.system, Ddpm) or not isinstance(found.system.denoiser, Denoiser):
        raise Problem(f"{found.name} is a {type(found.system).__name__}, which has no denoiser to look at")
    return found


def of_any_kind(model: Model, **using: Any) -> Opened:
    """The model, whatever its system is. Raises Problem where there is none."""
    if isinstance(model, torch.nn.Module):
        system, origin = model, {"model": f"{type(model).__name__} in memory"}
    else:
        studio = model if isinstance(model, Studio) else Studio(model, **using)
        keep = ("model", "weights", "device", "precision", "threads")
        system, origin = studio.system, {k: v for k, v in studio.origin.items() if k in keep}
        if origin["model"] == "model":  # a run's folder is what it is known by
            origin["model"] = studio.path.parent.name
    return Opened(system, origin["model"], {**origin, "phosphene": __version__, "torch": torch.__version__})


def run(system: Ddpm, prompt: Prompt, seed: int, **how: Any) -> Run:
    """The picture of a prompt and a seed, made as `generate` makes it, and every look of its sampler.

    how: what the system's `generate` takes; None is the system's own. Raises Problem for what cannot be.
    """
    looks: list[Look] = []
    how = {name: value for name, value in how.items() if value is not None}
    check(how)
    paired([prompt], [seed])

    def around(denoise: Denoise) -> Denoise:
        def looked(x: Tensor, t: Tensor) -> Denoised:
            guess = denoise(x, t)
            looks.append(Look(t, x.clone(), guess.x0.clone()))
            return guess

        return looked

    *_, last = system.generate([prompt], seeds=[seed], around=around, **how)
    return Run(looks, last.picture().float().cpu())


def settings(system: Ddpm, **how: Any) -> dict[str, Any]:
    """What the run was a function of: what was said, else the system's own."""
    return {
        "sampler": how.get("sampler") or system.sampler,
        "steps": how.get("steps") or system.steps,
        "guidance": system.guidance if how.get("guidance") is None else how["guidance"],
    }
