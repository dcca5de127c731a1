r"""Does a distance grow with what is wrong with the pictures? Fréchet's and the kernel one, in several feature spaces.

    python benchmarks/features.py cifar10_test.parquet "emoji:path=TABLE.parquet,styles=openmoji" \
        scenes:size=64,split=test --features clip thumbnails

One half of a set is distorted ever more strongly and compared with its other half, which is left as it is:

    noise    Gaussian, of 4, 8, 16, 32 grey levels
    blur     Gaussian, of 1/128, 1/64, 1/32, 1/16 of the side
    blocks   1/8, 1/4, 1/2, all of the 16 blocks of a picture are exchanged
    colour   hues turned by 10, 20, 40, 80 degrees
    contrast brought nearer to grey, by 10, 25, 50, 75 %
    jpeg     through JPEG of quality 75, 50, 25, 10
    mixed    2, 5, 10, 20 % of the pictures are of the next set

Printed are the distances in multiples of the one between the two halves as they are (for the kernel distance in its
deviations), and * where it is not larger than at the strength before. Then how often each space finds a real picture's
own caption among those of a hundred, where it reads words.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence

import torch
from PIL import Image, ImageFilter
from torch import Tensor

from phosphene.cli.options import call
from phosphene.data.base import Source, open_source
from phosphene.metrics.explain import through_jpeg
from phosphene.metrics.features import Extractor, extractor
from phosphene.metrics.frechet import Moments, frechet
from phosphene.metrics.kernel import kernel_distance
from phosphene.metrics.statistics import pictures, some_rows
from phosphene.metrics.words import embedded, r_precision

SIDE = 64


def noise(x: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    """Pictures uint8 (N, H, W, 3) with Gaussian noise of so many grey levels."""
    return (x + strength * torch.randn(x.shape, generator=draw)).round().clamp(0, 255).to(torch.uint8)


def blur(x: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    """Blurred by a Gaussian of this share of the side."""
    soft = ImageFilter.GaussianBlur(strength * x.shape[2])
    blurred = [bytearray(Image.fromarray(one.numpy()).filter(soft).tobytes()) for one in x]
    return torch.stack([torch.frombuffer(one, dtype=torch.uint8) for one in blurred]).view(x.shape)


def blocks(x: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    """This share of the 4×4 blocks of each picture, in another order."""
    n, h, w, _ = x.shape
    out = x.view(n, 4, h // 4, 4, w // 4, 3).transpose(2, 3).reshape(n, 16, h // 4, w // 4, 3).clone()
    for one in out:
        some = torch.randperm(16, generator=draw)[: round(16 * strength)]
        one[some] = one[some.roll(1)]
    return out.view(n, 4, 4, h // 4, w // 4, 3).transpose(2, 3).reshape(x.shape)


def colour(x: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    """Colours turned about the grey axis by so many degrees."""
    angle, axis = torch.tensor(strength).deg2rad(), torch.full((3,), 3**-0.5)
    a, b, c = axis
    cross = torch.tensor([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    turn = angle.cos() * torch.eye(3) + angle.sin() * cross + (1 - angle.cos()) * torch.outer(axis, axis)
    return (x.float() @ turn.T).round().clamp(0, 255).to(torch.uint8)


def contrast(x: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    """Nearer to middle grey by this share."""
    return (128 + (1 - strength) * (x.float() - 128)).round().to(torch.uint8)


def jpeg(x: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    """Through JPEG of quality 100 − strength."""
    return torch.cat([through_jpeg(one[None], 100 - int(strength)) for one in x])


DISTORTIONS: dict[str, tuple[Callable, tuple[float, ...]]] = {
    "noise": (noise, (4, 8, 16, 32)),
    "blur": (blur, (1 / 128, 1 / 64, 1 / 32, 1 / 16)),
    "blocks": (blocks, (1 / 8, 1 / 4, 1 / 2, 1)),
    "colour": (colour, (10, 20, 40, 80)),
    "contrast": (contrast, (0.1, 0.25, 0.5, 0.75)),
    "jpeg": (jpeg, (25, 50, 75, 90)),
}
MIXED = (0.02, 0.05, 0.1, 0.2)


def main(argv: Sequence[str]) -> None:
    call(run, argv, "python benchmarks/features.py")


def run(
    *data: str, features: tuple[str, ...] = ("clip", "thumbnails"), n: int = 1000, threads: int = 1, words: int = 1000
):
    """Distances in several feature spaces as pictures get worse.

    data      data specs, two or more
    features  feature spaces, as phosphene evaluate names them
    n         pictures of each half, at most
    threads   of torch
    words     pictures whose captions are looked for; 0 is none
    """
    torch.set_num_threads(threads)
    eyes = [extractor(name) for name in features]
    sources = [open_source(spec) for spec in data]
    shown = [of(source, 2 * n) for source in sources]
    for k, spec in enumerate(data):
        for eye in eyes:
            print(f"\n{spec}, {len(shown[k]) // 2} against as many: {eye.title}")
            for what, distances in curves(shown[k], shown[(k + 1) % len(data)], eye).items():
                print(f"  {what:8s} Fréchet {row([d[0] for d in distances])}   kernel {row([d[1] for d in distances])}")
    for spec, source in zip(data, sources):
        for eye in eyes if words else ():
            for language, found in own_words(source, eye, words).items():
                print(f"{spec}, {eye.name}: own caption of a hundred, {language}: {found}")


def of(source: Source, n: int, seed: int = 0) -> Tensor:
    """n pictures of a source, uint8 (n, SIDE, SIDE, 3)."""
    return torch.cat(list(pictures(source, some_rows(source, n, seed), (SIDE, SIDE))))


def curves(shown: Tensor, other: Tensor, eye: Extractor) -> dict[str, list[tuple[float, float]]]:
    """{distortion: [(Fréchet's distance over that of the clean halves, the kernel distance in its deviations)]}.

    The first of each is of the clean halves themselves.
    """
    half = len(shown) // 2
    clean, real = seen(eye, shown[:half]), seen(eye, shown[half:])
    least, spread = frechet(Moments.of(clean), Moments.of(real)), kernel_distance(clean, real, size=half // 2).std

    def distances(features: Tensor) -> tuple[float, float]:
        kernel = kernel_distance(features, real, size=half // 2, subsets=20).mean
        return frechet(Moments.of(features), Moments.of(real)) / least, kernel / spread

    found = {}
    for name, (distort, strengths) in DISTORTIONS.items():
        draw = torch.Generator().manual_seed(0)
        worse = [seen(eye, distort(shown[:half], strength, draw)) for strength in strengths]
        found[name] = [distances(features) for features in (clean, *worse)]
    foreign = seen(eye, other[:half])
    found["mixed"] = [distances(mixed(clean, foreign, share)) for share in (0.0, *MIXED)]
    return found


def seen(eye: Extractor, shown: Tensor) -> Tensor:
    return torch.cat([eye(some) for some in shown.split(64)])


def mixed(own: Tensor, foreign: Tensor, share: float) -> Tensor:
    """Features, this share of them of another set."""
    some = round(share * len(own))
    return torch.cat([foreign[:some], own[some:]])


def row(distances: Sequence[float]) -> str:
    """The distances, with a star where one is not larger than the one before."""
    before = [-float("inf"), *distances[:-1]]
    return " ".join(f"{d:8.2f}{' ' if d > b else '*'}" for d, b in zip(distances, before))


def own_words(source: Source, eye: Extractor, n: int, seed: int = 0) -> dict[str, object]:
    """{language: R-precision of real pictures and one of their captions in it}."""
    if getattr(eye.clip, "text", None) is None:
        return {}
    rows = some_rows(source, n, seed)
    said = [source[row].captions for row in rows]
    features, found = seen(eye, of(source, n, seed)), {}
    for language, latin in (("English", True), ("Chinese", False)):
        fit = [[caption for caption in captions if caption.isascii() == latin] for captions in said]
        keep = [i for i, captions in enumerate(fit) if captions]
        if keep:
            prompts = [random.Random(f"{seed} {i}").choice(fit[i]) for i in keep]
            found[language] = r_precision(features[keep], embedded(eye.clip, prompts), prompts, seed=seed)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
