"""MNIST: the smallest thing worth training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phosphene.recipes.base import Plan, every, recipe

if TYPE_CHECKING:
    from torch import Tensor


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


@recipe()
def binomial(
    *,
    data: str = "mnist.npz",
    steps: int = 1200,
    batch: int = 32,
    lr: float = 1e-3,
    width: int = 48,
    T: int = 100,
    held: int = 500,
    seed: int = 0,
) -> Plan:
    """Digits in black and white by the binomial diffusion of DPM 2015 (docs/lineage/dpm.md).

    phosphene train mnist.binomial --data PATH/mnist.npz

    data   an .npz with x_train and x_test: what is brighter than the middle grey is white
    width  channels at 16×16 places: the network sees patches of 2×2 pixels
    T      steps of the chain
    held   how many pictures of x_test the bound is measured on at the end; 0: no x_test is wanted
    """
    from phosphene.data.base import at_most, open_source
    from phosphene.data.batches import Batches, cached
    from phosphene.metrics.likelihood import bits
    from phosphene.nets.patched import Patched
    from phosphene.nets.unet import UNet
    from phosphene.recipes.grids import grid_of
    from phosphene.recipes.parts import pictures_of
    from phosphene.systems.binomial import Binomial

    digits = cached(Batches(data, size=32, batch=batch, seed=seed, prompts="none", channels=1))
    with at_most(max(held, 1)):
        unseen = pictures_of(open_source(f"{data}:split=test"), 32) if held else None
    system = Binomial(Patched(UNet(4, 4, (width, 2 * width), 1, (0, 1), head_dim=width)), T)
    settings = dict(steps=steps, lr=lr, seed=seed, sample_every=every(steps, 4), score_every=every(steps, 4))
    return Plan(
        system, digits, settings, sample=grid_of([None] * 40),
        score=lambda it: {"bits": float(bits(it, unseen[:64]).mean())} if held else {},
        report=lambda it: [said_bits(bits(it, unseen), unseen)] if held else [], card="# mnist.binomial",
    )  # fmt: skip


def said_bits(found: Tensor, pictures: Tensor) -> str:
    """A line on bits a pixel (N,) of pictures (N, C, H, W), and on nats a picture."""
    from math import log

    from phosphene.metrics.interval import mean_of

    nats = float(found.mean()) * log(2) * pictures.shape[2] * pictures.shape[3]
    return f"- bound on −log p: {mean_of(found)} bits a pixel, {nats:.1f} nats a picture, on {len(found)} held-out ones"


CARD = "# mnist.ddpm\n\nDigits, told the class."
