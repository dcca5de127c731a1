"""Every recipe that can be built here trains a few steps to a bundle that works; what a recipe needs comes first."""

import inspect
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import phosphene
from phosphene.errors import Problem
from phosphene.recipes import RECIPES, Plan, base, recipe


@pytest.fixture(autouse=True)
def small_grids(monkeypatch):
    """The sample grid at a run's end is of one picture in two steps, and not of forty in fifty."""
    from phosphene.recipes import grids

    whole = grids.made_of
    monkeypatch.setattr(
        grids, "made_of", lambda it, prompts, *rest, **how: whole(it, prompts[:2], **{**how, "steps": 2})
    )


def trained(name: str, out: Path, **knobs) -> list[str]:
    """Runs the recipe and returns all notes."""
    return [note for progress in RECIPES[name](**knobs).train(out) for note in progress.notes]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def scenes_autoencoder(runs) -> Path:
    trained("scenes.autoencoder", runs / "scenes.autoencoder", steps=2, batch=8, pictures=64)
    return runs / "scenes.autoencoder"


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Forty made-up emoji in two styles, as a table with the documented columns."""
    from phosphene.data.emoji import COLUMNS

    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (8, 8, 4), dtype=np.uint8)).resize((128, 128)).save(file, "PNG")
        row = dict.fromkeys(COLUMNS) | {
            "image": file.getvalue(), "codepoint": f"1f{i // 2:03x}", "style": ("noto", "twemoji")[i % 2],
            "name_en": f"thing {i // 2}", "name_zh": f"东西{i // 2}", "keywords_en": ["thing"], "keywords_zh": ["东西"],
            "group": "activities" if i % 4 < 2 else "food-drink", "subgroup": "x",
            "split": "val" if i % 10 == 9 else "train",
        }  # fmt: skip
        rows.append(row)
    path = tmp_path_factory.mktemp("table") / "emoji.parquet"
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def scenes_clip(runs) -> Path:
    notes = trained("scenes.clip", runs / "scenes.clip", steps=2, batch=8, pictures=64, width=32, held=8)
    assert "zero-shot object (en)" in notes[-2] and "zero-shot object (zh)" in notes[-1]
    return runs / "scenes.clip"


def test_scenes_latent(runs, scenes_autoencoder, scenes_clip):
    """Trains, is judged by the exact parser, says so in its card, and draws from words."""
    notes = trained(
        "scenes.latent", runs / "scenes.latent", autoencoder=scenes_autoencoder, clip=scenes_clip, steps=2, batch=8,
        pictures=64, width=48, judged=2,
    )  # fmt: skip
    assert [n for n in notes if "one object: right" in n and "chance" in n]
    assert notes[-1] in phosphene.describe(runs / "scenes.latent").card
    picture = phosphene.generate("a red circle", seed=1, model=runs / "scenes.latent", steps=2)
    assert picture.size == (32, 32)


def test_emoji(runs, table):
    """The three parts of the shipped model, one after the other, from a table."""
    data, parts = f"emoji:path={table}", runs / "emoji"
    notes = trained("emoji.autoencoder", parts / "emoji.autoencoder", data=_only(data), steps=2, batch=4)
    assert notes[-1].startswith("- PSNR of copies: ") and notes[-1].endswith("dB on 4 held-out pictures")
    notes = trained("emoji.clip", parts / "emoji.clip", data=data, styles="noto|twemoji", steps=2, batch=4, width=32)
    assert [n for n in notes if n.startswith("- zero-shot Chinese name")]
    notes = trained("emoji.prior", parts / "emoji.prior", data=_only(data), steps=2, batch=4, width=32, layers=1)
    assert notes[-2].startswith("- predicted z_i: cosine") and "of 4 (" in notes[-1]
    trained("emoji.latent", parts / "emoji.latent", data=_only(data), groups="activities|food-drink", steps=2, batch=4)
    system = phosphene.load(parts / "emoji.latent")
    assert len(system.vocabulary) == 20 and system.knows("noto thing 3") == (True, "thing 3")
    assert not system.knows("a red dragon")[0]
    assert phosphene.generate("东西3", seed=1, model=parts / "emoji.latent", steps=2).size == (64, 64)


def test_clip_small(runs, table):
    """What ships as `clip`, in two goes; what is worsened says so, and nothing else does."""
    from phosphene.data.scenes import Scenes
    from phosphene.recipes.clip import WORSE, Worsened, worsened

    data, knobs = f"emoji:path={table},styles=noto|twemoji", dict(styles="noto|twemoji", steps=1, batch=8, scenes=8)
    trained("clip.small", runs / "clip.first", data=data, worse=0.0, **knobs)
    notes = trained("clip.small", runs / "clip.small", data=data, start=runs / "clip.first", **knobs)
    assert [n for n in notes if n.startswith("- zero-shot Chinese name")]
    first, then = (phosphene.load(runs / name) for name in ("clip.first", "clip.small"))
    assert first.text.tokenizer.arguments == then.text.tokenizer.arguments
    source = Worsened(Scenes(n=200, size=64), share=0.5)
    words = [word for en, zh, *_ in WORSE.values() for word in (en, zh)]
    said = [any(word in example.captions[0] for word in words) for example in map(source.__getitem__, range(200))]
    changed = [not np.array_equal(source[i].image, source.source[i].image) for i in range(200)]
    assert said == changed and 70 < sum(said) < 130
    grey = Image.new("RGB", (64, 64), "grey")
    assert 20 < np.asarray(worsened(grey, "noise", 25.0, 0), float).std() < 30


def test_emoji_clip_without_held_rows(tmp_path, table):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(table)
    parquet.write_table(rows.filter([s == "train" for s in rows["split"].to_pylist()]), tmp_path / "train.parquet")
    data = f"emoji:path={tmp_path / 'train.parquet'}"
    notes = trained("emoji.clip", tmp_path / "clip", data=data, styles="", steps=1, batch=4, width=32)
    assert any("no rows are held out" in note for note in notes) and (tmp_path / "clip" / "model.safetensors").is_file()


def _only(data: str) -> str:
    """The made-up table has two of the four styles that the recipe asks for: the spec's own options come first."""
    return f"{data},styles=noto|twemoji"


@pytest.mark.parametrize("name", ["mnist.ddpm", "cifar10.ddpm"])
def test_pictures_with_labels(name, runs):
    folder = runs / "classes"
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for i in range(4):
            Image.fromarray(np.full((32, 32, 3), 30 * i, np.uint8)).save(folder / label / f"{i}.png")
    more = dict(classes=True) if name == "cifar10.ddpm" else {}
    trained(name, runs / name, data=str(folder), steps=1, batch=2, width=32, workers=0, **more)
    assert phosphene.generate(1, seed=1, model=runs / name, steps=1, sampler="ddim").size == (32, 32)


def test_cifar10_clip(runs):
    folder = runs / "named"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(np.full((32, 32, 3), 20 * i, np.uint8)).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text("cat" if i % 2 else "dog")
    notes = trained("cifar10.clip", runs / "cifar10.clip", data=str(folder), held=4, steps=2, batch=4, width=32)
    assert "of 4 held-out pictures; chance 50.0%" in notes[-1]
    with pytest.raises(Problem, match="held=12"):
        trained("cifar10.clip", runs / "none", data=str(folder), held=12)


def test_what_is_needed_is_trained_first(tmp_path, monkeypatch):
    """Beside the run, once, with the knobs both share; a bundle given as knob is taken instead."""
    from phosphene.systems.autoencoder import AutoencoderSystem
    from systems.small import autoencoder, eight

    built = []

    class Data:
        slots = 1

        def stream(self, start, workers=0, slots=None):
            yield from ((step, [eight("none")]) for step in range(start, 9))

    def plan(system, name, seed) -> Plan:
        built.append((name, seed))
        return Plan(system, Data(), dict(steps=1, tensorboard=False), card=name)

    @recipe()
    def first(*, seed: int = 0) -> Plan:
        return plan(AutoencoderSystem(autoencoder()), "first", seed)

    @recipe(part="t.first")
    def second(*, part: Path | None = None, seed: int = 0) -> Plan:
        return plan(part, "second", seed)

    monkeypatch.setattr("phosphene.recipes.RECIPES", {"t.first": first, "t.second": second})
    list(second(seed=3).train(tmp_path / "run"))
    assert built == [("first", 3), ("second", 3)]
    assert (tmp_path / "t.first" / "model.safetensors").is_file() and (tmp_path / "run" / "model.safetensors").is_file()
    list(second().train(tmp_path / "again"))
    assert built[2:] == [("second", 0)]
    list(second(part=tmp_path / "run").train(tmp_path / "elsewhere" / "third"))
    assert built[3:] == [("second", 0)] and not (tmp_path / "elsewhere" / "t.first").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_knobs_are_documented(name):
    """Each has a default, a type that the command line can read, and, but for the plainest, a line of its own."""
    plain = {"steps", "batch", "lr", "seed", "size", "workers", "data"}
    doc = inspect.getdoc(RECIPES[name])
    for knob, parameter in inspect.signature(RECIPES[name]).parameters.items():
        assert parameter.default is not inspect.Parameter.empty
        assert knob in plain or f" {knob}" in doc.replace("\n", " "), knob
    assert f"phosphene train {name}" in doc


def test_an_unknown_knob():
    with pytest.raises(Problem, match="did you mean 'width'"):
        RECIPES["scenes.latent"](widht=3)


def test_source_of_lets_the_spec_win():
    assert (
        base.source_of("scenes:n=7", n=9, size=64).name.startswith("scenes:size=64")
        and len(base.source_of("scenes:n=7", n=9)) == 7
    )


def test_paper_setting_of_cifar10():
    """35.7 M parameters, ε, linear schedule of 1,000 steps, Adam 2e-4, batch 128, EMA 0.9999, dropout 0.1, flips."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for i in range(3):
            Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(f"{folder}/{i}.png")
        made = RECIPES["cifar10.ddpm"](data=folder)
        plan = made.function(**made.knobs)
    assert sum(p.numel() for p in plan.system.parameters()) == pytest.approx(35.7e6, rel=0.01)
    denoiser = plan.system.denoiser
    assert denoiser.predicts == "eps" and denoiser.schedule.T == 1000 and denoiser.net.arguments["dropout"] == 0.1
    assert float(denoiser.schedule(1.0).alpha) == pytest.approx(torch.tensor(4.0358e-5).sqrt().item(), rel=1e-3)
    assert plan.data.flip and plan.data.batch == 128
    assert {k: plan.settings[k] for k in ("lr", "ema", "steps", "warmup")} == dict(
        lr=2e-4, ema=0.9999, steps=800_000, warmup=5000
    )
