"""phosphene edit: pictures of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from phosphene.cli.making import SHARED, make, quiet_threads, read_size, slug
from phosphene.cli.options import parse


def main(argv: Sequence[str]) -> None:
    own, sampling, using, place = parse(argv, "phosphene edit", edit, *SHARED)
    quiet_threads()
    from phosphene.request import paired, started

    picture, source = own["picture"], own["source"]
    pairs = paired(own["prompts"], sampling.pop("seed"), sampling.pop("n"))
    options = sampling | started(picture, own["strength"], own["invert"] if source is None else source)
    options |= {name: own[name] for name in ("eta", "components")}
    how = {name: own[name] for name in ("mask", "other", "expand", "feather")} | {"size": read_size(own["size"])}

    def name(_: int, made) -> str:
        prompt = made.receipt["prompt"]
        return f"{picture.stem[:40]}{'' if prompt is None else '-' + slug(prompt)}-{made.receipt['seed']}"

    make(pairs, options, using, **place, name=name, canvas=lambda studio: studio.canvas(picture, **how))


def edit(
    picture: Path,
    *prompts: str,
    strength: float | None = None,
    mask: str | None = None,
    expand: str | None = None,
    feather: int | None = None,
    invert: bool = False,
    source: str | None = None,
    size: str | None = None,
    other: Path | None = None,
    eta: float | None = None,
    components: int | None = None,
):
    """Makes pictures of a picture: phosphene edit cat.png "a smiling fox" --strength 0.6

    The picture is noised, as far as --strength says, and drawn again from there. With --mask or --expand only a part
    is, and the rest stays as it is, to the pixel. A sketch is a picture too. Every PNG carries how it was made.

    A model of unCLIP's kind makes variations of the picture; with a prompt it turns what the picture means from what
    --source says to what the prompt says, --strength of the way.

    picture    the picture to start from: a PNG, JPEG, WebP, … file; what is transparent becomes white
    prompts    what to draw; several are several pictures
    strength   how much may change: 0.3 a little, 1 all of it; 0.6 if not given, and 1 with --mask or --expand; of
               unCLIP's models half of the way to --other, and 0.3 of that to a prompt
    mask       a picture: what is white there is drawn anew, what is black stays. Or `alpha`: what is transparent is
    expand     pixels to add on every side, and draw: 64, or left=64,top=32 (and right, bottom)
    feather    pixels over which the new part fades in, inwards from the edge of the mask; 0 is a hard edge
    invert     start from the very noise that makes the picture (DDIM inversion), so that more of it stays
    source     what the picture shows, in words, for --invert; if not given, what its own PNG says it was made of
    size       in pixels, 64 or WIDTHxHEIGHT: the picture is cropped and resized to it first
    other      of unCLIP's models: a second picture, on the way to which, --strength of it, the pictures lie
    eta        of the sampler; of unCLIP's variations the dial: 0 is the picture itself, 1 keeps its meaning alone
    components of unCLIP's models: the picture told by so many principal components of what CLIP sees in it
    """
