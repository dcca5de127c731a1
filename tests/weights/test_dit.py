"""DiT against diffusers' network, and the original's names, which pack q, k and v and order patches otherwise."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from phosphene.diffusion.cond import Cond
from phosphene.diffusion.denoiser import Denoiser
from phosphene.errors import Problem
from phosphene.systems.latent import Latent
from phosphene.weights import dit
from phosphene.weights.load import load, look
from phosphene.weights.tables import extract

SIZES = dict(num_attention_heads=3, attention_head_dim=16, num_layers=2, patch_size=2, num_embeds_ada_norm=10)


@pytest.fixture(scope="module")
def peer():
    """diffusers' network with one embedding for all of its blocks, as in the published weights."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    net = diffusers.DiTTransformer2DModel(in_channels=4, out_channels=8, sample_size=8, **SIZES).eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    for block in net.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(net.transformer_blocks[0].norm1.emb.state_dict())
    return net


@pytest.fixture(scope="module")
def folder(peer, tmp_path_factory):
    path = tmp_path_factory.mktemp("dit")
    peer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def original(folder, tmp_path_factory):
    """The same network under the original's names, written by hand here."""
    t = load_file(folder / "diffusion_pytorch_model.safetensors")
    emb = "transformer_blocks.0.norm1.emb"
    names = {
        "pos_embed.proj": "x_embedder.proj",
        f"{emb}.timestep_embedder.linear_1": "t_embedder.mlp.0",
        f"{emb}.timestep_embedder.linear_2": "t_embedder.mlp.2",
        f"{emb}.class_embedder.embedding_table": "y_embedder.embedding_table",
        "proj_out_1": "final_layer.adaLN_modulation.1",
        "proj_out_2": "final_layer.linear",
    }
    made = {
        f"{new}.{k}": t[f"{old}.{k}"] for old, new in names.items() for k in ("weight", "bias") if f"{old}.{k}" in t
    }
    for i in range(2):
        old, new = f"transformer_blocks.{i}", f"blocks.{i}"
        for k in ("weight", "bias"):
            made[f"{new}.attn.qkv.{k}"] = torch.cat([t[f"{old}.attn1.to_{c}.{k}"] for c in "qkv"])
            pairs = {"attn1.to_out.0": "attn.proj", "ff.net.0.proj": "mlp.fc1", "ff.net.2": "mlp.fc2"}
            for a, b in {**pairs, "norm1.linear": "adaLN_modulation.1"}.items():
                made[f"{new}.{b}.{k}"] = t[f"{old}.{a}.{k}"]
    made["pos_embed"] = torch.zeros(1, 16, 48)
    path = tmp_path_factory.mktemp("original") / "DiT-tiny.pt"
    torch.save(made, path)
    return path


def answers(denoiser: Denoiser, classes, x, t, labels):
    cond = Cond(vector=classes(labels).vector)
    with torch.no_grad():
        return denoiser.net(x, t.float(), cond)


def asked(folder_or_file, **told):
    found = look(folder_or_file)
    found.told = told
    net, classes = dit.network(found, torch.float32)
    return Denoiser(net, dit.Linear(), learned_variance=True), classes


def test_is_diffusers_network(peer, folder):
    torch.manual_seed(1)
    x, t, labels = torch.randn(2, 4, 8, 8), torch.tensor([3, 871]), torch.tensor([7, 10])  # 10 is no class
    with torch.no_grad():
        theirs = peer(x, timestep=t, class_labels=labels).sample
    ours = answers(*asked(folder, freq_shift=1), x, t, [7, None])
    assert (ours - theirs).abs().max() <= 3e-5 * theirs.abs().mean()
    trained = answers(*asked(folder, freq_shift=0), x, t, [7, None])
    assert (trained - theirs).abs().max() > 1e-2 * theirs.abs().mean()  # other sinusoids are another network


def test_the_originals_names_are_the_same_network(folder, original):
    torch.manual_seed(2)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0, 999])
    ours = answers(*asked(original, heads=3), x, t, [0, 3])
    assert torch.equal(ours, answers(*asked(folder), x, t, [0, 3]))
    torch.manual_seed(3)
    wide = torch.randn(1, 4, 4, 12)  # other sizes than the trained one
    assert answers(*asked(original, heads=3), wide, t[:1], [0]).shape == (1, 8, 4, 12)


def test_what_is_read_is_written(original):
    denoiser, _ = asked(original, heads=3)
    there = torch.load(original, weights_only=True)
    made = extract(denoiser.net, dit.entries_of(denoiser.net, original=True))
    assert made.keys() == there.keys() - {"pos_embed", "y_embedder.embedding_table.weight"}
    assert all(torch.equal(made[key], there[key]) for key in made)


def test_the_pipelines_folder_makes_pictures(peer, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4,
    )  # fmt: skip
    diffusers.DiTPipeline(peer, vae, diffusers.DDIMScheduler()).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["id2label"] = {str(i): f"animal {i}" for i in range(10)}  # as in the published folders
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.warns(UserWarning, match="does not say freq_shift"):
        system = load(tmp_path)
    assert isinstance(system, Latent) and system.size == 16 and system.denoiser.learned_variance
    *_, last = system.generate(["animal 3", 3], seeds=[1, 1], steps=3)
    pictures = last.picture()
    assert pictures.shape == (2, 3, 16, 16) and torch.equal(pictures[0], pictures[1])
    *_, other = system.generate([4], seeds=[1], steps=3)
    assert not torch.equal(other.picture()[0], pictures[0])


def test_alone_it_is_a_denoiser_and_with_an_autoencoder_a_system(original, peer, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    with pytest.warns(UserWarning, match="has no autoencoder"):
        assert isinstance(load(original, heads=3), Denoiser)
    diffusers.AutoencoderTiny(latent_channels=4).save_pretrained(tmp_path)
    system = load(original, heads=3, vae=tmp_path)
    assert isinstance(system, Latent) and (system.size, system.sampler) == (64, "ddpm")
    assert (system.options, system.spacing) == ({"variance": "learned"}, "linspace")  # as its authors sample it


def test_what_is_wrong_is_said(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")

    def written(config, tensors):
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
        return tmp_path

    with pytest.raises(Problem, match="activation_fn='relu'"):
        load(written({**config, "activation_fn": "relu"}, tensors))
    odd = {**tensors, "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight": torch.zeros(11, 48)}
    with pytest.raises(Problem, match="one embedding for all blocks was expected"):
        load(written(config, odd))
    with pytest.raises(Problem, match="5 heads do not divide a width of 48"):
        load(written({**config, "num_attention_heads": 5}, tensors))
    short = {k: v for k, v in tensors.items() if "proj_out_2" not in k}
    with pytest.raises(Problem, match=r"lacks proj_out_2\.weight"):
        load(written(config, short))
