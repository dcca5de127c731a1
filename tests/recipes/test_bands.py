"""The band of a recipe: the rule, its file, what a run is told, and that what is shipped is whole."""

import importlib
import io
import itertools
import json
import math
import statistics
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from phosphene.errors import Problem
from phosphene.recipes import RECIPES, Plan, recipe
from phosphene.systems.base import Batch
from phosphene.training import band, plot
from phosphene.training.display import show
from recipes.banded import RECORD, about, curves, log, run, write
from training.toys import Data, Toy, no_bundle

ROOT = Path(__file__).parents[2]
STEPS = 120


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Where bands lie, with toy.toy's on it."""
    folder = tmp_path / "bands"
    folder.mkdir()
    monkeypatch.setattr(band, "FOLDER", folder)
    write(folder)
    return folder


# The rule -------------------------------------------------------------------------------------------------------------


def test_a_value_is_the_mean_of_the_last_eighth():
    rows = [{"step": s, "loss/model": float(s)} for s in range(10, 810, 10)] + [{"step": 801, "loss/model": 99.0}]
    assert band.valued(rows[:-1], "loss/model") == statistics.fmean(range(710, 801, 10))
    inside = [*range(710, 801, 10)]
    assert band.valued(rows, "loss/model") == pytest.approx((10 * sum(inside) + 99) / (10 * len(inside) + 1))
    assert band.valued([{"step": 1, "loss/model": 3.0}], "loss/model") == 3
    assert band.valued(rows, "score/right") is None


def test_the_band_is_the_documented_formula():
    values = [[1.0, 1.1, 1.2], [0.5, 0.55, 0.5], [0.3, 0.3, 0.33]]
    curve = band.Curve("loss/model", [20, 40, 80], values)
    x = [[math.log(v) for v in row] for row in values]
    variance = statistics.fmean(statistics.variance(row) for row in x)  # all steps are each other's neighbours
    half = 5 * math.sqrt(variance * 4 / 3)
    for row, (low, high) in zip(x, curve.edges):
        assert math.log(low) == pytest.approx(statistics.fmean(row) - half)
        assert math.log(high) == pytest.approx(statistics.fmean(row) + half)
    assert curve.at(20) == curve.edges[0] and curve.at(80) == curve.edges[2] and curve.at(19) is curve.at(81) is None
    between = curve.at(40 * 2**0.5)
    assert between == pytest.approx([(a + b) / 2 for a, b in zip(curve.edges[1], curve.edges[2])])


def test_the_band_has_a_least_width_and_negative_numbers_are_taken_as_they_are():
    low, high = band.Curve("loss/model", [20], [[2.0, 2.0, 2.0]]).at(20)
    assert math.log(high / low) == pytest.approx(0.04)
    low, high = band.Curve("score/right", [20, 40], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]).at(20)
    assert (low, high) == (0.0, 0.01)
    low, high = band.Curve("score/frechet", [20, 40], [[90.0, 60.0, 30.0], [9.0, 6.0, 3.0]]).at(40)
    assert 0 < low < 3 and high > 9
    low, high = band.Curve("loss/model", [20], [[-1.0, -1.2, 1.0]]).at(20)
    assert low < -1.2 < 1.0 < high


def test_of_sound_runs_few_leave_the_band():
    """At most one in fifty a metric, in 100 trials of three seeds and a fourth; of runs a third off nearly all do."""

    def leaves(trial: int, factor: float) -> bool:
        it = curves([log(4 * trial + k) for k in range(3)])
        rows = log(4 * trial + 3, factor=factor)
        places = [band.Band({}, it).places(rows[: i + 1]) for i in range(len(rows))]
        return any(p["loss/model"].where != "in" for p in places if "loss/model" in p)

    assert sum(leaves(trial, 1.0) for trial in range(100)) <= 2
    assert sum(leaves(trial, 1.33) for trial in range(20)) >= 18


def test_measured_takes_a_grid_and_what_all_runs_have():
    runs = [log(0), log(1, steps=500), log(2)]
    found = band.measured(runs)
    steps = found["loss/model"]["steps"]
    assert steps[0] == 20 and steps[-1] == 500
    assert all(1.2 < b / a < 1.7 for a, b in itertools.pairwise(steps[:-1]))
    assert found["score/right"]["steps"] == [100, 200, 300, 400, 500]
    assert found["loss/model"]["values"][3][1] == pytest.approx(
        band.valued(runs[1][: steps[3] // 10 + 1], "loss/model"), rel=1e-4
    )


# What a run is told ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "group, change, differs",
    [
        ("recipe", {"lr": 0.03}, ["lr"]),
        ("recipe", {"lr": 0.03, "width": 9}, ["lr", "width"]),
        ("recipe", {"seed": 9, "data": "elsewhere/pictures.npz"}, []),
        ("training", {"seed": 9, "log_every": 5}, []),
        ("training", {"precision": "bf16"}, ["precision"]),
        ("data", {"rows": 90, "source": "elsewhere"}, ["rows"]),
        ("system", {"shapes": "2"}, ["the network"]),
    ],
)
def test_turned_knobs_are_named(group, change, differs):
    record = RECORD | {group: RECORD[group] | change}
    assert band.Band(about(), {}).differences(json.loads(json.dumps(record))) == differs


def test_a_run_outside_is_told_so_once_a_metric(shelf, tmp_path):
    watch = watched(run(tmp_path / "toy.toy", []), log(9, factor=2.0))
    greeting, *said = watch
    assert greeting.startswith("The band: 3 seeds of toy.toy") and "a test" in greeting
    assert len(said) == 2 and "loss/model" in said[0] and "above the band" in said[0] and "phosphene doctor" in said[0]
    assert "grad_norm/model" in said[1]
    assert len(watched(run(tmp_path / "toy.toy", []), log(9))) == 1  # a sound one: the greeting alone


def test_a_run_with_turned_knobs_is_not_warned(shelf, tmp_path):
    folder = run(tmp_path / "toy.toy", [], recipe=RECORD["recipe"] | {"lr": 0.03})
    assert watched(folder, log(9, factor=2.0)) == [
        "The band is of the recipe's own settings; lr differs: shown for orientation only."
    ]


def test_a_recipe_without_a_band_says_so(shelf, tmp_path):
    (shelf / "toy.toy.json").unlink()
    assert [n[:44] for n in watched(run(tmp_path / "toy.toy", []), log(9))] == [
        "No band has been measured for this recipe: n"
    ]


@pytest.mark.parametrize(
    "broken",
    [
        lambda it: "{",
        lambda it: "[]",
        lambda it: json.dumps(it | {"format": 2}),
        lambda it: json.dumps({k: v for k, v in it.items() if k != "hardware"}),
        lambda it: json.dumps(it | {"seeds": [0, 1]}),
        lambda it: json.dumps(it | {"values": {"loss/model": {"steps": [20, 10], "values": [[1, 1, 1], [1, 1, 1]]}}}),
        lambda it: json.dumps(it | {"values": {"loss/model": {"steps": [20], "values": [[1, None, 1]]}}}),
        lambda it: json.dumps(it | {"values": {"loss/model": {"steps": [20], "values": [[1, 1]]}}}),
    ],
)
def test_a_broken_file_is_named_and_stops_no_training(shelf, tmp_path, broken):
    file = shelf / "toy.toy.json"
    file.write_text(broken(json.loads(file.read_text())))
    with pytest.raises(Problem, match=r"toy\.toy\.json"):
        band.of("toy.toy")
    [note] = watched(run(tmp_path / "toy.toy", []), log(9))
    assert note.startswith("The band cannot be shown: ") and "toy.toy.json" in note


def test_the_plot_has_the_band_as_far_as_the_run(shelf, tmp_path):
    rows = log(9, steps=300)
    folder = run(tmp_path / "toy.toy", rows)
    edges = band.edges_of(folder, rows)["loss/model"]
    assert edges[0][0] == 20 and edges[-1][0] == 300
    grey = lambda sheet: sum(1 for p in sheet.getdata() if p == tuple(bytes.fromhex(plot.BAND[1:])))  # noqa: E731
    assert grey(plot.losses(rows, {"loss/model": edges})) > 2000 and grey(plot.losses(rows)) == 0
    assert band.edges_of(run(folder, rows, system={"shapes": "2"}), rows) == {}


def watched(folder: Path, rows: list[dict]) -> list[str]:
    """All notes of a run with this log."""
    from phosphene.training import Progress

    watch, notes = band.Watch(folder), []
    for row in rows:
        numbers = {k: v for k, v in row.items() if k.startswith(("loss/", "grad_norm/"))}
        scores = {k: v for k, v in row.items() if k.startswith("score/")}
        at = Progress(row["step"], 600, 1e-3, 1, 1.0, 1.0, 1.0, numbers, logged=True, scores=scores)
        notes += watch.look(at).notes
    return notes


# A recipe, from three seeds to its band -------------------------------------------------------------------------------


class Louder(Data):
    """Other pictures than the recipe means, under the same name."""

    def at(self, step: int, slot: int) -> Batch:
        batch = super().at(step, slot)
        return Batch(2 * batch.image, batch.prompts, batch.index)


def drawn(system) -> dict[str, float]:
    """A score that draws random numbers: they must not be the training's."""
    torch.rand(7)
    return {"weight": float(system.net[0].weight.square().mean())}


DATA = {"kind": Data}


@recipe()
def toy(*, steps: int = STEPS, lr: float = 3e-3, seed: int = 0) -> Plan:
    """A toy."""
    settings = dict(steps=steps, lr=lr, seed=seed, warmup=5, log_every=5, score_every=30, precision="fp32")
    return Plan(Toy(seed), DATA["kind"](slots=1, batch=8), settings | {"tensorboard": False}, score=drawn)


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setitem(RECIPES, "test_bands.toy", toy)
    monkeypatch.setattr(
        "phosphene.weights.bundle.save", lambda it, path, card=None, dtype=None: no_bundle(it, path, card)
    )
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("bands")
    for name in ("bands", "peers"):
        sys.modules.pop(name, None)


def shown(folder: Path, **knobs) -> str:
    """What the terminal says of a training."""
    console = Console(file=io.StringIO(), width=400)
    show(toy(**knobs).train(folder), console)
    return console.file.getvalue()


def test_from_three_seeds_to_a_band_and_what_it_says(toys, tmp_path, monkeypatch):
    monkeypatch.setattr(band, "FOLDER", tmp_path / "bands")
    monkeypatch.setattr("phosphene.training.display.EVERY", 0.0)
    assert "No band has been measured" in shown(tmp_path / "none")
    file = toys.bands("test_bands.toy", seeds=(0, 1, 2), out=tmp_path / "runs", to=tmp_path / "bands")
    found = json.loads(file.read_text())
    assert found["seeds"] == [0, 1, 2] and len(found["seconds"]) == 3 and found["hardware"].endswith("threads: 2")
    assert found["knobs"] == {"steps": STEPS, "lr": 3e-3} and found["values"]["score/weight"]["steps"] == [
        30,
        60,
        90,
        120,
    ]

    said = shown(tmp_path / "sound", seed=3)
    assert "The band: 3 seeds of test_bands.toy" in said and "outside" not in said and "It may mean" not in said
    assert " · mean 0." in said and " in the band (0." in said and "step 30: weight 0.0" in said
    said = shown(tmp_path / "fast", seed=3, lr=0.09)
    assert "lr differs: shown for orientation only" in said and "above the band" in said and "It may mean" not in said
    monkeypatch.setitem(DATA, "kind", Louder)
    said = shown(tmp_path / "loud", seed=3)
    assert "loss/model is" in said and "above the band" in said and "phosphene doctor" in said

    seeds = [tmp_path / "runs" / str(seed) / "test_bands.toy" for seed in (0, 1)]
    with pytest.raises(Problem, match=r"fast was not run as the others.*\['lr'\]"):
        toys.gathered("test_bands.toy", [*seeds, tmp_path / "fast"], "")


def test_too_few_seeds(toys, tmp_path):
    for name in ("a", "b"):
        run(tmp_path / name, log(0))
    with pytest.raises(Problem, match="at least three"):
        toys.gathered("test_bands.toy", [tmp_path / "a", tmp_path / "b"], "")


def test_a_score_changes_nothing_and_takes_no_time(monkeypatch):
    """The weights are the same bit for bit, whatever the score draws, and its seconds are not the training's."""
    from phosphene.training import train

    clock = [0.0]

    def now() -> float:
        clock[0] += 1e-6
        return clock[0]

    monkeypatch.setattr("phosphene.training.progress.time.perf_counter", now)

    def slow(system) -> dict[str, float]:
        assert not system.training
        clock[0] += 100.0
        return drawn(system)

    weights, runs = [], []
    for score in (None, slow):
        system, how = Toy(), dict(steps=20, lr=3e-3, score_every=4, log_every=5, precision="fp32")
        runs.append([])
        for progress in train(system, Data(), score=score, **how):
            runs[-1].append(progress)
            clock[0] += 1.0  # what a step takes
        weights.append(system.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values()))
    assert [p.step for p in runs[1] if p.scores] == [4, 8, 12, 16, 20]
    assert [round(p.seconds) for p in runs[1]] == [round(p.seconds) for p in runs[0]] == list(range(20))
    assert runs[1][3].row()["score/weight"] > 0


# What is shipped ------------------------------------------------------------------------------------------------------


def test_every_recipe_on_scenes_and_mnist_has_a_band_or_is_listed_without_one(toys):
    """docs/bands.md holds what `python benchmarks/bands.py table` writes."""
    owed = {name for name in RECIPES if name.startswith(("scenes.", "mnist."))}
    assert {p.stem for p in band.FOLDER.glob("*.json")} <= owed
    assert toys.table() in (ROOT / "docs" / "bands.md").read_text()
    assert all(f"`{name}`" in toys.table() for name in owed)


@pytest.mark.parametrize("name", [p.stem for p in sorted(band.FOLDER.glob("*.json"))])
def test_a_shipped_band_holds_for_the_recipe_as_it_is(name):
    """Its knobs are the recipe's defaults of today: a recipe that was changed has to be measured again."""
    import inspect

    it = band.of(name)
    defaults = {k: p.default for k, p in inspect.signature(RECIPES[name]).parameters.items()}
    assert it.about["recipe"] == name and len(it.about["seeds"]) >= 3
    assert {k: v for k, v in it.about["knobs"].items() if defaults.get(k, "gone") != v} == {}
    whole = it.about["until"] == it.about["training"]["steps"]
    assert any(n.startswith("loss/") for n in it.curves) and (
        any(n.startswith("score/") for n in it.curves) or not whole
    )


def test_bands_are_in_the_package():
    import tomllib

    said = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = said["tool"]["setuptools"]["package-data"]["phosphene"]
    root = ROOT / "src" / "phosphene"
    assert {p for pattern in patterns for p in root.glob(pattern)} >= set(band.FOLDER.glob("*.json"))
    assert "recipes/bands/*.json" in patterns
