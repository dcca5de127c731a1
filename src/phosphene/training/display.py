"""What a terminal shows of a run, and how it is stopped: Ctrl-C ends it after the step at hand, with a checkpoint."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from phosphene.training.progress import Progress

EVERY = 10.0  # seconds between lines where there is no terminal to draw on


def show(steps: Iterator[Progress], console: Console | None = None) -> Progress | None:
    """Runs a training to its end under a bar with loss, rate, images/s and time to go; returns the last Progress.

    Where `console` (stderr) is no terminal there is a line now and then instead. Notes and written files are said.
    Raises KeyboardInterrupt after Ctrl-C or SIGTERM, when the step at hand is done and its checkpoint is written;
    a second Ctrl-C does not wait.
    """
    console = console or Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")  # one of several processes
    columns = MofNCompleteColumn(), BarColumn(None), TextColumn("{task.description}"), TimeElapsedColumn()
    bar = Bar(TextColumn("step"), *columns, console=console, transient=True, disable=not console.is_terminal)
    task, said, at = bar.add_task("", total=None), -EVERY, None
    with contextlib.closing(steps), bar, _asked_to_stop() as asked:
        for at in steps:
            for note in at.notes:
                console.print(note, markup=False, highlight=False, soft_wrap=True)
            for name, value in at.scores.items():
                score = f"step {at.step}: {name.removeprefix('score/')} {value:.4g}{_placed(at, name)}"
                console.print(score, markup=False, highlight=False, soft_wrap=True)
            bar.update(task, completed=at.step, total=at.steps, description=line(at))
            now = time.monotonic()
            if bar.disable and (at.step == at.steps or (at.logged and now - said >= EVERY)):
                console.print(f"step {at.step}/{at.steps}  {line(at)}", markup=False, highlight=False, soft_wrap=True)
                said = now
            if asked.is_set() and at.step < at.steps:
                raise KeyboardInterrupt
    return at


def line(at: Progress) -> str:
    """loss 0.1234 · mean 0.119 in the band (0.11 – 0.13)  grad 0.56  lr 1.0e-03  123 images/s  1:02:03 to go

    The mean is what is compared (training/band.py); of the gradient only is said that it is outside.
    """
    turns = [name for name in at.places if name.startswith("loss/")]
    loss = "".join(_placed(at, name, f"{name.removeprefix('loss/')} " if len(turns) > 1 else "") for name in turns)
    grad = "".join(_placed(at, n) for n, p in at.places.items() if n.startswith("grad_norm/") and p.where != "in")
    return (
        f"loss {at.loss:.4f}{loss}  grad {at.grad_norm:.2f}{grad}  lr {at.lr:.1e}  {at.per_second:.0f} images/s  "
        f"{duration(at.eta)} to go"
    )


def _placed(at: Progress, name: str, turn: str = "") -> str:
    """What is said behind a number of where it lies; nothing where that is not known."""
    place = at.places.get(name)
    if place is None:
        return ""
    return f" · {place}" if name.startswith("score/") else f" · {turn}mean {place.value:.3g} {place}"


def duration(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour; ? where it is not known."""
    if seconds != seconds:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second acts as ever. Only the main thread may listen."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def ask(number, frame) -> None:
        asked.set()
        for s, handler in before.items():
            signal.signal(s, handler)

    for s in before:
        signal.signal(s, ask)
    try:
        yield asked
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
