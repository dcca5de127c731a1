"""Score models of scenes: NCSN."""

from __future__ import annotations

from phosphene.recipes.base import Plan, every, recipe
from phosphene.recipes.scenes.ddpm import of_pixels, of_scenes, pixels


@recipe()
def ncsn(
    *,
    data: str = "scenes:objects=1-1",
    size: int = 16,
    steps: int = 1600,
    batch: int = 64,
    lr: float = 1e-3,
    width: int = 32,
    levels: int = 100,
    sigma_min: float = 0.02,
    sigma_max: float = 25.0,
    inner: int = 5,
    langevin: float = 0.1,
    pictures: int = 20_000,
    judged: int = 100,
    seed: int = 0,
) -> Plan:
    """A noise-conditional score network of scenes, sampled by annealed Langevin dynamics (docs/lineage/ncsn.md).

    phosphene train scenes.ncsn

    A score network is an ε network, score = −ε/σ, and denoising score matching weighed by σ² is the plain square of ε
    (Song & Ermon 2019, equations 5 and 6): so NCSN is Ddpm with α = 1 at every level, and another sampler.

    width      channels at the full size; four times as many at a quarter of it
    levels     of noise, a geometric sequence from sigma_max, the largest distance of two scenes, to sigma_min
    inner      steps of Langevin dynamics a level; langevin: their size, a share of σ²
    pictures   how many scenes are drawn to learn from
    judged     how many pictures the exact parser reads at the end; 0 is none
    """
    from phosphene.diffusion.denoiser import Denoiser
    from phosphene.diffusion.schedule import Geometric
    from phosphene.recipes.grids import grid_of
    from phosphene.systems.ddpm import Ddpm

    denoiser = Denoiser(of_pixels(width), Geometric(levels, sigma_min, sigma_max))
    options = {"inner": inner, "size": langevin}
    system = Ddpm(denoiser, size=size, sampler="langevin", steps=levels, options=options, bound=None)
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=every(steps, 4), score_every=every(steps, 4))
    few = {"sampler": "euler_ancestral", "steps": min(levels, 50)}
    return Plan(
        system, pixels(data, size, pictures, batch, seed), settings, sample=grid_of([None] * 16, **few),
        score=lambda it: {"scenes": of_scenes(it, min(judged, 32), **few).rate} if judged else {},
        report=lambda it: [f"- the parser takes for scenes: {of_scenes(it, judged)}"] if judged else [],
        card="# scenes.ncsn\n\nColoured shapes, told nothing, by a score network.",
    )  # fmt: skip
