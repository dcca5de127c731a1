"""What compressing is worth: one small class-conditional model in pixels, and in latents of f = 4, 8 and 16.

Single objects, told by their class, one of 43 pairs of colour and shape, which reaches the network as a vector and as a
token to attend to. Each is trained for the same time of one core; `phosphene study latents` compares them.

    scenes.in_pixels  32×32×3, 3,072 numbers
    scenes.in_kl      f = 4, 8×8×3: 192 numbers, 16 times fewer, of a KL autoencoder
    scenes.in_vq      the same, of a VQ autoencoder
    scenes.in_kl8     f = 8, 4×4×12: 192 numbers
    scenes.in_kl16    f = 16, 2×2×48: 192 numbers
    scenes.in_kl48    f = 8, 4×4×4: 64 numbers, 48 times fewer, as Stable Diffusion's 64×64×4 for 512×512×3
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phosphene.recipes.base import Plan, every, recipe
from phosphene.recipes.scenes.decoders import kl

if TYPE_CHECKING:
    from phosphene.data.base import Example
    from phosphene.systems.base import System

CHANNELS = {1: (32, 64, 96), 4: (64, 96), 8: (80, 112), 16: (128,)}  # of the U-Net, by f: 2.4 to 3.8 M parameters


@recipe()
def kl8(
    *, data: str = "scenes", size: int = 32, steps: int = 500, pictures: int = 20_000, judged: int = 500, seed: int = 0
) -> Plan:
    """A KL autoencoder of scenes, f = 8: 32×32×3 ↔ 4×4×12.

    phosphene train scenes.kl8

    pictures  how many scenes are drawn to learn from
    judged    how many scenes of the split "test" are copied at the end, to be read by the exact parser
    """
    return _kl(data=data, size=size, f=8, channels=12, steps=steps, pictures=pictures, judged=judged, seed=seed)


@recipe()
def kl16(
    *, data: str = "scenes", size: int = 32, steps: int = 500, pictures: int = 20_000, judged: int = 500, seed: int = 0
) -> Plan:
    """A KL autoencoder of scenes, f = 16: 32×32×3 ↔ 2×2×48.

    phosphene train scenes.kl16

    pictures  how many scenes are drawn to learn from
    judged    how many scenes of the split "test" are copied at the end, to be read by the exact parser
    """
    return _kl(data=data, size=size, f=16, channels=48, steps=steps, pictures=pictures, judged=judged, seed=seed)


@recipe()
def kl48(
    *, data: str = "scenes", size: int = 32, steps: int = 500, pictures: int = 20_000, judged: int = 500, seed: int = 0
) -> Plan:
    """A KL autoencoder of scenes, f = 8: 32×32×3 ↔ 4×4×4, 48 times fewer numbers.

    phosphene train scenes.kl48

    pictures  how many scenes are drawn to learn from
    judged    how many scenes of the split "test" are copied at the end, to be read by the exact parser
    """
    return _kl(data=data, size=size, f=8, channels=4, steps=steps, pictures=pictures, judged=judged, seed=seed)


def _kl(**knobs: Any) -> Plan:
    return kl(**knobs).function(**knobs)


@recipe()
def in_pixels(
    *, size: int = 32, steps: int = 200, batch: int = 64, pictures: int = 10_000, judged: int = 500, seed: int = 0
) -> Plan:
    """Class-conditional diffusion of single objects in pixels.

    phosphene train scenes.in_pixels

    pictures  how many scenes are drawn to learn from
    judged    how many pictures the exact parser reads at the end; 0 is none
    """
    return _told_a_class(None, size, steps, batch, pictures, judged, seed)


@recipe(autoencoder="scenes.kl")
def in_kl(
    *, size: int = 32, autoencoder: Path | None = None, steps: int = 800, batch: int = 64, pictures: int = 10_000,
    judged: int = 500, seed: int = 0,
) -> Plan:  # fmt: skip
    """Class-conditional diffusion of single objects in KL latents, f = 4.

    phosphene train scenes.in_kl

    autoencoder  a bundle of scenes.kl; trained first where none is given
    pictures     how many scenes are drawn to learn from
    judged       how many pictures the exact parser reads at the end; 0 is none
    """
    return _told_a_class(autoencoder.autoencoder, size, steps, batch, pictures, judged, seed)


@recipe(autoencoder="scenes.vq")
def in_vq(
    *, size: int = 32, autoencoder: Path | None = None, steps: int = 800, batch: int = 64, pictures: int = 10_000,
    judged: int = 500, seed: int = 0,
) -> Plan:  # fmt: skip
    """Class-conditional diffusion of single objects in VQ latents, f = 4.

    phosphene train scenes.in_vq

    autoencoder  a bundle of scenes.vq; trained first where none is given
    pictures     how many scenes are drawn to learn from
    judged       how many pictures the exact parser reads at the end; 0 is none
    """
    return _told_a_class(autoencoder.autoencoder, size, steps, batch, pictures, judged, seed)


@recipe(autoencoder="scenes.kl8")
def in_kl8(
    *, size: int = 32, autoencoder: Path | None = None, steps: int = 850, batch: int = 64, pictures: int = 10_000,
    judged: int = 500, seed: int = 0,
) -> Plan:  # fmt: skip
    """Class-conditional diffusion of single objects in KL latents, f = 8.

    phosphene train scenes.in_kl8

    autoencoder  a bundle of scenes.kl8; trained first where none is given
    pictures     how many scenes are drawn to learn from
    judged       how many pictures the exact parser reads at the end; 0 is none
    """
    return _told_a_class(autoencoder.autoencoder, size, steps, batch, pictures, judged, seed)


@recipe(autoencoder="scenes.kl16")
def in_kl16(
    *, size: int = 32, autoencoder: Path | None = None, steps: int = 1350, batch: int = 64, pictures: int = 10_000,
    judged: int = 500, seed: int = 0,
) -> Plan:  # fmt: skip
    """Class-conditional diffusion of single objects in KL latents, f = 16.

    phosphene train scenes.in_kl16

    autoencoder  a bundle of scenes.kl16; trained first where none is given
    pictures     how many scenes are drawn to learn from
    judged       how many pictures the exact parser reads at the end; 0 is none
    """
    return _told_a_class(autoencoder.autoencoder, size, steps, batch, pictures, judged, seed)


@recipe(autoencoder="scenes.kl48")
def in_kl48(
    *, size: int = 32, autoencoder: Path | None = None, steps: int = 850, batch: int = 64, pictures: int = 10_000,
    judged: int = 500, seed: int = 0,
) -> Plan:  # fmt: skip
    """Class-conditional diffusion of single objects in KL latents, f = 8, of 48 times fewer numbers than the picture.

    phosphene train scenes.in_kl48

    autoencoder  a bundle of scenes.kl48; trained first where none is given
    pictures     how many scenes are drawn to learn from
    judged       how many pictures the exact parser reads at the end; 0 is none
    """
    return _told_a_class(autoencoder.autoencoder, size, steps, batch, pictures, judged, seed)


class OneObject:
    """Scenes of one object; its pair of colour and shape is its class."""

    def __init__(self, size: int, n: int, split: str = "train", seed: int = 0):
        from phosphene.data.scenes import Scenes

        self.scenes = Scenes(size, n, split, (1, 1), seed)
        self.name = self.scenes.name

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, i: int) -> Example:
        from phosphene.data.scenes import SEEN

        example = self.scenes[i]
        it = example.meta["objects"][0]
        return replace(example, label=SEEN.index((it.colour, it.shape)))


def _told_a_class(autoencoder: Any, size: int, steps: int, batch: int, pictures: int, judged: int, seed: int) -> Plan:
    from phosphene.data.batches import Batches, cached
    from phosphene.data.scenes import SEEN
    from phosphene.diffusion.denoiser import Denoiser
    from phosphene.diffusion.schedule import Flow
    from phosphene.nets.layers import ScaleShiftResBlock, SpatialTransformer
    from phosphene.nets.unet import UNet
    from phosphene.recipes.grids import grid_of
    from phosphene.systems.ddpm import Ddpm
    from phosphene.systems.latent import Latent
    from phosphene.text.encoders import ClassEncoder

    f, c = (1, 3) if autoencoder is None else (autoencoder.f, autoencoder.channels)
    widths = CHANNELS[f]
    attention = [0] * (len(widths) - 1) + [1] if f < 8 else [1] * len(widths)  # at 8×8 places in pixels, else 4×4, …
    encoder = ClassEncoder(len(SEEN), 64, [f"{colour} {shape}" for colour, shape in SEEN], tokens=True)
    net = UNet(
        c, c, widths, 1, attention, head_dim=16, context_dim=64,
        vector_dim=64, emb_dim=128, block=ScaleShiftResBlock, attend=SpatialTransformer,
    )  # fmt: skip
    denoiser = Denoiser(net, Flow(draws="logit_normal"), "flow")
    system: System
    if autoencoder is None:
        system = Ddpm(denoiser, encoder, size, sampler="dpmpp_2m", steps=12, guidance=2.0)
    else:
        system = Latent(denoiser, autoencoder, encoder, size, steps=12, guidance=2.0)
    plain = Batches(OneObject(size, pictures), size=size, batch=batch, seed=seed, prompts="label")
    settings = dict(steps=steps, lr=1e-3, seed=seed, score_every=every(steps, 3))
    return Plan(
        system, cached(plain, None if autoencoder is None else system), settings,
        sample=grid_of(list(range(16))), score=lambda it: {"right": right_classes(it, min(judged, 64))[0]},
        report=lambda it: [f"- right: {classes_said(it, judged)}"] if judged else [],
        card="# Single objects, told by their class",
    )  # fmt: skip


def right_classes(system: System, n: int, seed: int = 0) -> tuple[float, int]:
    """(the share of n pictures of classes in turn that the exact parser reads as one object of the class, how many)."""
    from phosphene.recipes.grids import made_of

    return (hits := sum(read_right(made_of(system, classes(n), seed), classes(n)))) / n, hits


def classes(n: int) -> list[int]:
    """n classes in turn."""
    from phosphene.data.scenes import SEEN

    return [i % len(SEEN) for i in range(n)]


def read_right(pictures: Any, told: list[int]) -> list[bool]:
    """Of each picture, whether the exact parser reads one object in it, of the class that was told."""
    from phosphene.data.scenes import SEEN, parse

    found = [parse(x).scene or () for x in pictures]
    return [[(o.colour, o.shape) for o in scene] == [SEEN[k]] for scene, k in zip(found, told, strict=True)]


def classes_said(system: System, n: int) -> str:
    """`right_classes` with its interval, in words."""
    from phosphene.data.scenes import SEEN, wilson

    rate, hits = right_classes(system, n)
    low, high = wilson(hits, n)
    return f"{rate:.1%} of {n} (95 % interval {low:.1%} to {high:.1%}; chance {1 / len(SEEN):.1%})"
