"""The recipes of decoders, of compressed spaces, of layouts and maps train a few steps to a bundle that works."""

from pathlib import Path

import pytest
import torch

import phosphene
from phosphene.data.scenes import Scenes
from phosphene.recipes import RECIPES
from phosphene.recipes.parts import pictures_of
from phosphene.recipes.scenes.decoders import copied


def trained(name: str, out: Path, **knobs) -> list[str]:
    knobs = {"steps": 2, "batch": 8, "judged": 4, **knobs}
    return [note for progress in RECIPES[name](**knobs).train(out / name) for note in progress.notes]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Scores on the way are of a few pictures."""
    from phosphene.recipes import parts

    monkeypatch.setattr(parts, "pictures_of", lambda source, size: pictures_of(source, size)[:4])


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("name", ["kl", "vq", "small", "superres", "diffused"])
def test_decoders(name, runs):
    """Each copies pictures, says how well, and one that needs latents trains their autoencoder first."""
    wide = {"width": 32} if name in ("superres", "diffused") else {}
    if name == "diffused" and not (runs / "scenes.kl").exists():
        trained("scenes.kl", runs, pictures=64)
    notes = trained(f"scenes.{name}", runs, pictures=64, **wide)
    assert "PSNR of copies" in notes[-2] and "of 4 copies" in notes[-1]
    system = phosphene.load(runs / f"scenes.{name}").eval()
    some = pictures_of(Scenes(32, 2, "test"), 32)
    copies = copied(system, some)
    assert copies.shape == some.shape and not torch.equal(copies[0], copies[1])
    if name == "kl":
        assert notes[-2].endswith("4 test scenes") and system.autoencoder.encode(some).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("name", ["in_pixels", "in_vq"])
def test_told_a_class(name, runs):
    more = {}
    if name == "in_vq":
        trained("scenes.vq", runs, pictures=64) if not (runs / "scenes.vq").exists() else None
        more = {"autoencoder": runs / "scenes.vq"}
    notes = trained(f"scenes.{name}", runs, judged=2, pictures=64, **more)
    assert notes[-1].startswith("- right: ") and "chance 2.3%" in notes[-1]
    assert phosphene.generate("red circle", seed=1, model=runs / f"scenes.{name}", steps=2).size == (32, 32)


@pytest.mark.parametrize(
    "name, prompt, says",
    [("layout", "red circle 0.1,0.2,0.5,0.6", "in their boxes"), ("map", None, "of their map's colour")],
)
def test_told_where(name, prompt, says, runs):
    ae = runs / "scenes.autoencoder" / "model.safetensors"
    if not ae.exists():
        list(RECIPES["scenes.autoencoder"](steps=2, batch=8, pictures=64).train(ae.parent))
    notes = trained(f"scenes.{name}", runs, pictures=64, width=32, autoencoder=ae.parent)
    assert any(says in note for note in notes)
    assert phosphene.generate(prompt, seed=1, model=runs / f"scenes.{name}", steps=2).size == (32, 32)
