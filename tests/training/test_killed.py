"""Trainings that are killed with SIGKILL and resumed end with weights, averages and optimiser of one never stopped.

Every system of tests/systems/small.py: a new one is taken up by itself.
"""

import random
from pathlib import Path

import pytest
from killing import HALF, killed_in_a_step, killed_in_a_write, whole

from phosphene.training import checkpoint
from systems.small import SYSTEMS

PLACES = 14  # what Python does to files in the writing of a checkpoint; more where an old one is removed


def killed_and_resumed(name: str, folder: Path, steps: int, every: int, kills: int, writes: list[int]) -> None:
    """`kills` times at a random moment of a step, at the places `writes` of a checkpoint's write, in a random order.

    Every process that is killed in a step has written a checkpoint before, so that the next one does go on with it.
    """
    options = {"steps": steps, "checkpoint_every": every}
    rng, out = random.Random(f"killed {name}"), folder / "killed"
    places = [*writes, rng.randint(1, PLACES)]

    def once(place: int | None) -> int:
        if place is None:
            return killed_in_a_step(name, out, every, rng.random(), **options)
        return killed_in_a_write(name, out, place, **options)

    died = [once(place) for place in rng.sample(places + [None] * kills, len(places) + kills)]
    assert kills <= int(checkpoint.found(out / "checkpoints")[0].name[5:]) < steps
    assert whole(name, out, **options) == whole(name, folder / "whole", **options), f"it died after steps {died}"


@pytest.mark.parametrize("name", SYSTEMS)
def test_killed_and_resumed(name, tmp_path):
    killed_and_resumed(name, tmp_path, steps=9, every=1, kills=3, writes=[HALF])


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_killed_twenty_times(name, tmp_path):
    """And at every place of a checkpoint's write."""
    killed_and_resumed(name, tmp_path, steps=120, every=2, kills=20, writes=list(range(PLACES + 1)))


def test_what_a_kill_leaves(tmp_path):
    """Half a file, and the checkpoint before it; the next process clears up."""
    at = killed_in_a_write("vae", tmp_path, HALF, steps=4, checkpoint_every=1)
    half = next((tmp_path / "checkpoints").glob(".step-*/optimizer.safetensors"))
    assert at == 0 and checkpoint.found(half.parent.parent) == [] and half.stat().st_size > 100
    whole("vae", tmp_path, steps=4)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-2", "step-4"]
    left = {"checkpoints", "metrics.jsonl", "model.safetensors", "settings.json"}
    assert {p.name for p in tmp_path.iterdir()} == left
