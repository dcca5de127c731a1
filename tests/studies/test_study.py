"""A study: what it needs is trained once, what it finds is a table and a plot; each shipped one is well formed."""

import json

import pytest
from PIL import Image

from phosphene.cli import main
from phosphene.metrics.interval import Interval
from phosphene.recipes import RECIPES, Plan, base
from phosphene.studies import STUDIES, Found, Job, Need, Study, study


@pytest.fixture
def toy(monkeypatch):
    """The study "toy" of two runs of a recipe that trains one number towards `aim`, and counts how often it is run."""
    import torch

    from phosphene.systems.autoencoder import AutoencoderSystem
    from systems.small import autoencoder, eight

    trained = []

    class Data:
        slots = 1

        def stream(self, start, workers=0, slots=(0,)):
            yield from ((step, [eight("none")] * len(slots)) for step in range(start, 99))

    @base.recipe()
    def one(*, aim: float = 1.0, seed: int = 0) -> Plan:
        """Trains nothing worth having."""
        trained.append(aim)
        torch.manual_seed(0)
        return Plan(AutoencoderSystem(autoencoder()), Data(), dict(steps=1, tensorboard=False))

    def measured(job: Job):
        assert sorted(job.systems) == ["high", "low"] and not any(s.training for s in job.systems.values())
        yield f"looking at {job.n}"
        rows = [["low", Interval(0.5, 0.25, 0.75), None], ["high", 2.0, job.seed]]
        yield Found(
            ("aim", "value", "seed"), rows, Image.new("RGB", (8, 8)), "No difference.", {"more": Image.new("L", (4, 4))}
        )

    monkeypatch.setitem(RECIPES, "toy.one", one)
    module = type("module", (), {"STUDY": Study("Is one more than the other?", {
        "low": Need("toy.one"), "high": Need("toy.one", {"aim": 2.0})}, measured, n=7)})  # fmt: skip
    monkeypatch.setitem(STUDIES, "toy", "phosphene.toy_study")
    monkeypatch.setitem(__import__("sys").modules, "phosphene.toy_study", module)
    return trained


def test_it_trains_what_is_missing_once_and_writes_what_it_found(toy, tmp_path, capsys):
    for _ in range(2):
        assert main(["study", "toy", "--runs", str(tmp_path), "--seed", "3"]) == 0
    assert toy == [1.0, 2.0] and (tmp_path / "toy.one-aim=2.0" / "model.safetensors").is_file()
    out = tmp_path / "study.toy"
    assert sorted(p.name for p in out.iterdir()) == ["more.png", "plot.png", "study.json", "table.md"]
    said = capsys.readouterr().out
    assert "looking at 7" in said and "| high | 2 | 3 |" in said and "No difference." in said
    assert "| low | 0.5 (0.25 to 0.75) | – |" in (out / "table.md").read_text()
    found = json.loads((out / "study.json").read_text())
    assert found["rows"][0]["value"] == {"value": 0.5, "low": 0.25, "high": 0.75} and found["seed"] == 3
    assert Image.open(out / "plot.png").size == (8, 8)


def test_what_cannot_be_is_said(toy, tmp_path, capsys):
    assert main(["study", "guidnce"]) == 2 and main(["study", "toy", "--runs", str(tmp_path), "-n", "1"]) == 2
    (tmp_path / "study.toy").write_text("a file")
    assert main(["study", "toy", "--runs", str(tmp_path)]) == 2 and toy == []  # said before anything is trained
    assert main(["study", "toy", "prediction"]) == 2
    assert "unknown study 'guidnce'" in capsys.readouterr().err.splitlines()[0]


def test_the_list_of_studies(toy, capsys):
    assert main(["study"]) == 0
    assert "Is one more than the other?" in capsys.readouterr().out


@pytest.mark.parametrize("name", STUDIES)
def test_each_needs_what_there_is(name):
    """Recipes that exist, with knobs that they have; its question ends as questions do."""
    it = study(name)
    assert it.question.endswith("?") and it.needs
    for need in it.needs.values():
        need.made()
