"""The recipes of DDPM and its ancestors train to bundles that make pictures, and their knobs do something."""

from __future__ import annotations

import numpy as np
import pytest

import phosphene
from phosphene.errors import Problem
from phosphene.metrics.likelihood import bits
from phosphene.recipes import RECIPES
from phosphene.studies.pictures import held
from phosphene.weights import bundle

SCENES = dict(steps=2, batch=4, width=16, pictures=8, judged=2)


def trained(name, out, **knobs):
    notes = [note for progress in RECIPES[name](**knobs).train(out) for note in progress.notes]
    return bundle.load(out), notes


@pytest.mark.parametrize(
    "knobs, predicts, weight, learned",
    [
        ({}, "eps", None, True),
        ({"weight": "bound"}, "eps", "bound", True),
        ({"predicts": "x0", "learned_variance": False, "schedule": "cosine"}, "x0", None, False),
    ],
    ids=["simple", "bound", "x0"],
)
def test_ddpm(tmp_path, knobs, predicts, weight, learned):
    system, notes = trained("scenes.ddpm", tmp_path / "run", T=8, **SCENES, **knobs)
    denoiser = system.denoiser
    assert (denoiser.predicts, denoiser.weight, denoiser.learned_variance) == (predicts, weight, learned)
    assert denoiser.schedule.T == 8 and any("takes for scenes" in note and "of 2" in note for note in notes)
    assert phosphene.generate(seed=1, model=tmp_path / "run", steps=2).size == (16, 16)
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2  # what the study "ema" looks at
    assert bits(system, held(2, 16)).shape == (2,)


def test_betas_are_brought_to_the_number_of_steps():
    """1,000 steps are the paper's; of fewer, what is left at the end stays nearly the same."""
    few, many = (RECIPES["scenes.ddpm"](T=T, **SCENES).plan(8)[0].system.denoiser.schedule for T in (100, 1000))
    assert float(many(1.0).alpha ** 2) == pytest.approx(4.04e-5, rel=0.01)
    assert float(few(1.0).logsnr) == pytest.approx(float(many(1.0).logsnr), rel=0.2)
    with pytest.raises(Problem, match="did you mean 'cosine'"):
        RECIPES["scenes.ddpm"](schedule="cosin", **SCENES).plan(8)


def test_ncsn(tmp_path):
    system, notes = trained("scenes.ncsn", tmp_path / "run", levels=4, inner=2, **SCENES)
    level = system.denoiser.schedule(1.0)
    assert (float(level.alpha), float(level.sigma), system.sampler) == (1.0, pytest.approx(25), "langevin")
    assert any("takes for scenes" in note for note in notes)
    assert phosphene.generate(seed=1, model=tmp_path / "run").size == (16, 16)


def test_binomial(tmp_path):
    rng = np.random.default_rng(0)
    digits = {f"x_{split}": rng.integers(0, 255, (12, 28, 28), dtype=np.uint8) for split in ("train", "test")}
    np.savez(tmp_path / "digits.npz", **digits)
    how = dict(data=str(tmp_path / "digits.npz"), steps=2, batch=4, width=16, T=5)
    system, notes = trained("mnist.binomial", tmp_path / "run", held=3, **how)
    assert any("bits a pixel" in note and "on 3 held-out ones" in note for note in notes) and system.T == 5
    assert set(np.unique(np.asarray(phosphene.generate(seed=1, model=tmp_path / "run")))) == {0, 255}
    _, notes = trained("mnist.binomial", tmp_path / "none", held=0, **how)
    assert not any("bits a pixel" in note for note in notes)
