"""save_as: what we write, the peer loads, and says the same; what comes back is what was written."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import phosphene
from phosphene import adapt
from phosphene.cli import main
from phosphene.diffusion.denoiser import Denoiser
from phosphene.diffusion.noise import Recorded
from phosphene.diffusion.schedule import Cosine, Flow, ScaledLinear
from phosphene.errors import Problem
from phosphene.systems.latent import Latent
from phosphene.weights import stable_write
from phosphene.weights.save import save_as
from weights.stable import close

SETTINGS = ("size", "sampler", "spacing", "steps", "guidance", "offset", "end")


def same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    """The same weights, bit for bit, under the same names."""
    a, b = one.state_dict(), other.state_dict()
    assert list(a) == list(b)
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def written(pipeline, tmp_path):
    """(version) -> diffusers' pipeline, its folder read by us, and the folder."""

    def make(version: int, **unet):
        pipe = pipeline(version, seed=20 + version, **unet)
        pipe.save_pretrained(tmp_path / "theirs")
        return pipe, phosphene.load(tmp_path / "theirs"), tmp_path / "theirs"

    return make


@pytest.mark.parametrize("version", [1, 2])
def test_a_folder_for_from_pretrained(written, tmp_path, version):
    from diffusers import StableDiffusionPipeline

    pipe, system, _ = written(version)
    assert save_as(system, tmp_path / "ours", "diffusers") == []
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "ours")
    for part in ("unet", "vae", "text_encoder"):
        same(getattr(again, part), getattr(pipe, part))
        old = load_file(next((tmp_path / "theirs" / part).glob("*.safetensors")))
        new = load_file(next((tmp_path / "ours" / part).glob("*.safetensors")))
        assert part != "text_encoder" or all(key.startswith("text_model.") for key in new)  # transformers 4 wants it
        assert {key: t.shape for key, t in old.items()} == {
            key.removeprefix("text_model."): t.shape for key, t in new.items()
        }
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    again.set_progress_bar_config(disable=True)
    told = dict(guidance_scale=6.0, num_inference_steps=4, output_type="pt", height=16, width=16)
    images = [p("the red cube", negative_prompt="a", latents=z, **told).images for p in (again, pipe)]
    assert torch.equal(*images)
    *_, last = system.generate(
        ["the red cube"], seeds=[0], negative=["a"], guidance=6.0, steps=4, noise=Recorded([], z)
    )
    close(last.picture(), images[0] * 2 - 1, 3e-4)
    came_back = phosphene.load(tmp_path / "ours")
    same(came_back, system)
    assert all(getattr(came_back, name) == getattr(system, name) for name in SETTINGS)


@pytest.mark.parametrize("version", [1, 2])
def test_a_single_file(written, tmp_path, version):
    """With the web UI's names; diffusers' own reader takes it, and so do we, with the yaml beside it."""
    from diffusers import StableDiffusionPipeline

    pipe, system, folder = written(version, groups=32)
    notes = save_as(system, tmp_path / "sd.safetensors", "single-file")
    assert any("sd.yaml" in note for note in notes) and any("tokenizer" in note for note in notes)
    assert (version == 2) == any("copy of the one before it" in note for note in notes)
    again = StableDiffusionPipeline.from_single_file(
        str(tmp_path / "sd.safetensors"), config=str(folder), local_files_only=True, safety_checker=None
    )
    for part in ("unet", "vae", "text_encoder"):
        same(getattr(again, part), getattr(pipe, part))
    told = dict(tokenizer=folder / "tokenizer", text_heads=3)
    came_back = phosphene.load(tmp_path / "sd.safetensors", **told)
    same(came_back.denoiser.net, system.denoiser.net)
    same(came_back.autoencoder, system.autoencoder)
    assert came_back.denoiser.predicts == system.denoiser.predicts
    assert torch.equal(came_back.encoder(["a cat"]).tokens, system.encoder(["a cat"]).tokens)
    assert came_back.denoiser.net.arguments["head_dim"] == system.denoiser.net.arguments["head_dim"]
    notes = save_as(came_back, tmp_path / "folder", "diffusers")
    assert (version == 2) == any("last 1 of 3 blocks" in note for note in notes)
    same(phosphene.load(tmp_path / "folder").encoder, system.encoder)


@pytest.mark.parametrize("name", ["sd1", "sd2", "sd1_inpaint9"])
def test_a_single_file_has_the_original_names(shared, tmp_path, name):
    save_as(phosphene.load(shared / "fixtures" / name), tmp_path / "sd.safetensors", "single-file", half=True)
    theirs = load_file(shared / "fixtures" / f"{name}_compvis.safetensors")
    ours = load_file(tmp_path / "sd.safetensors")
    schedule = {key for key in theirs if "." not in key}  # of numbers that follow from the yaml
    assert set(ours) == set(theirs) - schedule
    made_up = [f"cond_stage_model.model.{key}" for key in ("text_projection", "logit_scale")]
    made_up += [key for key in ours if "resblocks.2." in key and name == "sd2"]
    for key, tensor in ours.items():
        assert tensor.shape == theirs[key].shape
        assert key in made_up or (tensor.dtype, True) == (theirs[key].dtype, torch.equal(tensor, theirs[key]))


def test_an_inpainting_network(shared, tmp_path):
    from diffusers import StableDiffusionInpaintPipeline

    system = phosphene.load(shared / "fixtures" / "sd1_inpaint9")
    save_as(system, tmp_path / "sd", "diffusers")
    pipe = StableDiffusionInpaintPipeline.from_pretrained(tmp_path / "sd")
    assert pipe.unet.config.in_channels == 9
    assert json.loads((tmp_path / "sd" / "model_index.json").read_text())["_class_name"] == type(pipe).__name__
    same(phosphene.load(tmp_path / "sd"), system)


@pytest.mark.parametrize("part", ["sd1/unet", "sd2/unet", "sd1/vae", "taesd", "vqmodel"])
def test_parts_alone(shared, tmp_path, part):
    diffusers = pytest.importorskip("diffusers")
    net = phosphene.load(shared / "fixtures" / part)
    save_as(net, tmp_path / "part", "diffusers")
    same(phosphene.load(tmp_path / "part"), net)
    kind = getattr(diffusers, json.loads((tmp_path / "part" / "config.json").read_text())["_class_name"])
    old, new = (kind.from_pretrained(folder) for folder in (shared / "fixtures" / part, tmp_path / "part"))
    same(old, new)
    told = ("block_out_channels", "attention_head_dim", "scaling_factor", "norm_num_groups", "layers_per_block")
    for key in told:
        assert getattr(old.config, key, None) == getattr(new.config, key, None)
    if "/unet" in part:
        save_as(net, tmp_path / "unet.safetensors", "single-file")
        heads = 8 if part == "sd1/unet" else [2, 4]
        same(phosphene.load(tmp_path / "unet.safetensors", heads=heads), net)
    elif part != "taesd":
        save_as(net, tmp_path / "vae.safetensors", "single-file")
        same(phosphene.load(tmp_path / "vae.safetensors", scale=0.18215), net)


def test_loras_that_are_on_are_in_the_weights_and_words_are_said_to_be_lost(written, tmp_path):
    _, system, _ = written(1)
    own = {key: t.clone() for key, t in system.state_dict().items()}
    path = "denoiser.net.middle.0.attend.layers.0.attn2.to_q"
    torch.manual_seed(0)
    on = adapt.new(system, 2, targets=[path])
    torch.nn.init.normal_(on.layers[0].up)
    wanted = system.get_submodule(path).weight + on.lora().layers[path].change()
    torch.save({"string_to_param": {"*": torch.ones(2, system.encoder.width)}}, tmp_path / "ink.pt")
    adapt.teach(system, tmp_path / "ink.pt")
    assert save_as(system, tmp_path / "ours", "diffusers") == ["the words learned by textual inversion: ink"]
    assert torch.equal(phosphene.load(tmp_path / "ours").get_submodule(path).weight, wanted)
    assert [it.name for it in adapt.worn(system)] == ["new", "ink"]
    assert save_as(system, tmp_path / "ours.safetensors") == []
    with torch.no_grad():
        again, said = phosphene.load(tmp_path / "ours.safetensors"), system.encoder(["the ink cat"]).tokens
        assert torch.equal(again.encoder(["the ink cat"]).tokens, said) and [*again.encoder.words] == ["ink"]
    on.remove()
    assert all(torch.equal(t, own[key]) for key, t in system.state_dict().items())


def test_half(written, tmp_path):
    _, system, _ = written(1)
    save_as(system, tmp_path / "half", "diffusers", half=True)
    for part in ("unet", "vae", "text_encoder"):
        tensors = load_file(next((tmp_path / "half" / part).glob("*.safetensors")))
        assert {t.dtype for t in tensors.values()} == {torch.float16}
    net = phosphene.load(tmp_path / "half").denoiser.net
    for ours, theirs in zip(net.parameters(), system.denoiser.net.parameters()):
        assert torch.equal(ours, theirs.half().float())


def test_a_bundle_is_exact(written, tmp_path):
    _, system, _ = written(2)
    assert save_as(system, tmp_path / "sd.safetensors") == []
    same(phosphene.load(tmp_path / "sd.safetensors"), system)


def test_what_a_format_cannot_be_is_refused_and_nothing_is_left(written, tiny_model, tmp_path):
    _, system, _ = written(1)

    def refused(thing, to="diffusers", out="out"):
        with pytest.raises(Problem) as problem:
            save_as(thing, tmp_path / out, to)
        assert not [p for p in tmp_path.iterdir() if "out" in p.name]
        return str(problem.value)

    def changed(schedule=None, predicts="eps", **how):
        denoiser = Denoiser(system.denoiser.net, schedule or ScaledLinear(), predicts)
        return Latent(denoiser, system.autoencoder, system.encoder, **how)

    assert "CLIP's words" in refused(phosphene.load(tiny_model))
    assert "cannot hold a Linear" in refused(torch.nn.Linear(1, 1))
    assert "predicts 'flow'" in refused(changed(ScaledLinear(), "flow"))
    assert "no name for a Flow" in refused(changed(Flow(), "v"))
    assert "norm_num_groups=32" in refused(system, "single-file", "out.safetensors")
    with pytest.raises(Problem, match="write it as diffusers"):
        stable_write._yaml(changed(Cosine(), "v"), two=False)
    assert "unknown format 'difusers'; did you mean 'diffusers'?" in refused(system, "difusers")
    (tmp_path / "there").mkdir()
    with pytest.raises(Problem, match="is there already"):
        save_as(system, tmp_path / "there", "diffusers")
    (tmp_path / "file").touch()
    with pytest.raises(Problem, match="cannot be written"):
        save_as(system, tmp_path / "file" / "out", "diffusers")
    other = changed(Cosine(zero_snr=True), "v", sampler="dpmpp_2s_ancestral", spacing="trailing")
    notes = save_as(other, tmp_path / "o2", "diffusers")
    assert notes == ["the sampler dpmpp_2s_ancestral: a DDIMScheduler stands in for it"]
    again = phosphene.load(tmp_path / "o2").denoiser
    assert again.predicts == "v" and torch.equal(again.schedule.log_ratio, Cosine(zero_snr=True).log_ratio)


def test_a_full_disk_leaves_nothing(written, tmp_path, monkeypatch):
    from phosphene.weights import files

    _, system, _ = written(1)
    write, calls = files.write_tensors, []

    def full(path, *rest):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return write(path, *rest)

    monkeypatch.setattr(files, "write_tensors", full)
    with pytest.raises(Problem, match="cannot be written: No space left on device"):
        save_as(system, tmp_path / "out", "diffusers")
    assert len(calls) == 2 and not [p for p in tmp_path.iterdir() if "out" in p.name]


def test_the_command(written, tmp_path, capsys):
    _, system, folder = written(2, groups=32)
    assert main(["convert", str(folder), str(tmp_path / "sd.safetensors"), "--to", "single-file", "--half"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(tmp_path / "sd.safetensors")
    assert "not kept: the tokenizer" in err
    told = ["--tell", f"tokenizer={folder / 'tokenizer'}", "text_heads=3"]
    assert main(["convert", str(tmp_path / "sd.safetensors"), str(tmp_path / "bundle.safetensors"), *told]) == 0
    again = phosphene.load(tmp_path / "bundle.safetensors")
    assert torch.equal(again.denoiser.net.conv_in.weight, system.denoiser.net.conv_in.weight.half().float())
    assert main(["convert", str(folder), str(tmp_path / "x"), "--to", "difusers"]) == 2
    assert "did you mean 'diffusers'?" in capsys.readouterr().err
