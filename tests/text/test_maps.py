"""Semantic maps: written and read, brought to x's size, refused where they are none."""

import numpy as np
import pytest
import torch
from PIL import Image

from phosphene.data.scenes import Object, Scenes, render
from phosphene.data.scenes.told import LABELS, map_of
from phosphene.errors import Problem
from phosphene.recipes.parts import pictures_of
from phosphene.recipes.scenes.layout import agreement
from phosphene.text.maps import LabelMap, MapEncoder
from systems.small import awake, made

SCENE = (Object("square", "red", "large", 64, 64),)


def test_the_map_of_a_scene():
    """A label where the object's colour is, white elsewhere; a picture agrees with its own map, not with another."""
    labels = map_of(SCENE, 32).array
    assert set(labels.ravel().tolist()) == {0, LABELS.index("red")} and labels[16, 16] and not labels[0, 0]
    red = (render(SCENE, 32)[..., 1] < 140).sum()
    assert abs(int((labels > 0).sum()) - int(red)) <= 12
    source = Scenes(n=20)
    maps = [source.tells["map"](source[i]) for i in range(20)]
    pictures = pictures_of(source, 32)
    every, inked = agreement(pictures, maps)
    assert every > 0.97 and inked > 0.9
    assert agreement(pictures.roll(1, 0), maps)[1] < 0.3


def test_written_and_read(tmp_path):
    it = map_of(SCENE, 32)
    assert LabelMap.read(str(it)) == it and len(str(it)) < 200
    Image.fromarray(it.array).save(tmp_path / "map.png")
    assert LabelMap.read(str(tmp_path / "map.png")) == it


def test_shares_of_labels():
    encoder = MapEncoder(LABELS, 8)
    labels = np.zeros((32, 32), np.uint8)
    labels[0:4, 0:2] = 3
    image = encoder([LabelMap.of(labels), None]).image
    assert image.shape == (2, encoder.shown, 8, 8) and torch.equal(image.sum(1), torch.ones(2, 8, 8))
    assert image[0, :, 0, 0].tolist() == [0.5, 0, 0, 0.5] + [0] * 6
    assert (image[1, -1] == 1).all() and (image[0, -1] == 0).all()
    assert torch.equal(encoder([str(LabelMap.of(labels))]).image[0], image[0])


def test_what_the_encoder_refuses(tmp_path):
    encoder = MapEncoder(LABELS, 8)
    Image.new("RGB", (8, 8)).save(tmp_path / "colour.png")
    for wrong, says in [
        (LabelMap(1, 1, b"\x09"), "label 9 is unknown; known are 0 white"),
        (str(tmp_path / "none.png"), "cannot be read"),
        (str(tmp_path / "colour.png"), "mode RGB"),
        ("4x4:AAAA", "damaged"),
        (5, "wants a map"),
    ]:
        with pytest.raises(Problem, match=says):
            encoder([wrong])
    with pytest.raises(Problem, match="2×2"):
        LabelMap(2, 2, b"")


def test_a_model_of_maps_has_one_size():
    system, batch = made("latent_map")
    with pytest.raises(Problem, match="32x32 pixels only"):
        next(awake(system).generate(batch.prompts[:1], seeds=[1], steps=2, size=(64, 64)))
