"""Stable Diffusion's files: every form of the recorded models, and live ones of other sizes, part by part."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import torch

import phosphene
from phosphene.diffusion.cond import Cond
from phosphene.errors import Assumed, Problem
from phosphene.nets.unet import UNet
from phosphene.weights import files, stable_unet, unets
from phosphene.weights.tables import empty
from weights.stable import close

TOKENIZER = {"tokenizer": "sd1/tokenizer"}
FORMS = [  # file, its reference, what it does not say
    ("sd1", "sd1", {}),
    ("sd1_oldstyle", "sd1", {}),
    ("sd1_newstyle_fp16", "sd1", {}),
    ("sd1_compvis.safetensors", "sd1", {**TOKENIZER, "text_heads": 4}),
    ("sd1_compvis_fp16_ema.ckpt", "sd1", {**TOKENIZER, "text_heads": 4, "heads": 8}),
    ("sd2", "sd2", {}),
    ("sd2_compvis.safetensors", "sd2", {"tokenizer": "sd2/tokenizer", "text_heads": 3}),
    ("sd1_inpaint9", "sd1_inpaint9", {}),
    ("sd1_inpaint9_compvis.safetensors", "sd1_inpaint9", {**TOKENIZER, "text_heads": 4}),
]


@pytest.fixture
def fixtures(shared):
    return shared / "fixtures"


def opened(folder, name, **told):
    told = {key: folder / value if key == "tokenizer" else value for key, value in told.items()}
    return phosphene.load(folder / name, **told)


@pytest.mark.parametrize(("name", "reference", "told"), FORMS, ids=[form[0] for form in FORMS])
@torch.no_grad()
def test_every_form_of_a_recorded_model(fixtures, name, reference, told):
    with warnings.catch_warnings():
        warnings.simplefilter("error", Assumed)  # nothing is left open
        system = opened(fixtures, name, **told)
    arrays = {key: torch.from_numpy(value) for key, value in np.load(fixtures / f"{reference}_ref.npz").items()}
    prompts = json.loads((fixtures / f"{reference}_ref.json").read_text())["prompts"]
    encoder, net, autoencoder = system.encoder, system.denoiser.net, system.autoencoder
    assert (encoder.tokenizer(prompts, pad=encoder.pad)[0] == arrays["ids"]).all()
    close(encoder(prompts).tokens, arrays["te_last"], 3e-5)
    close(encoder(prompts, skip=1).tokens, arrays["te_skip2"], 3e-5)
    words = arrays["te_last"]
    close(net(arrays["x"], arrays["t"].float(), Cond(tokens=words)), arrays["eps"], 3e-5)
    close(net(arrays["x_odd"], torch.tensor([250.0]), Cond(tokens=words[:1])), arrays["eps_odd"], 3e-5)
    posterior = autoencoder.posterior(arrays["img"])
    close(posterior.mean, arrays["vae_mean"], 1e-4)
    close(posterior.logvar, arrays["vae_logvar"], 1e-4)
    close(autoencoder.encode(arrays["img"]), 0.18215 * arrays["vae_mean"], 1e-4)
    close(autoencoder.decode(0.18215 * arrays["z"]), arrays["dec"], 1e-4)
    assert system.denoiser.predicts == ("v" if reference == "sd2" else "eps")


def test_averaged_weights_are_taken_when_told(fixtures):
    told = {**TOKENIZER, "text_heads": 4, "heads": 8}
    plain = opened(fixtures, "sd1_compvis_fp16_ema.ckpt", **told).denoiser.net
    averaged = opened(fixtures, "sd1_compvis_fp16_ema.ckpt", ema=True, **told).denoiser.net
    for a, b in zip(plain.parameters(), averaged.parameters()):
        assert torch.allclose(1.01 * a, b, rtol=2e-3, atol=1e-6)  # theirs are 1.01 of the others, in fp16
    with pytest.raises(Problem, match="no averaged weights"):
        opened(fixtures, "sd1_compvis.safetensors", ema=True, **TOKENIZER, text_heads=4)


@torch.no_grad()
def test_the_eps_of_every_norm(fixtures):
    """A model so small in its numbers that a wrong eps shows. In float32 the peer itself is 6e-5 off what it said."""
    net, autoencoder = (phosphene.load(fixtures / "epsprobe" / part) for part in ("unet", "vae"))
    arrays = {key: torch.from_numpy(value) for key, value in np.load(fixtures / "epsprobe" / "ref.npz").items()}
    close(net(arrays["x"], arrays["t"].float(), Cond(tokens=arrays["ctx"])), arrays["eps"], 1e-4)
    close(autoencoder.posterior(arrays["img"]).mean, arrays["vae_mean"], 1e-4)
    close(autoencoder.decode(float(autoencoder.scale[0].detach()) * arrays["z"]), arrays["dec"], 1e-4)


@pytest.mark.parametrize("version", [1, 2])
@torch.no_grad()
def test_parts_of_a_live_pipeline(pipeline, tmp_path, version):
    pipe = pipeline(version, seed=version)
    pipe.save_pretrained(tmp_path / "sd", max_shard_size="500KB")  # sharded
    assert len(list((tmp_path / "sd" / "unet").glob("*.safetensors"))) > 1
    system = phosphene.load(tmp_path / "sd")
    texts = ["a red cube", "the cat, " * 50]
    ids = pipe.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    words = pipe.text_encoder(ids)[0]
    close(system.encoder.transformer(ids), words, 3e-5)
    x, t = torch.randn(2, 4, 9, 7), torch.tensor([3.0, 977.0])
    close(system.denoiser.net(x, t, Cond(tokens=words)), pipe.unet(x, t, words).sample, 3e-5)
    picture, z = torch.randn(1, 3, 16, 12), torch.randn(1, 4, 5, 6)
    close(system.autoencoder.posterior(picture).mean, pipe.vae.encode(picture).latent_dist.mean, 1e-4)
    close(system.autoencoder.decode(0.3 * z), pipe.vae.decode(z).sample, 1e-4)
    alone = phosphene.load(tmp_path / "sd" / "unet")
    assert isinstance(alone, UNet)
    close(alone(x, t, Cond(tokens=words)), pipe.unet(x, t, words).sample, 3e-5)


def test_precisions(pipeline, tmp_path):
    """The network in the precision asked for, all else in float32; an fp16 variant is read where there is no other."""
    pipeline(1).save_pretrained(tmp_path / "sd", variant="fp16")
    half = phosphene.load(tmp_path / "sd", dtype=torch.bfloat16)
    assert {p.dtype for p in half.denoiser.net.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in (*half.encoder.parameters(), *half.autoencoder.parameters())} == {torch.float32}


def test_settings_of_the_network_are_honoured(pipeline, tmp_path):
    """What most files have as it is: here not."""
    pipe = pipeline(1, 3, flip_sin_to_cos=False, freq_shift=1, downsample_padding=0, norm_eps=1e-3, layers_per_block=2)
    pipe.unet.save_pretrained(tmp_path / "unet")
    x, t, words = torch.randn(1, 4, 8, 8), torch.tensor([400.0]), torch.randn(1, 7, 24)
    with torch.no_grad():
        close(phosphene.load(tmp_path / "unet")(x, t, Cond(tokens=words)), pipe.unet(x, t, words).sample, 3e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
        ({"addition_embed_type": "text_time"}, "addition_embed_type='text_time'"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift='scale_shift'"),
        ({"only_cross_attention": [True, False, False]}, "only_cross_attention"),
        ({"down_block_types": ["AttnDownBlock2D"]}, "AttnDownBlock2D"),
        ({"attention_head_dim": 7}, "do not divide"),
        ({"block_out_channels": [32, 32, 32]}, "block_out_channels"),
    ],
)
def test_settings_that_are_not_known_are_refused_by_name(pipeline, tmp_path, change, said):
    pipeline(1).unet.save_pretrained(tmp_path / "unet")
    config = tmp_path / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(Problem, match=said):
        phosphene.load(tmp_path / "unet")
    config.write_text(json.dumps(json.loads(config.read_text()) | dict.fromkeys(change) | {"a_new_key": 3}))


def test_a_harmless_setting_is_not_minded(pipeline, tmp_path):
    pipeline(1).unet.save_pretrained(tmp_path / "unet")
    config = tmp_path / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"a_new_key": 3, "upcast_attention": True}))
    phosphene.load(tmp_path / "unet")


def test_what_is_not_said_is_assumed_aloud(fixtures, tmp_path):
    for name in ("sd2_compvis.safetensors", "sd1_compvis.safetensors"):
        shutil.copy(fixtures / name, tmp_path / name)  # without the yaml
    with pytest.warns(Assumed) as noted:
        told = dict(tokenizer=fixtures / "sd2/tokenizer", heads=[2, 4])
        system = phosphene.load(tmp_path / "sd2_compvis.safetensors", **told)
    said = " ".join(str(warning.message) for warning in noted)
    assert "does not say predicts: taken is v" in said and "text_heads" in said and "does not say heads" not in said
    assert system.denoiser.predicts == "v"
    with warnings.catch_warnings():
        warnings.simplefilter("error", Assumed)
        told |= dict(text_heads=3, predicts="eps")
        assert phosphene.load(tmp_path / "sd2_compvis.safetensors", **told).denoiser.predicts == "eps"
    with pytest.raises(Problem, match="tokenizer=FOLDER"), warnings.catch_warnings():
        warnings.simplefilter("ignore", Assumed)
        phosphene.load(tmp_path / "sd1_compvis.safetensors")
    with pytest.raises(Problem, match="unknown prediction 'velocity'"):
        phosphene.load(tmp_path / "sd1_compvis.safetensors", predicts="velocity")


@pytest.mark.parametrize(("name", "pad"), [("sd1", 49407), ("sd2", 0)])
def test_the_shipped_tokenizer_where_the_file_has_no_other(fixtures, tmp_path, name, pad):
    """A single file has none; its padding is the version's."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(fixtures / f"{name}_compvis.safetensors")
    [key] = [key for key in tensors if "token_embedding" in key]
    tensors[key] = torch.zeros(49408, tensors[key].shape[1])
    save_file(tensors, tmp_path / "sd.safetensors")
    shutil.copy(fixtures / f"{name}_compvis.yaml", tmp_path / "sd.yaml")
    encoder = phosphene.load(tmp_path / "sd.safetensors", text_heads=1).encoder
    assert encoder.pad == pad and encoder.tokenizer.ids("cat!") == [2368, 256]
    assert (encoder.skip, len(encoder.transformer.blocks)) == ((0, 3) if name == "sd1" else (1, 3))


def test_parts_that_are_missing_or_do_not_fit(fixtures, tmp_path):
    from safetensors.torch import load_file, save_file

    whole, told = load_file(fixtures / "sd1_compvis.safetensors"), dict(tokenizer=fixtures / "sd1/tokenizer", heads=8)

    def refused(tensors, **more):
        save_file(tensors, tmp_path / "sd.safetensors")
        with pytest.raises(Problem) as problem, warnings.catch_warnings():
            warnings.simplefilter("ignore", Assumed)
            phosphene.load(tmp_path / "sd.safetensors", **told, **more)
        assert "\n" not in str(problem.value)
        return str(problem.value)

    without = {key: t for key, t in whole.items() if not key.startswith("first_stage_model.")}
    assert "vae=FILE" in refused(without)
    without = {key: t for key, t in whole.items() if not key.startswith("cond_stage_model.")}
    assert "no text encoder" in refused(without)
    key = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    assert "lacks middle_block.0.in_layers.2.weight" in refused({k: t for k, t in whole.items() if k != key})
    assert "in_layers.2.weight is [64, 64, 3]" in refused(whole | {key: whole[key][..., 0].contiguous()})
    assert "no place" in refused(whole | {"model.diffusion_model.label_emb.0.0.weight": torch.zeros(3)})
    assert "5 channels on latents of 4" in refused(
        whole | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 5, 3, 3)}
    )


def test_another_autoencoder(fixtures, tmp_path):
    vae = phosphene.load(fixtures / "sd1_inpaint9" / "vae")
    for file in ("sd1_inpaint9/vae", "sd1_inpaint9", "sd1_inpaint9_compvis.safetensors"):
        system = phosphene.load(fixtures / "sd1", vae=fixtures / file)
        for ours, theirs in zip(system.autoencoder.parameters(), vae.parameters()):
            assert torch.equal(ours, theirs)
    bundle = phosphene.save(phosphene.load(fixtures / "sd1"), tmp_path / "sd.safetensors")
    system = phosphene.load(bundle, vae=fixtures / "taesd")
    assert type(system.autoencoder).__name__ == "TinyAutoencoder"
    assert (
        type(phosphene.load(phosphene.save(system, tmp_path / "t.safetensors")).autoencoder).__name__
        == "TinyAutoencoder"
    )
    with pytest.raises(Problem, match="not an autoencoder"):
        phosphene.load(fixtures / "sd1", vae=fixtures / "sd1" / "unet")
    with pytest.raises(Problem, match="unknown option"):
        phosphene.load(bundle, heads=3)


@pytest.mark.parametrize("version", [1, 2])
def test_the_names_of_the_real_sizes(version):
    """Every tensor of diffusers' Stable Diffusion has a place and a shape; on the meta device, where nothing is big."""
    diffusers = pytest.importorskip("diffusers")
    width, heads = (768, 8) if version == 1 else (1024, (5, 10, 20, 20))
    with torch.device("meta"):
        peer = diffusers.UNet2DConditionModel(
            cross_attention_dim=width, attention_head_dim=heads, use_linear_projection=version == 2
        )
    stored = {key: files.Stored("F16", tuple(t.shape)) for key, t in peer.state_dict().items()}
    shapes = files.Tensors("unet", stored).shapes
    net = empty(lambda: stable_unet.network(shapes, {}, [8] * 4 if version == 1 else heads, "unet"))
    table = unets.diffusers(net, unets.transformer())
    assert {e.theirs for e in table} == set(stored)
    wanted = net.state_dict()
    assert {key for e in table for key in e.ours} == set(wanted)
    assert all(wanted[e.ours[0]].numel() == stored[e.theirs].count for e in table)
    ldm = [e.theirs for e in unets.ldm(net, unets.transformer())]
    assert len(ldm) == len(set(ldm)) == len(table) and "output_blocks.11.1.proj_out.weight" in ldm


@pytest.mark.parametrize("name", ["ema", "heads", "text_heads", "scale"])
def test_what_a_folder_says_itself_is_not_told_in_vain(pipeline, tmp_path, name):
    pipeline(1).save_pretrained(tmp_path / "sd")
    with pytest.raises(Problem, match=f"{name}=… is for single files"):
        phosphene.load(tmp_path / "sd", **{name: 1})
