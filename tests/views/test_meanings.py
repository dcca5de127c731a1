"""unCLIP's page: each cell is what `generate(image=…)` makes."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

from phosphene import views
from phosphene.canvas import prepare
from phosphene.cli import main
from phosphene.data.sheet import to_image
from phosphene.errors import Problem
from phosphene.nets.components import Components
from phosphene.parts import again
from phosphene.request import to_images
from phosphene.systems.unclip import Unclip
from phosphene.views.meanings import DIALS, SHARES, TURNS
from phosphene.weights import bundle
from systems.small import W, awake, eight, latent, unclip_decoder, unclip_upscaler

page = importlib.import_module("phosphene.views.meanings")
DATA = "scenes:size=32,n=40,objects=1-1"


@pytest.fixture(scope="module")
def system():
    torch.manual_seed(0)
    decoder = awake(unclip_decoder(16))
    return Unclip([decoder, awake(unclip_upscaler())], None, Components.of(decoder.seen(eight().image))).eval()


def test_its_cells_are_generates(system):
    rows = [views.row(DATA, i) for i in (0, 1)]
    view = views.meanings(rows, model=system, seed=4, steps=2)
    varied, ways, turned, told = view.parts
    a, b = (prepare(to_image(row), size=(32, 32)).image for row in rows)
    (before, after) = (row.captions[0] for row in rows)

    def same(cell, image, prompt=None, seed=4, **how):
        *_, last = system.generate([prompt], seeds=[seed], image=image, steps=2, **how)
        return np.array_equal(np.asarray(cell), np.asarray(to_images(last.picture())[0]))

    assert len(varied.cells) == 2 and len(varied.cells[0]) == len(varied.columns) == 1 + len(DIALS)
    assert same(varied.cells[1][1], b, eta=0.0) and same(varied.cells[0][-1], a, seed=6, eta=1.0)
    assert len(ways.cells) == 1 and len(ways.cells[0]) == len(ways.columns) == len(SHARES) + 2
    assert same(ways.cells[0][4], a, towards=b, strength=0.5)
    assert turned.rows == [f"{before} → {after}", f"{after} → {before}"] and len(turned.columns) == len(TURNS)
    assert same(turned.cells[1][3], b, before, invert=[after], strength=0.3)
    assert [c.split("\n")[0] for c in told.columns] == ["1", "2", "4", "8", "16", str(2 * W), "the picture"]
    assert same(told.cells[0][2], a, components=4) and told.columns[-2].endswith("100%")
    assert len(view.numbers["variance"]) == 2 * W


@pytest.fixture
def short(monkeypatch):
    """Pages of few pictures."""
    for name in ("DIALS", "SHARES", "TURNS"):
        monkeypatch.setattr(page, name, getattr(page, name)[:1])


def test_words_and_components_are_left_out_where_there_are_none(system, short):
    pictures = [to_image(views.row(DATA, i)) for i in (0, 1)]
    view = views.meanings(pictures, model=again(system, components=None), steps=2)
    assert [part.title.split(":")[0] for part in view.parts] == ["Variations", "From each picture to the next"]
    assert len(views.meanings(pictures, ["a", "b"], model=system, steps=2).parts) == 4


def test_the_command(system, short, tmp_path, capsys):
    model = bundle.save(system, tmp_path / "it.safetensors")
    argv = ["show", "meanings", "--data", DATA, "--row", "0", "1", "--model", str(model), "--steps", "2"]
    assert main([*argv, "--out", str(tmp_path / "page.png")]) == 0, capsys.readouterr().err
    assert (tmp_path / "page.png").stat().st_size > 1000


def test_what_cannot_be(system):
    picture = to_image(views.row(DATA, 0))
    for pictures, says, model, wrong in (
        ([picture], (), system, "two or more"),
        ([picture] * 2, ["a"], system, "2 pictures and 1 texts"),
        ([picture] * 2, (), latent(), "unCLIP's to show"),
    ):
        with pytest.raises(Problem, match=wrong):
            views.meanings(pictures, says, model=model)
