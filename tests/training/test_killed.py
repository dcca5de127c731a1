"""A training that is killed with SIGKILL and resumed ends with the weights of one that never stopped."""

import multiprocessing
import random
import time
from pathlib import Path

import pytest
import toys

# Processes fork from one that has imported torch and done nothing: real ones, for a hundredth of the time.
fork = multiprocessing.get_context("forkserver")
fork.set_forkserver_preload(["torch", "toys", "phosphene.training"])


def start(out: Path, **options):
    """(process, what it says: steps, at last the hash of its weights)"""
    ours, its = fork.Pipe(duplex=False)
    process = fork.Process(target=toys.main, args=(out, its.send), kwargs=options)
    process.start()
    its.close()
    return process, ours


def finish(process, said) -> str:
    """The hash of the weights that it ends with."""
    last = None
    while not isinstance(last, str):
        assert said.poll(300), "nothing said for five minutes"
        last = said.recv()
    process.join()
    return last


def killed_at(out: Path, step: int, wait: float, **options) -> bool:
    """Runs until `step` is said and `wait` seconds more, then kills; False where it had ended by itself."""
    process, said = start(out, **options)
    at = 0
    while not isinstance(at, str) and at < step:
        at = said.recv()
    time.sleep(wait)
    process.kill()
    process.join()
    return process.exitcode < 0


def test_killed_once_and_resumed(tmp_path):
    options = {"steps": 40, "delay": 0.01}
    assert killed_at(tmp_path / "killed", random.randrange(9, 30), random.random() * 0.03, **options)
    assert finish(*start(tmp_path / "whole", **options)) == finish(*start(tmp_path / "killed", **options))
    for name in ("weights", "ema", "optimizer"):
        a, b = (tmp_path / run / f"checkpoints/step-40/{name}.safetensors" for run in ("whole", "killed"))
        assert a.read_bytes() == b.read_bytes()


@pytest.mark.slow
def test_killed_twenty_times(tmp_path):
    """Every third step writes a checkpoint, so many of the kills fall into the writing of one."""
    options = {"steps": 300, "delay": 0.0, "checkpoint_every": 3}
    kills, step = 0, 0
    while kills < 20:
        step = min(290, step + random.randrange(1, 14))
        kills += killed_at(tmp_path / "killed", step, random.random() * 0.05, **options)
    assert finish(*start(tmp_path / "killed", **options)) == finish(*start(tmp_path / "whole", **options))
