"""The notebooks run from top to bottom, with nothing but the package and what is shipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phosphene.views import View
from phosphene.weights import bundle

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[str]:
    return ["".join(c["source"]) for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == kind]


def test_there_is_one():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_its_cells_run(path, monkeypatch, tmp_path):
    if "emoji" not in bundle.shipped():
        pytest.skip("no model is shipped with this tree")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    shown = 0
    for code in cells(path, "code"):
        *before, last = code.rstrip().split("\n")
        exec(compile("\n".join(before), path.name, "exec"), names)  # the last line of a cell is what it shows
        try:
            shown += isinstance(eval(compile(last, path.name, "eval"), names), View)
        except SyntaxError:
            exec(compile(last, path.name, "exec"), names)
    assert shown >= 4
    assert not list(tmp_path.iterdir())  # it leaves nothing behind


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_is_small(path):
    assert path.stat().st_size < 300_000


def test_stored_pictures_are_of_the_code_beside_them():
    """Each cell that ends in a view has its picture stored, so that the page can be read without running it."""
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            last = "".join(cell["source"]).rstrip().split("\n")[-1]
            if cell["cell_type"] == "code" and last.startswith("views."):
                assert any("image/png" in out.get("data", {}) for out in cell["outputs"]), last
