"""phosphene show: pictures to understand with, as PNG or HTML."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from phosphene.cli.making import quiet_threads
from phosphene.cli.options import parse, summary
from phosphene.errors import Problem, unknown


def main(argv: Sequence[str]) -> None:
    what, *rest = argv or ["--help"]
    if what in ("-h", "--help"):
        print(_help())
        return
    if what not in VIEWS:
        raise unknown("view", what, VIEWS)
    function = VIEWS[what]
    own, told = parse(rest, f"phosphene show {what}", function, place)
    out = told.pop("out") or Path(f"{what}.png")
    quiet_threads()
    from phosphene.request import Studio
    from phosphene.views.page import check_out

    check_out(out)
    if "models" in own:
        given = [Studio(model, **told) for model in own.pop("models") or [None]]
    else:
        given = own.pop("prompts" if "prompts" in own else "pictures")
        own["model"] = Studio(own["model"], **told)
    view = function(*given, **own)
    view.made = {"command": shlex.join(["phosphene", "show", *argv]), **view.made}
    print(view.save(out))


def film(
    *prompts: str,
    model: Any = None,
    seed: int = 0,
    steps: int | None = None,
    sampler: str | None = None,
    guidance: float | None = None,
    picture: Path | None = None,
    data: str | None = None,
    row: int = 0,
    columns: int = 9,
) -> Any:
    """A film strip, from noise to a picture: what the network sees, the picture and the noise that it guesses.

    phosphene show film "a fox" --seed 7; with a picture, or a row of data, the way from that to noise.

    prompts  what to draw; with a picture, what it shows
    model    a shipped model's name, a bundle, a run's folder or a checkpoint; `phosphene list models`
    seed     of the noise
    steps, sampler, guidance  of the run, as in generate; the model's own if not given
    picture  a file that becomes noise
    data     a data spec, of which one row becomes noise
    row      which one
    columns  times that are shown
    """
    from phosphene import views

    if len(prompts) > 1:
        raise Problem(f"{len(prompts)} prompts: a film is of one; words with spaces want quotes")
    if picture is not None and data is not None:
        raise Problem("picture and data: one of the two becomes noise")
    return views.film(
        *prompts, model=model, seed=seed, steps=steps, sampler=sampler, guidance=guidance, columns=columns,
        picture=views.row(data, row) if data is not None else picture,
    )  # fmt: skip


def words(
    *prompts: str,
    model: Any = None,
    seed: int = 0,
    steps: int | None = None,
    sampler: str | None = None,
    guidance: float | None = None,
) -> Any:
    """Where each word of a prompt is looked at while the picture is made: attention, a heat map a word.

    phosphene show words "a 3D fox" --seed 7

    prompts  what to draw, one prompt
    model    a shipped model's name, a bundle, a run's folder or a checkpoint; `phosphene list models`
    seed     of the noise
    steps, sampler, guidance  of the run, as in generate; the model's own if not given
    """
    from phosphene import views

    if len(prompts) != 1:
        raise Problem(f"{len(prompts)} prompts: the words of one are shown; words with spaces want quotes")
    return views.words(
        *prompts, model=model, seed=seed, steps=steps, sampler=sampler, guidance=guidance
    )  # fmt: skip


def guidance(
    *prompts: str,
    model: Any = None,
    seed: tuple[int, ...] = (0,),
    n: int = 1,
    steps: int | None = None,
    sampler: str | None = None,
    guidance: float | None = None,
) -> Any:
    """How hard guidance pulls at each step: how much the prompt changes the network's guess.

    phosphene show guidance "a fox" "pizza" --seed 7

    prompts  what to draw; prompts and seeds pair up
    model    a shipped model's name, a bundle, a run's folder or a checkpoint; `phosphene list models`
    seed     of the noise, one or several
    n        pictures of each prompt, with seeds seed, seed + 1, …
    steps, sampler, guidance  of the runs, as in generate; the model's own if not given
    """
    from phosphene import views

    if not prompts:
        raise Problem('guidance is towards a prompt: phosphene show guidance "a fox"')
    return views.guidance(
        prompts, model=model, seed=seed, n=n, steps=steps, sampler=sampler, guidance=guidance
    )  # fmt: skip


def levels(
    *models: Any,
    data: str | None = None,
    n: int = 64,
    points: int = 17,
    of: str | None = None,
    seed: int = 0,
) -> Any:
    """The loss by noise level: what a network has learned, and at which levels it has not; several in one plot.

    phosphene show levels emoji runs/mine --data SPEC

    models   shipped models' names, bundles, runs' folders or checkpoints; the shipped one if none is given
    data     a data spec, such as "emoji:split=val"
    n        pictures of it, evenly spread
    points   levels
    of       the error of what: eps, x0, v, flow, edm; what the models predict, and eps where they differ
    seed     of the noise
    """
    from phosphene import views

    if data is None:
        raise Problem('levels are of pictures: give --data SPEC, such as --data "emoji:split=val"')
    return views.levels(models, data=data, n=n, points=points, of=of, seed=seed)


def meanings(
    *pictures: Path,
    model: Any = None,
    data: str | None = None,
    row: tuple[int, ...] = (0, 1, 2),
    says: tuple[str, ...] = (),
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
) -> Any:
    """What pictures mean to unCLIP: their variations, the ways between them, turned to other words, told in parts.

    phosphene show meanings a.png b.png --says "a red circle" "a blue ring" --model runs/scenes.unclip_upscale

    pictures  files, two or more; or rows of data
    model     a bundle or a run's folder
    data      a data spec, such as "scenes:split=test,objects=1-1"
    row       which of its rows
    says      what each picture shows; of rows of data, their captions
    seed      of the noise
    steps, guidance  of the decoder; its own if not given
    """
    from phosphene import views

    shown = list(pictures) if data is None else [views.row(data, i) for i in row]
    return views.meanings(shown, says, model=model, seed=seed, steps=steps, guidance=guidance)


def place(*, out: Path | None = None, device: str = "auto", precision: str = "auto"):
    """
    out        a .png or .html file; named after the view, .png, if not given
    device     auto, cpu, cuda, mps
    precision  auto, fp32, bf16, fp16
    """


VIEWS: dict[str, Callable[..., Any]] = {f.__name__: f for f in (film, words, guidance, levels, meanings)}


def _help() -> str:
    lines = [f"  {name:10s}{summary(function)}" for name, function in VIEWS.items()]
    return "\n".join(
        [
            "usage: phosphene show VIEW … [--out FILE.png or FILE.html]",
            "",
            "Pictures to understand a model with; docs/views.md says how each is read.",
            "",
            *lines,
            "",
            "`phosphene show VIEW --help` says more of one.",
        ]
    )
