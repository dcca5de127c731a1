"""Textual inversion (Gal et al. 2022): a few vectors that stand for a word, in the files that people keep them in.

the web UI's .pt, and the original's   {"string_to_param": {"*": (n, D)}, "name", "step", …}
the web UI's .safetensors              {"emb_params": (n, D)}
the web UI's .png                      a text chunk, base64 of the .pt's content as JSON
diffusers' learned_embeds              {"<token>": (D) or (n, D)}
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..errors import Problem, regular
from . import files

CHUNK = "sd-ti-embedding"  # the name of the text in a PNG


@dataclass(frozen=True)
class Embedding:
    """The word `trigger` is these vectors (n, D), float32, in the place of its tokens' embeddings."""

    trigger: str
    vectors: Tensor
    path: Path


def read(path: str | Path) -> Embedding:
    """The embedding in a file, recognised by its content. The trigger is the token that the file names, else its stem.

    Raises Problem where there is none, or more than one, and for SDXL's pairs.
    """
    path = Path(path)
    trigger, vectors = _found(path)
    vectors = vectors[None] if vectors.ndim == 1 else vectors
    if vectors.ndim != 2 or not vectors.numel() or not vectors.is_floating_point():
        raise Problem(f"{path}: its vectors are {list(vectors.shape)} of {vectors.dtype}, (n, width) was expected")
    vectors = vectors.float()
    if not vectors.isfinite().all():
        raise Problem(f"{path}: its vectors are not all finite")
    if not trigger.strip():
        raise Problem(f"{path} names no word for its vectors; its file wants a name")
    return Embedding(trigger.strip(), vectors, path)


def _found(path: Path) -> tuple[str, Tensor]:
    """(trigger, vectors) as they lie in the file."""
    if _starts(path, b"\x89PNG"):
        data = _picture(path)
        return str(data.get("name") or path.stem), _only(path, data.get("string_to_param"))
    tensors = files.open_tensors(path)
    if {"clip_l", "clip_g"} <= tensors.keys():
        raise Problem(f"{path} is an embedding for SDXL (clip_l and clip_g), which is not read")
    params = tensors.under("string_to_param.") or tensors
    vectors = _only(path, {key: params[key] for key in list(params)[:2]})
    [key] = params
    return key if params is tensors and key != "emb_params" else path.stem, vectors


def _starts(path: Path, magic: bytes) -> bool:
    regular(path)
    try:
        with open(path, "rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise Problem(f"{path} cannot be read: {error.strerror or error}") from None


def _only(path: Path, params: Any) -> Tensor:
    """The one tensor of a dict."""
    if not isinstance(params, dict) or not all(isinstance(v, Tensor) for v in params.values()):
        raise Problem(f"{path} holds no textual-inversion embedding")
    if len(params) != 1:
        raise Problem(f"{path} holds {'several' if params else 'no'} tensors, the vectors of one word were expected")
    return next(iter(params.values()))


def _picture(path: Path) -> dict[str, Any]:
    """What a PNG's text says, tensors made of its lists of numbers."""
    try:
        with Image.open(path) as image:
            text = image.info.get(CHUNK)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Problem(f"{path} is a PNG that cannot be read: {error}") from None
    if not isinstance(text, str):
        raise Problem(f"{path} is a PNG without an embedding in its text {CHUNK!r}")
    try:
        data = json.loads(base64.b64decode(text, validate=True), object_hook=_tensor)
    except (ValueError, TypeError, RecursionError):
        raise Problem(f"{path}: its text {CHUNK!r} is no base64 of JSON with lists of numbers") from None
    if not isinstance(data, dict):
        raise Problem(f"{path}: its text {CHUNK!r} is a JSON {type(data).__name__}, an object was expected")
    return data


def _tensor(value: dict[str, Any]) -> Any:
    return torch.tensor(value["TORCHTENSOR"], dtype=torch.float32) if "TORCHTENSOR" in value else value
