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
    lora: tuple[str, ...] = (),
    tell: tuple[str, ...] = (),
):
    """Writes a model, or a LoRA, in another format: phosphene convert sd.ckpt folder --to diffusers

    What a format cannot hold is said.

    file  a bundle, a shipped model's name, a run's folder or a checkpoint (docs/checkpoints.md)
    out   the file or the folder to write; folders must not be there yet
    to    bundle, diffusers, single-file, hf-clip, open-clip; of a LoRA lora, kohya, peft
    half  its weights in fp16
    vae   another autoencoder for it: a file or a folder
    lora  FILE or FILE:strength, one or several, added to the weights for good
    tell  what a checkpoint does not say, as NAME=VALUE, such as predicts=v; `phosphene inspect` names them
    """
    from phosphene.adapt import bake, dress
    from phosphene.errors import Problem, unknown
    from phosphene.weights.load import load, words_told
    from phosphene.weights.lora import is_lora, read
    from phosphene.weights.save import LORAS, WRITERS, save_as

    if to not in WRITERS:
        raise unknown("format", to, WRITERS)
    if is_lora(file):
        if to not in LORAS:
            raise Problem(f"{file} is a LoRA: --to {', '.join(LORAS)} write one; --lora puts it into a model")
        thing = read(file)
    else:
        thing = load(file, **words_told(tell), **({} if vae is None else {"vae": vae}))
        if lora:
            dress(thing, lora)
            bake(thing)
    for note in save_as(thing, out, to, half=half):
        print(f"not kept: {note}", file=sys.stderr)
    print(out)
