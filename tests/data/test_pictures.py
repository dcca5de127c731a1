"""Decoding: what PIL can read comes out as RGB, and what it cannot is named."""

import io

import numpy as np
import pytest
from PIL import Image

from phosphene.data.pictures import decode, fitted, measured, opaque
from phosphene.errors import Problem

WHITE = (255, 255, 255)


def test_transparent_pictures_stand_on_the_background():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    assert list(opaque(image, (0, 0, 9)).get_flattened_data()) == [(255, 0, 0), (0, 0, 9)]
    image.putpixel((1, 0), (0, 0, 0, 128))
    assert opaque(image, WHITE).getpixel((1, 0)) == (127, 127, 127)
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([10, 20, 30])
    palette.info["transparency"] = 0
    assert opaque(palette, WHITE).getpixel((0, 0)) == WHITE
    assert opaque(Image.new("LA", (1, 1), (7, 0)), WHITE).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize(
    "mode, value, rgb",
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, WHITE),
        ("I;16", 257 * 100, (100, 100, 100)),
        ("F", 0.5, (128, 128, 128)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
    ],
)
def test_modes(mode, value, rgb):
    assert opaque(Image.new(mode, (2, 2), value), WHITE).getpixel((1, 1)) == rgb


def test_arrays():
    assert opaque(np.full((2, 2), 9, np.uint8), WHITE).getpixel((0, 0)) == (9, 9, 9)
    assert opaque(np.zeros((2, 2, 4), np.uint8), WHITE).getpixel((0, 0)) == WHITE


def test_photographs_stand_upright():
    image, out = Image.new("RGB", (4, 2)), io.BytesIO()
    image.putpixel((0, 0), WHITE)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise
    image.save(out, "JPEG", exif=exif, quality=100, subsampling=0)
    assert decode(out.getvalue(), "x").size == (2, 4) and measured(out.getvalue(), "x") == (2, 4)
    assert decode(out.getvalue(), "x").getpixel((1, 0))[0] > 200


def test_resizing_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(fitted(Image.fromarray(stripes), (16, 16), "center"))
    assert abs(small.astype(int) - 127).max() < 12  # every pixel saw two black and two white columns


def test_a_picture_of_the_right_size_is_left_alone():
    image = Image.effect_noise((8, 8), 50).convert("RGB")
    assert np.array_equal(np.asarray(fitted(image, (8, 8), "center")), np.asarray(image))


def test_broken_pictures_are_named():
    noisy, photo = io.BytesIO(), io.BytesIO()
    Image.effect_noise((64, 64), 90).save(noisy, "PNG")
    Image.effect_noise((64, 64), 90).save(photo, "JPEG")
    for data, says in [
        (b"", "not a picture"),
        (b"<!DOCTYPE html><html>", "not a picture of a known format"),
        (noisy.getvalue()[:-2000], "a.png: broken picture .OSError: "),
        (photo.getvalue()[:-500], "a.png: broken picture .OSError: "),
        (photo.getvalue()[:300], "a.png: cannot be opened as a picture .OSError: "),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture of a known format"),
    ]:
        with pytest.raises(Problem, match=says):
            decode(data, "a.png")
    with pytest.raises(Problem, match=r"a.png"):
        decode("a.png", "a.png")  # there is no such file


@pytest.mark.parametrize("times", [1, 3])  # PIL warns above its limit, and refuses above twice that
def test_decompression_bombs(encoded, monkeypatch, recwarn, times):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    decode(encoded(size=(40, 25)), "fine")
    with pytest.raises(Problem, match=r"bomb.png: .*more pixels than 1,000"):
        decode(encoded(size=(40, 26 * times)), "bomb.png")
    assert not recwarn.list
