"""The command: what it prints, its exit codes, and what it examines."""

from __future__ import annotations

import json
import shutil

import pytest

from doctor.sick import Squares, folder_of, ill, trained
from phosphene.cli import main
from phosphene.data.base import at_most, open_source
from phosphene.recipes import RECIPES

RECIPE = '''
from pathlib import Path
from phosphene.recipes import Plan, recipe

@recipe()
def squares(*, data: str = "DATA", drop: float = 0.1, steps: int = 100) -> Plan:
    """Squares."""
    import sys
    sys.path.insert(0, "TESTS")
    from doctor.sick import batches, system
    return Plan(system(), batches(data, drop=drop), dict(steps=steps, lr=2e-3, seed=3))
'''


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder_of(Squares(), tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return trained(data, tmp_path_factory.mktemp("runs") / "sound", steps=60, checkpoint_every=50)


def test_of_data(data, tmp_path, capsys):
    assert main(["doctor", str(data)]) == 0
    out = capsys.readouterr().out
    assert "ok    captions that belong to their pictures" in out and "nothing found, 4 looked for" in out
    twice = folder_of(Squares(plant=lambda i, example: Squares()[i % 80]), tmp_path / "twice")
    assert main(["doctor", str(twice)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "found pictures only once seen Of 160 pictures looked at, 80 are equal" in out
    assert "wrong A picture that is there often" in out and "change Keep one of each" in out and "1 found, 4" in out
    assert main(["doctor", str(data), "--test", str(twice)]) == 1  # row 0 of both is the same
    assert "test row 0 is row 0" in " ".join(capsys.readouterr().out.split())


def test_of_a_run_as_json(run, tmp_path, capsys):
    assert main(["doctor", str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "run" and told["findings"] == [] and "learning rate" in told["looked"]
    still = ill(run, tmp_path / "still", lambda step, ema: {k: v * 0 + 0.5 for k, v in ema.items()}, "ema", (50, 60))
    assert main(["doctor", str(still), "--json"]) == 1
    [finding] = json.loads(capsys.readouterr().out)["findings"]
    assert finding["name"] == "averaged weights" and finding["numbers"]["average moved"] == 0
    assert set(finding) == {"name", "seen", "wrong", "change", "numbers"}


def test_of_an_unfinished_run(run, data, tmp_path, capsys, monkeypatch):
    """Its recipe builds the system again; without one the checkpoints are looked at alone."""
    shutil.copytree(run, tmp_path / "squares")
    (tmp_path / "squares" / "model.safetensors").unlink()
    assert main(["doctor", str(tmp_path / "squares")]) == 0
    out = capsys.readouterr().out
    assert "no model.safetensors yet" in out and "learning rate" not in out and "weights that move" in out
    own = recipe_file(data, tmp_path)
    from phosphene.cli.train import find

    monkeypatch.setitem(RECIPES, "squares", find(own))
    assert main(["doctor", str(tmp_path / "squares")]) == 0
    out = capsys.readouterr().out
    assert "what the weights predict" in out and "learning rate" in out


def recipe_file(data, folder) -> str:
    from pathlib import Path

    file = folder / "mine.py"
    file.write_text(RECIPE.replace("DATA", str(data)).replace("TESTS", str(Path(__file__).parents[1])))
    return f"{file}:squares"


def test_of_a_recipe_with_its_knobs(data, tmp_path, capsys):
    own = recipe_file(data, tmp_path)
    assert main(["doctor", own]) == 0
    assert "prompts dropped for guidance" in capsys.readouterr().out
    assert main(["doctor", own, "--drop", "0", "--json"]) == 1
    [finding] = json.loads(capsys.readouterr().out)["findings"]
    assert finding["name"] == "prompts dropped for guidance"


def test_a_needed_part_is_built_and_not_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan, spec = RECIPES["scenes.latent"](pictures=300, judged=0).plan(rows=200)
    assert spec == "scenes" and len(plan.data.source) == 200 and not any(tmp_path.iterdir())
    assert plan.data.at(0).image.std() == pytest.approx(1, abs=0.1)


def test_what_cannot_be_looked_at(tmp_path, capsys):
    for argv in (
        ["doctor", "nowhere"],
        ["doctor", "emoji.safetensors"],
        ["doctor", str(tmp_path)],
        ["doctor", "scenes", "--look", "0"],
    ):
        assert main(argv) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert main(["doctor", "mnist.ddpm", "--nosuch", "3"]) == 2


def test_some_rows_of_a_source(data):
    whole = open_source(str(data))
    with at_most(20):
        some = open_source(str(data))
    assert len(some) == 20 and len(open_source(str(data))) == len(whole) == 160
    assert [some[i].meta["file"] for i in (0, 1, 19)] == [whole[i].meta["file"] for i in (0, 8, 152)]
    assert some.size(1) == whole.size(8) and some.root == whole.root and some.lacks == whole.lacks
