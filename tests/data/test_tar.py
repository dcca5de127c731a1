"""Tar shards of webdataset and img2dataset, whole, filtered, cut off."""

import io
import json
import tarfile

import pytest

from phosphene.data import tar
from phosphene.data.base import open_source
from phosphene.data.batches import Batches
from phosphene.errors import Problem


def write(path, files):
    with tarfile.open(path, "w") as out:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.fixture
def shards(tmp_path, encoded):
    """Two shards as img2dataset writes them: 3 rows, then 2."""
    for shard, n in enumerate([3, 2]):
        files = {}
        for i in range(n):
            fields = {
                "key": f"{shard}{i}",
                "caption": f"caption {shard}{i}",
                "similarity": 0.1 * (3 * shard + i),
                "width": 8,
            }
            fields["LANGUAGE"] = "en" if i else "zh"
            files[f"{shard}{i}.jpg"] = encoded((40 * (3 * shard + i), 0, 0), format="JPEG")
            files[f"{shard}{i}.json"] = json.dumps(fields).encode()
        write(tmp_path / f"{shard}.tar", files)
    return tmp_path


def test_img2dataset(shards):
    for spec in (str(shards), f"{shards}/*.tar"):
        source = open_source(spec)
        assert [e.captions[0] for e in source] == [f"caption {k}" for k in ("00", "01", "02", "10", "11")]
    assert source[3].meta["similarity"] == pytest.approx(0.3) and source[3].meta["file"].endswith("1.tar, 10")
    assert abs(source[3].image.getpixel((3, 3))[0] - 120) < 3 and source.size(0) == (8, 8)
    assert source.shards is None and "caption" not in source.lacks and "label" in source.lacks


@pytest.mark.parametrize("table", [False, True])
def test_filters_on_fields_and_on_the_table_beside(shards, table):
    if table:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        for shard, n in enumerate([3, 2]):
            rows = {"key": [f"{shard}{i}" for i in range(n)] + ["failed"], "status": ["success"] * n + ["failed"]}
            rows |= {
                "LANGUAGE": [*["zh", "en", "en"][:n], None],
                "similarity": [0.1 * (3 * shard + i) for i in range(n)] + [None],
            }
            pq.write_table(pa.table(rows), shards / f"{shard}.parquet")

    def kept(terms):
        return [row[1] for row in open_source(f"{shards}/*.tar:{terms}").rows]

    assert kept("LANGUAGE==en") == ["01", "02", "11"]
    assert kept("similarity>0.15,LANGUAGE==en|zh") == ["02", "10", "11"]
    assert kept("LANGUAGE==en,height>=8") == ["01", "02", "11"] and kept("height>8") == []
    assert kept("status==success" if table else "width>=8") == ["00", "01", "02", "10", "11"]
    with pytest.raises(
        Problem, match=r"unknown column in the filter language==en of .*0.tar: 'language'; did you mean"
    ):
        kept("language==en")


def test_shards_are_the_unit_of_order_where_they_are_large(shards, monkeypatch):
    monkeypatch.setattr(tar, "IN_MEMORY", 0)
    source = open_source(f"{shards}:LANGUAGE==en")
    assert source.shards == [2, 1]
    rows = [i for s in range(3) for i in Batches(source, size=8, batch=1).at(s).index.tolist()]
    assert sorted(rows) == [0, 1, 2] and rows[1] != 2


def test_webdataset_text_class_and_folders(tmp_path, encoded):
    path = write(
        tmp_path / "w.tar",
        {
            "a/1.jpg": encoded(format="JPEG"), "a/1.txt": "one\n一\n".encode(), "a/1.cls": b"7",
            "a/1.seg.png": b"ignored", "b/1.PNG": encoded(), "b/1.txt": b"two", "b/1.cls": b"2", "c.txt": b"no picture",
        },
    )  # fmt: skip
    source = open_source(path)
    assert [(e.captions, e.label) for e in source] == [(("one", "一"), 7), (("two",), 2)] and not source.lacks


def test_captions_by_name_go_before_txt(tmp_path, encoded):
    row = {"1.png": encoded(), "1.txt": b"from txt", "1.json": b'{"caption": "from json", "alt": ["x", "y"]}'}
    path = write(tmp_path / "w.tar", row)
    assert open_source(path)[0].captions == ("from txt",)
    assert open_source(f"{path}:caption=alt")[0].captions == ("x", "y")
    with pytest.raises(Problem, match=r"unknown column of .*'atl'; did you mean 'alt'"):
        open_source(f"{path}:caption=atl")


def test_a_tar_cut_in_the_middle(shards):
    path = shards / "0.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as t:
        second = next(m for m in t if m.name == "01.jpg")
    cuts = {second.offset_data + 20: 2, second.offset: 1, second.offset + 100: 1}
    for at, rows in cuts.items():
        path.write_bytes(whole[:at])
        source = open_source(str(path))
        last = "01" if rows == 2 else "00"
        assert [row[1] for row in source.rows] == ["00", "01"][:rows]
        with pytest.raises(Problem, match=rf"0.tar: cut off at {last}; what came after it is missing"):
            source[rows - 1]
    path.write_bytes(whole[: second.offset_data + 20])
    batches = Batches(str(shards), size=8, batch=8)
    batches.at(0)
    assert [why.split(": ")[1][:13] for why in batches.broken.values()] == ["cut off at 01"]
    assert open_source(str(path))[0].captions == ("caption 00",)


def test_no_tar(tmp_path, encoded, shards):
    import gzip

    (tmp_path / "z.tar").write_bytes(gzip.compress((shards / "0.tar").read_bytes()))
    (tmp_path / "h.tar").write_bytes(b"<!DOCTYPE html>" * 100)
    for name in ("z.tar", "h.tar"):
        with pytest.raises(Problem, match=rf"{name}: not an uncompressed tar file"):
            open_source(str(tmp_path / name))
    (tmp_path / "e.tar").write_bytes(b"")
    with pytest.raises(Problem, match=r"e.tar"):
        Batches(str(tmp_path / "e.tar"), size=8, batch=1)
    write(tmp_path / "n.tar", {"a.txt": b"x"})
    with pytest.raises(Problem, match=r"n.tar is empty: no picture in it"):
        Batches(str(tmp_path / "n.tar"), size=8, batch=1)


def test_broken_rows(tmp_path, encoded):
    rows = {
        "1.png": b"junk", "1.txt": b"x", "2.png": encoded(), "2.txt": b"x", "2.json": b"{oops",
        "3.png": encoded(), "3.cls": b"cat", "4.png": encoded(), "4.json": b"[1]",
        "5.png": encoded(), "5.txt": b"\xff\xfe",
    }  # fmt: skip
    source = open_source(write(tmp_path / "w.tar", rows))
    for i, says in enumerate(
        [
            "w.tar, 1: not a picture",
            "2.json: not JSON",
            "3.cls: 'cat' is not a class",
            "4.json: a list",
            "5.txt: not UTF-8",
        ]
    ):
        with pytest.raises(Problem, match=says):
            source[i]


def test_missing_captions_are_said(tmp_path, encoded):
    path = write(tmp_path / "w.tar", {"1.png": encoded(), "1.json": b'{"url": "x", "key": 1}'})
    with pytest.raises(Problem, match=r"no caption column \(its columns are url, key\)"):
        Batches(path, size=8, batch=1)
