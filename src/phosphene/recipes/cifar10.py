"""CIFAR-10, as the DDPM paper has it, and a CLIP of its ten classes."""

from __future__ import annotations

from phosphene.errors import Problem
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


@recipe()
def clip(
    *,
    data: str = "cifar10.parquet:caption=name_en|name_zh",
    held: int = 1000,
    steps: int = 1500,
    batch: int = 128,
    lr: float = 1e-3,
    width: int = 128,
    seed: int = 0,
) -> Plan:
    """CLIP on photographs and the names of what they show; zero-shot classification of those it has not seen.

    phosphene train cifar10.clip --data "PATH/cifar10.parquet:caption=name_en|name_zh"

    Measured with --steps 800 on 9,000 rows (a JPEG copy of CIFAR-10's test pictures), two cores of an Intel Xeon
    with AMX, under two minutes: the class of 65.7 % of the other 1,000 by "a photo of a {}"; chance 10 %.

    data   pictures whose first caption is the name of their class
    held   how many of the last rows are kept from training, to be classified at the end
    width  of both towers' features
    """
    from phosphene.data.base import open_source
    from phosphene.data.batches import Batches, cached
    from phosphene.nets.autoencoder import ConvTower
    from phosphene.recipes.parts import Named, pictures_of, text_encoder, zero_shot
    from phosphene.systems.clip import ClipSystem

    source = open_source(data)
    if not 0 < held < len(source):
        raise Problem(f"held={held}: the data has {len(source)} rows; some must be held, and some left to train on")
    seen, unseen = Named(source, 0, len(source) - held), Named(source, len(source) - held, len(source))
    text = text_encoder(seen, 400, width, layers=2)
    system = ClipSystem(text, ConvTower(width, (64, 128, 192), 1), width, size=32)
    batches = cached(Batches(seen, size=32, batch=batch, seed=seed, drop=0.0, flip=True))
    settings = dict(steps=steps, lr=lr, weight_decay=0.05, seed=seed)

    def report(trained: ClipSystem) -> list[str]:
        names = [unseen.names(i)[0] for i in range(held)]
        return [zero_shot(trained, pictures_of(unseen, 32), "class", names, "a photo of a {}")]

    return Plan(system, batches, settings, report=report, card="# cifar10.clip")


CARD = "# cifar10.ddpm\n\nDDPM on CIFAR-10, the setting of Ho et al. 2020."
