"""DDPM of scenes, in pixels and told nothing: the papers from 2015 to 2021 are its knobs.

Scenes of 32×32 pixels, reduced to 16×16: what is small trains in minutes on a CPU, and is read once it is enlarged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from phosphene.recipes.base import Plan, every, recipe, source_of

if TYPE_CHECKING:
    from phosphene.data.batches import Cached
    from phosphene.data.scenes import Score
    from phosphene.nets.unet import UNet
    from phosphene.systems.base import System


@recipe()
def ddpm(
    *,
    data: str = "scenes:objects=1-1",
    size: int = 16,
    steps: int = 1600,
    batch: int = 64,
    lr: float = 1e-3,
    width: int = 32,
    predicts: str = "eps",
    weight: str | None = None,
    learned_variance: bool = True,
    schedule: str = "linear",
    T: int = 1000,
    ema: float = 0.999,
    pictures: int = 20_000,
    judged: int = 200,
    seed: int = 0,
) -> Plan:
    """Unconditional diffusion of scenes (docs/lineage/ddpm.md, docs/lineage/dpm.md).

    phosphene train scenes.ddpm

    As it is: L_simple of ε and learned variances (Ho et al. 2020; Nichol & Dhariwal 2021). With --weight bound mean
    and variance are trained by the bound (Sohl-Dickstein et al. 2015), with --predicts x0 the network says the picture.

    width             channels at the full size; four times as many at a quarter of it
    predicts          eps, x0 or v
    weight            of the loss: bound, snr, min_snr, p2; where none is given, the plain square of what is predicted
    learned_variance  the network also says where the variance lies between the two bounds
    schedule          linear or cosine, of T steps: β is brought to them, so that the ends are those of 1,000
    ema               of the averaged weights; 0: none
    pictures          how many scenes are drawn to learn from
    judged            how many pictures the exact parser reads at the end; 0 is none
    """
    from phosphene.diffusion.denoiser import Denoiser
    from phosphene.diffusion.schedule import Cosine, Linear
    from phosphene.recipes.base import check_choice
    from phosphene.recipes.grids import grid_of
    from phosphene.systems.ddpm import Ddpm

    of = {"linear": lambda: Linear(T, 0.1 / T, min(20 / T, 0.999)), "cosine": lambda: Cosine(T)}
    noise = check_choice("schedule", schedule, of)()
    net = of_pixels(width, learned_variance)
    options = {"variance": "learned" if learned_variance else "large"}
    system = Ddpm(
        Denoiser(net, noise, predicts, weight, learned_variance), size=size, steps=min(T, 100), options=options
    )
    settings = dict(steps=steps, lr=lr, ema=ema, seed=seed, checkpoint_every=every(steps, 2))
    settings |= dict(sample_every=every(steps, 4), score_every=every(steps, 4))
    return Plan(
        system, pixels(data, size, pictures, batch, seed), settings, sample=grid_of([None] * 16, steps=min(T, 50)),
        score=lambda it: {"scenes": of_scenes(it, min(judged, 32), steps=min(T, 50)).rate} if judged else {},
        report=lambda it: [f"- the parser takes for scenes: {of_scenes(it, judged)}"] if judged else [],
        card="# scenes.ddpm\n\nColoured shapes, told nothing.",
    )  # fmt: skip


def of_pixels(width: int, learned_variance: bool = False) -> UNet:
    """A U-Net of pixels, of three levels; the two smaller ones attend."""
    from phosphene.nets.layers import ScaleShiftResBlock
    from phosphene.nets.unet import UNet

    out = 6 if learned_variance else 3
    return UNet(3, out, (width, 2 * width, 4 * width), 1, (0, 1, 1), head_dim=16, block=ScaleShiftResBlock)


def pixels(data: str, size: int, pictures: int, batch: int, seed: int) -> Cached:
    """Batches of scenes without captions, reduced to half their sides."""
    from phosphene.recipes.cascade import Reduced
    from phosphene.recipes.parts import pictures_for

    return pictures_for(Reduced(source_of(data, size=2 * size, n=pictures), size), size, batch, seed)


def of_scenes(system: System, n: int, seed: int = 0, **how) -> Score:
    """Of n pictures, asked for nothing, how many, enlarged, the exact parser takes for scenes."""
    from phosphene.data.scenes import accepted
    from phosphene.recipes.cascade import enlarged
    from phosphene.recipes.grids import made_of

    return accepted(enlarged(made_of(system, [None] * n, seed, **how)))
