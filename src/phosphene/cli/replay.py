"""phosphene replay: a picture made again from what it carries, and whether it is the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from phosphene.cli.making import quiet_threads
from phosphene.cli.options import parse


def main(argv: Sequence[str]) -> int:
    """0 where the picture is the same, 1 where it differs."""
    [told] = parse(argv, "phosphene replay", replay)
    quiet_threads()
    from phosphene.replaying import replay as again

    picture = told.pop("picture")
    found = again(picture, **told)
    for line in found.circumstances:
        print(f"{picture}: {line}")
    print(f"{picture}: {found}")
    return 0 if found.equal else 1


def replay(
    picture: Path,
    *,
    model: str | None = None,
    source: Path | None = None,
    mask: Path | None = None,
    other: Path | None = None,
    vae: str | None = None,
    lora: tuple[str, ...] = (),
    embedding: tuple[str, ...] = (),
    guide: tuple[str, ...] = (),
    tell: tuple[str, ...] = (),
    device: str = "auto",
):
    """Makes a picture again from its receipt: phosphene replay cat.png

    Says in what the making differs (weights, versions, threads, device), then `equal`, or by how much the picture does.
    Exits with 0 where it is equal and with 1 where it differs. Opens no files but those that are named here.

    picture    a PNG of Phosphene's, or a sheet; or one with the web UI's parameters
    model      the model's file or folder, unless it is a shipped one
    source     the picture that an edit started from
    mask       the mask of an edit
    other      the picture on the way to which an edit was made
    vae        the other autoencoder that was used
    lora       the LoRAs that were used, in any order: they are known by their hashes
    embedding  likewise the words by textual inversion
    guide      likewise the guides
    tell       what the checkpoint was told and may be a path, as NAME=VALUE
    device     auto, which is that of the receipt where it is here; or cpu, cuda, mps
    """
