"""diffusers' UNet2DModel and DDPMPipeline: the recorded fixtures, and live networks of other shapes."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from phosphene import load
from phosphene.diffusion.cond import Cond
from phosphene.diffusion.denoiser import Denoiser
from phosphene.diffusion.noise import Recorded
from phosphene.diffusion.schedule import Cosine
from phosphene.errors import Problem
from phosphene.nets.layers import (
    Conventions,
    CornerDownsample,
    PlainResDownsample,
    PlainResUpsample,
    ResDownsample,
    ResUpsample,
    ScaleShiftResBlock,
    TransposedUpsample,
)
from phosphene.nets.unet import UNet
from phosphene.systems.ddpm import Ddpm
from phosphene.text.encoders import ClassEncoder
from phosphene.weights import bundle
from phosphene.weights.save import save_as
from weights.recorded import apart, arrays


@pytest.fixture(scope="module")
def ref(shared):
    return arrays(shared / "fixtures" / "ddpm_ref.npz")


@torch.no_grad()
def test_the_network_agrees(shared, ref):
    net = load(shared / "fixtures" / "ddpm" / "unet")
    assert apart(net(ref["x"], ref["t"], Cond()), ref["out"]) <= 3e-5


@torch.no_grad()
def test_old_names_of_the_attention_are_the_same_network(shared, ref, tmp_path):
    old = load_file(shared / "fixtures" / "ddpm_old_attention_names_fp16.safetensors")
    assert any(key.endswith("proj_attn.weight") for key in old)
    save_file(old, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text((shared / "fixtures" / "ddpm" / "unet" / "config.json").read_text())
    assert apart(load(tmp_path)(ref["x"], ref["t"], Cond()), ref["out"]) <= 3e-5


def test_a_whole_run_agrees(shared, ref):
    system = load(shared / "fixtures" / "ddpm")
    noise = Recorded([ref[f"noise{k}"] for k in range(1, 10)], first=ref["noise0"])
    *_, last = system.generate([None], seeds=[0], steps=10, noise=noise)
    assert apart(last.picture().permute(0, 2, 3, 1) / 2 + 0.5, ref["image10"]) <= 3e-4


# Against the library itself


CONFIGS = {
    "conv": {},
    "classes, residual ways, scale and shift": {
        "num_class_embeds": 5,
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 8,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"],
        "attention_head_dim": 4,
    },
    "plain residual ways": {
        "down_block_types": ["ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"],
        "upsample_type": "resnet",
    },
    "corner, sine first, one head, other widths": {
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
        "attention_head_dim": None,
        "time_embedding_dim": 40,
        "layers_per_block": 2,
        "in_channels": 1,
        "out_channels": 2,
    },
}


@pytest.fixture
def saved(tmp_path):
    """(settings → a random UNet2DModel, its folder)."""
    diffusers = pytest.importorskip("diffusers")

    def save(settings):
        torch.manual_seed(3)
        base = {
            "sample_size": 16,
            "block_out_channels": [16, 24, 32],
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        }
        net = diffusers.UNet2DModel(**{**base, **settings}).eval()
        for p in net.parameters():
            p.data += 0.05 * torch.randn_like(p)
        net.save_pretrained(tmp_path / "unet")
        return net, tmp_path / "unet"

    return save


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_live_networks_agree(saved, name):
    theirs, folder = saved(CONFIGS[name])
    ours = load(folder)
    x, t = torch.randn(2, theirs.config.in_channels, 16, 24), torch.tensor([3, 871])
    labels, cond = None, Cond()
    if theirs.config.num_class_embeds:
        labels = torch.tensor([4, 1])
        cond = Cond(vector=theirs.class_embedding(labels))
    assert apart(ours(x, t, cond), theirs(x, t, labels).sample) <= 3e-5


@torch.no_grad()
def test_a_live_pipeline_of_classes_and_a_learned_variance(saved, tmp_path):
    """Generated with the class that is told, and the same again from a bundle."""
    diffusers = pytest.importorskip("diffusers")
    theirs, _ = saved({"num_class_embeds": 5, "out_channels": 6})
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline"}))
    diffusers.DDPMScheduler(variance_type="learned_range", beta_schedule="squaredcos_cap_v2").save_pretrained(
        tmp_path / "scheduler"
    )
    system = load(tmp_path)
    assert apart(system.encoder([4]).vector, theirs.class_embedding(torch.tensor([4]))) == 0

    def made(system, prompt):
        *_, last = system.generate([prompt], seeds=[0], steps=3)
        return last.picture()

    assert not torch.equal(made(system, 1), made(system, 4))
    again = bundle.load(bundle.save(system, tmp_path / "again.safetensors"))
    assert torch.equal(made(again, 4), made(system, 4))
    # the same run there
    z = [torch.randn(1, 3, 16, 16) for _ in range(3)]
    *_, last = system.generate([4], seeds=[0], steps=3, noise=Recorded(z[1:], first=z[0]))
    scheduler = diffusers.DDPMScheduler.from_pretrained(tmp_path / "scheduler")
    scheduler.set_timesteps(3)
    x = z[0]
    for k, t in enumerate(scheduler.timesteps):
        out = theirs(x, t, torch.tensor([4])).sample
        x = stepped(scheduler, out, t, x, z[k + 1] if k < 2 else None)
    assert apart(last.picture(), x.clamp(-1, 1)) <= 3e-4


def stepped(scheduler, out, t, x, z):
    """DDPMScheduler.step with the noise z, which it would draw itself; none at the end."""
    x0, prev = scheduler.step(out, t, x).pred_original_sample, scheduler.previous_timestep(t)
    a, b = scheduler.alphas_cumprod[t], scheduler.alphas_cumprod[prev] if prev >= 0 else torch.tensor(1.0)
    mean = b**0.5 * (1 - a / b) / (1 - a) * x0 + (a / b) ** 0.5 * (1 - b) / (1 - a) * x
    return mean if z is None else mean + (0.5 * scheduler._get_variance(t, predicted_variance=out[:, 3:])).exp() * z


@pytest.mark.parametrize(
    "setting",
    [
        {"act_fn": "mish"},
        {"mid_block_scale_factor": 2},
        {"center_input_sample": True},
        {"up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]},
        {"down_block_types": ["DownBlock2D", "KDownBlock2D", "DownBlock2D"]},
        {"resnet_time_scale_shift": "scale_shift"},
        {"norm_num_groups": 7},
    ],
)
def test_what_is_not_known_is_refused_by_its_name(saved, setting):
    _, folder = saved({})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **setting}))
    name = {"resnet_time_scale_shift": "attn_norm_num_groups", "norm_num_groups": "no network"}
    key = next(iter(setting))
    with pytest.raises(Problem, match=name.get(key, key)):
        load(folder)


def test_an_unknown_variance_is_refused(shared, tmp_path):
    import shutil

    shutil.copytree(shared / "fixtures" / "ddpm", tmp_path / "ddpm", copy_function=shutil.copyfile)
    for folder in (tmp_path / "ddpm").glob("**/"):
        folder.chmod(0o755)
    path = tmp_path / "ddpm" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "variance_type": "learned"}))
    with pytest.raises(Problem, match="variance_type"):
        load(tmp_path / "ddpm")


# Written


def ours(**settings) -> Ddpm:
    """A random system of ours that is told classes through a linear layer, and predicts v."""
    torch.manual_seed(5)
    base = {"attention": (0, 1), "head_dim": 16, "vector_dim": 12, "emb_dim": 100}
    net = UNet(3, 3, (32, 64), 2, **{**base, **settings})
    for p in net.parameters():
        p.data += 0.05 * torch.randn_like(p)
    encoder = ClassEncoder(4, 12) if net.arguments["vector_dim"] else None
    return Ddpm(Denoiser(net, Cosine(zero_snr=True), "v"), encoder, 16, steps=3).eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"how": Conventions(groups=16, eps=1e-6)},
        {"how": Conventions(groups=16, sine_first=True, freq_shift=1), "vector_dim": None, "down": CornerDownsample},
        {"how": Conventions(groups=16), "block": ScaleShiftResBlock, "down": ResDownsample, "up": ResUpsample},
        {"how": Conventions(groups=16), "down": PlainResDownsample, "up": PlainResUpsample, "head_dim": None},
    ],
)
@torch.no_grad()
def test_what_is_written_is_the_same_network_there(tmp_path, settings):
    diffusers = pytest.importorskip("diffusers")
    system = ours(**settings)
    lost = save_as(system, tmp_path / "out", "diffusers")
    assert bool(lost) == (settings.get("vector_dim", 12) is not None)
    theirs = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 871])
    cond = system.encoder([3, None]) if lost else Cond()
    out = theirs.unet(x, t, torch.tensor([3, 4]) if lost else None).sample
    assert apart(system.denoiser.net(x, t, cond), out) <= 3e-5
    assert theirs.scheduler.config.prediction_type == "v_prediction" and theirs.scheduler.config.clip_sample
    back = load(tmp_path / "out")

    def made(system, prompt, **how):
        noise = Recorded([x[1:]] * 2, first=x[:1])
        *_, last = system.generate([prompt], seeds=[0], noise=noise, steps=3, **how)
        return last.picture()

    assert apart(made(back, 3), made(system, 3)) <= 3e-4


def test_what_was_read_is_written_bit_for_bit(shared, tmp_path):
    """The weights; and what the configurations say that is not the class's default."""
    folder = shared / "fixtures" / "ddpm"
    assert save_as(load(folder), tmp_path / "out", "diffusers") == []
    name = "unet/diffusion_pytorch_model.safetensors"
    before, after = load_file(folder / name), load_file(tmp_path / "out" / name)
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    for name in ("unet/config.json", "scheduler/scheduler_config.json"):
        said, was = (json.loads((at / name).read_text()) for at in (tmp_path / "out", folder))
        differ = {k for k in said.keys() & was.keys() if said[k] != was[k]} - {"_diffusers_version"}
        assert differ <= {"attn_norm_num_groups", "time_embedding_dim"}
    save_as(load(folder / "unet"), tmp_path / "unet", "diffusers", half=True)
    assert load(tmp_path / "unet", torch.float16).conv_in.weight.dtype == torch.float16


@pytest.mark.parametrize(
    "settings",
    [
        {"up": TransposedUpsample},
        {"how": Conventions(groups=16, act="gelu")},
        {"how": Conventions(groups=16), "depth": (1, 2)},
        {"how": Conventions(groups=16), "attention": (1, 1), "head_dim": (8, 16)},
        {"how": Conventions(groups=16), "time_dim": 16},
    ],
)
def test_what_diffusers_cannot_be_is_refused(tmp_path, settings):
    depth = settings.pop("depth", 2)
    torch.manual_seed(0)
    net = UNet(3, 3, (32, 64), depth, **{"attention": (0, 1), "head_dim": 16, **settings})
    with pytest.raises(Problem, match="UNet2DModel"):
        save_as(Ddpm(Denoiser(net, Cosine(), "eps"), size=16), tmp_path / "out", "diffusers")
    assert not (tmp_path / "out").exists()
