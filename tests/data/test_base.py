"""The spec: one line of text that says where the pictures are."""

import subprocess
import sys

import pytest

from phosphene.data.base import Filter, open_source, parse_spec, passes
from phosphene.errors import Problem


def test_spec_grammar():
    assert parse_spec("scenes") == ("scenes", {}, [])
    assert parse_spec("hub:me/set") == ("hub:me/set", {}, [])
    assert parse_spec("hub:me/set:split=test,caption=a|b") == ("hub:me/set", {"split": "test", "caption": "a|b"}, [])
    what, options, filters = parse_spec("shards/*.tar:LANGUAGE==en|zh,similarity>0.3,width>=256,caption=alt")
    assert (what, options) == ("shards/*.tar", {"caption": "alt"})
    assert [str(f) for f in filters] == ["LANGUAGE==en|zh", "similarity>0.3", "width>=256"]
    assert parse_spec(r"C:\pictures:split==a") == (r"C:\pictures", {}, [Filter("split", "==", "a")])
    assert parse_spec("odd:name") == ("odd:name", {}, [])


@pytest.mark.parametrize(
    "filter, passing, failing",
    [
        (Filter("a", "==", "en|zh"), ["en", "zh"], ["fr", None, ""]),
        (Filter("a", "==", "3"), [3, 3.0, "3"], [4, "3.0"]),
        (Filter("a", "==", "true"), [True], [False]),
        (Filter("a", "!=", "en"), ["zh", None], ["en"]),
        (Filter("a", ">", "0.5"), [0.6, "0.6", 1], [0.5, None, "x"]),
        (Filter("a", ">=", "256"), [256, 300.5], [255, None]),
        (Filter("a", "<", "2"), [1], [2, 3, None]),
        (Filter("a", "<=", "2"), [2], [2.1, None]),
    ],
)
def test_filters(filter, passing, failing):
    assert all(passes({"a": value}, [filter]) for value in passing)
    assert not any(passes({"a": value}, [filter]) for value in failing)


def test_a_comparison_wants_a_number():
    with pytest.raises(Problem, match=r"width>=wide: >= wants a number, not 'wide'"):
        parse_spec("x:width>=wide")


@pytest.mark.parametrize(
    "spec, says",
    [
        ("", "an empty data spec"),
        ("nowhere", "no data at 'nowhere': there is no such file or folder. Data is one of: scenes, emoji, hub:"),
        ("scene", "no data at 'scene'"),
        ("nowhere.parquet", "no .parquet file at 'nowhere.parquet'"),
        ("no/where/*.tar", "no .tar file at 'no/where/\\*.tar'"),
        ("nowhere.npz", "nowhere.npz: there is no such file"),
    ],
)
def test_no_data_there(spec, says):
    with pytest.raises(Problem, match=says):
        open_source(spec)


def test_files_of_other_kinds(tmp_path):
    for name, says in [
        ("table.xlsx", "files ending in .xlsx are not known"),
        ("data_batch_1", "a pickle can run code"),
    ]:
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(Problem, match=says):
            open_source(str(tmp_path / name))


def test_options_are_checked_and_converted(tmp_path, encoded):
    (tmp_path / "a.png").write_bytes(encoded())
    with pytest.raises(
        Problem, match=r"unknown option of a folder of pictures 'captoin'; did you mean 'caption'\?.*captoin==x"
    ):
        open_source(f"{tmp_path}:captoin=x")
    import numpy as np

    np.savez(tmp_path / "n.npz", x_train=np.zeros((2, 28, 28), np.uint8), y_train=np.zeros(2, np.uint8))
    assert open_source(f"{tmp_path}/n.npz:pad=40")[0].image.shape == (40, 40)
    with pytest.raises(Problem, match=r"pad='big' should be of type int, like 32"):
        open_source(f"{tmp_path}/n.npz:pad=big")
    with pytest.raises(Problem, match=r"has no columns, so the filter label==3 means nothing; options: split, pad"):
        open_source(f"{tmp_path}/n.npz:label==3")


def test_a_file_may_be_called_like_the_name_of_a_kind(tmp_path, encoded, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"image": [encoded()], "text": ["x"]}), "table.parquet")
    assert open_source("table.parquet")[0].captions == ("x",)


def test_built_in_sets():
    source = open_source("scenes:size=64,n=7,split=unseen,objects=2-3")
    assert len(source) == 7 and source[0].image.size == (64, 64) and source[3].captions
    with pytest.raises(Problem, match=r"unknown option of scenes 'sise'; did you mean 'size'\? .*objects"):
        open_source("scenes:sise=64")
    with pytest.raises(Problem, match=r"scenes has no columns, so the filter split==test means nothing"):
        open_source("scenes:split==test")


def test_base_needs_neither_torch_nor_pillow():
    code = "import sys, phosphene.data.base; print({'torch', 'PIL', 'pyarrow', 'datasets'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
