"""What `generate` and `edit` share: the options of sampling, of the model and of the place for the pictures."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from phosphene.errors import Problem


def sampling(
    *,
    negative: str | None = None,
    seed: tuple[int, ...] = (),
    n: int = 1,
    steps: int | None = None,
    sampler: str | None = None,
    spacing: str | None = None,
    guidance: float | None = None,
    clip_skip: int | None = None,
    grammar: str | None = None,
):
    """
    negative   what not to draw
    seed       the same seed gives the same picture; drawn at random if not given
    n          pictures of each prompt, with seeds seed, seed + 1, …
    steps      steps of the sampler: more are slower and finer
    sampler    how to step from noise to picture; `phosphene list samplers` names them
    spacing    which times the sampler visits: leading, trailing, linspace, karras, exponential
    guidance   how strongly the prompt pulls; 1 is no guidance
    clip_skip  2 leaves out the last block of CLIP's text encoder, as the web UI counts
    grammar    webui reads (word:1.3), [a:b:0.5], [a|b], AND, BREAK in prompts (docs/prompts.md); plain does not
    """


def studio(
    *,
    model: str | None = None,
    vae: str | None = None,
    lora: tuple[str, ...] = (),
    embedding: tuple[str, ...] = (),
    guide: tuple[str, ...] = (),
    tell: tuple[str, ...] = (),
    device: str = "auto",
    precision: str = "auto",
    offload: bool = False,
    tile: int | None = None,
    seamless: bool = False,
    strict: bool = False,
):
    """
    model      a shipped model's name, a bundle, a run's folder or a checkpoint; `phosphene list models`
    vae        another autoencoder for it: a file or a folder
    lora       FILE or FILE:strength, one or several; or a folder, for prompts with <lora:name:weight>
    embedding  files of words by textual inversion: prompts may use them
    guide      FILE or FILE:scale: a classifier or CLIP of noisy pictures steers towards the prompt; --guidance 0 alone
    tell       what a checkpoint does not say, as NAME=VALUE, such as predicts=v; `phosphene inspect` names them
    device     auto, cpu, cuda, mps
    precision  auto, fp32, bf16, fp16
    offload    keep on a GPU only the part that is at work: slower, with less of its memory
    tile       encode and decode large pictures in squares of so many pixels, with less memory
    seamless   pictures that go on where they end, for tiling
    strict     one picture at a time: the same to the last bit whatever else is asked for (docs/trust.md)
    """
    from phosphene.request import Studio

    told = {name: value for name, value in locals().items() if name != "Studio"}
    return Studio(**told)


def place(*, out: Path = Path("."), grid: bool = False):
    """
    out        a folder, or a .png file for a single picture
    grid       all pictures on one sheet, in one file
    """


SHARED: tuple[Callable, ...] = (sampling, studio, place)


def quiet_threads() -> None:
    """Has to be called before torch is imported.

    Threads that wait by spinning take a busy machine's cores from those that work: one picture there took 38 s of
    processor time, and takes 2.7 s with threads that sleep.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def make(
    pairs: Sequence,
    options: dict[str, Any],
    using: dict[str, Any],
    out: Path,
    grid: bool,
    name: Callable[[int, Any], str],
    canvas: Callable[[Any], Any] = lambda studio: None,
) -> None:
    """Makes the pictures, with a bar, and writes them; prints their files.

    using   what `studio` takes;  canvas  from the studio, the canvas of an edit
    name    (number, what was made) -> a file's name, without its ending
    """
    from phosphene import receipt, request
    from phosphene.data.sheet import contact_sheet

    request.check({k: v for k, v in options.items() if v is not None})
    check_out(out, grid or len(pairs) == 1)
    opened = studio(**using)
    for prompt in dict.fromkeys(prompt for prompt, _ in pairs if isinstance(prompt, str)):
        if line := opened.outside(prompt):
            print(f"note: {line}", file=sys.stderr)
    drawn_on = canvas(opened)
    with _bar() as progress:
        task = progress.add_task("", total=None)

        def watch(first: int, preview) -> None:
            which = f"{preview.stage} {first + 1} of {len(pairs)}" if len(pairs) > 1 else preview.stage
            progress.update(task, description=which, completed=preview.index + 1, total=preview.total)

        made = list(opened.make(pairs, options, watch, drawn_on))
    if not grid:
        for i, m in enumerate(made):
            print(receipt.write(out if out.suffix else free(out, name(i, m)), m.image, m.receipt))
        return
    sheet = contact_sheet([m.image for m in made], cell=max(max(m.image.size) for m in made))
    more = f"-and-{len(made) - 1}-more" if len(made) > 1 else ""
    path = out if out.suffix else free(out, f"{slug(made[0].receipt['prompt'])}{more}")
    print(receipt.write(path, sheet, [m.receipt for m in made]))


def _bar():
    """A progress bar on stderr, gone when it is done; nothing where stderr is no terminal. stdout has the files."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def read_size(text: str | None) -> tuple[int, int] | None:
    """ "64" or "96x64" (width × height) → (height, width)."""
    match = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", text or "64")
    if not match:
        raise Problem(f"size {text!r}: 64, or WIDTHxHEIGHT such as 96x64, was expected")
    return (int(match[2] or match[1]), int(match[1])) if text else None


def check_out(out: Path, single: bool) -> None:
    """Problem, before any work, for a place where the pictures cannot go."""
    if out.suffix and not out.is_dir():
        if out.suffix.lower() != ".png":
            raise Problem(f"{out}: pictures are written as .png, which can carry how they were made")
        if not single:
            raise Problem(f"{out} is one file, and there are several pictures: give a folder, or add --grid")
    elif out.exists() and not out.is_dir():
        raise Problem(f"{out} is a file: give a folder, or a name that ends in .png")


def slug(prompt: Any, longest: int = 40) -> str:
    """A file name's worth of a prompt; letters of all scripts stay."""
    words = "" if prompt is None else str(prompt)
    return re.sub(r"\W+", "-", words).strip("-")[:longest].strip("-") or "picture"


def free(folder: Path, name: str) -> Path:
    """A .png of this name in the folder that is not there yet."""
    path, k = folder / f"{name}.png", 1
    while path.exists():
        path, k = folder / f"{name}-{(k := k + 1)}.png", k
    return path
