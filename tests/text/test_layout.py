"""Layouts: written and read, told in any order, refused where they are none; sources that tell them."""

import json

import pytest
import torch

from phosphene.data.batches import Batches, cached
from phosphene.data.scenes import Object, Scenes
from phosphene.data.scenes.told import WORDS, box_of, layout_of
from phosphene.errors import Problem
from phosphene.recipes.scenes.layout import holds
from phosphene.text.layout import Box, Layout, LayoutEncoder

TEXT = "red circle 0.1,0.2,0.5,0.6; blue square 0.6,0.1,0.9,0.4"


def encoder() -> LayoutEncoder:
    torch.manual_seed(0)
    return LayoutEncoder(WORDS, 16, layers=2, heads=2, most=4)


def test_written_and_read():
    layout = Layout.read(TEXT)
    assert layout.boxes == (Box("red circle", 0.1, 0.2, 0.5, 0.6), Box("blue square", 0.6, 0.1, 0.9, 0.4))
    assert str(layout) == TEXT and Layout.read(f" {TEXT} ; ") == layout
    assert Layout.read(json.loads(json.dumps(layout, default=str))) == layout, "as a receipt keeps it"


@pytest.mark.parametrize(
    "wrong, says",
    [
        ("red circle", "'red circle' is no box"),
        ("red circle 0.1,0.2,0.5", "is no box"),
        ("red circle 0.1,0.2,0.5,1e", "is no box"),
        ("red circle 0.5,0.2,0.1,0.6", "left before right"),
        ("red circle 0.1,0.2,0.5,1.6", "from 0 to 1"),
        ("0.1,0.2,0.5,0.6", "is no box"),
    ],
)
def test_what_is_no_layout(wrong, says):
    with pytest.raises(Problem, match=says):
        encoder()([wrong])


def test_the_order_of_boxes_changes_nothing():
    layout, it = Layout.read(TEXT), encoder()
    other = Layout(layout.boxes[::-1])
    a, b = it([layout]), it([other])
    assert torch.equal(a.tokens, b.tokens) and torch.equal(a.vector, b.vector)
    moved = it([Layout.read(TEXT.replace("0.9", "0.8"))])
    assert not torch.allclose(a.vector, moved.vector, atol=1e-4)
    swapped = Layout.read("blue circle 0.1,0.2,0.5,0.6; red square 0.6,0.1,0.9,0.4")
    assert not torch.allclose(a.vector, it([swapped]).vector, atol=1e-4), "a colour belongs to its box"


def test_the_null_prompt_and_the_empty_layout():
    it = encoder()
    null = it([None])
    assert null.tokens.shape == (1, 1, 16) and torch.equal(null.tokens, it([""]).tokens)
    assert not torch.allclose(null.tokens, it([Layout(())]).tokens)


def test_a_row_does_not_depend_on_the_others():
    it = encoder()
    three = it([TEXT, None, "red ring 0,0,0.5,0.5"])
    assert three.mask.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    alone = it(["red ring 0,0,0.5,0.5"])
    assert torch.allclose(three.tokens[2, :2], alone.tokens[0], atol=1e-5)
    assert torch.allclose(three.vector[2], alone.vector[0], atol=1e-5)


@pytest.mark.parametrize(
    "prompt, says",
    [
        ("; ".join(["red ring 0,0,0.5,0.5"] * 5), "5 boxes; this model takes 4"),
        ("rde ring 0,0,0.5,0.5", "did you mean 'red'"),
        (3, "is a int; this model wants a layout"),
    ],
)
def test_what_the_encoder_refuses(prompt, says):
    with pytest.raises(Problem, match=says):
        encoder()([prompt])


def test_overlap():
    a = Box("x", 0.0, 0.0, 0.5, 0.5)
    assert a.overlap(a) == 1 and a.overlap(Box("x", 0.5, 0.5, 1, 1)) == 0
    assert a.overlap(Box("x", 0.25, 0.0, 0.75, 0.5)) == pytest.approx(1 / 3)


def test_batches_tell_layouts():
    """Those of the rows, a share of them dropped; the same from a cache."""
    source = Scenes(n=40)
    plain = Batches(source, size=32, batch=20, drop=0.3, prompts="layout")
    batch = plain.at(1)
    for row, prompt in zip(batch.index.tolist(), batch.prompts, strict=True):
        assert prompt is None or prompt == layout_of(source[row].meta["objects"])
    assert 0 < batch.prompts.count(None) < 15
    assert cached(plain).at(1).prompts == batch.prompts
    with pytest.raises(Problem, match="flip"):
        Batches(source, size=32, batch=2, prompts="layout", flip=True)


def test_a_source_that_tells_none(tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(Problem, match="says no layout"):
        Batches(str(tmp_path), size=8, batch=1, prompts="layout").at(0)


def test_what_a_picture_holds():
    """Its own layout, not one with a label or a place that is another, nor with an object more."""
    source = Scenes(n=30)
    examples = [source[i] for i in range(30)]
    layouts = [source.tells["layout"](example) for example in examples]
    own = [holds(example.image, layout) for example, layout in zip(examples, layouts, strict=True)]
    assert sum(own) == 30
    assert not any(holds(example.image, layouts[i - 1]) for i, example in enumerate(examples))
    one = box_of(Object("circle", "red", "small", 30, 30))
    assert one.edges == pytest.approx((16 / 128, 16 / 128, 44 / 128, 44 / 128))
    assert not holds(examples[0].image, Layout((*layouts[0].boxes, one)))
