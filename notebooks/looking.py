"""A model whose attention can be read: what docs/views.md shows the words of. A recipe of its own.

phosphene train notebooks/looking.py:looking --out runs/looking
"""

from __future__ import annotations

from phosphene.recipes.base import Plan, recipe, source_of


@recipe()
def looking(
    *,
    data: str = "scenes:objects=1-2",
    size: int = 32,
    steps: int = 1000,
    batch: int = 32,
    lr: float = 1e-3,
    seed: int = 0,
) -> Plan:
    """Diffusion of scenes in pixels, which hears words by cross-attention at 16×16 alone.

    Nothing else says what to draw: there is no vector, and a token is its word, as no token sees another one before the
    picture does. So the pixels have to look at the words that they are to show.
    """
    from phosphene.data.batches import Batches, cached
    from phosphene.diffusion.denoiser import Denoiser
    from phosphene.diffusion.schedule import Flow
    from phosphene.nets.layers import ScaleShiftResBlock, SpatialTransformer
    from phosphene.nets.unet import UNet
    from phosphene.recipes.parts import text_encoder
    from phosphene.systems.ddpm import Ddpm

    scenes = source_of(data, size=size, n=20_000)
    encoder = text_encoder(scenes, 512, 96, layers=0)
    net = UNet(
        3, 3, (32, 96), 1, (0, 1), head_dim=24, context_dim=96, emb_dim=192,
        block=ScaleShiftResBlock, attend=SpatialTransformer,
    )  # fmt: skip
    system = Ddpm(
        Denoiser(net, Flow(draws="logit_normal", mean=0.4), "flow"), encoder, size,
        sampler="dpmpp_2m", steps=20, guidance=3.0,
    )  # fmt: skip
    batches = cached(Batches(scenes, size=size, batch=batch, seed=seed, drop=0.1))
    return Plan(system, batches, dict(steps=steps, lr=lr, seed=seed, decay=0.0), card="# looking", dtype="bf16")
