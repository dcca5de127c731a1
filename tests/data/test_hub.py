"""Sets that `datasets` reads, here from the disk: the network is not needed."""

import io
import subprocess
import sys

import pytest
from PIL import Image

from phosphene.data.base import open_source
from phosphene.data.batches import Batches
from phosphene.errors import Problem

datasets = pytest.importorskip("datasets")


@pytest.fixture
def saved(tmp_path):
    """A set of two splits, saved: 6 pictures with captions, classes, scores; one is broken."""
    pictures = []
    for i in range(6):
        out = io.BytesIO()
        Image.new("RGB", (8 + i, 8), (20 * i, 0, 0)).save(out, "PNG")
        pictures.append({"bytes": out.getvalue() if i != 4 else b"junk", "path": None})
    features = datasets.Features(
        {
            "img": datasets.Image(), "alt": datasets.Value("string"), "score": datasets.Value("float32"),
            "label": datasets.ClassLabel(names=["cat", "polar_bear"]),
        }
    )  # fmt: skip
    rows = {
        "img": pictures,
        "alt": [f"caption {i}" for i in range(6)],
        "label": [i % 2 for i in range(6)],
        "score": [0.1 * i for i in range(6)],
    }
    data = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(str(tmp_path / "set"))
    return str(tmp_path / "set")


def test_a_saved_set(saved):
    source = open_source(saved)
    assert len(source) == 6 and source[1].captions == ("caption 1",) and source[3].label == 1
    assert source[3].image.getpixel((0, 0)) == (60, 0, 0) and source.size(3) == (11, 8)
    assert source[2].meta["score"] == pytest.approx(0.2) and "img" not in source[2].meta
    assert len(open_source(f"{saved}:split=test")) == 1
    kept = open_source(f"{saved}:score>0.05,width<12,label==1")
    assert [kept[i].captions[0] for i in range(len(kept))] == ["caption 1", "caption 3"]


def test_class_names_are_captions_where_there_are_no_others(saved, tmp_path):
    datasets.load_from_disk(saved)["train"].remove_columns(["alt"]).save_to_disk(str(tmp_path / "plain"))
    source = open_source(str(tmp_path / "plain"))
    assert [source[i].captions for i in range(2)] == [("cat",), ("polar bear",)] and not source.lacks


def test_the_same_by_hub_and_load_dataset(saved, tmp_path):
    """`load_dataset` also reads a folder, which stands in for the Hub here."""
    datasets.load_from_disk(saved)["train"].to_parquet(str(tmp_path / "repo/train.parquet"))
    source = open_source(f"hub:{tmp_path}/repo:split=train,caption=alt")
    assert len(source) == 6 and source[5].captions == ("caption 5",) and source[5].image.size == (13, 8)


def test_broken_pictures_and_workers(saved):
    batches = Batches(saved, size=8, batch=6)
    alone = batches.at(0)
    assert list(batches.broken) == [4] and batches.broken[4].startswith(f"{saved}, row 4: not a picture")
    _, (helped,) = next(Batches(saved, size=8, batch=6).stream(workers=2))
    assert alone.prompts == helped.prompts and alone.image.equal(helped.image)


def test_what_is_not_there(saved):
    with pytest.raises(Problem, match=r"unknown split of .*'val'.*Known: test, train"):
        open_source(f"{saved}:split=val")
    with pytest.raises(Problem, match=r"unknown column of .*'capt'.*Known: alt, img, label, score"):
        open_source(f"{saved}:caption=capt")
    with pytest.raises(Problem, match=r"hub:/no/where cannot be had, split='train': "):
        open_source("hub:/no/where")


def test_without_the_library_the_line_to_type_is_said():
    code = (
        "import sys; sys.modules['datasets'] = None\n"
        "from phosphene.data.base import open_source\n"
        "try: open_source('hub:a/b')\nexcept ValueError as e: print(e)"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert said.strip() == "reading hub:a/b needs datasets: pip install 'phosphene[train]' (or pip install datasets)"
