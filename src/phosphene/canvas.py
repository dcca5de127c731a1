"""A picture made ready for editing, and the way back: what of it was not to change is as it was, to the pixel."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor
from torch.nn import functional as F

from phosphene.data.pictures import decode, fitted, opaque
from phosphene.errors import Problem, regular, unknown

SIDES = ("left", "top", "right", "bottom")
WHITE = (255, 255, 255)  # what transparent parts are put on
LARGEST = 4096  # pixels a side of what a model is given
FAR = 2  # times as many, or as few, pixels as a model was trained on: such a picture is brought to its size

Picture = str | Path | Image.Image


@dataclass(frozen=True)
class Canvas:
    """A picture, what of it is to be redrawn, and both as a system wants them.

    original  the upright RGB picture; where it was to be expanded, with its edges filled
    mask      "L", of its size: white is redrawn; None: all of it may change
    image     (1, 3, H, W) in [−1, 1], sides multiples of the system's; `area` (w, h) of it, at the top left, is picture
    receipt   what a receipt says of it
    other     the picture on the way to which others are made, as `image` is; None: there is none
    """

    original: Image.Image
    mask: Image.Image | None
    image: Tensor
    inside: Tensor | None
    area: tuple[int, int]
    receipt: dict[str, Any]
    other: Tensor | None = None

    def back(self, made: Image.Image) -> Image.Image:
        """What a system made of it, without what was only there to fill its multiples.

        Where the picture had been resized and has a mask, what was made comes at the picture's size, and what is black
        in the mask is the picture's own.
        """
        times = made.width / self.image.shape[-1]  # above 1 where the system makes pictures larger
        made = made.crop((0, 0, *(round(times * side) for side in self.area)))
        if self.mask is None or made.size == self.original.size:
            return made
        large = made.resize(self.original.size, Image.Resampling.LANCZOS)
        return Image.composite(large, self.original, self.mask.point(lambda v: 255 * (v > 0)))


def prepare(
    picture: Picture,
    mask: Picture | None = None,
    *,
    expand: int | str | Mapping[str, int] | None = None,
    feather: int | None = None,
    size: tuple[int, int] | None = None,
    trained: int | None = None,
    multiple: int = 1,
) -> Canvas:
    """The picture on its canvas.

    picture  a file, upright as its EXIF says, or a PIL picture; what is transparent is put on white
    mask     likewise, by its brightness: white is redrawn, black stays; "alpha": what is transparent is redrawn
    expand   pixels to add on every side, or {"left": 64, …}, or "left=64,top=0": they are redrawn
    feather  pixels over which what is redrawn fades in, inwards from the edge of the mask; None: a twentieth of the
             shorter side, at most 32
    size     (height, width) to which the picture is cropped and resized first. None: its own; but FAR from
             `trained`, the pixels a side that the model knows, it works at about that size
    multiple what both sides of what the system is given divide by: the edges are repeated to fill them
    Raises Problem for what is no picture, an absurd size, an empty mask, sides that are not there.
    """
    read, name, digest = _opened(picture)
    receipt: dict[str, Any] = {"source": {"name": name, "sha256": digest}}
    original, where = opaque(read, WHITE), None
    if isinstance(mask, str) and mask == "alpha":
        where, receipt["mask"] = _transparent(read, name), {"name": "alpha", "sha256": digest}
    elif mask is not None:
        where = _mask(mask, receipt)
    if where is not None:
        where = where.resize(original.size, Image.Resampling.BOX)  # what is far from white stays black
    if size is not None:
        if min(size) < 1:
            raise Problem(f"size={size}: (height, width) in pixels was expected")
        receipt["fitted"] = {"width": size[1], "height": size[0]}
        original, where = (None if it is None else fitted(it, size, "center") for it in (original, where))
    sides = margins(expand)
    if any(sides):
        receipt["expand"] = dict(zip(SIDES, sides, strict=True))
        original, where = _expanded(original, where, sides)
    if where is not None and not where.getbbox():
        raise Problem("the mask is empty: white is what is to be redrawn, and all of it is black")
    if where is not None:
        receipt["feather"] = min(32, min(original.size) // 20) if feather is None else feather
        where = _feathered(where, receipt["feather"])
    work = original.size if size is not None else _working(original.size, trained)
    image, inside = _padded(original, work, multiple), None
    if where is not None:
        inside = _tensor(_padded(where, work, multiple, fill=0))
    return Canvas(original, where, _tensor(image) * 2 - 1, inside, work, receipt)


def margins(expand: int | str | Mapping[str, int] | None) -> tuple[int, int, int, int]:
    """Pixels to add at the left, the top, the right and the bottom. Raises Problem for what says none."""
    if isinstance(expand, str) and "=" in expand:
        pairs = [pair.split("=", 1) for pair in re.split(r"[,\s]+", expand.strip()) if pair]
        expand = {pair[0]: pair[-1] for pair in pairs}
    told = dict(expand) if isinstance(expand, Mapping) else dict.fromkeys(SIDES, 0 if expand is None else expand)
    for side, pixels in told.items():
        if side not in SIDES:
            raise unknown("side to expand", side, SIDES)
        if not re.fullmatch(r"\d{1,5}", str(pixels)):
            raise Problem(f"expand {side}={pixels}: a whole number of pixels, at least 0, was expected")
    return tuple(int(told.get(side, 0)) for side in SIDES)  # type: ignore[return-value]


def _opened(picture: Picture) -> tuple[Image.Image, str, str]:
    """The picture, its name and the sha256 of its file (of its pixels, where it has none)."""
    if isinstance(picture, Image.Image):
        return picture, "", hashlib.sha256(f"{picture.mode}{picture.size}".encode() + picture.tobytes()).hexdigest()
    regular(picture)
    try:
        data = Path(picture).read_bytes()
    except OSError as error:
        raise Problem(f"{picture} cannot be read: {error.strerror or error}") from None
    return decode(io.BytesIO(data), str(picture)), Path(picture).name, hashlib.sha256(data).hexdigest()


def _mask(mask: Picture, receipt: dict[str, Any]) -> Image.Image:
    read, name, digest = _opened(mask)
    receipt["mask"] = {"name": name, "sha256": digest}
    levels = opaque(read, (0, 0, 0)).convert("L")
    return levels.point(lambda v: 0 if v < 16 else 255 if v > 239 else v)  # a JPEG's black is not quite black


def _transparent(picture: Image.Image, name: str) -> Image.Image:
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        raise Problem(f"{name or 'the picture'} has nothing transparent, which the mask 'alpha' would redraw")
    return ImageChops.invert(picture.convert("RGBA").getchannel("A"))


def _expanded(
    picture: Image.Image, mask: Image.Image | None, sides: tuple[int, int, int, int]
) -> tuple[Image.Image, Image.Image]:
    """The picture on a larger canvas, filled with its edges, ever more blurred; the mask with the new part in white."""
    left, top, right, bottom = sides
    size = picture.width + left + right, picture.height + top + bottom
    if max(size) > 4 * LARGEST:
        raise Problem(f"expanded, the picture would be {size[0]}x{size[1]} pixels: more than {4 * LARGEST} a side")
    pixels = np.pad(np.asarray(picture), ((top, bottom), (left, right), (0, 0)), mode="edge")
    canvas = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(max(sides) / 8))
    canvas.paste(picture, (left, top))
    where = Image.new("L", size, 255)
    where.paste(0 if mask is None else mask, (left, top, left + picture.width, top + picture.height))
    return canvas, where


def _feathered(mask: Image.Image, pixels: int) -> Image.Image:
    """Faded in over `pixels`, inwards, and over less where the white is not as wide; not at the picture's own edge."""
    if not 0 <= pixels <= 512:
        raise Problem(f"feather={pixels}: from 0, a hard edge, to 512 pixels")
    inside = shrunk = _tensor(np.asarray(mask)[..., None])
    depth = torch.zeros_like(inside)  # 1 at the edge of the white, `pixels` where it is that deep or deeper
    for _ in range(pixels):
        depth = depth + shrunk
        shrunk = -F.max_pool2d(-F.pad(shrunk, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    deepest = depth
    for window in ((2 * pixels + 1, 1), (1, 2 * pixels + 1)):
        deepest = F.max_pool2d(deepest, window, stride=1, padding=[side // 2 for side in window])
    soft = inside * depth / deepest.clamp(min=1e-6) if pixels else inside
    return Image.fromarray((soft[0, 0] * 255).round().to(torch.uint8).numpy())


def _working(size: tuple[int, int], trained: int | None) -> tuple[int, int]:
    """(width, height) at which a model works on a picture of this size."""
    area = size[0] * size[1] / (trained**2 if trained else size[0] * size[1])
    near = 1 / FAR <= area <= FAR
    work = size if near else tuple(max(1, round(side / area**0.5)) for side in size)
    if max(work) > LARGEST or max(work) > 64 * min(work):
        raise Problem(
            f"{size[0]}x{size[1]} pixels: too large or too narrow a picture to work on; --size brings it to another"
        )
    return work  # type: ignore[return-value]


def _padded(picture: Image.Image, work: tuple[int, int], multiple: int, fill: int | None = None) -> np.ndarray:
    """The picture at its working size as (H, W, ·) of multiples: its edges repeated, or `fill`."""
    pixels = np.asarray(picture if picture.size == work else picture.resize(work, Image.Resampling.LANCZOS))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    pad = ((0, -pixels.shape[0] % multiple), (0, -pixels.shape[1] % multiple), (0, 0))
    return np.pad(pixels, pad, mode="edge") if fill is None else np.pad(pixels, pad, constant_values=fill)


def _tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, C) → (1, C, H, W) in [0, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
