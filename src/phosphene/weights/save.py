"""save_as: a system, or a part of one, in a format that other libraries read.

A writer is a function (thing, path, dtype) -> notes, a line each of what the format cannot hold; dtype narrows the
weights, None leaves them. What it writes is there whole or not at all: a folder is made beside its place, then moved.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..errors import Problem, unknown


class Writer(NamedTuple):
    """A format: the "module:function" of this room that writes it, whether as a folder, and a line about it."""

    function: str
    folder: bool
    about: str


WRITERS: dict[str, Writer] = {
    "bundle": Writer("save:_bundle", False, "one file of Phosphene's own, which says everything itself"),
    "diffusers": Writer("stable_write:diffusers", True, "a folder for diffusers' from_pretrained"),
    "single-file": Writer("stable_write:single_file", False, "Stable Diffusion's original file, the web UI's names"),
    "hf-clip": Writer("clip:write_hugging_face", True, "a folder for transformers' CLIPModel.from_pretrained"),
    "open-clip": Writer("clip:write_open_clip", True, "a folder for open_clip"),
    "lora": Writer("lora:write", False, "a LoRA by our own names, for layers of any system"),
    "kohya": Writer("lora:write_kohya", False, "a LoRA by the names of kohya's scripts and the web UI"),
    "peft": Writer("lora:write_peft", False, "a LoRA by diffusers' and PEFT's names"),
}
LORAS = ("lora", "kohya", "peft")  # of these, what write LoRAs and nothing else


def save_as(thing: Any, path: str | Path, to: str = "bundle", *, half: bool = False) -> list[str]:
    """Writes a system, or a part, as `to`, one of WRITERS; `half`: weights in fp16. Returns what got lost, in lines.

    A bundle keeps the LoRAs that are on apart; into every other format they are added to the weights.

    Raises Problem where the format has no place for it, where something is at `path` already, or it cannot be written.
    """
    if to not in WRITERS:
        raise unknown("format", to, WRITERS)
    path, (function, folder, _) = Path(path), WRITERS[to]
    if path.exists() and (path.is_dir() or folder):
        raise Problem(f"{path} is there already: name another {'folder' if folder else 'file'}")
    module, _, name = function.partition(":")
    write = getattr(importlib.import_module(f"phosphene.weights.{module}"), name)
    dtype = torch.float16 if half else None
    with _worn_in(thing if to != "bundle" else None) as lost:
        if not folder:
            return lost + write(thing, path, dtype)
        with _beside(path) as partial:
            return lost + write(thing, partial, dtype)


@contextlib.contextmanager
def _worn_in(thing: Any) -> Iterator[list[str]]:
    """The LoRAs that a system wears are in its weights inside; gives which guides get lost, in lines."""
    from ..adapt import merged, worn  # here: that room is built on this one

    if not isinstance(thing, nn.Module):
        yield []
        return
    with merged(thing):
        yield [f"the guide {it.name!r}, which is on it" for it in worn(thing) if it.kind == "guide"]


def narrowed(tensors: dict[str, torch.Tensor], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Tensors to write: in `dtype` where they are numbers with a point; no two that share their memory."""
    made = {}
    for key, tensor in tensors.items():
        tensor = tensor.detach().to("cpu", dtype if dtype is not None and tensor.is_floating_point() else None)
        made[key] = tensor.contiguous().clone()
    return made


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A folder to write into that becomes `path` once all is written, and is gone where anything fails."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise Problem(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _bundle(thing: Any, path: Path, dtype: torch.dtype | None) -> list[str]:
    from . import bundle

    bundle.save(thing, path, dtype=dtype)
    return []
