"""The recipes of unCLIP's priors: they go through, and what they report is of what they predict."""

from pathlib import Path

import pytest
import torch

from phosphene.recipes import RECIPES
from phosphene.recipes.base import source_of
from phosphene.recipes.priors import diffusion_prior, pairs, seen
from phosphene.recipes.scenes.priors import LENGTH
from phosphene.systems.prior import ArPrior, DiffusionPrior
from phosphene.weights import bundle

SMALL = dict(steps=2, batch=8, pictures=32, width=32, layers=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    list(RECIPES["scenes.clip"](steps=1, batch=8, pictures=32, width=32, held=0).train(folder / "scenes.clip"))
    return folder


@pytest.mark.parametrize(
    "name, kind, knobs", [("prior", DiffusionPrior, {}), ("ar_prior", ArPrior, dict(components=4, buckets=16, dots=4))]
)
def test_a_prior_on_scenes(runs, name, kind, knobs):
    """Trained on the CLIP that lies beside it; its bundle predicts embeddings, its report says how near they are."""
    run = RECIPES[f"scenes.{name}"](held=4, **SMALL, **knobs).train(runs / f"scenes.{name}")
    notes = [note for progress in run for note in progress.notes]
    assert notes[-2].startswith("- predicted z_i: cosine") and notes[-1].startswith("- z_t itself: cosine")
    assert "of 4" in notes[-1]
    system = bundle.load(runs / f"scenes.{name}")
    clip = bundle.load(runs / "scenes.clip")
    assert type(system) is kind and system.length == LENGTH and system.unit
    assert all(torch.equal(a, b) for a, b in zip(clip.state_dict().values(), system.clip.state_dict().values()))
    made = system.embeddings(["a red circle", "一个蓝色圆环"], seeds=[0, 1])
    assert made.shape == (2, 32) and torch.allclose(made.norm(dim=1), torch.ones(2))


def test_what_a_prior_learns_from(runs):
    """Embeddings of the pictures themselves, and captions of which some are dropped: no pair of those is measured."""
    system = diffusion_prior(bundle.load(runs / "scenes.clip"), 32, 1, LENGTH)
    batches = seen(system, source_of("scenes:objects=1-2", n=24), 32, 8, 0.5, 0)
    assert batches.table.shape == (24, 32) and batches.prepared
    batch = batches.at(0)
    assert torch.allclose(batch.image.norm(dim=1), torch.ones(8), atol=1e-2) and None in batch.prompts
    image_emb, text_emb = pairs(system, batches, 16)
    told = [p for step in (0, 1) for p in batches.at(step).prompts if p]
    assert len(image_emb) == len(text_emb) == len(told) < 16
    torch.testing.assert_close(text_emb, system.clip.embed_text(told), rtol=0, atol=1e-5)
