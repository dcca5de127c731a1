"""Autoencoders alone: AutoencoderKL, VQModel and the tiny ones, under every name they go by."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import phosphene
from phosphene.errors import Assumed, Problem
from phosphene.nets.quantize import VqAutoencoder
from phosphene.nets.tiny import TinyAutoencoder
from phosphene.weights import vae
from phosphene.weights.save import save_as
from weights.stable import close


def recorded(shared, name):
    return {key: torch.from_numpy(value) for key, value in np.load(shared / "fixtures" / f"{name}_ref.npz").items()}


@torch.no_grad()
def test_the_tiny_autoencoder(shared):
    net, arrays = phosphene.load(shared / "fixtures" / "taesd"), recorded(shared, "taesd")
    assert isinstance(net, TinyAutoencoder) and (net.channels, net.f) == (4, 2)
    close(net.encode(arrays["x"]), arrays["latents"], 1e-4)
    close(net.decode(arrays["latents"]), arrays["dec"], 1e-4)


@torch.no_grad()
def test_the_tiny_autoencoder_in_its_original_names(shared, tmp_path):
    """One file a half, numbered as in a Sequential, the decoder's from its clamp on; or both in one."""
    arrays, halves = recorded(shared, "taesd"), {"encoder": {}, "decoder": {}}
    for key, tensor in load_file(shared / "fixtures" / "taesd" / "diffusion_pytorch_model.safetensors").items():
        half, _, number, rest = key.split(".", 3)
        halves[half][f"{int(number) + (half == 'decoder')}.{rest}"] = tensor
    save_file(halves["encoder"], tmp_path / "taesd_encoder.safetensors")
    with pytest.raises(Problem, match="its decoder was expected beside it"):
        phosphene.load(tmp_path / "taesd_encoder.safetensors")
    save_file(halves["decoder"], tmp_path / "taesd_decoder.safetensors")
    both = {f"{half}.{key}": t for half, tensors in halves.items() for key, t in tensors.items()}
    save_file(both, tmp_path / "both.safetensors")
    for name in ("taesd_encoder", "taesd_decoder", "both"):
        net = phosphene.load(tmp_path / f"{name}.safetensors")
        close(net.encode(arrays["x"]), arrays["latents"], 1e-4)
        close(net.decode(arrays["latents"]), arrays["dec"], 1e-4)


@pytest.mark.parametrize("name", ["vqmodel", "vqmodel_ldm.safetensors"])
@torch.no_grad()
def test_a_codebook(shared, name):
    told = {} if name == "vqmodel" else {"scale": 0.18215}
    net, arrays = phosphene.load(shared / "fixtures" / name, **told), recorded(shared, "vqmodel")
    assert isinstance(net, VqAutoencoder) and net.scale == 0.18215
    raw = net.encode(arrays["x"]) / net.scale
    close(raw, arrays["latents"], 1e-4)
    assert torch.equal(net.nearest(arrays["latents"]).flatten(), arrays["indices"])
    close(net.quantised(arrays["latents"]), arrays["quant"], 1e-6)
    close(net.decode(arrays["latents"] * net.scale), arrays["dec"], 1e-4)
    close(net.reconstruct(arrays["latents"]), arrays["dec_noquant"], 1e-4)


@torch.no_grad()
def test_live_autoencoders_of_other_sizes(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(4)
    down, up = ("DownEncoderBlock2D",) * 3, ("UpDecoderBlock2D",) * 3
    sizes = dict(block_out_channels=(8, 16, 24), down_block_types=down, up_block_types=up, norm_num_groups=4)
    kl = diffusers.AutoencoderKL(**sizes, latent_channels=5, scaling_factor=0.7, shift_factor=0.25)
    bare = diffusers.AutoencoderKL(**sizes, latent_channels=6, use_quant_conv=False, use_post_quant_conv=False)
    vq = diffusers.VQModel(**sizes, latent_channels=4, vq_embed_dim=2, num_vq_embeddings=9, layers_per_block=2)
    tiny = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 2, 1), num_decoder_blocks=(2, 1, 3), latent_channels=7, scaling_factor=0.5,
    )  # fmt: skip
    down, up = ("AttnDownEncoderBlock2D", *down[1:]), (*up[1:], "AttnUpDecoderBlock2D")  # LDM's KL-f16 has such
    attends = diffusers.AutoencoderKL(**sizes | dict(down_block_types=down, up_block_types=up), layers_per_block=2)
    x = 0.5 * torch.randn(2, 3, 16, 20)
    for name, peer in {"kl": kl, "bare": bare, "vq": vq, "tiny": tiny, "attends": attends}.items():
        peer.eval().save_pretrained(tmp_path / name)
        net = phosphene.load(tmp_path / name)
        made = peer.encode(x)
        raw = made.latent_dist.mode() if name in ("kl", "bare", "attends") else made.latents
        scale = peer.config.scaling_factor
        z = raw if name == "tiny" else (raw - (getattr(peer.config, "shift_factor", None) or 0)) * scale
        close(net.encode(x), z if name != "tiny" else raw * scale, 1e-4)
        theirs = peer.decode(raw).sample
        close(net.decode(z if name != "tiny" else raw * scale), theirs, 1e-4)
        assert net.f == 4 and net.channels == raw.shape[1]
        save_as(net, tmp_path / f"{name} again", "diffusers")
        again = type(peer).from_pretrained(tmp_path / f"{name} again")
        assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), peer.state_dict().values()))
        if isinstance(peer, diffusers.AutoencoderKL):
            table = [e.theirs for e in vae.ldm(net)]
            assert len(set(table)) == len(table) == len(peer.state_dict())
            assert ("encoder.down.0.attn.1.proj_out.weight" in table) == (name == "attends")


def test_a_file_of_an_autoencoder_alone(shared, tmp_path):
    """With or without a prefix; its factor is told or assumed aloud; a training's other networks are not minded."""
    folder = phosphene.load(shared / "fixtures" / "sd1" / "vae")
    for prefix in ("", "vae.", "first_stage_model."):
        plain = {
            key.removeprefix("first_stage_model."): t
            for key, t in load_file(shared / "fixtures" / "sd1_compvis.safetensors").items()
            if key.startswith("first_stage_model.")
        }
        tensors = {prefix + key: t for key, t in plain.items()} | ({} if prefix else {"loss.logvar": torch.zeros(())})
        save_file(tensors, tmp_path / "vae.safetensors")
        with pytest.warns(Assumed, match=r"does not say scale: taken is 0\.18215"):
            net = phosphene.load(tmp_path / "vae.safetensors")
        assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), folder.state_dict().values()))
    assert float(phosphene.load(tmp_path / "vae.safetensors", scale=0.5).scale[0]) == 0.5
    with pytest.raises(Problem, match="unknown option of a checkpoint of the family 'vae' 'heads'"):
        phosphene.load(tmp_path / "vae.safetensors", heads=3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"act_fn": "relu"}, "act_fn='relu'"),
        ({"mid_block_add_attention": False}, "mid_block_add_attention=False"),
        ({"latents_mean": [0.1]}, "latents_mean"),
        ({"down_block_types": ["DownBlock2D"]}, "DownBlock2D"),
    ],
)
def test_settings_that_are_not_known_are_refused_by_name(shared, tmp_path, change, said):
    source = shared / "fixtures" / "sd1" / "vae"
    (tmp_path / "config.json").write_text(json.dumps(json.loads((source / "config.json").read_text()) | change))
    (tmp_path / "diffusion_pytorch_model.safetensors").symlink_to(source / "diffusion_pytorch_model.safetensors")
    with pytest.raises(Problem, match=said):
        phosphene.load(tmp_path)
