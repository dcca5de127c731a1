"""load: what lies at a path, who reads it, and what is said where nobody does; inspect."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import phosphene
from phosphene.cli import main
from phosphene.errors import Problem
from phosphene.weights import load as loading
from phosphene.weights.load import look, words_told


@pytest.fixture
def refused(tmp_path):
    """(the Problem of loading a path)."""

    def load(path, **told):
        with pytest.raises(Problem) as problem:
            phosphene.load(path, **told)
        assert "\n" not in str(problem.value)
        return str(problem.value)

    return load


@pytest.mark.parametrize("name", loading.FAMILIES)
def test_every_family_says_what_may_be_told(name):
    import importlib

    family = importlib.import_module(f"phosphene.weights.{name}")
    assert all(isinstance(meaning, str) and meaning for meaning in dict(family.OPTIONS).values())


def test_bundles_shipped_models_and_runs(tiny_model, tmp_path):
    system = phosphene.load(tiny_model)
    shutil.copy(tiny_model, tmp_path / "model.safetensors")  # as in a run's folder
    assert look(tiny_model) is look(tmp_path) is look("emoji") is None
    for a, b in zip(phosphene.load(tmp_path).parameters(), system.parameters()):
        assert torch.equal(a, b)
    half = phosphene.load(tiny_model, dtype=torch.float16)
    assert half.denoiser.net.conv_in.weight.dtype == torch.float16


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["conditioner.embedders.1.model.ln_final.weight", "model.diffusion_model.out.0.bias"], "Stable Diffusion XL"),
        (["model.diffusion_model.joint_blocks.0.x"], "Stable Diffusion 3"),
        (["double_blocks.0.img_attn.qkv.weight"], "Flux"),
        (["control_model.zero_convs.0.0.weight"], "ControlNet"),
        (["lora_unet_mid_block_attentions_0_proj_in.alpha"], "a LoRA: it goes onto a model (--lora FILE)"),
        (["unet.mid_block.attentions.0.proj_in.lora.up.weight"], "a LoRA"),
        (["emb_params"], "(--embedding FILE)"),
        (["<cat-toy>"], "a textual-inversion embedding"),
        (["conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"], "the config.json that belongs beside it is not"),
        (["one", "two", "three", "four"], "of no kind that is known here; it holds four, one, three"),
    ],
)
def test_files_that_are_something_else(refused, tmp_path, keys, said):
    save_file({key: torch.zeros(2) for key in keys}, tmp_path / "x.safetensors")
    assert said in refused(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("file", "config", "said"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "a StableDiffusionXLPipeline, which"),
        (
            "config.json",
            {"_class_name": "FluxTransformer2DModel"},
            "a FluxTransformer2DModel, which Phosphene does not",
        ),
        ("config.json", {"architectures": ["LlamaForCausalLM"]}, "a LlamaForCausalLM, which"),
        ("config.json", {"architectures": ["T5EncoderModel"]}, "but as a text encoder (text/hugging.py"),
        ("config.json", {"_class_name": "UNet2DConditionModel"}, "holds no weights"),
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "folder"),
        ("other.json", {}, "a folder without a model"),
        ("config.json", [], "a JSON list, an object was expected"),
    ],
)
def test_folders_that_are_something_else(refused, tmp_path, file, config, said):
    (tmp_path / file).write_text(json.dumps(config))
    assert said in refused(tmp_path)


def test_nothing_and_nonsense(refused, tmp_path):
    assert "No such file" in refused(tmp_path / "none.safetensors")
    assert "did you mean 'emoji'?" in refused("emoij")
    assert "unknown option of a bundle" in refused("emoji", predicts="v")
    (tmp_path / "page.ckpt").write_text("<!doctype html><html>")
    assert "a web page" in refused(tmp_path / "page.ckpt")


def test_a_yaml_that_is_none(refused, shared, tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "sd.safetensors")
    for text, said in (("a: [", "is not YAML"), ("3", "a YAML int"), ("!!python/object:os.system {}", "is not YAML")):
        (tmp_path / "sd.yaml").write_text(text)
        assert said in refused(tmp_path / "sd.safetensors")


def test_a_config_beside_a_file_of_a_standard_name(shared, tmp_path):
    """The weights of a component named themselves; and a copy of them under another name, told what it does not say."""
    folder = shared / "fixtures" / "sd1" / "vae"
    file = folder / "diffusion_pytorch_model.safetensors"
    assert look(file).kind == "AutoencoderKL"
    assert look(folder / "config.json").path == folder
    save_file(load_file(file), tmp_path / "mine.safetensors")
    assert look(tmp_path / "mine.safetensors").kind == ""
    a, b = phosphene.load(file), phosphene.load(tmp_path / "mine.safetensors", scale=0.18215)
    assert torch.equal(a.scale, b.scale)


def test_words_told():
    told = words_told(["predicts=v", "heads=5,10", "ema=true", "scale=0.5", "text_heads=3"])
    assert told == {"predicts": "v", "heads": [5, 10], "ema": True, "scale": 0.5, "text_heads": 3}
    with pytest.raises(Problem, match="NAME=VALUE"):
        words_told(["predicts"])


def test_inspect_reads_no_weights(shared, tmp_path, capsys):
    """What it is, its sizes, what is assumed and what can be told; from a file whose numbers are not even there."""
    shutil.copy(shared / "fixtures" / "sd2_compvis.safetensors", tmp_path / "sd.safetensors")
    told = ["--tell", f"tokenizer={shared / 'fixtures/sd2/tokenizer'}", "heads=2,4"]
    assert main(["inspect", str(tmp_path / "sd.safetensors"), *told]) == 0
    out = capsys.readouterr().out
    for said in [
        "read as Latent",
        "denoiser.net",
        "UNet",
        "798,084",
        "F16 99.7 %",
        "does not say predicts: taken is v",
    ]:
        assert said in out
    assert "predicts    eps, v or x0" in out
    assert main(["inspect", str(shared / "fixtures" / "sd1")]) == 0
    out = capsys.readouterr().out
    assert "StableDiffusionPipeline of the family 'stable', read as Latent" in out and "note:" not in out


def test_the_studio_takes_checkpoints(shared):
    picture = phosphene.generate("a cat", model=shared / "fixtures" / "sd1", seed=1, steps=2, size=(32, 32))
    assert picture.size == (32, 32)
    told = [f"tokenizer={shared / 'fixtures/sd2/tokenizer'}", "text_heads=3"]
    file = shared / "fixtures" / "sd2_compvis.safetensors"
    told_so = dict(model=file, seed=1, steps=2, size=(32, 32), tell=told, vae=shared / "fixtures" / "sd1")
    assert phosphene.generate("a cat", **told_so).size == (32, 32)
