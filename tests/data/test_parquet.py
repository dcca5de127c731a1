"""Parquet: ours, Hugging Face's, img2dataset's; whole files or row group by row group."""

import json

import pytest

from phosphene.data import parquet
from phosphene.data.base import open_source
from phosphene.data.batches import Batches
from phosphene.errors import Problem

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def table(tmp_path):
    def make(name="t.parquet", row_group_size=None, **columns):
        pq.write_table(pa.table(columns), tmp_path / name, row_group_size=row_group_size)
        return str(tmp_path / name)

    return make


def test_columns_are_found(table, encoded):
    path = table(
        image=[encoded((i, 0, 0)) for i in range(4)],
        thumbnail=[b"x"] * 4,
        name_en=["a", "b", "c", None],
        name_zh=["甲", "乙", "丙", ""],
        keywords_en=[["k"], [], None, ["x", "y"]],
        label=[3, 1, 2, 0],
        score=[0.1, 0.5, None, 0.9],
    )
    source = open_source(path)
    assert len(source) == 4 and not source.lacks
    assert [e.captions for e in source] == [("a", "甲"), ("b", "乙"), ("c", "丙"), ()]
    assert [e.label for e in source] == [3, 1, 2, 0] and source[1].meta["score"] == 0.5
    assert "image" not in source[1].meta and "thumbnail" not in source[1].meta
    assert [e.image.getpixel((0, 0))[0] for e in source] == [0, 1, 2, 3] and source.size(2) == (8, 8)
    assert open_source(f"{path}:caption=keywords_en|name_en")[3].captions == ("x", "y")
    assert [e.label for e in open_source(f"{path}:score>0.3")] == [1, 0]
    assert [e.label for e in open_source(f"{path}:name_zh==甲|丙,label>2")] == [3]


def test_hugging_face_pictures(table, encoded):
    source = open_source(
        table(id=[1, 2], photo=[{"bytes": encoded(), "path": "a.png"}, {"bytes": None, "path": "b"}], text=["x", "y"])
    )
    assert source[0].captions == ("x",) and source[0].image.size == (8, 8)
    with pytest.raises(Problem, match=r"t.parquet, row 1 of row group 0: no picture in column photo"):
        source[1]


def test_sizes_can_be_filtered_without_a_column(table, encoded):
    path = table(image=[encoded(size=(4, 4)), encoded(size=(9, 4)), b"broken"], text=["s", "w", "b"])
    assert [open_source(f"{path}:width>=8")._row(i)[0]["text"] for i in range(2)] == ["w", "b"]


def test_many_row_groups_and_files(table, tmp_path, encoded, monkeypatch):
    for k in range(2):
        table(
            f"{k}.parquet",
            3,
            image=[encoded((10 * k + i, 0, 0)) for i in range(7)],
            text=[f"{k}/{i}" for i in range(7)],
        )
    source = open_source(str(tmp_path))
    texts = [source[i].captions[0] for i in range(14)]
    assert texts == [f"{k}/{i}" for k in range(2) for i in range(7)] and source.shards is None
    monkeypatch.setattr(parquet, "IN_MEMORY", 0)
    large = open_source(f"{tmp_path}/*.parquet:text!=0/4")
    assert large.shards == [3, 2, 1, 3, 3, 1]
    drawn = [p for s in range(13) for p in Batches(large, size=8, batch=1, drop=0).at(s).prompts]
    assert sorted(drawn) == sorted(set(texts) - {"0/4"})
    assert len(large._tables) <= parquet.KEPT
    with pytest.raises(IndexError):
        large[13]


def test_missing_columns(table, encoded):
    path = table(image=[encoded()], artist=["me"], year=[1])
    for prompts, says in [("caption", "no caption column"), ("label", "no label column")]:
        with pytest.raises(
            Problem, match=rf"{says} \(its columns are image, artist, year\); name it with :{prompts}=COLUMN"
        ):
            Batches(open_source(path), size=8, batch=1, prompts=prompts)
    with pytest.raises(Problem, match=r"unknown column of .*'artis'; did you mean 'artist'"):
        open_source(f"{path}:caption=artis")
    with pytest.raises(Problem, match=r"no column of encoded pictures; its columns are a, b"):
        open_source(table(a=[1], b=["x"]))


def test_files_that_differ(table, tmp_path, encoded):
    table("0.parquet", image=[encoded()], caption=["x"])
    table("1.parquet", image=[encoded()], text=["x"])
    with pytest.raises(Problem, match=r"1.parquet has no column caption, unlike .*0.parquet; it has image, text"):
        open_source(str(tmp_path))


def test_broken_files(table, tmp_path, encoded):
    path = tmp_path / "html.parquet"
    path.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(Problem, match=r"html.parquet: not a whole Parquet file"):
        open_source(str(path))
    whole = (tmp_path / "t.parquet", table(image=[encoded()], caption=["x"]))[0].read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Problem, match=r"html.parquet: not a whole Parquet file"):
        open_source(str(path))


def test_a_broken_picture_is_named_by_its_row(table, encoded):
    batches = Batches(open_source(table(image=[encoded(), b"junk", encoded()], text=["a", "b", "c"])), size=8, batch=3)
    batches.at(0)
    assert list(batches.broken) == [1] and "t.parquet, row 1 of row group 0: not a picture" in batches.broken[1]


def test_cifar10_as_shared(shared):
    batches = Batches(str(shared / "data/cifar10_test.parquet"), size=32, batch=64, drop=0, prompts="label")
    batch = batches.at(0)
    assert (
        len(batches.source) == 10_000 and batch.image.shape == (64, 3, 32, 32) and set(batch.prompts) <= set(range(10))
    )


def test_emoji_as_shared(shared):
    source = open_source(f"{shared}/data/emoji.parquet:split==val,style==noto|twemoji,caption=name_en|name_zh")
    assert 0 < len(source) < 424 and json.dumps(source[0].captions)
    assert {source[i].meta["style"] for i in range(len(source))} == {"noto", "twemoji"}
