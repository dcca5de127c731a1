"""Replay: a picture made again from its receipt, and what differs.

A receipt is somebody else's text. Of what it says only settings are taken, each checked by claims.py; it opens no file:
the model is a shipped one, of the name that it gives, or the file that the caller names, and so are sources and LoRAs.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from phosphene import __version__, receipt
from phosphene.claims import NOT_ASKED, ROW, WORDS, Receipt, check, versions
from phosphene.data.pictures import opaque
from phosphene.data.sheet import contact_sheet
from phosphene.diffusion.noise import Between
from phosphene.errors import Problem
from phosphene.hashes import sha256
from phosphene.request import Studio
from phosphene.runtime import choose_device
from phosphene.weights import bundle
from phosphene.weights.load import words_told


@dataclass(frozen=True)
class Replay:
    """A picture and the same one made again.

    made           None where the picture cannot be what its receipt says, and none was made
    circumstances  in what the making differed, a line each: other weights, version, threads, device, …
    most, mean     of the differences, in grey levels of 255, over all pixels and colours; share of pixels that differ
    remark         why the two cannot be compared pixel by pixel, or ""
    """

    made: Image.Image | None
    circumstances: list[str]
    most: int = 0
    mean: float = 0.0
    share: float = 0.0
    remark: str = ""

    @property
    def equal(self) -> bool:
        return self.most == 0 and not self.remark

    def __str__(self) -> str:
        if self.remark or self.equal:
            return f"differs: {self.remark}" if self.remark else "equal"
        levels = (
            f"by at most {self.most} grey level{'s' if self.most > 1 else ''} of 255, by {self.mean:.3g} on average"
        )
        return f"differs: {levels}; {100 * self.share:.3g} % of the pixels do"


def replay(
    picture: str | Path,
    model: str | Path | None = None,
    *,
    source: str | Path | None = None,
    mask: str | Path | None = None,
    other: str | Path | None = None,
    vae: str | Path | None = None,
    lora: Sequence[str | Path] = (),
    embedding: Sequence[str | Path] = (),
    guide: Sequence[str | Path] = (),
    tell: Sequence[str] = (),
    device: str = "auto",
) -> Replay:
    """Makes a picture, or a sheet of them, again from what it carries; on the CPU with as many threads as then.

    model        its file or folder; None: the shipped one of the name that the receipt says
    source, mask, other   what an edit was made of;  vae, lora, embedding, guide  files, recognised by their hashes
    tell         what was told of the checkpoint and may be a path;  device  "auto": that of the receipt, if it is here
    Raises Problem for a picture without a receipt, for one that says what cannot be, for what is needed and missing.
    """
    given = _Given(model, source, mask, other, vae, tuple(lora), tuple(embedding), tuple(guide), tuple(tell), device)
    said, ours = receipt.read(picture), bool(receipt.both(picture)[0])
    found = [said if ours else _foreign(picture, said)] if isinstance(said, dict) else said
    for one in found:
        check(one, str(picture))
    with Image.open(picture) as opened:
        there = opaque(opened, (255, 255, 255)).copy()
    if not found or (remark := _changed(found, there, sheet := isinstance(said, list))):
        return Replay(None, [], remark=remark if found else "its receipt is that of no picture")
    circumstances = [] if ours else ["not made by Phosphene: only its own pictures are made again exactly"]
    made, threads = [], torch.get_num_threads()
    try:
        for _, alike in itertools.groupby(found, _alike):
            for lines, image in _again(list(alike), given, str(picture)):
                circumstances += [line for line in lines if line not in circumstances]
                made.append(image)
    finally:
        torch.set_num_threads(threads)
    whole = contact_sheet(made, cell=max(max(image.size) for image in made)) if sheet else made[0]
    return _compared(there, whole, circumstances)


def _changed(found: list[Receipt], there: Image.Image, sheet: bool) -> str:
    """Why the picture cannot be what its receipts say, "" where it can: nothing is made that does not fit into it."""
    sizes = [(one["size"]["width"], one["size"]["height"]) for one in found]
    if not sheet and sizes[0] != there.size:
        told, is_ = (f"{width}x{height}" for width, height in (sizes[0], there.size))
        return f"its receipt says {told} pixels and it has {is_}: it was changed after it was made"
    if sum(width * height for width, height in sizes) > there.width * there.height:
        return f"{len(sizes)} pictures of these sizes do not fit onto a sheet of {there.width}x{there.height} pixels"
    for one in found:
        parts = [each for name in ("drawn", "fitted") if (each := one.get(name))] + [one.get("expand") or {}]
        if any(side > 64 + max(one["size"].values()) for part in parts for side in part.values()):
            return "its receipt says that it was made of something larger than itself"
    return ""


def _compared(there: Image.Image, made: Image.Image, circumstances: list[str]) -> Replay:
    if there.size != made.size:
        sizes = [f"{image.width}x{image.height}" for image in (there, made)]
        return Replay(made, circumstances, remark=f"the picture is {sizes[0]}, what was made again {sizes[1]}")
    apart = np.abs(np.asarray(there, dtype=int) - np.asarray(made.convert("RGB"), dtype=int))
    return Replay(made, circumstances, int(apart.max()), float(apart.mean()), float(apart.any(-1).mean()))


def _foreign(picture: str | Path, told: Receipt) -> Receipt:
    """The web UI's parameters as a receipt. Raises Problem where they leave open what a picture depends on."""
    missing = [name for name in ("seed", "steps", "sampler", "guidance", "size") if told.get(name) is None]
    if missing:
        raise Problem(
            f"{picture} has no receipt, and its parameters do not say {', '.join(missing)} in words known here"
        )
    told = {**told, "weights": told["parameters"].get("Model hash")}
    del told["parameters"]
    if told.get("strength") is not None:
        told |= {"source": {"name": "", "sha256": ""}, "fitted": told["size"]}
    if told.get("hires"):
        told["drawn"] = told["size"]
    if told.get("variation_strength") == 0:
        told = {name: value for name, value in told.items() if not name.startswith("variation")}
    return {"model": "unknown", **told}


# Making it again ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Given:
    """What the caller named."""

    model: str | Path | None
    source: str | Path | None
    mask: str | Path | None
    other: str | Path | None
    vae: str | Path | None
    lora: tuple[str | Path, ...]
    embedding: tuple[str | Path, ...]
    guide: tuple[str | Path, ...]
    tell: tuple[str, ...]
    device: str


def _alike(one: Receipt) -> str:
    """Receipts of which this is the same are made in one go."""
    return json.dumps({name: value for name, value in one.items() if name not in ROW}, sort_keys=True)


def _again(alike: list[Receipt], given: _Given, where: str) -> Iterator[tuple[list[str], Image.Image]]:
    """(circumstances that differ, the picture) for each of some receipts that say the same of all but their rows."""
    one = alike[0]
    if one.get("threads") and one["threads"] <= (os.cpu_count() or 1):
        torch.set_num_threads(one["threads"])
    studio = Studio(_model(one, given, where), **_wanted(one, given, where))
    options = {name: value for name, value in one.items() if name not in NOT_ASKED}
    if options.get("interval"):
        options["interval"] = tuple(options["interval"])
    canvas = None
    lines: list[str] = []
    if one.get("source"):
        canvas, lines = _canvas(studio, one, given, where)
    else:
        size = one.get("drawn") or one["size"]
        options["size"] = (size["height"], size["width"])
    lines = _differences(one, studio) + lines
    for made in studio.make([_row(each) for each in alike], options, canvas=canvas):
        yield lines, made.image


def _model(one: Receipt, given: _Given, where: str) -> str | Path:
    if given.model is not None:
        return given.model
    name = one["model"]
    if name not in bundle.shipped():
        raise Problem(f"{where} was made by {name[:60]!r} (weights {one.get('weights')}): name its file, --model FILE")
    return name


def _wanted(one: Receipt, given: _Given, where: str) -> dict[str, Any]:
    """How the studio is to be opened. Raises Problem for a file that is needed and was not named."""
    told = {**(one.get("told") or {}), **words_told(given.tell)}
    for name, value in (one.get("told") or {}).items():
        if isinstance(value, str) and name not in WORDS and name not in words_told(given.tell):
            raise Problem(
                f"{where}: its model was told {name}={value[:60]!r}, which may be a path: say it, --tell {name}=…"
            )
    if one.get("vae") and given.vae is None:
        raise Problem(f"{where} was made with the autoencoder {one['vae'][:60]!r}: name its file, --vae FILE")
    files: dict[str, list[str]] = {"lora": [], "embedding": [], "guide": []}
    for each in one.get("adapters") or []:
        kind = each["kind"]
        named = {sha256(_file(kind, file)): str(file) for file in getattr(given, kind)}
        if each["sha256"] not in named:
            begins = f"{each['name'][:60]!r} (sha256 {each['sha256'][:12]}…)"
            raise Problem(f"{where} was made with the {kind} {begins}: name that file, --{kind} FILE")
        file = named[each["sha256"]]
        files[kind].append(f"{file}:{each['strength']}" if kind != "embedding" else file)
    place = given.device if given.device != "auto" else _here(one.get("device"))
    precision = one.get("precision") or "auto"
    how = {name: one[name] for name in ("tile", "seamless", "strict") if one.get(name)}
    return {"tell": told, "vae": given.vae, "device": place, "precision": precision, **files, **how}


def _file(kind: str, file: str | Path) -> str | Path:
    """What is hashed: of a guide that is a run's folder, the model in it."""
    return bundle.find(file) if kind == "guide" else file


def _here(device: str | None) -> str:
    """The device of this name if it is here, else the best that is."""
    with contextlib.suppress(Problem):
        return str(choose_device(device or "auto"))
    return "auto"


def _canvas(studio: Studio, one: Receipt, given: _Given, where: str) -> tuple[Any, list[str]]:
    """The canvas of an edit, and a line for a source, a mask or another picture that are not the same files."""
    lines, mask = [], one.get("mask")
    if given.source is None:
        raise Problem(f"{where} was made of {_named(one['source'])}: name that file, --source FILE")
    alpha = mask is not None and mask.get("name") == "alpha" and mask["sha256"] == one["source"]["sha256"]
    if mask and not alpha and given.mask is None:
        raise Problem(f"{where} was made with the mask {_named(mask)}: name that file, --mask FILE")
    if one.get("other") and given.other is None:
        raise Problem(f"{where} was made on the way to {_named(one['other'])}: name that file, --other FILE")
    fitted = one.get("fitted")
    how = {"expand": one.get("expand"), "feather": one.get("feather")}
    how["size"] = (fitted["height"], fitted["width"]) if fitted else None
    masked = "alpha" if alpha else given.mask if mask else None
    canvas = studio.canvas(given.source, masked, given.other if one.get("other") else None, **how)
    for name in ("source", "mask", "other"):
        then, now = one.get(name), canvas.receipt.get(name)
        if then and now and then["sha256"] and then["sha256"] != now["sha256"]:
            lines.append(f"{name}: {_named(then)} then, {_named(now)} now")
    return canvas, lines


def _named(file: Mapping[str, Any]) -> str:
    known = f"sha256 {file['sha256'][:12]}…" if file["sha256"] else "which is not named"
    return f"{file.get('name')!r} ({known})" if file.get("name") else f"a picture ({known})"


def _row(one: Receipt) -> tuple[Any, Any]:
    """(prompt, seed), either of which may lie between two."""
    prompt, seed = one.get("prompt"), one["seed"]
    if one.get("towards_share") is not None:
        prompt = Between(prompt, one.get("towards"), one["towards_share"])
    if one.get("variation_seed") is not None and one.get("variation_strength") is not None:
        seed = Between(seed, one["variation_seed"], one["variation_strength"])
    return prompt, seed


def _differences(one: Receipt, studio: Studio) -> list[str]:
    """In what the making differs from what the receipt says, a line each."""
    now = {**studio.origin, **_now()}
    then = {**one, **versions(one)}
    names = ("weights", "vae_weights", "phosphene", "torch", "python", "device", "device_kind", "threads", "precision")
    return [
        f"{name.replace('_', ' ')}: {_printable(then[name])} then, {now[name]} now"
        for name in names
        if then.get(name) not in (None, "auto") and now.get(name) is not None and not _same(then[name], now[name])
    ]


def _printable(value: Any) -> str:
    return "".join(c if c.isprintable() else " " for c in str(value))


def _same(then: Any, now: Any) -> bool:
    """Hashes may be written shorter: the web UI's have ten digits."""
    return then == now or (isinstance(then, str) and len(then) >= 8 and str(now).startswith(then))


def _now() -> dict[str, str]:
    import platform

    return {"phosphene": __version__, "torch": torch.__version__, "python": platform.python_version()}
