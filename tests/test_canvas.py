"""A picture made ready for editing, and back again."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from phosphene.canvas import margins, prepare
from phosphene.errors import Problem


def picture(width=20, height=12, mode="RGB", seed=0):
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(levels[..., 0] if mode == "L" else levels, mode)


def mask(width=20, height=12, box=(10, 0, 20, 12)):
    it = Image.new("L", (width, height), 0)
    it.paste(255, box)
    return it


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


def as_image(tensor):
    return Image.fromarray(((tensor[0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy())


def test_a_picture_comes_back_as_it_was():
    canvas = prepare(picture(), multiple=8, trained=16)
    assert canvas.image.shape == (1, 3, 16, 24) and canvas.inside is None
    assert same(canvas.back(as_image(canvas.image)), picture())
    assert torch.equal(canvas.image[..., :12, 20], canvas.image[..., :12, 19])  # the edge, repeated


def test_what_is_black_comes_back_from_any_size():
    """A picture far larger than the model's is worked on at the model's size; what stays is not resized."""
    large, where = picture(200, 120), mask(200, 120, (90, 0, 200, 120))
    canvas = prepare(large, where, trained=16, multiple=4, feather=0)
    assert canvas.area == (21, 12) and canvas.image.shape == (1, 3, 12, 24) and canvas.inside.shape == (1, 1, 12, 24)
    back = canvas.back(Image.new("RGB", (24, 12), "red"))
    assert back.size == (200, 120)
    assert same(back.crop((0, 0, 90, 120)), large.crop((0, 0, 90, 120)))
    assert set(back.crop((90, 0, 200, 120)).getdata()) == {(255, 0, 0)}
    assert prepare(large, trained=16, multiple=4).back(Image.new("RGB", (24, 12))).size == (21, 12)
    assert prepare(large, trained=128, multiple=4).image.shape == (1, 3, 120, 200)  # near enough
    assert prepare(picture(4, 4), trained=16).area == (16, 16)


def test_the_size_that_is_asked_for():
    canvas = prepare(picture(40, 20), mask(40, 20), size=(16, 16), trained=100, multiple=16)
    assert canvas.image.shape == (1, 3, 16, 16) and canvas.original.size == canvas.mask.size == (16, 16)


def test_masks():
    canvas = prepare(picture(), mask(40, 24, (20, 0, 40, 24)), multiple=8, feather=0)  # of another size
    assert np.array_equal(canvas.inside[0, 0, :12, :20].numpy() * 255, np.asarray(mask()))
    assert not canvas.inside[..., 12:, :].any() and not canvas.inside[..., 20:].any()
    nearly = mask().point(lambda v: 250 if v else 9)  # a JPEG's white and black
    assert torch.equal(prepare(picture(), nearly, feather=0).inside, prepare(picture(), mask(), feather=0).inside)
    with pytest.raises(Problem, match="mask is empty"):
        prepare(picture(), Image.new("L", (20, 12), 5))


def test_the_feather_grows_inwards_only():
    canvas = prepare(picture(), mask(), feather=4)
    row = canvas.inside[0, 0, 6]
    assert not row[:10].any() and torch.allclose(row[10:14], torch.tensor([0.25, 0.5, 0.75, 1.0]), atol=0.01)
    assert (row[14:] == 1).all()  # and not at the picture's own edge
    thin = prepare(picture(), mask(box=(10, 0, 12, 12)), feather=4).inside[0, 0, 6]
    assert thin.max() == 1  # what is thinner than the feather is drawn all the same
    assert prepare(picture(400, 400), mask(400, 400)).receipt["feather"] == 20
    assert torch.equal(prepare(picture(), mask(), feather=0).inside.unique(), torch.tensor([0.0, 1.0]))


def test_expanding():
    canvas = prepare(picture(), expand="left=4,bottom=6", feather=0)
    assert canvas.original.size == (24, 18) and same(canvas.original.crop((4, 0, 24, 12)), picture())
    where = np.asarray(canvas.mask)
    assert not where[:12, 4:].any() and (where[:, :4] == 255).all() and (where[12:] == 255).all()
    filled = np.asarray(canvas.original)[12:].astype(int)
    assert abs(filled.mean() - np.asarray(picture())[-1].mean()) < 40  # of its edges' colours
    both = prepare(picture(), mask(), expand=2, feather=0)
    assert both.mask.size == (24, 16) and np.asarray(both.mask)[5, 15] == 255 and np.asarray(both.mask)[5, 5] == 0
    assert both.receipt["expand"] == {"left": 2, "top": 2, "right": 2, "bottom": 2}
    assert margins({"top": 3}) == (0, 3, 0, 0) and margins("5") == (5, 5, 5, 5) and margins(None) == (0, 0, 0, 0)


def test_transparency_is_white_or_the_mask():
    seen = picture(mode="RGBA")
    seen.putalpha(mask())
    flat = prepare(seen)
    assert flat.mask is None and (np.asarray(flat.original)[:, :10] == 255).all()
    canvas = prepare(seen, "alpha", feather=0)
    assert same(canvas.mask, mask(box=(0, 0, 10, 12)))
    with pytest.raises(Problem, match="nothing transparent"):
        prepare(picture(), "alpha")


def test_files_are_upright_and_named(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lying on its side
    picture().save(tmp_path / "a.png")
    picture().save(tmp_path / "a.jpg", exif=exif)
    canvas = prepare(tmp_path / "a.jpg", tmp_path / "a.png")
    assert canvas.original.size == (12, 20)
    digests = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.jpg", "a.png")}
    assert canvas.receipt["source"] == {"name": "a.jpg", "sha256": digests["a.jpg"]}
    assert canvas.receipt["mask"] == {"name": "a.png", "sha256": digests["a.png"]}
    assert prepare(picture(), trained=16).receipt == prepare(picture(), trained=16).receipt
    assert prepare(picture()).receipt != prepare(picture(seed=1)).receipt


def test_what_cannot_be(tmp_path):
    (tmp_path / "words.png").write_text("no picture")
    picture().save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
    for wrong, says in [
        ({"picture": tmp_path / "words.png"}, "words.png"),
        ({"picture": tmp_path / "half.png"}, "half.png: broken picture"),
        ({"picture": tmp_path / "none.png"}, "none.png cannot be read"),
        ({"picture": tmp_path}, "is a folder"),
        ({"mask": tmp_path / "words.png"}, "words.png"),
        ({"expand": "lefft=3"}, "did you mean 'left'"),
        ({"expand": -3}, "expand left=-3"),
        ({"expand": "left=x"}, "left=x"),
        ({"expand": "many"}, "left=many"),
        ({"expand": 20000}, "more than"),
        ({"mask": mask(), "feather": -1}, "feather=-1"),
        ({"picture": picture(6000, 10)}, "too large or too narrow"),
        ({"picture": picture(5000, 4200)}, "too large or too narrow"),
    ]:
        with pytest.raises(Problem, match=says):
            prepare(**{"picture": picture(), **wrong})
