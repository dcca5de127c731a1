"""The receipt: what a picture carries about itself, as JSON in a text chunk of its PNG file.

It names everything that the picture is a function of, so that the picture can be made again. Beside it stands what
other tools read, the web UI's "parameters" (parameters.py), which is also what is read where there is no receipt.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from phosphene import __version__, parameters
from phosphene.errors import Problem, regular

KEY = "phosphene"  # the text chunk's keyword


def record(prompt: Any, seed: int, image: Image.Image, settings: dict[str, Any]) -> dict[str, Any]:
    """The receipt of one picture: prompt, seed, then the settings, the size in pixels and the versions."""
    import torch

    versions = {"phosphene": __version__, "torch": torch.__version__, "python": platform.python_version()}
    size = {"width": image.width, "height": image.height}
    return {"prompt": prompt, "seed": seed, **settings, "size": size, "versions": versions}


def write(path: str | Path, image: Image.Image, receipt: dict[str, Any] | list[dict[str, Any]]) -> Path:
    """The picture as a PNG that carries its receipt (a sheet: several). Raises Problem where it cannot be written.

    The web UI's parameters stand beside it; of a sheet, those of the first picture.
    """
    path = Path(path)
    info = PngInfo()
    if first := receipt if isinstance(receipt, dict) else next(iter(receipt), None):
        info.add_text(parameters.KEY, _encodable(parameters.text(first)))
    info.add_itxt(KEY, _encodable(json.dumps(receipt, ensure_ascii=False, default=str)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, "PNG", pnginfo=info)
    except OSError as error:
        raise Problem(f"{path} cannot be written: {error.strerror or error}") from None
    return path


def _encodable(text: str) -> str:
    """With "?" for what is no character: bytes of a command line, or of a file's name, that are not UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read(path: str | Path) -> dict[str, Any] | list[dict[str, Any]]:
    """The receipt in a picture; where there is none, what the web UI's parameters say of it, in the same words.

    Raises Problem where the file is no picture or carries neither.
    """
    text, written = _texts(path)
    if text is not None:
        return _receipt(path, text)
    if written is None:
        raise Problem(f"{path} carries no receipt, and no parameters of the web UI's kind")
    return parameters.told(parameters.parse(written))


def read_parameters(path: str | Path) -> dict[str, Any]:
    """The web UI's parameters in a picture, in our words (see `parameters.told`).

    Raises Problem where the file is no picture or carries none.
    """
    written = _texts(path)[1]
    if written is None:
        raise Problem(f"{path} carries no parameters of the web UI's kind")
    return parameters.told(parameters.parse(written))


def both(path: str | Path) -> tuple[list[dict[str, Any]], str | None]:
    """The receipts in a picture (of a sheet: several; or none), and the web UI's parameters as they stand there."""
    text, written = _texts(path)
    found = [] if text is None else _receipt(path, text)
    return found if isinstance(found, list) else [found], written


def is_picture(path: str | Path) -> bool:
    """Whether a file begins as a picture does that may carry how it was made: PNG, JPEG or WebP."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            first = file.read(12)
    except OSError:
        return False
    return first[:4] == b"\x89PNG" or first[:3] == b"\xff\xd8\xff" or (first[:4], first[8:]) == (b"RIFF", b"WEBP")


def _texts(path: str | Path) -> tuple[str | None, str | None]:
    regular(path)
    try:
        with Image.open(path) as image:
            written = parameters.within(image)
            return getattr(image, "text", {}).get(KEY), written
    except (UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise Problem(f"{path} is not a picture") from None
    except OSError as error:
        raise Problem(f"{path} cannot be read: {error.strerror or error}") from None


def _receipt(path: str | Path, text: str) -> dict[str, Any] | list[dict[str, Any]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    each = found if isinstance(found, list) else [found]
    if not all(isinstance(one, dict) for one in each):
        raise Problem(f"{path} carries a damaged receipt")
    return found
