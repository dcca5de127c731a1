"""Trainings in processes of their own, one for any system of `small`, that are killed with SIGKILL.

They fork from a server that has imported what a training imports and runs a single thread: a real process for some
hundredths of a second, not for two. Before each step the process asks whether it may, so that it never runs beyond
the place where it is to die.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

import torch
from safetensors.torch import save as serialized
from toys import Toy, no_bundle, run

from phosphene.systems.base import Batch
from phosphene.training import checkpoint, train
from phosphene.training.folder import Folder
from systems import small

EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "shutil.rmtree")
HALF = 0  # the place in a checkpoint's write where half of a file is there
OPTIONS = {"lr": 3e-3, "warmup": 2, "log_every": 1, "checkpoint_every": 2, "keep": 2, "tensorboard": False}


class Rows:
    """Stands in for Batches, for any system: slot s of step k holds rows of the system's own eight pictures."""

    def __init__(self, pictures: Batch, slots: int, batch: int) -> None:
        self.pictures, self.slots, self.batch = pictures, slots, batch

    def at(self, step: int, slot: int) -> Batch:
        rows = random.Random(f"{step} {slot}").sample(range(len(self.pictures.image)), self.batch)
        return taken(self.pictures, rows)

    def stream(self, start: int = 0, workers: int = 0, slots=None):
        step = start
        while True:
            yield step, [self.at(step, slot) for slot in (range(self.slots) if slots is None else slots)]
            step += 1


def taken(batch: Batch, rows: list[int]) -> Batch:
    """Some rows of a batch."""
    weight = None if batch.weight is None else batch.weight[rows]
    prompts = [batch.prompts[i] for i in rows]
    return replace(batch, image=batch.image[rows], prompts=prompts, index=batch.index[rows], weight=weight)


# In the process ------------------------------------------------------------------------------------------------------


made = cache(small.made)  # the server builds what its processes train


def serve(address: str) -> None:
    """Forks a process for every line of stdin, [module, function, its arguments], until there are no more."""
    torch.set_num_threads(1)
    run(Toy(), steps=1)  # much is imported by a first step
    assert threading.active_count() == 1  # so that forks are whole
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        module, function, arguments = json.loads(line)
        if "name" in arguments:
            made(arguments["name"])
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            with Client(address) as pipe:
                pipe.send(os.getpid())
                getattr(importlib.import_module(module), function)(pipe, **arguments)
            os._exit(0)


def trained(pipe, name: str, out: str, place: int | None, options: dict) -> None:
    """Trains, or goes on training; asks before every step. place: where in the writing of checkpoints it stops."""
    system, pictures = made(name)
    Folder.plot = lambda self: None  # a third of a toy's checkpoint
    if place is not None:
        _stop_at(place, Path(out) / "checkpoints", lambda: pipe.send("stopped"))
    data = Rows(pictures, 1, 2) if system.indivisible else Rows(pictures, 2, 1)
    pipe.send(0)
    pipe.recv()
    for progress in train(system, data, out=out, resume=True, save=no_bundle, **(OPTIONS | options)):
        pipe.send(progress.step)
        pipe.recv()
    pipe.send("ended")


def _stop_at(place: int, folder: Path, say: Callable) -> None:
    """Stops for good before the place-th thing that Python does to a file in `folder`; at 0 within a file's write."""

    def stop() -> None:
        say()
        while True:
            time.sleep(60)

    def half(tensors, file: Path) -> None:
        content = serialized(tensors)
        file.write_bytes(content[: len(content) // 2])
        if file.name.startswith("optimizer"):
            stop()
        file.write_bytes(content)

    seen = 0

    def look(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event in EVENTS and str(arguments[0]).startswith(str(folder)):
            seen += 1
            if seen == place:
                stop()

    if place == HALF:
        checkpoint.save_file = half
    else:
        sys.addaudithook(look)


# Outside -------------------------------------------------------------------------------------------------------------


@cache
def server() -> tuple[subprocess.Popen, Listener]:
    """One for all tests of this process; it ends with its stdin."""
    listener = Listener(tempfile.mktemp(prefix="killing-"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", f"import killing; killing.serve({listener.address!r})"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment), listener


def forked(module: str, function: str, **arguments) -> Connection:
    """What a process of its own says that calls `function(pipe, **arguments)`: its id first."""
    process, listener = server()
    process.stdin.write(json.dumps([module, function, arguments]) + "\n")
    process.stdin.flush()
    return listener.accept()


def said(pipe: Connection):
    assert pipe.poll(120), "nothing said for two minutes"
    return pipe.recv()


class Training:
    """A process that trains `name` in `out`, and waits."""

    def __init__(self, name: str, out: Path, place: int | None = None, **options) -> None:
        self.pipe = forked("killing", "trained", name=name, out=str(out), place=place, options=options)
        self.pid = said(self.pipe)
        self.at = said(self.pipe)

    def go(self) -> None:
        """Lets it make its next step, or end."""
        self.pipe.send("go")

    def step(self) -> int | str:
        """The step that it stands at after its next one; "ended"; "stopped" in the writing of a checkpoint."""
        self.go()
        self.at = said(self.pipe)
        return self.at

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        while self.pipe.poll(60):  # what it said before it died
            try:
                assert self.pipe.recv() != "ended"
            except (EOFError, ConnectionResetError):
                return
        raise AssertionError("it does not die")


def whole(name: str, out: Path, **options) -> dict[str, str]:
    """A run from where it stands to its end: the hashes of what it leaves."""
    training = Training(name, out, **options)
    while training.at != "ended":
        training.step()
    return left(out)


def left(out: Path) -> dict[str, str]:
    """The hashes of what a run leaves: weights, average, optimiser, result."""
    last = checkpoint.found(out / "checkpoints")[0]
    files = [*last.glob("*.safetensors"), out / "model.safetensors"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def killed_in_a_step(name: str, out: Path, after: int, share: float, **options) -> int:
    """Lets it make `after` steps and dies at a share of the next; the step after which it died."""
    training, took = Training(name, out, **options), 0.05
    for _ in range(after):
        begun = time.perf_counter()
        training.step()
        took = time.perf_counter() - begun
    training.go()
    time.sleep(share * took)
    training.kill()
    return training.at


def killed_in_a_write(name: str, out: Path, place: int, **options) -> int:
    """Dies at a place of the writing of its checkpoints; the step after which it died."""
    training, at = Training(name, out, place=place, **options), 0
    while training.at != "stopped":
        assert training.at != "ended", f"there is no place {place} in what it wrote"
        at = training.at
        training.step()
    training.kill()
    return at
