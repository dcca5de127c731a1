"""What several recipes build alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from phosphene.data.base import Example, Source
from phosphene.data.batches import Batches, Cached, cached
from phosphene.data.emoji import Emoji
from phosphene.errors import Problem
from phosphene.nets.autoencoder import Autoencoder, ConvDecoder, ConvEncoder, PatchCode, PatchDiscriminator
from phosphene.nets.transformer import TextTransformer
from phosphene.systems.autoencoder import AutoencoderSystem, psnr
from phosphene.systems.base import System
from phosphene.systems.clip import ClipSystem
from phosphene.text.encoders import TextEncoder
from phosphene.text.tokenizer import Tokenizer


def pictures_for(source: Source, size: int, batch: int, seed: int) -> Cached:
    """Batches of pictures without captions, decoded once and kept."""
    return cached(Batches(source, size=size, batch=batch, seed=seed, prompts="none"))


def some_of(batches: Cached, n: int = 2048) -> Tensor:
    """The first n pictures of a cache that are not broken: (n, 3, H, W) in [−1, 1]."""
    rows = [row for row in range(len(batches.table)) if row not in batches.broken][:n]
    return batches.table[rows].float() / 127.5 - 1


class Named:
    """Rows start … stop of a source whose captions are names: said as they are, and as captions of a photo."""

    def __init__(self, source: Source, start: int, stop: int):
        self.source, self.start, self.stop = source, start, stop
        self.name = f"rows {start} to {stop} of {source.name}"
        self.lacks = getattr(source, "lacks", {})

    def __len__(self) -> int:
        return self.stop - self.start

    def names(self, i: int) -> tuple[str, ...]:
        """What the source calls row i; Problem where it says nothing."""
        captions = self.source[self.start + i].captions
        if not captions:
            raise Problem(f"row {self.start + i} of {self.source.name} has no caption, which should name its class")
        return captions

    def __getitem__(self, i: int) -> Example:
        names = self.names(i)
        photos = (f"a photo of a {n}" if n.isascii() else f"一张{n}的照片" for n in names)
        return replace(self.source[self.start + i], captions=(*names, *photos))


class Joined:
    """The rows of several sources, one source after the other."""

    def __init__(self, sources: Sequence[Source]):
        self.sources, self.name = sources, " and ".join(source.name for source in sources)

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def __getitem__(self, i: int) -> Example:
        for source in self.sources:
            if i < len(source):
                return source[i]
            i -= len(source)
        raise IndexError(i)


def pictures_of(source: Source, size: int) -> Tensor:
    """All pictures of a small source: (N, 3, H, W) in [−1, 1]. Raises Problem where one is broken."""
    batches = Batches(source, size=size, batch=1, prompts="none")
    pictures = [batches.picture(source[i], (size, size)) for i in range(len(source))]
    return torch.stack(pictures).float() / 127.5 - 1


def text_encoder(source: Source, tokens: int, width: int, layers: int, read: int = 10_000) -> TextEncoder:
    """A tokenizer trained on the captions of the source's first `read` rows, and a transformer with first weights."""
    captions = (c for i in range(min(read, len(source))) for c in source[i].captions)
    tokenizer = Tokenizer.train(captions, tokens)
    return TextEncoder(tokenizer, TextTransformer(len(tokenizer), width, layers, 4))


def zero_shot(system: ClipSystem, pictures: Tensor, what: str, names: Sequence[str], caption: str = "{}") -> str:
    """How often, of all names put into the caption, a picture's own is nearest (Radford et al. 2021, §3.1): a line."""
    classes = sorted(set(names))
    nearest = system.nearest(pictures.to(system.device), [caption.format(name) for name in classes])[:, 0].tolist()
    right = sum(classes[k] == name for k, name in zip(nearest, names, strict=True))
    chance = f"chance {1 / len(classes):.1%}"
    return f"- zero-shot {what}: {right / len(names):.1%} of {len(names)} held-out pictures; {chance}"


def names_found(system: ClipSystem, held: Emoji | None, size: int) -> list[str]:
    """Zero-shot accuracy on held-out emoji, by their group and by their names in both languages: lines."""
    if held is None:
        return ["- zero-shot accuracy: not measured, as no rows are held out (split=val)"]
    pictures = pictures_of(held, size)
    return [
        zero_shot(system, pictures, "group", [r["group"].replace("-", " ") for r in held.rows], "a photo of {}"),
        zero_shot(system, pictures, "English name", [r["name_en"] for r in held.rows]),
        zero_shot(system, pictures, "Chinese name", [r["name_zh"] for r in held.rows]),
    ]


@torch.no_grad()
def copied(system: AutoencoderSystem, pictures: Tensor) -> str:
    """How well the autoencoder copies pictures that it has not seen: a line."""
    it = system.autoencoder
    copies = torch.cat([it.decode(it.encode(part.to(system.device))).cpu() for part in pictures.split(64)])
    return f"- PSNR of copies: {psnr(copies, pictures):.1f} dB on {len(pictures)} held-out pictures"


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
