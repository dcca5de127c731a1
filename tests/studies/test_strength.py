"""The study of SDEdit's strength: its strokes, its scores, and the answer it draws from them."""

import pytest
import torch

from phosphene.data.scenes import Scenes
from phosphene.metrics.interval import Interval
from phosphene.recipes.parts import pictures_of
from phosphene.studies import strength as it
from phosphene.studies.base import Found, Job
from phosphene.studies.pictures import Judge
from systems.small import awake, made


def test_strokes_are_blocks_of_the_pictures_colours():
    pictures = pictures_of(Scenes(n=8, split="test"), 32)
    painted = it.strokes(pictures)
    blocks = painted.unfold(2, it.BLOCK, it.BLOCK).unfold(3, it.BLOCK, it.BLOCK).flatten(4)
    assert (blocks == blocks[..., :1]).all() and not torch.equal(painted, pictures)
    inked, drawn = painted.amin(1) < 1, pictures.amin(1) < 0.5
    overlap = (inked & drawn).flatten(1).sum(1) / (inked | drawn).flatten(1).sum(1)
    assert (overlap > 0.2).all()  # they stand where the objects stand
    colours = {tuple(c) for c in pictures[0].flatten(1).T.tolist()}
    assert {tuple(c) for c in painted[0].flatten(1).T.tolist()} <= colours


def test_more_strength_goes_further(monkeypatch):
    """Of a network that knows nothing; and the study has a row a strength, of every model."""
    monkeypatch.setattr(it, "Judge", lambda: Judge(64))
    monkeypatch.setattr(it, "STEPS", 10)
    system, _ = made("latent")
    *_, found = it.measured(Job({"latents": awake(system)}, 4, 0, {}))
    assert isinstance(found, Found) and [row[1] for row in found.rows] == [*it.STRENGTHS, 1.0]
    away = [row[2].value for row in found.rows]
    assert away[0] < away[4] < away[8] and "latents: strength" in found.answer


def test_the_answer_is_the_least_that_is_right_enough():
    row = lambda s, right: (s, Interval(s, s, s), Interval(1, 1, 1), Interval(right, right, right))  # noqa: E731
    said = it.answer({"latents": [row(0.1, 0.2), row(0.5, 0.73), row(0.6, 0.75), row(1.0, 0.8)]}, 100)
    assert "strength 0.5 is the least" in said and "73.0%" in said and "against 80.0%" in said


@pytest.mark.parametrize("value", [0.1, 1.0])
def test_full_strength_starts_from_noise_alone(value):
    """At strength 1 the strokes do not matter; below they do."""
    system, _ = made("ddpm_class")
    awake(system)
    a, b = torch.ones(1, 3, 32, 32), -torch.ones(1, 3, 32, 32)
    one, other = (it.edited(system, start, [1], 0, value) for start in (a, b))
    assert torch.equal(one, other) == (value == 1.0)
