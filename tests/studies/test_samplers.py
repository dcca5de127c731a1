"""The study of samplers, on a network that has learned nothing: what it counts, and that better solvers are nearer."""

from __future__ import annotations

import pytest
import torch

from phosphene.metrics.interval import Interval
from phosphene.studies import pictures, samplers
from phosphene.studies.base import Job
from systems.small import awake, made


@pytest.fixture
def latent():
    torch.manual_seed(0)
    system, _ = made("latent")
    return awake(system)


def test_the_study(monkeypatch, latent, few_draws):
    monkeypatch.setattr(pictures, "SEEN", 16)
    monkeypatch.setattr(samplers, "CALLS", (5, 10))
    monkeypatch.setattr(samplers, "EXACT", {"sampler": "unipc", "steps": 50})
    *lines, found = samplers.STUDY.measured(Job({"latent": latent}, 3, 0))
    assert len(lines) == 1 + len(samplers.NAMES) * 2 and len(found.rows) == len(lines) - 1
    rows = {row[:2]: row[2:] for row in found.rows}
    assert all(isinstance(cell, Interval) for row in found.rows for cell in row[4:])
    assert rows["euler_ancestral", 10][:2] == (None, None) and isinstance(rows["heun", 10][0], Interval)
    assert rows["unipc", 10][0].value < rows["ddim", 10][0].value < rows["ddim", 5][0].value
    assert "unipc is nearer" in found.answer and "N = 3" in found.answer
    assert {"away", "pictures"} == set(found.pictures) and found.plot.width > 100


def test_a_picture_that_became_another_does_not_move_the_median():
    right = Interval(1, 0.5, 1)
    calls, away, half, *_ = samplers.cells(samplers.Scored(10, torch.tensor([0.01, 0.02, 0.9]), right, right))
    assert calls == 10 and away.value == pytest.approx(0.31) and half == pytest.approx(0.02)


def test_calls_are_counted(latent):
    """Those of the network itself: two a step by Heun's method, but one in the first and the last."""
    asked = ["a red circle", "a blue star"]
    assert samplers.counted(latent, asked, 0, sampler="heun", steps=4)[1] == 6
    one, calls = samplers.counted(latent, asked, 0, sampler="ddim", steps=4)
    assert calls == 4 and one.shape == (2, 3, 32, 32)
