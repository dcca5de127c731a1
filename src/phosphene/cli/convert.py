"""phosphene convert: a model, from any format that is read here to any that is written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from phosphene.cli.options import call


def main(argv: Sequence[str]) -> None:
    call(convert, argv, "phosphene convert")


def convert(
    file: str,
    out: Path,
    *,
    to: str = "bundle",
    half: bool = False,
    vae: str | None = None,
    tell: tuple[str, ...] = (),
):
    """Writes a model in another format: phosphene convert sd.ckpt folder --to diffusers

    What a format cannot hold is said.

    file  a bundle, a shipped model's name, a run's folder or a checkpoint (docs/checkpoints.md)
    out   the file or the folder to write; folders must not be there yet
    to    bundle, diffusers, single-file, hf-clip, open-clip
    half  its weights in fp16
    vae   another autoencoder for it: a file or a folder
    tell  what a checkpoint does not say, as NAME=VALUE, such as predicts=v; `phosphene inspect` names them
    """
    from phosphene.errors import unknown
    from phosphene.weights.load import load, words_told
    from phosphene.weights.save import WRITERS, save_as

    if to not in WRITERS:
        raise unknown("format", to, WRITERS)
    thing = load(file, **words_told(tell), **({} if vae is None else {"vae": vae}))
    for note in save_as(thing, out, to, half=half):
        print(f"not kept: {note}", file=sys.stderr)
    print(out)
