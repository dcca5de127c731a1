"""Imagen's recipes: frozen words, a base, and stages after it, each bundle the cascade so far."""

from pathlib import Path

import pytest
import torch

import phosphene
from phosphene.data.scenes import Scenes
from phosphene.nets.efficient_unet import EfficientUNet
from phosphene.receipt import read
from phosphene.recipes import RECIPES
from phosphene.systems.ddpm import Ddpm
from phosphene.systems.imagen import ImagenUpscaler
from phosphene.text.hugging import HuggingEncoder

SMALL = dict(steps=1, batch=4, pictures=16, width=16)


@pytest.fixture(autouse=True)
def small_grids(monkeypatch):
    """Pictures of two prompts in one step a stage."""
    from phosphene.recipes import grids

    whole = grids.made_of

    def few(it, prompts, *rest, **how):
        steps = [1] * len(it.stages) if hasattr(it, "stages") else 1
        return whole(it, prompts[:2], *rest, **{**how, "steps": steps})

    monkeypatch.setattr(grids, "made_of", few)


def trained(name: str, out: Path, **knobs) -> list[str]:
    return [note for progress in RECIPES[name](**knobs).train(out) for note in progress.notes]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "scenes.clip"
    trained("scenes.clip", out, steps=1, batch=8, pictures=32, width=32, held=0)
    return out


def test_three_stages_one_after_the_other(clip, tmp_path):
    """The base, then twice the same recipe, of another size; from the command line the level is in the receipt."""
    from phosphene.cli import main

    notes = trained("scenes.imagen", tmp_path / "scenes.imagen", clip=clip, judged=2, quantile=0.99, **SMALL)
    assert any("enlarged by bicubic, one object: right" in note for note in notes)
    base = phosphene.load(tmp_path / "scenes.imagen")
    assert type(base) is Ddpm and base.size == 16 and list(base.threshold) == [0.99]
    words, read_by = phosphene.load(clip).text.state_dict(), base.encoder.text.state_dict()
    assert all(torch.equal(words[k], read_by[k]) for k in words)  # frozen

    notes = trained("scenes.imagen_upscale", tmp_path / "two", imagen=tmp_path / "scenes.imagen", judged=2, **SMALL)
    assert any(note.startswith("- one object: right") for note in notes)
    trained("scenes.imagen_upscale", tmp_path / "three", imagen=tmp_path / "two", size=64, judged=0, **SMALL)
    stages = phosphene.load(tmp_path / "three").stages
    assert [type(stage) for stage in stages] == [Ddpm, ImagenUpscaler, ImagenUpscaler]
    assert [stage.size for stage in stages] == [16, 32, 64]
    assert type(stages[2].denoiser.net) is EfficientUNet
    assert [stage.denoiser.net.arguments["strides"] for stage in stages[1:]] == [[1, 2, 2], [2, 2, 2]]

    made = ["generate", "a red circle", "--model", str(tmp_path / "three"), "--seed", "1", "--steps", "1"]
    for level in (["--level", "0.3"], []):
        assert main([*made, *level, "--out", str(tmp_path / f"{len(level)}.png")]) == 0
    assert read(tmp_path / "2.png")["level"] == 0.3 and "level" not in read(tmp_path / "0.png")


def test_words_by_t5(clip, shared, tmp_path):
    """Any encoder of Hugging Face's reads in the place of CLIP's; the bundle remembers where it lies."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("sentencepiece")
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=1000, d_model=24, d_ff=32, d_kv=8, num_layers=1, num_heads=2)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path / "t5")
    for file in (shared / "fixtures" / "t5_tokenizer").iterdir():
        (tmp_path / "t5" / file.name).symlink_to(file)
    trained("scenes.imagen", tmp_path / "base", clip=clip, t5=str(tmp_path / "t5"), judged=0, **SMALL)
    base = phosphene.load(tmp_path / "base")
    assert type(base.encoder.text) is HuggingEncoder and base.encoder.dim == 24
    fox, pizzas = base.encoder(["a fox", "two pizzas"]).vector
    assert (fox - pizzas).abs().max() > 1e-3
    assert phosphene.generate("a fox", seed=1, model=tmp_path / "base", steps=1).size == (16, 16)


def test_emoji_of_the_same_parts(clip, monkeypatch, tmp_path):
    """64 → 128, with scenes for emoji: one step of each."""
    source = "phosphene.recipes.emoji.shared.source_of"
    monkeypatch.setattr(source, lambda _, split, **__: Scenes(64, 4) if split == "train" else None)
    how = dict(steps=1, batch=2, width=16)
    trained("emoji.imagen", tmp_path / "emoji.imagen", clip=clip, **how)
    trained("emoji.imagen_upscale", tmp_path / "emoji.imagen_upscale", **how)  # the base lies beside it
    assert [stage.size for stage in phosphene.load(tmp_path / "emoji.imagen_upscale").stages] == [64, 128]
