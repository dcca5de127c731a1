"""A training that is killed with SIGKILL and resumed ends with the weights of one that never stopped."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("toys.py")


def start(out: Path, **options: object) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), str(out), *(str(v) for v in options.values())]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen) -> str:
    """The hash of the weights that it ends with."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out.splitlines()[-1]


def killed_at(out: Path, step: int, wait: float, **options) -> bool:
    """Runs until `step` is said and `wait` seconds more, then kills; False where it had ended by itself."""
    process = start(out, **options)
    for line in process.stdout:
        if not line.split()[0].isdigit():  # the hash: too late
            break
        if int(line.split()[0]) >= step:
            time.sleep(wait)
            break
    process.kill()
    process.communicate()
    return process.returncode < 0


def test_killed_once_and_resumed(tmp_path):
    options = {"steps": 40, "slots": 2, "delay": 0.01}
    assert killed_at(tmp_path / "killed", random.randrange(9, 30), random.random() * 0.03, **options)
    whole, resumed = start(tmp_path / "whole", **options), start(tmp_path / "killed", **options)
    assert finish(whole) == finish(resumed)
    for name in ("weights", "ema", "optimizer"):
        a, b = (tmp_path / run / f"checkpoints/step-40/{name}.safetensors" for run in ("whole", "killed"))
        assert a.read_bytes() == b.read_bytes()


@pytest.mark.slow
def test_killed_twenty_times(tmp_path):
    """Every seventh step writes a checkpoint, so many of the kills fall into the writing of one."""
    options = {"steps": 300, "slots": 2, "delay": 0.0}
    kills, step = 0, 0
    while kills < 20:
        step = min(290, step + random.randrange(1, 14))
        kills += killed_at(tmp_path / "killed", step, random.random() * 0.05, **options)
    assert finish(start(tmp_path / "killed", **options)) == finish(start(tmp_path / "whole", **options))
