"""Decoders of scenes, each kind at the same compression: 32×32×3 pixels ↔ 8×8×3 numbers. None is told a caption.

scenes.kl        from a latent: a KL autoencoder
scenes.vq        from a latent: a VQ autoencoder, each place one of a codebook's entries
scenes.small     from a small picture: a plain regression
scenes.superres  from a small picture: a diffusion super-resolution model (SR3; systems/upscale.py)
scenes.diffused  from scenes.kl's latent: a diffusion model as the decoder (systems/decoder.py)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phosphene.recipes.base import Plan, check_choice, every, recipe, source_of

if TYPE_CHECKING:
    from torch import Tensor

    from phosphene.systems.base import System

WIDTHS = {4: (64, 96), 8: (64, 96, 128), 16: (64, 96, 128, 128)}  # channels a level; half of f is the patches' side


@recipe()
def kl(
    *,
    data: str = "scenes",
    size: int = 32,
    f: int = 4,
    channels: int = 3,
    steps: int = 600,
    batch: int = 64,
    lr: float = 2e-3,
    pictures: int = 20_000,
    judged: int = 500,
    seed: int = 0,
) -> Plan:
    """A KL autoencoder of scenes, 32×32×3 ↔ 8×8×3.

    phosphene train scenes.kl

    f         how many times smaller a side the latent is: 4, 8 or 16
    channels  numbers a place of the latent
    pictures  how many scenes are drawn to learn from
    judged    how many scenes of the split "test" are copied at the end, to be read by the exact parser
    """
    from phosphene.recipes.parts import patch_autoencoder, pictures_for

    widths = check_choice("f", f, WIDTHS)
    batches = pictures_for(source_of(data, size=size, n=pictures), size, batch, seed)
    system, finish = patch_autoencoder(batches, f=f, channels=channels, widths=widths, depth=1)
    return _plan(f"kl, f = {f}", system, batches, size, judged, dict(steps=steps, lr=lr, seed=seed), finish)


@recipe()
def vq(
    *,
    data: str = "scenes",
    size: int = 32,
    f: int = 4,
    channels: int = 3,
    entries: int = 512,
    steps: int = 800,
    batch: int = 64,
    lr: float = 2e-3,
    pictures: int = 20_000,
    judged: int = 500,
    seed: int = 0,
) -> Plan:
    """A VQ autoencoder of scenes: each of 8×8 places one of a codebook's entries (van den Oord et al. 2017).

    phosphene train scenes.vq

    f         how many times smaller a side the latent is: 4, 8 or 16
    channels  numbers of an entry
    entries   of the codebook
    pictures  how many scenes are drawn to learn from
    judged    how many scenes of the split "test" are copied at the end, to be read by the exact parser
    """
    from phosphene.nets.autoencoder import ConvDecoder, ConvEncoder
    from phosphene.nets.quantize import VqAutoencoder
    from phosphene.recipes.parts import pictures_for, some_of
    from phosphene.systems.vq import VqSystem

    widths = check_choice("f", f, WIDTHS)
    batches = pictures_for(source_of(data, size=size, n=pictures), size, batch, seed)
    encoder, decoder = ConvEncoder(channels, widths, 1), ConvDecoder(channels, widths, 1)
    system = VqSystem(VqAutoencoder(encoder, decoder, channels, f, entries))

    def finish(trained: System) -> None:
        trained.autoencoder.measure(some_of(batches).to(trained.device))

    return _plan(f"vq, f = {f}", system, batches, size, judged, dict(steps=steps, lr=lr, seed=seed), finish)


@recipe()
def small(
    *,
    data: str = "scenes",
    size: int = 32,
    f: int = 4,
    steps: int = 600,
    batch: int = 64,
    lr: float = 2e-3,
    pictures: int = 20_000,
    judged: int = 500,
    seed: int = 0,
) -> Plan:
    """A regression from small scenes to large ones, 8×8×3 → 32×32×3: what bilinear enlarging misses.

    phosphene train scenes.small

    f         how many times smaller a side the small picture is: 4, 8 or 16
    pictures  how many scenes are drawn to learn from
    judged    how many scenes of the split "test" are enlarged at the end, to be read by the exact parser
    """
    from phosphene.nets.autoencoder import ConvDecoder, Thumbnail
    from phosphene.recipes.parts import pictures_for
    from phosphene.systems.autoencoder import AutoencoderSystem

    widths = check_choice("f", f, WIDTHS)
    batches = pictures_for(source_of(data, size=size, n=pictures), size, batch, seed)
    system = AutoencoderSystem(Thumbnail(ConvDecoder(3, widths, 1), f), kl=0.0)
    return _plan(f"small pictures, f = {f}", system, batches, size, judged, dict(steps=steps, lr=lr, seed=seed))


@recipe()
def superres(
    *,
    data: str = "scenes",
    size: int = 32,
    small: int = 8,
    steps: int = 1200,
    batch: int = 32,
    lr: float = 1e-3,
    width: int = 48,
    pictures: int = 20_000,
    judged: int = 500,
    seed: int = 0,
) -> Plan:
    """Diffusion super-resolution of scenes, 8×8 → 32×32 (Saharia et al. 2021).

    phosphene train scenes.superres

    small     pixels a side of the small picture
    width     channels at 16×16 places: the network sees patches of 2×2 pixels
    pictures  how many scenes are drawn to learn from
    judged    how many scenes of the split "test" are enlarged at the end, to be read by the exact parser
    """
    from phosphene.recipes.parts import pictures_for
    from phosphene.systems.upscale import Upscaler

    batches = pictures_for(source_of(data, size=size, n=pictures), size, batch, seed)
    system = Upscaler(_denoiser(3, width), size=size, small=small, sampler="ddim", steps=10)
    return _plan("diffusion super-resolution", system, batches, size, judged, dict(steps=steps, lr=lr, seed=seed))


@recipe(autoencoder="scenes.kl")
def diffused(
    *,
    data: str = "scenes",
    size: int = 32,
    autoencoder: Path | None = None,
    steps: int = 1200,
    batch: int = 32,
    lr: float = 1e-3,
    width: int = 48,
    pictures: int = 20_000,
    judged: int = 500,
    seed: int = 0,
) -> Plan:
    """A diffusion model as the decoder of an autoencoder's latents: scenes from 8×8×3 numbers.

    phosphene train scenes.diffused

    autoencoder  a bundle of scenes.kl or scenes.vq, whose latents are decoded; trained first where none is given
    width        channels at 16×16 places: the network sees patches of 2×2 pixels
    pictures     how many scenes are drawn to learn from
    judged       how many scenes of the split "test" are copied at the end, to be read by the exact parser
    """
    from phosphene.recipes.parts import pictures_for
    from phosphene.systems.decoder import DiffusionDecoder

    ae = autoencoder.autoencoder
    batches = pictures_for(source_of(data, size=size, n=pictures), size, batch, seed)
    system = DiffusionDecoder(_denoiser(ae.channels, width), ae, size)
    return _plan("a diffusion decoder", system, batches, size, judged, dict(steps=steps, lr=lr, seed=seed))


def _denoiser(beside: int, width: int):
    """A small U-Net of pixels that sees so many channels beside the picture, in patches of 2×2; on rectified flow."""
    from phosphene.diffusion.denoiser import Denoiser
    from phosphene.diffusion.schedule import Flow
    from phosphene.nets.layers import ScaleShiftResBlock
    from phosphene.nets.patched import Patched
    from phosphene.nets.unet import UNet

    net = UNet(4 * (3 + beside), 12, (width, 2 * width), 1, (0, 1), head_dim=32, block=ScaleShiftResBlock)
    return Denoiser(Patched(net), Flow(), "flow")


def _plan(
    what: str,
    system: System,
    batches: Any,
    size: int,
    judged: int,
    settings: dict,
    finish: Callable[[System], None] | None = None,
) -> Plan:
    """The plan of any decoder: scored by the signal-to-noise ratio of its copies, and read back at the end."""
    from phosphene.data.scenes import Scenes
    from phosphene.recipes.parts import pictures_of
    from phosphene.systems.autoencoder import psnr

    some = pictures_of(Scenes(size, 128, "test"), size)
    return Plan(
        system, batches, {**settings, "score_every": every(settings["steps"])}, finish=finish,
        score=lambda it: {"psnr": float(psnr(copied(it, some), some))},
        report=lambda it: read_after(it, size, judged), card=f"# A decoder of scenes: {what}",
    )  # fmt: skip


def copied(system: System, pictures: Tensor, seed: int = 0, at_once: int = 64, **how: Any) -> Tensor:
    """Pictures (N, 3, H, W) made small, or latents, and decoded again, on the CPU; how: as `generate` takes it."""
    import torch

    from phosphene.systems.upscale import Upscaler

    made = []
    for first in range(0, len(pictures), at_once):
        part = pictures[first : first + at_once].to(system.device)
        if isinstance(system, Upscaler):
            seeds = list(range(seed + first, seed + first + len(part)))
            told = "image" if type(system) is Upscaler else "latents"
            *_, last = system.generate([None] * len(part), seeds=seeds, **{told: system.stand_in(part)}, **how)
            made.append(last.picture().cpu())
        else:
            with torch.no_grad():
                made.append(system.autoencoder.decode(system.autoencoder.encode(part)).clamp(-1, 1).cpu())
    return torch.cat(made)


def read_after(system: System, size: int, n: int) -> list[str]:
    """How well n test scenes are copied, and in how many copies the exact parser reads just the scene: lines."""
    from phosphene.data.scenes import Scenes, wilson
    from phosphene.recipes.parts import pictures_of
    from phosphene.systems.autoencoder import psnr

    if not n:
        return []
    scenes = Scenes(size, n, "test")
    pictures = pictures_of(scenes, size)
    made = copied(system, pictures)
    same = still_read([scenes[i].meta["objects"] for i in range(n)], made)
    low, high = wilson(same, n)
    return [
        f"- PSNR of copies: {psnr(made, pictures):.1f} dB on {n} test scenes",
        f"- read back right: {same / n:.1%} of {n} copies (95 % interval {low:.1%} to {high:.1%})",
    ]


def still_read(scenes: list, made: Tensor) -> int:
    """In how many pictures the exact parser finds the scene's objects by shape, colour and size, and nothing else."""
    from collections import Counter

    from phosphene.data.scenes import parse

    def kinds(scene) -> Counter:
        return Counter((o.shape, o.colour, o.size) for o in scene)

    return sum(kinds(scene) == kinds(parse(x).scene or ()) for scene, x in zip(scenes, made, strict=True))
