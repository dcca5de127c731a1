"""Folders: captions beside the pictures, in metadata, or sub-folders as classes."""

import json

import pytest

from phosphene.data.base import open_source
from phosphene.data.batches import Batches
from phosphene.errors import Problem


@pytest.fixture
def folder(tmp_path, encoded):
    def make(*names, **files):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(encoded())
        for name, text in files.items():
            (tmp_path / name.replace("__", ".")).write_text(text, encoding="utf-8")
        return str(tmp_path)

    return make


def test_captions_beside_the_pictures(folder):
    source = open_source(folder("a.png", "b.JPG", a__txt="a red square\n\n 一个红色方块 \n", c__txt="of nothing"))
    assert len(source) == 2 and not source.lacks.get("caption")
    assert source[0].captions == ("a red square", "一个红色方块") and source[1].captions == ()
    assert source[0].image.size == (8, 8) and source.size(1) == (8, 8) and source[0].meta["file"].endswith("a.png")


def test_metadata_jsonl(folder):
    rows = [
        {"file_name": "a.png", "caption": ["one", "two"], "label": 3, "similarity": 0.4},
        {"file_name": "sub/b.png", "caption": "three", "label": 1, "similarity": 0.2},
    ]
    path = folder("a.png", "sub/b.png", metadata__jsonl="\n".join(map(json.dumps, rows)))
    source = open_source(path)
    assert [e.captions for e in source] == [("one", "two"), ("three",)] and [e.label for e in source] == [3, 1]
    assert source[1].meta["similarity"] == 0.2
    assert [e.captions for e in open_source(f"{path}:similarity>0.3")] == [("one", "two")]
    assert len(open_source(f"{path}:width>=9")) == 0 and len(open_source(f"{path}:width>=8,height<9")) == 2


def test_metadata_csv_in_a_subfolder_with_columns_named(folder, tmp_path):
    path = folder("s/a.png", "s/b.png", "s/a.txt")
    (tmp_path / "s/a.txt").write_text("from txt")
    (tmp_path / "s/metadata.csv").write_text(
        'file_name,en,zh,split\na.png,"one, two",一,train\nb.png,"[""x"", ""y""]",,test\n'
    )
    source = open_source(f"{path}:caption=en|zh")
    assert [e.captions for e in source] == [("one, two", "一", "from txt"), ("x", "y")]
    assert len(open_source(f"{path}:caption=en,split==train")) == 1
    with pytest.raises(Problem, match=r"unknown column of .*'ne'; did you mean 'en'\? Known: en, split, zh"):
        open_source(f"{path}:caption=ne")
    with pytest.raises(Problem, match=r"unknown column in the filter splt==train of .*did you mean 'split'"):
        open_source(f"{path}:splt==train")


def test_class_folders(folder):
    path = folder("dog/1.png", "dog/x/2.png", "polar_bear/3.png")
    source = open_source(path)
    assert [(e.label, e.captions) for e in source] == [(0, ("dog",))] * 2 + [(1, ("polar bear",))]
    assert source.classes == ["dog", "polar_bear"] and not source.lacks
    assert [e.label for e in open_source(f"{path}:class==polar_bear")] == [1]


def test_pictures_without_words(folder):
    source = open_source(folder("a.png", "b.png"))
    with pytest.raises(Problem, match=r"has pictures but no captions: put a .txt beside each"):
        Batches(source, size=8, batch=2)
    with pytest.raises(Problem, match=r"has no classes: sort the pictures into one sub-folder a class"):
        Batches(source, size=8, batch=2, prompts="label")
    assert Batches(source, size=8, batch=2, prompts="none").at(0).prompts == [None, None]


def test_missing_caption_column(folder):
    source = open_source(folder("a.png", metadata__jsonl='{"file_name": "a.png", "artist": "me", "year": 1}'))
    with pytest.raises(
        Problem, match=r"no caption column \(its columns are artist, year\); name it with :caption=COLUMN"
    ):
        Batches(source, size=8, batch=1)


def test_broken_pictures_are_met_when_read(folder, tmp_path):
    path = folder("a.png", "b.png", a__txt="x")
    (tmp_path / "c.png").write_bytes(b"not a picture")
    (tmp_path / "d.jpg").write_bytes((tmp_path / "a.png").read_bytes())  # a PNG in spite of its name
    source = open_source(f"{path}:width>=4")
    assert len(source) == 4 and source[3].image.format == "PNG"
    batches = Batches(source, size=8, batch=4)
    batches.at(0)
    assert list(batches.broken) == [2] and "c.png: not a picture of a known format" in batches.broken[2]
    with pytest.raises(Problem, match=r"c.png"):
        source.size(2)


@pytest.mark.parametrize(
    "files, says",
    [
        ({"metadata__jsonl": '{"file_name": "a.png"}\n{"file_name": oops}\n'}, r"metadata.jsonl, line 2: not JSON"),
        ({"metadata__jsonl": '\n["a.png", "x"]\n'}, r"metadata.jsonl, line 2: a list; each line is one object"),
        ({"metadata__jsonl": '{"caption": "x"}\n'}, r"metadata.jsonl, line 1: no file_name; its fields are caption"),
        ({"metadata__csv": "file_name,caption\na.png,x\nb.png\n"}, r"metadata.csv, line 3: not as many fields"),
        ({"metadata__csv": "file_name,caption\na.png,x,y\n"}, r"metadata.csv, line 2: not as many fields"),
        ({"metadata__jsonl": '{"file_name": "a.png", "label": "cat"}'}, r"label='cat' is not a class number"),
    ],
)
def test_bad_metadata_names_file_and_line(folder, files, says):
    with pytest.raises(Problem, match=says):
        open_source(folder("a.png", **files))[0]


def test_text_in_another_encoding(folder, tmp_path):
    path = folder("a.png")
    (tmp_path / "a.txt").write_bytes("笑脸".encode("gbk"))
    with pytest.raises(Problem, match=r"a.txt: not UTF-8"):
        open_source(path)[0]


def test_folders_without_pictures(tmp_path):
    with pytest.raises(
        Problem, match=r"holds no picture .*; a folder of pictures, Parquet files or .tar shards is right"
    ):
        open_source(str(tmp_path))
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x04")
    with pytest.raises(Problem, match=r"CIFAR-10's Python version; pickles are not read"):
        open_source(str(tmp_path))
