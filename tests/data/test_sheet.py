"""Contact sheets and reports."""

import numpy as np
import pytest
import torch
from PIL import Image

from phosphene.data import sheet
from phosphene.data.base import Example
from phosphene.data.sheet import contact_sheet, report, to_image
from phosphene.errors import Problem


def test_pictures_stand_in_rows():
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), np.full((8, 8, 3), (0, 0, 255), np.uint8)
    made = contact_sheet([red, blue, torch.ones(3, 8, 8)], columns=2, cell=16)
    assert made.size == (6 + 2 * 22, 6 + 2 * 28)
    assert made.getpixel((6 + 8, 6 + 8)) == (255, 0, 0) and made.getpixel((28 + 8, 6 + 8)) == (0, 0, 255)
    batch = contact_sheet(-torch.ones(5, 1, 8, 8), columns=8, cell=8)
    assert batch.width == 6 + 5 * 14 and batch.getpixel((8, 8)) == (0, 0, 0)


def test_tensors_are_in_minus_one_to_one():
    assert to_image(torch.tensor([-2.0, 0.0, 1.0]).view(3, 1, 1)).getpixel((0, 0)) == (0, 128, 255)
    assert to_image(Example(Image.new("RGBA", (1, 1)))).getpixel((0, 0)) == (255, 255, 255)


def ink(image: Image.Image) -> int:
    return int((np.asarray(image.convert("L")) < 128).sum())


@pytest.mark.parametrize("font", [True, False])
def test_captions_are_written_in_any_language(monkeypatch, font):
    if font and sheet.cjk_font() is None:
        pytest.skip("this machine has no font with Chinese characters")
    monkeypatch.setattr(sheet, "cjk_font", sheet.cjk_font if font else lambda: None)
    white = Image.new("RGB", (96, 96), (255, 255, 255))
    plain, english, chinese = (ink(contact_sheet([white], [c])) for c in ("", "a smiling cat", "一只微笑的猫"))
    assert plain == 0 and english > 50 and chinese > 50


def test_without_a_font_chinese_is_escaped(monkeypatch):
    monkeypatch.setattr(sheet, "cjk_font", lambda: None)
    monkeypatch.setattr(sheet, "_font", lambda size: sheet.ImageFont.load_default(size))
    assert sheet._wrapped("fox 狐", sheet._font(12), 200) == ["fox \\u72d0"]


def test_long_captions_are_broken_and_shortened(monkeypatch):
    lines = sheet._wrapped(
        "a very long caption that says much more than fits below a picture " * 3, sheet._font(12), 96
    )
    assert len(lines) == sheet.LINES and lines[-1].endswith("...")
    assert all(sheet._font(12).getlength(line) <= 96 for line in lines[:-1])


def test_examples_bring_their_own_captions(rows):
    source = rows(3)
    assert ink(contact_sheet(source[i] for i in range(3))) > ink(contact_sheet([source[i].image for i in range(3)]))
    with pytest.raises(Problem, match=r"a contact sheet of no pictures"):
        contact_sheet([])


def test_report(rows):
    found = report(rows(30, bad=[4, 9], sizes=((8, 8), (16, 8))), examples=4)
    assert (found.rows, found.looked, found.captions, found.wordless) == (30, 30, 28 * 3, 0)
    assert found.sizes == {(8, 8): 14, (16, 8): 14} and found.labels[4] == 2 and len(found.examples) == 4
    assert found.broken == ["rows, row 4: broken picture", "rows, row 9: broken picture"]
    text = str(found)
    assert "rows: 30 pictures\n" in text and "sizes: 8x8 (14), 16x8 (14)" in text and "row 9: broken picture" in text
    assert "captions: 84 (3.0 a picture)" in text and "classes: 10: 0 (3)" in text


def test_a_report_of_a_large_source_looks_at_some_rows(rows):
    found = report(rows(1000, captions=0), most=50)
    assert (
        found.looked == 50 and "1,000 pictures (looked at 50)" in str(found) and "50 pictures have none" in str(found)
    )
