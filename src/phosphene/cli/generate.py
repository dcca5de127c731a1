"""phosphene generate: pictures of words."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from phosphene.cli.options import call
from phosphene.errors import Problem


def main(argv: Sequence[str]) -> None:
    call(generate, argv, "phosphene generate")


def generate(
    *prompts: str,
    negative: str | None = None,
    seed: tuple[int, ...] = (),
    n: int = 1,
    steps: int | None = None,
    sampler: str | None = None,
    spacing: str | None = None,
    guidance: float | None = None,
    size: str | None = None,
    model: str | None = None,
    out: Path = Path("."),
    grid: bool = False,
    device: str = "auto",
    precision: str = "auto",
):
    """Makes pictures of prompts, in English or Chinese: phosphene generate "a smiling cat" --seed 7

    Prompts and seeds pair up ("fox" "pizza" --seed 4 5 are two pictures, in one batch), or one goes with all others.
    Every PNG carries how it was made.

    prompts    what to draw
    negative   what not to draw
    seed       the same seed gives the same picture; drawn at random if not given
    n          pictures of each prompt, with seeds seed, seed + 1, …
    steps      steps of the sampler: more are slower and finer
    sampler    how to step from noise to picture; `phosphene list samplers` names them
    spacing    which times the sampler visits: leading, trailing, linspace, karras, exponential
    guidance   how strongly the prompt pulls; 1 is no guidance
    size       in pixels: 64, or WIDTHxHEIGHT
    model      a shipped model's name, a bundle or a run's folder; `phosphene list models`
    out        a folder, or a .png file for a single picture
    grid       all pictures on one sheet, in one file
    device     auto, cpu, cuda, mps
    precision  auto, fp32, bf16, fp16
    """
    # Threads that wait by spinning take a busy machine's cores from those that work: one picture there took 38 s of
    # processor time, and takes 2.7 s with threads that sleep. It has to be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from phosphene import receipt, request
    from phosphene.data.sheet import contact_sheet

    pairs = request.paired(prompts, seed, n)
    options = {
        "negative": negative,
        "steps": steps,
        "sampler": sampler,
        "spacing": spacing,
        "guidance": guidance,
        "size": read_size(size),
    }
    request.check(options)
    single = grid or len(pairs) == 1
    check_out(out, single)
    studio = request.Studio(model, device=device, precision=precision)
    for prompt in dict.fromkeys(prompts):
        if line := studio.outside(prompt):
            print(f"note: {line}", file=sys.stderr)
    with _bar() as progress:
        task = progress.add_task("", total=None)

        def watch(first: int, preview) -> None:
            which = f"{first + 1} of {len(pairs)}" if len(pairs) > 1 else preview.stage
            progress.update(task, description=which, completed=preview.index + 1, total=preview.total)

        made = list(studio.make(pairs, options, watch))
    if grid:
        names = [slug(m.receipt["prompt"]) for m in made]
        path = out if out.suffix else free(out, f"{names[0]}-and-{len(made) - 1}-more" if len(made) > 1 else names[0])
        print(
            receipt.write(
                path, contact_sheet([m.image for m in made], cell=max(made[0].image.size)), [m.receipt for m in made]
            )
        )
        return
    for m in made:
        path = out if out.suffix else free(out, f"{slug(m.receipt['prompt'])}-{m.receipt['seed']}")
        print(receipt.write(path, m.image, m.receipt))


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


def slug(prompt: str | None, longest: int = 40) -> str:
    """A file name's worth of a prompt; letters of all scripts stay."""
    return re.sub(r"\W+", "-", prompt or "picture").strip("-")[:longest].strip("-") or "picture"


def free(folder: Path, name: str) -> Path:
    """A .png of this name in the folder that is not there yet."""
    path, k = folder / f"{name}.png", 1
    while path.exists():
        path, k = folder / f"{name}-{(k := k + 1)}.png", k
    return path
