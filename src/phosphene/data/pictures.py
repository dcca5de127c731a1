"""From encoded bytes to a uint8 picture of the wanted size: decoding, compositing, cropping, resizing."""

from __future__ import annotations

import io
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from phosphene.errors import Problem, unknown

# Only decoders that run inside Pillow: EPS, for one, would start Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
CROPS = ("center", "random", "squash")


def opened(file: bytes | str | BinaryIO, name: str) -> Image.Image:
    """The picture's header: format, size and mode are known, no pixel is decoded.

    Raises Problem, naming the picture, where it is no picture or has more than PIL's limit of 89 million pixels.
    """
    Image.init()
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(stream, formats=[f for f in FORMATS if f in Image.OPEN])
    except Image.DecompressionBombError:
        raise Problem(f"{name}: more pixels than {Image.MAX_IMAGE_PIXELS:,}, which is no honest picture") from None
    except UnidentifiedImageError:
        raise Problem(f"{name}: not a picture of a known format ({', '.join(FORMATS)})") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise Problem(f"{name}: cannot be opened as a picture ({_short(error)})") from None
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        size = f"{image.width}x{image.height}"
        raise Problem(f"{name}: {size} is more pixels than {Image.MAX_IMAGE_PIXELS:,}, which is no honest picture")
    return image


def decode(file: bytes | str | BinaryIO, name: str) -> Image.Image:
    """The picture, decoded, upright as its EXIF says. Raises Problem, naming it, where it is broken or cut off."""
    image = opened(file, name)
    try:
        image.load()
        return ImageOps.exif_transpose(image) if image.getexif().get(0x0112, 1) != 1 else image
    except Exception as error:  # decoders raise almost anything on damaged data: OSError, SyntaxError, IndexError, …
        raise Problem(f"{name}: broken picture ({_short(error)})") from None


def measured(file: bytes | str | BinaryIO, name: str) -> tuple[int, int]:
    """(width, height) of the picture, upright, from its header. Raises Problem, naming it, where that is broken."""
    with opened(file, name) as image:
        turned = image.format == "JPEG" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (image.height, image.width) if turned else (image.width, image.height)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]


def colour(background: str | tuple[int, int, int] | list[int]) -> tuple[int, int, int]:
    """(255, 255, 255), "white" or "#ffffff" as three numbers 0…255. Raises Problem for anything else."""
    try:
        rgb = ImageColor.getrgb(background) if isinstance(background, str) else tuple(background)
    except ValueError:
        raise Problem(f"background {background!r} is no colour; write white, #ffffff or (255, 255, 255)") from None
    if len(rgb) < 3 or not all(isinstance(c, int) and 0 <= c <= 255 for c in rgb[:3]):
        raise Problem(f"background {background!r} is no colour; three whole numbers 0…255 are")
    return rgb[:3]  # type: ignore[return-value]


def opaque(image: Image.Image | np.ndarray, background: tuple[int, int, int]) -> Image.Image:
    """An RGB picture; where the given one is transparent, the background shows through."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (*background, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    """16-bit levels as 8-bit ones; floats are taken to be 0…1 where they do not go beyond, else 0…255."""
    if pixels.dtype.kind == "f":
        scaled = pixels * (255 if pixels.max(initial=0) <= 1 else 1)
    else:
        scaled = pixels / (257 if pixels.max(initial=0) > 255 else 1)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def fitted(image: Image.Image, size: tuple[int, int], crop: str, u: tuple[float, float] = (0.5, 0.5)) -> Image.Image:
    """The picture at size (height, width), by an antialiased (Lanczos) resize of a part of it.

    crop  "center": the largest part in the middle with the shape of `size`; "random": as large a part, at the share u,
          in [0, 1)², of where it can be; "squash": all of it, out of shape.
    """
    height, width = size
    if image.size == (width, height):
        return image
    box = (0.0, 0.0, float(image.width), float(image.height))
    if crop != "squash":
        scale = min(image.width / width, image.height / height)
        w, h = width * scale, height * scale
        x, y = (
            (image.width - w) * (u[0] if crop == "random" else 0.5),
            (image.height - h) * (u[1] if crop == "random" else 0.5),
        )
        box = (x, y, min(x + w, image.width), min(y + h, image.height))
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box)


def check_crop(crop: str) -> str:
    if crop not in CROPS:
        raise unknown("crop", crop, CROPS)
    return crop


def check_pixels(pixels: np.ndarray, name: str) -> None:
    """Raises Problem unless `pixels` are uint8 (N, H, W), (N, H, W, 3) or (N, H, W, 4)."""
    if pixels.dtype != np.uint8 or not (pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] in (3, 4))):
        raise Problem(
            f"{name} is {pixels.dtype} {pixels.shape}; uint8 (N, H, W), (N, H, W, 3) or (N, H, W, 4) is right"
        )


def image_size(image) -> tuple[int, int]:
    """(width, height) of an Example's image: a PIL image, an array (H, W, …) or a tensor (C, H, W)."""
    if isinstance(image, Image.Image):
        return image.size
    height, width = image.shape[:2] if isinstance(image, np.ndarray) else image.shape[-2:]
    return int(width), int(height)
