"""phosphene study: a question answered by measurement, on runs that are reused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from phosphene.cli.making import quiet_threads
from phosphene.cli.options import call
from phosphene.errors import Problem


def main(argv: Sequence[str]) -> None:
    call(run, argv, "phosphene study")


def run(*name: str, runs: Path = Path("runs"), out: Path | None = None, n: int | None = None, seed: int = 0):
    """Answers a question by measurement: trains what is missing, measures, writes a table and a plot.

    phosphene study prediction

    Without a name it lists the studies.

    name  which study
    runs  the folder of runs: what a study needs is looked for, and trained, there
    out   where table.md, study.json and plot.png go [RUNS/study.NAME]
    n     pictures a setting; the study's own number if not given
    seed  of the pictures
    """
    from phosphene.studies import STUDIES, study

    if not name:
        for each in STUDIES:
            print(f"{each:12s}{study(each).question}")
        return
    if len(name) > 1:
        raise Problem(f"one study at a time, and these are {len(name)}: {' '.join(name)}")
    it, out = study(name[0]), out or runs / f"study.{name[0]}"
    it.check(out, n)  # before hours of training
    for need in it.missing(runs):
        from phosphene.training.display import show

        print(f"study {name[0]} needs {need.folder}: training it first", flush=True)
        show(need.made(runs).train(need.at(runs), resume=need.at(runs).exists()))
    quiet_threads()
    for line in it.run(runs, out, n, seed):
        print(line, flush=True)
