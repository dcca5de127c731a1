"""The study of priors, on networks that have learned nothing: what it counts and compares, not what comes out."""

import json

import pytest
import torch
from torch.nn import functional as F

from phosphene.data.scenes import Scenes, caption
from phosphene.data.scenes.judge import evaluation_scenes
from phosphene.errors import Problem
from phosphene.metrics.interval import Interval
from phosphene.parts import again
from phosphene.recipes.parts import pictures_of
from phosphene.recipes.priors import held_scenes, near
from phosphene.studies import Job, priors
from phosphene.studies.base import Found
from phosphene.systems.unclip import Unclip
from phosphene.text.unclip import Meant
from systems.small import awake, clip, made, unclip_decoder


@pytest.fixture
def systems():
    torch.manual_seed(0)
    decoder = unclip_decoder(16)
    made_ = {"diffusion": again(made("diffusion_prior")[0], clip=decoder.clip)}
    made_["AR"] = again(made("ar_prior")[0], clip=decoder.clip)
    decoder.steps = 2
    return {name: awake(it) for name, it in (made_ | {"unclip": Unclip([decoder])}).items()}


@pytest.fixture
def run(tmp_path):
    told = {"training": {"steps": 10, "precision": "fp32"}, "recipe": {"batch": 4}}
    (tmp_path / "settings.json").write_text(json.dumps(told))
    return tmp_path


def test_what_it_finds(systems, run, monkeypatch):
    monkeypatch.setattr(priors, "STEPS", (1, 2))
    monkeypatch.setattr(priors, "SHOWN", 2)
    *lines, it = priors.measured(Job(systems, 4, 0, dict.fromkeys(systems, run)))
    assert isinstance(it, Found) and all(isinstance(line, str) for line in lines)
    assert [row[0] for row in it.rows] == ["diffusion", "AR", priors.NONE, priors.TRUE]
    assert all(len(row) == len(it.columns) for row in it.rows)
    for row in it.rows[:2]:
        assert min(row[1:5]) > 0 and all(isinstance(cell, Interval) for cell in row[5:])
    none, true = it.rows[2:]
    assert none[1:3] == (None, None) and true[1:7] == (None,) * 6
    assert it.rows[0][3] > it.rows[1][3] > none[3] > 0  # of the text tower alone; with the memory; of all the steps
    assert none[5].value == near(None, systems["unclip"].clip, held_scenes(4)).cosine.value
    assert it.plot.width > 100 and it.pictures["pictures"].width > 30 and "without a prior" in it.answer


def test_another_clip_is_refused(systems, run):
    systems["AR"] = again(made("ar_prior")[0], clip=clip())
    with pytest.raises(Problem, match="two CLIPs"):
        list(priors.measured(Job(systems, 4, 0, dict.fromkeys(systems, run))))


def test_the_decoder_is_told_what_it_says(systems):
    """With words or without: a picture is the decoder's own of that embedding, enlarged."""
    unclip = systems["unclip"]
    z = priors.pictured(unclip, 2, 0)
    assert torch.allclose(z.norm(dim=1), torch.ones(2))
    alone = priors.pictures(unclip, z, [None, None], 5)
    *_, last = unclip.stages[0].generate([Meant(None, row) for row in z], seeds=[5, 6])
    assert torch.equal(alone, F.interpolate(last.picture(), size=(32, 32), mode="bicubic").clamp(-1, 1))
    assert not torch.allclose(alone, priors.pictures(unclip, z, ["a red circle", "a ring"], 5), atol=1e-4)
    assert not torch.allclose(alone, priors.pictures(unclip, -z, [None, None], 5), atol=1e-4)
    assert torch.equal(priors.embeddings(None, unclip, ["a red circle"], 0), unclip.clip.embed_text(["a red circle"]))


def test_training_is_counted_by_its_steps(systems, run):
    once, _ = priors.training_cost(systems["AR"], run)
    (run / "settings.json").write_text((run / "settings.json").read_text().replace('"steps": 10', '"steps": 20'))
    assert priors.training_cost(systems["AR"], run)[0] == pytest.approx(2 * once) and once > 0
    assert all(p.grad is None for p in systems["AR"].parameters())


def test_near():
    """An oracle that says the pictures' own embeddings is at cosine 1; of embeddings by turns half are named."""
    tower = clip().eval()
    scenes = Scenes(32, 6, "test", (1, 2))
    own = tower.embed_image(pictures_of(scenes, 32)).detach()
    names = [caption(scenes[i].meta["spec"]) for i in range(6)]
    asked = []

    class Oracle:
        def embeddings(self, said, *, seeds, **how):
            asked.append((said, list(seeds), how))
            return own

    it = near(Oracle(), tower, held_scenes(6), seed=7, steps=3)
    assert it.cosine.value == pytest.approx(1, abs=1e-5)
    [(said, seeds, how)] = asked
    assert seeds == [7, 8, 9, 10, 11, 12] and how == {"steps": 3} and said[0] == names[0] and said[1] != names[1]
    own = tower.embed_text([names[0], names[0], names[2], names[2], names[4], names[4]])
    assert near(Oracle(), tower, held_scenes(6)).named.value == 0.5 and len(set(names)) == 6


def test_scenes_that_are_what_the_prompts_say():
    from phosphene.data.scenes import evaluate_prompts, matches
    from phosphene.data.scenes.draw import render

    scenes = [scene for _, scene in evaluation_scenes("single", 4, 3)]
    assert all(matches(p, render(s, 32)) for p, s in zip(evaluate_prompts("single", 4, 3), scenes))


def test_the_plot_shows_how_far_from_the_picture_s_own(systems, monkeypatch):
    """1 - cosine, its band turned round with it, against the power of two of the steps."""
    monkeypatch.setattr(priors, "STEPS", (1, 4))
    unclip, held = systems.pop("unclip"), held_scenes(4)
    nearness = {name: near(it, unclip.clip, held, 0) for name, it in [*systems.items(), (priors.NONE, None)]}
    diffusion, ar, none = priors.curves(systems, unclip, nearness, held, 0)
    assert [x for x, _ in diffusion.points] == [x for x, _ in none.points] == [0.0, 2.0]
    assert diffusion.points[1][1] == 1 - near(systems["diffusion"], unclip.clip, held, 0, steps=4).cosine.value
    assert {y for _, y in ar.points} == {1 - nearness["AR"].cosine.value} and none.dash and not ar.dash
    for curve in (diffusion, ar, none):
        assert all(low <= y <= high for (_, y), (low, high) in zip(curve.points, curve.band))
