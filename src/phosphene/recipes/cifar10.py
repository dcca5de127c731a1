"""CIFAR-10, as the DDPM paper has it."""

from __future__ import annotations

from phosphene.recipes.base import Plan, recipe


@recipe()
def ddpm(
    *,
    data: str = "hub:uoft-cs/cifar10,image=img,label=label",
    steps: int = 800_000,
    batch: int = 128,
    slots: int = 1,
    lr: float = 2e-4,
    classes: bool = False,
    dropout: float = 0.1,
    width: int = 128,
    seed: int = 0,
    workers: int = 2,
) -> Plan:
    """DDPM's own setting on CIFAR-10: 35.7 M parameters, ε, L_simple, linear schedule, EMA 0.9999 (Ho et al. 2020).

    phosphene train cifar10.ddpm --data PATH

    Not trained here to the end: the paper took 10.6 hours on a TPU v3-8 for its FID of 3.17.

    data     pictures of 32×32; with labels where `classes` is on
    batch    pictures a slot; slots: how many slots make the batch of a step
    classes  tell the network the class, dropped one time in ten
    dropout  inside the residual blocks; width: channels at the full size
    """
    from phosphene.data.batches import Batches
    from phosphene.diffusion.denoiser import Denoiser
    from phosphene.diffusion.schedule import Linear
    from phosphene.nets.unet import UNet
    from phosphene.recipes.grids import grid_of
    from phosphene.systems.ddpm import Ddpm
    from phosphene.text.encoders import ClassEncoder

    prompts = "label" if classes else "none"
    pictures = Batches(data, size=32, batch=batch, slots=slots, seed=seed, flip=True, prompts=prompts)
    encoder = ClassEncoder(10, 4 * width) if classes else None
    net = UNet(
        3, 3, (width, 2 * width, 2 * width, 2 * width), 2, (0, 1, 0, 0), dropout=dropout,
        vector_dim=4 * width if classes else None,
    )  # fmt: skip
    system = Ddpm(Denoiser(net, Linear()), encoder, 32, sampler="ddpm", steps=1000)
    settings = dict(
        steps=steps, lr=lr, warmup=5000, decay=0.0, betas=(0.9, 0.999), ema=0.9999, seed=seed, workers=workers,
        checkpoint_every=5000, sample_every=10_000,
    )  # fmt: skip
    prompts = [i % 10 for i in range(40)] if classes else [None] * 40
    return Plan(system, pictures, settings, sample=grid_of(prompts, steps=50, sampler="ddim"), card=CARD)


CARD = "# cifar10.ddpm\n\nDDPM on CIFAR-10, the setting of Ho et al. 2020."
