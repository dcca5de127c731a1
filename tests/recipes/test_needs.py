"""A bundle of another kind than a recipe needs is refused in one line, before anything is built of it."""

import pytest

from phosphene.errors import Problem
from phosphene.recipes import RECIPES
from phosphene.recipes.needs import FITS, fitting
from phosphene.weights import bundle
from systems import small

WRONG = [
    ("scenes.unclip", "clip", "latent"),
    ("scenes.prior", "clip", "glide"),
    ("scenes.unclip_upscale", "unclip", "glide"),
    ("scenes.glide_upscale", "glide", "imagen"),
    ("scenes.glide_inpaint", "glide", "glide"),  # a base, and not the cascade
    ("scenes.imagen_upscale", "imagen", "latent"),
    ("scenes.in_kl", "autoencoder", "clip"),
    ("emoji.latent", "autoencoder", "clip"),
]


@pytest.mark.parametrize("name, knob, kind", WRONG)
def test_a_bundle_of_another_kind(name, knob, kind, tmp_path):
    path = bundle.save(getattr(small, kind)(), tmp_path / "it.safetensors")
    run = RECIPES[name](**{knob: path})
    with pytest.raises(Problem, match=rf"{knob}=.*it.safetensors is a \w+, not .*: a bundle of {run.needs[knob]} was"):
        list(run.train(tmp_path / "run"))
    with pytest.raises(Problem, match="was expected"):
        run.plan(8, tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "knob, recipe, kind",
    [
        ("clip", "scenes.clip", "clip"),
        ("autoencoder", "scenes.kl", "vae"),
        ("autoencoder", "scenes.vq", "vq"),
        ("glide", "scenes.glide", "glide"),
        ("imagen", "scenes.imagen", "imagen"),
        ("prior", "scenes.prior", "ar_prior"),
    ],
)
def test_those_that_fit(knob, recipe, kind, tmp_path):
    system = getattr(small, kind)()
    assert fitting(system, knob, recipe, tmp_path) is system


def test_every_need_says_what_it_takes():
    needs = [(knob, name) for make in RECIPES.values() for knob, name in make().needs.items()]
    assert needs and all(name in FITS or knob in FITS for knob, name in needs)


def test_no_width():
    with pytest.raises(Problem, match="width=0: at least 1"):
        RECIPES["scenes.unclip"](width=0)
