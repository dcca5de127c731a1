"""The study of DDPM's ancestors, on networks that have learned nothing, and on pictures that are known."""

from __future__ import annotations

import pytest
import torch

from phosphene.data.scenes import SEEN, Object, read, render
from phosphene.diffusion.schedule import Cosine, Linear
from phosphene.metrics.interval import Interval, mean_of
from phosphene.metrics.likelihood import bits
from phosphene.recipes.scenes.guidance import pairs
from phosphene.studies import Job, ancestors, pictures
from phosphene.studies.ancestors import CHAINS
from phosphene.systems.base import Preview
from phosphene.systems.classifier import Classifier
from systems.small import awake, ddpm_learned, ncsn, tower


@pytest.fixture(autouse=True)
def little(monkeypatch, few_draws):
    monkeypatch.setattr(pictures, "SEEN", 16)
    monkeypatch.setattr(ancestors, "HELD", 2)
    monkeypatch.setattr(ancestors, "SCALES", (0.0, 50.0))


def systems() -> dict:
    torch.manual_seed(0)
    judge = Classifier(tower(len(SEEN)), Cosine(), pairs())
    found = {"bound": ddpm_learned(), "simple": ddpm_learned(), "ncsn": ncsn(), "classifier": judge}
    for name in CHAINS:
        found[name].denoiser.schedule, found[name].steps = Linear(5, 0.02, 0.9), 2
    found["ncsn"].steps = 2
    return {name: awake(system).eval() for name, system in found.items()}


def test_the_study():
    job = Job(systems(), 3, 1)
    *lines, found = ancestors.STUDY.measured(job)
    assert len(lines) == len(found.rows) == 4 and all(len(row) == len(found.columns) for row in found.rows)
    bound, simple, plain, pulled = (dict(zip(found.columns, row)) for row in found.rows)
    for name, row in (("bound", bound), ("simple", simple)):
        assert row["bits"] == mean_of(bits(job.systems[name], pictures.held(2), seed=1)) and row["right"] is None
    assert bound["bits"] != simple["bits"] and (plain["scale"], pulled["scale"]) == (0.0, 50.0)
    assert plain["bits"] is None and isinstance(plain["right"], Interval)
    assert plain["Fréchet"] != pulled["Fréchet"]  # the classifier is heard
    assert found.plot.width > 100 and found.pictures["pictures"].width > 100
    assert "N = 3" in found.answer and "bits on 2" in found.answer


class Obedient:
    """Draws what is asked for where it is guided, else the blue circle that it always draws."""

    size = 32

    def generate(self, prompts, *, seeds, guides=()):
        pulled = any(scale for _, scale in guides)
        groups = [read(prompt if pulled else "a blue circle").groups[0] for prompt in prompts]
        drawn = [torch.from_numpy(render((Object(it.shape, it.colour, "large", 64, 64),), 32).copy()) for it in groups]
        made = torch.stack(drawn).permute(0, 3, 1, 2) / 127.5 - 1
        yield Preview("base", 0, 1, lambda: made)


def test_what_was_asked_for_is_what_is_read():
    """All of what obeys is right, and of what does not only what happens to be it; both are scenes."""
    *_, found = ancestors.STUDY.measured(Job(systems() | {"ncsn": Obedient()}, 12, 0))
    plain, pulled = (dict(zip(found.columns, row)) for row in found.rows[2:])
    assert pulled["right"].value == 1 and plain["right"].value < 0.2
    assert plain["scenes"].value == pulled["scenes"].value == 1 and plain["kinds"] == 1 < pulled["kinds"]
    assert "asked for in 100.0%, higher than without" in found.answer
