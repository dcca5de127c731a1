"""Configurations with nonsense in them: one line that names the file, or the model as it is; never a traceback."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import yaml

from phosphene.errors import Problem
from phosphene.weights.survey import survey

NONSENSE = [None, "x", "8", -1, 0, 3.7, True, [], ["x"], {}, {"a": 1}, 10**9, float("nan"), [1, 2, 3], [[1]]]
FILES = ["unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"]
FILES += ["tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "model_index.json"]


def some(i: int, n: int = 2) -> list:
    """n of them, other ones for other numbers."""
    return [NONSENSE[(7 * k + i) % len(NONSENSE)] for k in range(n)]


def linked(source: Path, to: Path) -> None:
    """The folder again, its files as links, so that one of them can be replaced."""
    for path in source.rglob("*"):
        if path.is_file():
            place = to / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path)


def survives(path: Path, named: str, **told) -> bool:
    """Whether it is read; else a Problem of one line, which says where."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            survey(path, told)
    except Problem as problem:
        said = str(problem)
        assert "\n" not in said and (path.name in said or named in said), said
        return False
    return True


@pytest.mark.parametrize("file", FILES)
def test_a_folder(shared, tmp_path, file):
    folder = tmp_path / "sd"
    linked(shared / "fixtures" / "sd2", folder)
    config = json.loads((folder / file).read_text())
    (folder / file).unlink()
    keys = list(config) if len(config) < 60 else list(config)[:3]
    alone = {"unet", "vae"} & {file.split("/")[0]}  # these are read without the rest
    read, at = 0, folder.joinpath(*alone)
    for i, key in enumerate(keys):
        for value in some(i):
            (folder / file).write_text(json.dumps({**config, key: value}))
            read += survives(at, Path(file).name)
    for text in ("", "[]", "{", "3", '{"a": }', "null", "<html>"):
        (folder / file).write_text(text)
        assert not survives(at, file) or file == "tokenizer/tokenizer_config.json"
    assert read < 2 * len(keys) or file.startswith("tokenizer")


def test_a_yaml(shared, tmp_path):
    source = shared / "fixtures" / "sd2_compvis.safetensors"
    (tmp_path / "sd.safetensors").symlink_to(source)
    config = yaml.safe_load(source.with_suffix(".yaml").read_text())

    def places(inside, path=()):
        for key, value in inside.items():
            yield (*path, key)
            if isinstance(value, dict):
                yield from places(value, (*path, key))

    told = dict(tokenizer=shared / "fixtures" / "sd2/tokenizer", text_heads=3)
    for i, path in enumerate(places(config)):
        for value in some(i, 1):
            changed = json.loads(json.dumps(config))
            inside = changed
            for key in path[:-1]:
                inside = inside[key]
            inside[path[-1]] = value
            (tmp_path / "sd.yaml").write_text(yaml.safe_dump(changed))
            survives(tmp_path / "sd.safetensors", "sd.yaml", **told)


@pytest.mark.parametrize("name", ["predicts", "heads", "text_heads", "tokenizer", "vae", "ema", "scale"])
def test_what_is_told(shared, name):
    file = shared / "fixtures" / "sd2_compvis.safetensors"
    told = dict(tokenizer=shared / "fixtures" / "sd2/tokenizer", text_heads=3)
    for value in some(len(name), 7):
        survives(file, "", **told | {name: value})
