"""karlo's prior, decoder and projections: diffusers' by the recorded fixtures and live, the published names by
tests/golden/karlo.npz, of kakaobrain/karlo 3c68a50 with weights made from the names of their keys."""

import json
from pathlib import Path

import pytest
import torch

from phosphene import load
from phosphene.diffusion.cond import Cond
from phosphene.diffusion.guidance import clamp
from phosphene.diffusion.noise import Recorded
from phosphene.diffusion.samplers import sample
from phosphene.errors import Problem
from phosphene.nets.prior import Prior
from phosphene.weights import bundle
from weights.recorded import apart, arrays, state_dicts

GOLDEN = Path(__file__).parent.parent / "golden" / "karlo.npz"
pytestmark = pytest.mark.filterwarnings("ignore::phosphene.weights.load.Assumed")


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "fixtures"


# diffusers' folders


@torch.no_grad()
def test_the_prior_agrees(folder):
    denoiser, ref = load(folder / "unclip_prior"), arrays(folder / "unclip_prior_ref.npz")
    cond = Cond(vector=ref["proj_embedding"], tokens=ref["encoder_hidden_states"], mask=ref["mask"])
    out = denoiser.net(ref["x"], ref["t"], cond)
    assert apart(out, ref["out"]) <= 3e-5
    assert apart(denoiser.net.embedding(ref["out"]), ref["post"]) <= 3e-5
    assert apart(denoiser.net.normal(ref["post"]), ref["out"]) <= 3e-5
    unmasked = Cond(vector=ref["proj_embedding"], tokens=ref["encoder_hidden_states"])
    assert apart(denoiser.net(ref["x"], ref["t"], unmasked), ref["out"]) > 1e-3


def test_a_whole_run_of_the_prior_agrees(folder):
    denoiser, ref = load(folder / "unclip_prior"), arrays(folder / "unclip_prior_ref.npz")
    cond = Cond(vector=ref["proj_embedding"], tokens=ref["encoder_hidden_states"], mask=ref["mask"])
    schedule, noise = denoiser.schedule, Recorded([ref[f"noise{k}"] for k in range(4)])
    times = schedule.times(5, "linspace")
    assert ((times[:-1] * 1000) - 1).round().long().tolist() == ref["timesteps"].tolist()
    *_, last = sample("ddpm", clamp(denoiser.given(cond), 5.0), ref["z0"], times, schedule, noise=noise)
    beta = (schedule(1e-3).sigma ** 2).float()  # its last step multiplies by β/(1 − ᾱ), which is 1, but in float32
    assert apart(last.x * (beta / (1 - (1 - beta))), ref["z_final"]) <= 3e-4


@torch.no_grad()
def test_the_decoder_agrees(folder):
    denoiser, ref = load(folder / "unclip_decoder_unet"), arrays(folder / "unclip_decoder_unet_ref.npz")
    cond = Cond(vector=ref["class_labels"], tokens=ref["encoder_hidden_states"], mask=ref["attention_mask"])
    assert apart(denoiser.net(ref["x"], ref["t"], cond), ref["out"]) <= 3e-5
    assert denoiser.learned_variance


@torch.no_grad()
def test_the_projections_agree(folder):
    """Recorded with guidance: the first two rows are without a picture embedding."""
    head, ref = load(folder / "unclip_text_proj"), arrays(folder / "unclip_text_proj_ref.npz")
    text, states = ref["prompt_embeds"].chunk(2), ref["text_encoder_hidden_states"].chunk(2)
    said = Cond.cat([head(None, text[0], states[0]), head(ref["image_embeddings"], text[1], states[1])])
    assert apart(said.tokens, ref["hidden"]) <= 3e-5
    assert apart(said.vector, ref["add_time"]) <= 3e-5


@torch.no_grad()
def test_another_decoder_agrees_live(tmp_path):
    """Two levels of attention, other heads, one level more, and as many tokens as pixels at the bottom."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(1)
    theirs = diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 32, 64),
        layers_per_block=(1, 2, 1),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=20,
        attention_head_dim=8,
        class_embed_type="identity",
        resnet_time_scale_shift="scale_shift",
        norm_num_groups=16,
    ).eval()
    theirs.save_pretrained(tmp_path)
    denoiser = load(tmp_path)
    x, t, vector, tokens = torch.randn(2, 3, 16, 24), torch.tensor([5, 990]), torch.randn(2, 128), torch.randn(2, 9, 20)
    out = theirs(x, t, tokens, class_labels=vector).sample
    assert apart(denoiser.net(x, t, Cond(vector=vector, tokens=tokens)), out) <= 3e-5
    again = bundle.load(bundle.save(denoiser, tmp_path / "again.safetensors"))
    assert torch.equal(again.net(x, t, Cond(vector=vector, tokens=tokens)), denoiser.net(x, t, Cond(vector, tokens)))


# Under the published names


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(which of the two → its file, as Lightning writes it; the arrays)."""
    made = tmp_path_factory.mktemp("karlo")
    for name, tensors in state_dicts(GOLDEN).items():
        inside = {f"model.{key}": t for key, t in tensors.items()}
        torch.save({"state_dict": inside, "global_step": 3}, made / f"{name}.ckpt")
    torch.save((torch.full((24,), 0.5), torch.full((24,), 2.0)), made / "stats.th")
    return lambda name: made / name, arrays(GOLDEN)


@torch.no_grad()
def test_the_published_prior_agrees(published):
    file, ref = published
    denoiser = load(file("prior.ckpt"), heads=2, stats=file("stats.th"))
    cond = Cond(vector=ref["text"], tokens=ref["states"], mask=ref["mask"])
    assert apart(denoiser.net(ref["z"], ref["t"], cond), ref["out_prior"]) <= 3e-5
    assert torch.equal(denoiser.net.embedding(ref["z"]), ref["z"] * 2 + 0.5)
    one = load(file("prior.ckpt"), heads=1)
    assert apart(one.net(ref["z"], ref["t"], cond), ref["out_prior"]) > 1e-3
    assert torch.equal(one.net.embedding(ref["z"]), ref["z"])


@torch.no_grad()
def test_the_published_decoder_agrees(published):
    file, ref = published
    denoiser, head = load(file("decoder.ckpt"), head_dim=16), load(file("decoder.ckpt"), part="head")
    cond = head(ref["image"], ref["text"], ref["states"], ref["mask"])
    assert apart(denoiser.net(ref["x"], ref["t"], cond), ref["out_decoder"]) <= 3e-5


def test_a_prior_is_kept_by_a_bundle(published, tmp_path):
    file, ref = published
    denoiser = load(file("prior.ckpt"), heads=2, stats=file("stats.th"))
    again = bundle.load(bundle.save(denoiser, tmp_path / "prior.safetensors"))
    assert torch.equal(again.net.embedding(ref["z"]), denoiser.net.embedding(ref["z"]))


# What is refused


def test_a_prior_wants_all_its_tokens():
    net = Prior(8, 16, 1, 2, 5)
    x = torch.zeros(1, 8)
    with pytest.raises(ValueError, match="5 tokens"):
        net(x, torch.tensor(1.0), Cond(vector=x, tokens=torch.zeros(1, 4, 8)))
    with pytest.raises(ValueError, match="embedding"):
        net(x, torch.tensor(1.0), Cond(vector=x))


@pytest.mark.parametrize(
    "which, setting",
    [
        ("unclip_prior", {"norm_in_type": "layer"}),
        ("unclip_prior", {"added_emb_type": None}),
        ("unclip_decoder_unet", {"addition_embed_type": "image"}),
        ("unclip_decoder_unet", {"resnet_time_scale_shift": "default"}),
        ("unclip_decoder_unet", {"mid_block_scale_factor": 2}),
        ("unclip_decoder_unet", {"only_cross_attention": True}),
        ("unclip_decoder_unet", {"resnet_skip_time_act": True}),
    ],
)
def test_settings_that_are_not_known_are_refused_by_name(folder, tmp_path, which, setting):
    name = "diffusion_pytorch_model.safetensors"
    (tmp_path / name).symlink_to(folder / which / name)
    config = json.loads((folder / which / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **setting}))
    with pytest.raises(Problem, match=next(iter(setting))):
        load(tmp_path)


def test_other_problems(published, tmp_path):
    file, _ = published
    with pytest.raises(Problem, match="part"):
        load(file("decoder.ckpt"), part="tail")
    with pytest.raises(Problem, match="heads=5"):
        load(file("prior.ckpt"), heads=5)
    torch.save((torch.zeros(3), torch.zeros(3)), tmp_path / "stats.th")
    with pytest.raises(Problem, match="24 numbers"):
        load(file("prior.ckpt"), stats=tmp_path / "stats.th")
