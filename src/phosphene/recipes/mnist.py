"""MNIST: the smallest thing worth training."""

from __future__ import annotations

from phosphene.recipes.base import Plan, every, recipe


@recipe()
def ddpm(
    *,
    data: str = "mnist.npz",
    steps: int = 1200,
    batch: int = 64,
    lr: float = 1e-3,
    width: int = 32,
    schedule: str = "linear",
    predicts: str = "eps",
    drop: float = 0.1,
    seed: int = 0,
    workers: int = 0,
) -> Plan:
    """Digits 0 … 9 by DDPM, told the class, on 32×32 pictures of MNIST.

    phosphene train mnist.ddpm --data PATH/mnist.npz

    data      an .npz with x_train and y_train, or any other data with labels
    width     channels at the full size
    schedule  linear or cosine
    predicts  eps, v or x0
    drop      how often the class is left out, for classifier-free guidance
    """
    from phosphene.data.batches import Batches, cached
    from phosphene.diffusion.denoiser import Denoiser
    from phosphene.diffusion.schedule import Cosine, Linear
    from phosphene.nets.unet import UNet
    from phosphene.recipes.base import check_choice
    from phosphene.recipes.grids import grid_of
    from phosphene.recipes.scores import like_digits
    from phosphene.systems.ddpm import Ddpm
    from phosphene.text.encoders import ClassEncoder

    digits = cached(Batches(data, size=32, batch=batch, seed=seed, drop=drop, prompts="label", channels=1))
    encoder = ClassEncoder(10, 4 * width)
    net = UNet(1, 1, (width, 2 * width, 2 * width), 1, (0, 0, 1), vector_dim=encoder.width)
    noise = check_choice("schedule", schedule, {"linear": Linear, "cosine": Cosine})()
    system = Ddpm(Denoiser(net, noise, predicts), encoder, 32, 1, sampler="dpmpp_2m", steps=30, guidance=2.0)
    settings = dict(steps=steps, lr=lr, seed=seed, workers=workers, sample_every=400, score_every=every(steps))
    return Plan(system, digits, settings, sample=grid_of([*range(10)] * 4), score=like_digits(digits), card=CARD)


CARD = "# mnist.ddpm\n\nDigits, told the class."
