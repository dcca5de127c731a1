"""The study of guidance, and the recipes under it, on networks that have learned nothing: what they count."""

from __future__ import annotations

import pytest
import torch

from phosphene.data.scenes import SEEN, Scenes, read
from phosphene.diffusion.schedule import Cosine
from phosphene.metrics.interval import Interval
from phosphene.recipes.parts import pictures_of
from phosphene.recipes.scenes.guidance import LEVELS, pairs, right, told_at
from phosphene.recipes.scenes.shared import one_objects
from phosphene.studies import Job, guidance, pictures
from phosphene.systems.cascade import Cascade
from phosphene.systems.classifier import Classifier
from systems.small import awake, clip_noised, glide_upscaler, made, tower


@pytest.fixture
def judges():
    torch.manual_seed(0)
    return {"classifier": Classifier(tower(len(SEEN)), Cosine(), pairs()).eval(), "clip": clip_noised().eval()}


def test_the_study(monkeypatch, judges):
    monkeypatch.setattr(pictures, "SEEN", 16)
    monkeypatch.setattr(guidance, "SCALES", dict.fromkeys(guidance.SCALES, (1.0, 30.0)))
    monkeypatch.setattr(guidance, "STEPS", 2)
    cascade = Cascade([made("ddpm")[0].eval(), awake(glide_upscaler(32))])
    cascade.stages[1].steps = 2
    *lines, found = guidance.STUDY.measured(Job({"glide": cascade, **judges}, 9, 0))
    assert len(lines) == 7 and [row[:2] for row in found.rows] == [
        ("none", 0.0), *((kind, scale) for kind in guidance.SCALES for scale in (1.0, 30.0)),
    ]  # fmt: skip
    assert all(isinstance(cell, Interval) for row in found.rows for cell in row[2:])
    free, judged = found.rows[1:3], found.rows[3:]
    start = found.rows[0][2].value
    assert all(row[2].value == pytest.approx(start, abs=0.01) for row in free)  # it hears no words
    assert all(abs(row[2].value - start) > 0.02 for row in (judged[1], judged[3]))
    assert found.plot.width > 100 and {"recall", "pictures"} == set(found.pictures)
    assert "N = 9" in found.answer and found.answer.count("precision") == 3


def test_all_three_kinds_are_told_the_same(judges):
    """One object, by colour and shape alone: a classifier knows no sizes, so none are asked for."""
    prompts = guidance.asked(40, 0)
    groups = [group for prompt in prompts for group in read(prompt).groups]
    assert len(groups) == 40 and all(g.count == 1 and g.size is None for g in groups)
    assert judges["classifier"].classes(prompts) == [SEEN.index((g.colour, g.shape)) for g in groups]
    assert guidance.options("classifier", 3.0, judges) == {"guidance": 0.0, "guides": [(judges["classifier"], 3.0)]}
    assert guidance.options("classifier-free", 3.0, judges) == {"guidance": 3.0}


class Knowing(Classifier):
    """Knows the picture that x was made of, below half of time, and nothing above."""

    def scores(self, x, t, prompts):
        told = torch.zeros(len(x), len(prompts))
        if t < 0.5:
            of = [int((pictures_of(self.of, 32) - row).square().flatten(1).mean(1).argmin()) for row in x]
            for row, i in zip(told, of):
                [group] = self.of[i].meta["spec"].groups
                row[prompts.index(f"a {group.colour} {group.shape}")] = 1.0
        return told


def test_a_judge_is_asked_at_every_level():
    judge = Knowing(tower(len(SEEN)), Cosine(zero_snr=True), pairs())
    judge.of = Scenes(32, 12, "test", (1, 1))
    held = one_objects(32, 12, "en")
    assert right(judge, *held, 0.001).value == 1
    lines = told_at(judge, *held)
    assert len(lines) == len(LEVELS) and "right 100.0% of 12" in lines[0] and "right 100" not in lines[-1]
    assert "0.155 of the signal" in lines[-1]


def test_the_base_hears_nothing_where_a_judge_guides(judges):
    """guidance 0 is the model without words: prompts change nothing but what the judge pulls towards."""
    base, _ = made("ddpm_class")
    told = guidance.options("classifier", 0.0, judges)
    a, b = (list(awake(base).generate([k], seeds=[1], steps=2, **told))[-1].picture() for k in (1, 2))
    assert torch.equal(a, b)
