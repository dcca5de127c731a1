"""Film strips: a picture becoming noise, and noise becoming a picture.

Rows are x_t, which the network sees, its guess x0 of the picture behind it, and the noise eps = (x − α·x0)/σ that this
guess means. Columns are times, with log(α²/σ²).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..canvas import Picture, prepare
from ..data.base import Example, open_source
from ..data.sheet import to_image
from ..diffusion.samplers import eps_of
from ..diffusion.schedule import Level
from ..errors import Problem
from ..systems.base import Prompt
from ..systems.ddpm import Ddpm
from .model import Look, Model, opened, run, settings
from .page import Grid, View

ROWS = "x, which the network sees", "x0, its guess of the picture", "eps, its guess of the noise"
READING = "x = alpha*x0 + sigma*eps. logsnr is log(alpha^2/sigma^2): below 0 there is more noise than picture. {eps}"
PIXELS = "Noise is shown at a third of its size around grey."
LATENT = (
    "x and x0 are latents, shown decoded; of the noise the three directions in which this latent varies most are shown "
    "as red, green and blue."
)


def film(
    prompt: Prompt = None,
    *,
    model: Model = None,
    seed: int = 0,
    picture: Picture | Example | None = None,
    columns: int = 9,
    steps: int | None = None,
    sampler: str | None = None,
    guidance: float | None = None,
    **using: Any,
) -> View:
    """How noise becomes a picture of the prompt; or, with a picture, how that becomes noise.

    picture  a file, a PIL picture or an Example of a source: it is noised, by the seed's noise, and the prompt is what
             it shows (else its own caption); the guesses are those of single looks, without guidance
    columns  how many times are shown
    steps, sampler, guidance   of a run, as `generate` takes them
    using    device=, precision=, … as Studio takes them
    Raises Problem for what cannot be.
    """
    if columns < 2:
        raise Problem(f"columns={columns}: at least 2 times are shown")
    system, _, origin = opened(model, **using)
    if picture is None:
        how = {"steps": steps, "sampler": sampler, "guidance": guidance}
        made = run(system, prompt, seed, **how)
        grid = _grid(system, _spread(made.looks, columns), made.picture)
        told = {"prompt": prompt, "seed": seed, **settings(system, **how)}
        title = f"From noise to {_said(prompt)}"
        numbers = {"t": [float(look.t) for look in made.looks]}
        return View(title, [grid], _reading(system), {**told, **origin}, numbers)
    if isinstance(picture, Example):
        prompt = (picture.captions or (picture.label,))[0] if prompt is None else prompt
    looks, clean = forward(system, picture, prompt, seed, columns)
    title = f"From a picture{'' if prompt is None else f' of {_said(prompt)}'} to noise"
    grid = _grid(system, looks, clean)
    grid = replace(grid, cells=[row[::-1] for row in grid.cells], columns=grid.columns[::-1])
    told = {"prompt": prompt, "seed": seed, **origin}
    return View(title, [grid], _reading(system), told, {"t": [float(look.t) for look in looks]})


def row(spec: str, i: int) -> Example:
    """Row i of a data spec. Raises Problem where there is none."""
    source = open_source(spec)
    if not 0 <= i < len(source):
        raise Problem(f"row {i}: {spec} has rows 0 to {len(source) - 1}")
    return source[i]


@torch.no_grad()
def forward(
    system: Ddpm, picture: Picture | Example, prompt: Prompt, seed: int, columns: int
) -> tuple[list[Look], Tensor]:
    """The picture noised to so many times, evenly spread, by the seed's noise: what is seen and guessed at each.

    Returns the looks, noisiest first, and the picture as the model sees it, (1, 3, H, W).
    """
    shown = to_image(picture) if isinstance(picture, Example) else picture
    image = prepare(shown, None, trained=system.size, multiple=system.multiple).image
    x0, schedule = system.encode(image.to(system.device)), system.denoiser.schedule
    generator = torch.Generator().manual_seed(seed)
    eps = torch.randn(x0.shape, generator=generator).to(x0)
    cond, looks = system.encoder([prompt]), []
    for t in schedule.times(columns):
        if schedule(t).sigma > 0:
            x = schedule.jump(x0, t, eps)
            looks.append(Look(t, x, system.denoiser(x, t, cond).x0))
    return looks, system.decode(x0).float().cpu()


def _spread(looks: Sequence[Look], n: int) -> list[Look]:
    """n of them, evenly spread, the first and the last among them."""
    if len(looks) <= n:
        return list(looks)
    return [looks[round(i * (len(looks) - 1) / (n - 1))] for i in range(n)]


@torch.no_grad()
def _grid(system: Ddpm, looks: Sequence[Look], clean: Tensor) -> Grid:
    """A column a look, and one for the picture itself."""
    levels = [system.denoiser.schedule(look.t) for look in looks]
    axes = principal(looks[-1].x0[0]) if _latent(system) else None
    seen = [_picture(system, look.x * scale(level)) for look, level in zip(looks, levels)]
    guessed = [_picture(system, look.x0) for look in looks]
    noise = [noise_of(eps_of(look.x, look.x0, level)[0], axes) for look, level in zip(looks, levels)]
    heads = [f"t {float(look.t):.2f}\nlogsnr {float(level.logsnr):.1f}" for look, level in zip(looks, levels)]
    cells = [[*seen, to_image(clean[0])], [*guessed, None], [*noise, None]]
    return Grid(cells, ROWS, [*heads, "t 0\nclean"])


def scale(level: Level) -> float:
    """What x is shown times: 1/√(α² + σ²), so that it is as strong at every level (1 where the variance is kept)."""
    return float((level.alpha**2 + level.sigma**2).rsqrt())


def principal(latent: Tensor) -> Tensor:
    """The three directions (3, C) in which the places of a latent (C, h, w) differ most, the strongest first."""
    places = latent.float().flatten(1)
    places = places - places.mean(1, keepdim=True)
    vectors = torch.linalg.svd(places, full_matrices=False).U.T[:3]
    return torch.cat([vectors, vectors.new_zeros(3 - len(vectors), len(latent))])


def noise_of(eps: Tensor, axes: Tensor | None) -> Image.Image:
    """Noise (C, h, w) as a picture, a deviation being a third of the way from grey to white.

    Through `axes` (3, C), where there are some; else its own three channels, or one.
    """
    eps = eps.float() if axes is None else torch.einsum("kc,chw->khw", axes.to(eps.device), eps.float())
    return to_image((eps / 3).expand(3, -1, -1) if len(eps) == 1 else eps / 3)


def _picture(system: Ddpm, x: Tensor) -> Image.Image:
    return to_image(system.decode(x)[0])


def _latent(system: Ddpm) -> bool:
    return system.factor > 1


def _reading(system: Ddpm) -> str:
    return READING.format(eps=LATENT if _latent(system) else PIXELS)


def _said(prompt: Prompt) -> str:
    return "a picture" if prompt is None else f'"{prompt}"' if isinstance(prompt, str) else f"class {prompt}"
