"""What several recipes build alike."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from phosphene.data.base import Source
from phosphene.data.batches import Batches, Cached, cached
from phosphene.nets.autoencoder import Autoencoder, ConvDecoder, ConvEncoder, PatchCode, PatchDiscriminator
from phosphene.systems.autoencoder import AutoencoderSystem
from phosphene.systems.base import System


def pictures_for(source: Source, size: int, batch: int, seed: int) -> Cached:
    """Batches of pictures without captions, decoded once and kept."""
    return cached(Batches(source, size=size, batch=batch, seed=seed, prompts="none"))


def some_of(batches: Cached, n: int = 2048) -> Tensor:
    """The first n pictures of a cache that are not broken: (n, 3, H, W) in [−1, 1]."""
    rows = [row for row in range(len(batches.table)) if row not in batches.broken][:n]
    return batches.table[rows].float() / 127.5 - 1


def patch_autoencoder(
    batches: Cached,
    *,
    f: int,
    channels: int,
    widths: tuple[int, ...],
    depth: int,
    adversarial: float = 0.0,
) -> tuple[AutoencoderSystem, Callable[[System], None]]:
    """An autoencoder that starts from the principal components of f×f patches, and what to do when it is trained.

    The result's second is the recipe's `finish`: it measures the latents' scale with the averaged weights.
    """
    encoder = ConvEncoder(2 * channels, widths, 1)
    decoder = ConvDecoder(channels, widths, depth)
    autoencoder = Autoencoder(encoder, decoder, channels, f, PatchCode(f, channels))
    autoencoder.start.fit(some_of(batches))
    discriminator = PatchDiscriminator() if adversarial else None
    system = AutoencoderSystem(autoencoder, discriminator, adversarial=adversarial)

    def finish(trained: System) -> None:
        pictures = some_of(batches).to(trained.device)
        with torch.random.fork_rng():
            torch.manual_seed(batches.seed)
            trained.autoencoder.measure(pictures, sensitivity=0.5)

    return system, finish
