"""How hard classifier-free guidance pulls, step by step: ‖x0_c − x0_∅‖ and ‖ε_c − ε_∅‖ (Ho & Salimans 2022).

What guidance adds to the unconditional guess is g times this vector. Norms are divided by √D, D numbers of x, so that
pictures of different sizes can be compared: the root of the mean square.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.sheet import to_image
from ..errors import Problem
from ..request import paired
from ..systems.base import Prompt
from ..systems.ddpm import Ddpm
from ..text.encoders import NoEncoder
from .model import Model, opened, run, settings
from .page import Grid, View
from .plot import Curve, Plot

READING = (
    "The network guesses twice at every step: told the prompt (c), and told nothing (0). Guidance moves away from the "
    "second guess by g times their difference. Time runs as the sampler does, from noise on the left to the picture on "
    "the right."
)


class Pull(NamedTuple):
    """One picture's guidance: at each time the norms, and the cosine of x0_c − x0_∅ with x0_∅; and the picture."""

    t: list[float]
    x0: list[float]
    eps: list[float]
    cosine: list[float]
    picture: Tensor


def guidance(
    prompts: Prompt | Sequence[Prompt],
    *,
    model: Model = None,
    seed: int | Sequence[int] = 0,
    n: int = 1,
    steps: int | None = None,
    sampler: str | None = None,
    guidance: float | None = None,
    **using: Any,
) -> View:
    """The norms of the guidance vector over a run, a curve a picture.

    prompts, seed, n   as `phosphene.generate` takes them: they pair up, and n pictures of each
    guidance           of the runs; the model's own if not given
    using              as Studio takes it
    Raises Problem for a model without classifier-free guidance, and where guidance is 1 or 0: it is off there.
    """
    system, _, origin = opened(model, **using)
    listed = list(prompts) if isinstance(prompts, (list, tuple)) else [prompts]
    pairs = paired(listed, [seed] if isinstance(seed, int) else list(seed), n)
    how = {"steps": steps, "sampler": sampler, "guidance": guidance}
    pulls = {_name(pair, pairs): pull(system, *pair, **how) for pair in pairs}
    curves = {
        key: [Curve(name, list(zip(p.t, getattr(p, key)))) for name, p in pulls.items()]
        for key in ("x0", "eps", "cosine")
    }
    pictures = Grid([[to_image(p.picture[0]) for p in pulls.values()]], [""], list(pulls))
    ways = {
        "x0": "x0_c - x0_0, root of the mean square",
        "eps": "eps_c - eps_0, root of the mean square",
        "cosine": "cosine of x0_c - x0_0 with x0_0: above 0 the pull makes the guess stronger, below 0 weaker",
    }
    how_to = {"falling": True, "tall": 170}
    plots = [Plot(curves[k], "t", said, span=(-1, 1) if k == "cosine" else None, **how_to) for k, said in ways.items()]
    parts = [pictures, *plots]
    made = {"prompts": [str(p) for p, _ in pairs], "seeds": [s for _, s in pairs], **settings(system, **how), **origin}
    numbers = {name: {k: v for k, v in p._asdict().items() if k != "picture"} for name, p in pulls.items()}
    return View("How hard guidance pulls", parts, READING, made, numbers)


def pull(system: Ddpm, prompt: Prompt, seed: int, **how: Any) -> Pull:
    """The guidance of one picture's run. how: as `generate` takes it. Raises Problem where there is none."""
    if isinstance(system.encoder, NoEncoder):
        raise Problem("this model is told nothing of its pictures, so nothing can guide it")
    both: list[Tensor] = []  # the two guesses of each look, (2, …)
    hook = system.denoiser.register_forward_hook(lambda _, given, guess: both.append(guess.x0))
    try:
        looks, picture = run(system, prompt, seed, **how)
    finally:
        hook.remove()
    if any(len(guesses) > 2 for guesses in both):
        raise Problem(f"prompt {prompt!r} is composed of several (AND): guidance is shown of one")
    found = Pull([], [], [], [], picture)
    for look, guesses in zip(looks, both, strict=True):
        if len(guesses) < 2:
            continue  # outside of the interval of guidance
        level = system.denoiser.schedule(look.t)
        told, untold = guesses.double().cpu().flatten(1)
        way = told - untold
        size = float(way.square().mean().sqrt())
        found.t.append(float(look.t))
        found.x0.append(size)
        found.eps.append(size * float(level.alpha / level.sigma))
        found.cosine.append(float(torch.nn.functional.cosine_similarity(way, untold, dim=0)))
    if not found.t:
        g = settings(system, **how)["guidance"]
        raise Problem(f"guidance={g:g}: the network is asked once a step, so no two guesses differ; try guidance=3")
    return found


def _name(pair: tuple[Prompt, int], pairs: Sequence[tuple[Prompt, int]]) -> str:
    """The prompt, and the seed where that does not say which picture it is."""
    prompt, seed = pair
    said = "nothing" if prompt is None else str(prompt)
    return said if len({p for p, _ in pairs}) == len(pairs) else f"{said}, {seed}"
