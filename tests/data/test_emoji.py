"""Emoji: the table and its filters, the font, captions."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from phosphene.data.base import open_source
from phosphene.data.emoji import COLUMNS, STYLES, Emoji, captions, spoken, with_article, write_table
from phosphene.data.emoji_font import FontEmoji, find_font
from phosphene.data.emoji_groups import group_of
from phosphene.errors import Problem

ROW = {
    "codepoint": "1f98a", "emoji": "🦊", "style": "fluent-3d", "name_en": "fox", "name_zh": "狐狸",
    "keywords_en": ["animal", "face", "fox"], "keywords_zh": ["动物", "狐狸"], "group": "animals-nature",
    "subgroup": "animal-mammal", "unicode_version": 3.0, "licence": "MIT", "split": "train",
}  # fmt: skip
SUBJECTS = [("1f98a", "fox", "狐狸", "animals-nature", ""), ("1f355", "pizza", "披萨", "food-drink", ""),
            ("1f1ef-1f1f5", "flag: Japan", "旗: 日本", "flags", "country-flag"),
            ("1f40b", "whale", "鲸鱼", "animals-nature", "")]  # fmt: skip


def png(colour):
    picture = Image.new("RGBA", (16, 16))
    ImageDraw.Draw(picture).ellipse((2, 2, 13, 13), colour)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def table(tmp_path):
    """Four subjects in two styles; (pizza, twemoji) is held out, and one picture is broken."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = []
    for code, en, zh, group, subgroup in SUBJECTS:
        for style, colour in (("noto", "red"), ("twemoji", "blue")):
            held = (en, style) == ("pizza", "twemoji")
            rows.append(
                ROW | {"codepoint": code, "name_en": en, "name_zh": zh, "group": group, "subgroup": subgroup}
                | {"style": style, "split": "val" if held else "train", "image": png(colour)}
            )  # fmt: skip
    rows[-1]["image"] = rows[-1]["image"][:60]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "table.parquet")
    return tmp_path / "table.parquet"


def test_a_table_is_filtered_by_its_columns(table):
    def names(**options):
        return [(r["name_en"], r["style"]) for r in Emoji(str(table), **options).rows]

    assert len(names()) == 6 and ("flag: Japan", "noto") not in names()
    assert len(names(flags=True)) == 8
    assert names(styles="noto") == [("fox", "noto"), ("pizza", "noto"), ("whale", "noto")]
    assert names(split="val") == [("pizza", "twemoji")]
    assert names(groups=("food-drink",)) == [("pizza", "noto"), ("pizza", "twemoji")]
    assert {n for n, _ in names(groups="food-drink|animals-nature", split="train", styles="twemoji")} == {
        "fox",
        "whale",
    }
    # the first two names are the same ones in both splits
    assert {n for n, _ in names(names=2)} == {"fox", "pizza"}
    assert names(names=2, split="val") == [("pizza", "twemoji")]
    assert len(names(names=2, split="train")) == 3


def test_a_spec_opens_the_table_and_an_example_has_everything(table):
    source = open_source(f"emoji:path={table},styles=noto|twemoji,split=train,names=2")
    example = source[0]
    assert example.image.mode == "RGBA" and example.image.size == (16, 16) == source.size(0)
    assert example.image.getpixel((0, 0))[3] == 0 and example.image.getpixel((8, 8)) == (255, 0, 0, 255)
    assert "image" not in example.meta
    wanted = {"style": "noto", "split": "train", "name_en": "fox", "name_zh": "狐狸", "group": "animals-nature"}
    assert wanted.items() <= example.meta.items() and example.meta["licence"] == "MIT"
    with pytest.raises(IndexError):
        source[3]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"styles": "notoo"}, "did you mean 'noto'"),
        ({"groups": "food"}, "food-drink"),
        ({"split": "test"}, "val"),
        ({"split": "val", "styles": "noto"}, "nothing is left"),
        ({"font": "x.ttf"}, "one of the two"),
    ],
)
def test_filters_that_fit_nothing_are_problems(table, options, says):
    with pytest.raises(Problem, match=says):
        Emoji(str(table), **options)


def test_broken_files_and_pictures_are_problems(table, tmp_path):
    source = Emoji(str(table), styles="twemoji", groups="animals-nature")
    assert source[0].captions
    with pytest.raises(Problem, match="1f40b in twemoji"):
        source[1]
    with pytest.raises(Problem, match="no such file"):
        Emoji(str(tmp_path / "none.parquet"))
    (tmp_path / "page.parquet").write_text("<html>not found</html>")
    with pytest.raises(Problem, match="not a whole Parquet file"):
        Emoji(str(tmp_path / "page.parquet"))
    (tmp_path / "cut.parquet").write_bytes(table.read_bytes()[:-200])
    with pytest.raises(Problem, match="not a whole Parquet file"):
        Emoji(str(tmp_path / "cut.parquet"))
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [b""], "name_en": ["fox"]}), tmp_path / "poor.parquet")
    with pytest.raises(Problem, match="no column codepoint, style, name_zh"):
        Emoji(str(tmp_path / "poor.parquet"))


def test_a_table_with_the_needed_columns_alone_will_do(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    row = {k: ROW[k] for k in ("codepoint", "style", "name_en", "name_zh")} | {"image": png("red")}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "small.parquet")
    example = Emoji(str(tmp_path / "small.parquet"), split="train")[0]
    assert "a 3D emoji of a fox" in example.captions and example.meta["style"] == "fluent-3d"


# ---------------------------------------------------------------- captions


def test_captions_say_name_keywords_and_style_in_both_languages():
    said = captions(ROW)
    assert {"fox", "a fox", "a 3D emoji of a fox", "fox, 3D", "狐狸", "立体狐狸", "立体风格的狐狸"} <= set(said)
    assert [set(c.split(", ")) for c in said if "animal" in c] == [{"animal", "face"}]  # not the name again
    assert len(said) == len(set(said)) >= 10 and captions(ROW) == said
    styled = [c for c in said if "3D" in c or "立体" in c]
    assert 0.4 < len(styled) / len(said) < 0.8
    flat = captions(ROW | {"style": "fluent-flat"})
    assert "a flat emoji of a fox" in flat and "扁平狐狸" in flat and not any("3D" in c for c in flat)
    assert "a watercolour emoji of a fox" in captions(ROW | {"style": "watercolour"})


def test_every_style_has_a_word_of_its_own_in_each_language():
    assert set(STYLES) == {"noto", "fluent-3d", "fluent-flat", "twemoji", "openmoji"}
    for words in zip(*STYLES.values()):
        assert len(set(words)) == len(STYLES)
    assert (STYLES["fluent-3d"].en, STYLES["fluent-3d"].zh, STYLES["fluent-flat"].zh) == ("3D", "立体", "扁平")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("flag: Japan", "flag of Japan"),
        ("旗: 日本", "日本国旗"),
        ("keycap: 1", "keycap 1"),
        ("按键: 1", "按键1"),
        ("man: red hair", "man red hair"),
        ("fox", "fox"),
    ],
)
def test_names_as_one_says_them(name, said):
    assert spoken(name) == said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("grinning cat", "a grinning cat"),
        ("alarm clock", "an alarm clock"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("hourglass done", "an hourglass done"),
        ("wine glass", "a wine glass"),
        ("men holding hands", "men holding hands"),
        ("sunglasses", "sunglasses"),
        ("people hugging", "a people hugging"),
        ("Taurus", "Taurus"),
    ],
)
def test_articles(name, said):
    assert with_article(name) == said


# ---------------------------------------------------------------- the font


@pytest.fixture(scope="module")
def drawn():
    pytest.importorskip("emoji")
    try:
        find_font()
    except Problem as none:
        pytest.skip(str(none))
    return Emoji()


def test_the_font_draws_named_emoji_in_colour(drawn):
    assert len(drawn) > 1000 and len({r["codepoint"] for r in drawn.rows}) == len(drawn)
    assert set(drawn.rows[0]) == set(COLUMNS) - {"image"}
    by_code = {r["codepoint"]: i for i, r in enumerate(drawn.rows)}
    fox = drawn[by_code["1f98a"]]
    assert (fox.meta["name_en"], fox.meta["name_zh"], fox.meta["group"]) == ("fox", "狐狸", "animals-nature")
    assert "狐狸" in fox.captions and "fox" in fox.captions
    pixels = np.asarray(fox.image).astype(int)
    assert pixels.shape == (128, 128, 4) and drawn.size(by_code["1f98a"]) == (128, 128)
    solid = pixels[pixels[..., 3] > 200]
    assert (pixels[..., 3] == 0).mean() > 0.1 < len(solid) / 128**2
    assert (solid[:, 0] - solid[:, 2] > 60).mean() > 0.3  # a fox is orange
    assert not any(0x1F3FB <= int(c, 16) <= 0x1F3FF for r in drawn.rows for c in r["codepoint"].split("-"))
    pictures = [drawn.picture(i).tobytes() for i in range(200)]
    assert len(set(pictures)) > 190  # no box for what is missing


def test_countries_flags_are_left_out_unless_asked_for(drawn):
    assert not any(r["subgroup"] == "country-flag" for r in drawn.rows)
    assert len(Emoji(groups="flags", flags=True)) >= len(Emoji(groups="flags"))
    assert all(r["group"] == "food-drink" for r in Emoji(groups="food-drink", names=20).rows)


def test_drawn_emoji_make_a_table(drawn, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    few = Emoji(names=5)
    write_table(few, tmp_path / "drawn.parquet")
    assert parquet.read_schema(tmp_path / "drawn.parquet").names == list(COLUMNS)
    again = open_source(f"emoji:path={tmp_path / 'drawn.parquet'}")
    assert [e.captions for e in (again[i] for i in range(5))] == [few[i].captions for i in range(5)]
    assert again[2].image.tobytes() == few[2].image.tobytes()


def test_no_font_is_a_problem_that_says_what_to_install(tmp_path):
    with pytest.raises(Problem, match="apt install fonts-noto-color-emoji"):
        find_font((str(tmp_path), str(tmp_path / "none")))
    (tmp_path / "NotoColorEmoji.ttf").write_bytes(b"no font")
    with pytest.raises(Problem, match="apt install"):
        find_font((str(tmp_path),))
    with pytest.raises(Problem, match="cannot be opened as a font"):
        FontEmoji(tmp_path / "NotoColorEmoji.ttf")
    with pytest.raises(Problem, match="no such file"):
        open_source("emoji:font=nowhere.ttf")


def test_a_missing_package_is_named(drawn, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "emoji", None)
    with pytest.raises(Problem, match=r"pip install 'phosphene\[train\]'"):
        _ = FontEmoji(find_font()).rows


def test_groups_follow_unicode(shared):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(shared / "data" / "emoji.parquet", columns=["emoji", "group"]).to_pylist()
    right = sum(group_of(r["emoji"]) == r["group"] for r in rows)
    assert right / len(rows) > 0.995


def test_the_shared_table(shared):
    pytest.importorskip("pyarrow")
    source = Emoji(str(shared / "data" / "emoji.parquet"), styles="noto|fluent-3d|fluent-flat|twemoji")
    assert len(source) == 6066 and len({r["codepoint"] for r in source.rows}) == 1647
    assert sum(r["split"] == "val" for r in source.rows) == 328
    example = source[0]
    assert example.image.mode == "RGBA" and example.image.size == (128, 128) and len(example.captions) >= 10
