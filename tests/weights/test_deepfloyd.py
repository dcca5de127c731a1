"""DeepFloyd's IF: recorded fixtures of stages I and II, and live networks configured as the published stage II is."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from phosphene import load
from phosphene.diffusion.cond import Cond
from phosphene.diffusion.noise import Recorded
from phosphene.errors import Problem
from phosphene.systems.cascade import Cascade
from phosphene.systems.imagen import ImagenUpscaler
from phosphene.systems.upscale import Upscaler
from phosphene.weights import bundle
from weights.recorded import apart, arrays, state_dicts

GOLDEN = Path(__file__).parent.parent / "golden" / "deepfloyd.npz"


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "fixtures"


class States(nn.Module):
    """An encoder that knows two things to say: nothing, and something."""

    def __init__(self, states):
        super().__init__()
        self.said = dict(zip((None, "something"), states))

    def forward(self, prompts):
        return Cond(tokens=torch.stack([self.said[p or None] for p in prompts]))


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("masked", [True, False])
@torch.no_grad()
def test_networks_and_heads_agree(folder, stage, masked):
    system, ref = load(folder / f"if_stage{stage}"), arrays(folder / f"if_stage{stage}_ref.npz")
    mask = ref["attention_mask"].bool() if masked else None
    cond = system.encoder.read(ref["encoder_hidden_states"], mask, ref.get("class_labels"))
    x, small = ref["x"][:, :3], ref["x"][:, 3:]
    cond = replace(cond, image=small) if stage == 2 else cond
    assert apart(system.denoiser.net(x, ref["t"], cond), ref["out" if masked else "out_nomask"]) <= 3e-5
    assert isinstance(system, Upscaler) == (stage == 2)
    assert list(system.threshold) == [0.95, 1.5 if stage == 1 else 1.0]


def test_a_whole_run_agrees(folder):
    """Six steps with guidance 5, the dynamic threshold and the learned variance, by the noise as it was drawn."""
    system, ref = load(folder / "if_stage1"), arrays(folder / "if_stage1_sample.npz")
    system.encoder.text = States(ref["e"])
    noise = Recorded([ref[f"noise{k}"] for k in range(5)], first=ref["z0"])
    previews = system.generate(["something"], seeds=[0], steps=6, guidance=5.0, size=(16, 16), noise=noise)
    *_, last = previews
    assert apart(last.picture(), ref["final"].clamp(-1, 1)) <= 3e-4


@pytest.fixture
def larger(folder, tmp_path):
    """Stage II, configured for what stage I of the fixtures makes, of 16 pixels."""
    made = tmp_path / "if_stage2"
    made.mkdir()
    name = "diffusion_pytorch_model.safetensors"
    (made / name).symlink_to(folder / "if_stage2" / name)
    config = json.loads((folder / "if_stage2" / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**config, "sample_size": 64}))
    return made


def test_both_stages_together_are_a_cascade(folder, larger):
    """Imagen's own classes: each stage what it is alone, and the level of noise swept between them."""
    system = load(folder / "if_stage1", then=str(larger))
    first, second = system.stages
    assert type(system) is Cascade and type(second) is ImagenUpscaler and (first.size, second.small) == (16, 16)
    alone = load(larger).state_dict()
    assert all(torch.equal(alone[k], v) for k, v in second.state_dict().items())
    ref = arrays(folder / "if_stage1_sample.npz")
    first.encoder.text = second.encoder.text = States(ref["e"])

    def made(level):
        previews = list(system.generate(["something"], seeds=[1], steps=[2, 2], level=level))
        assert [p.stage for p in previews] == ["base"] * 2 + ["upscale to 64"] * 2
        return previews[1].picture(), previews[-1].picture()

    (small, as_made), (again, told), (_, other) = made(None), made(0.251), made(0.6)
    assert torch.equal(small, again) and torch.equal(as_made, told) and not torch.allclose(told, other, atol=1e-2)
    with pytest.raises(Problem, match=r"then=.*IF was expected"):
        load(folder / "if_stage1", then=str(folder / "ddpm"))


def test_what_is_told_is_the_level_of_the_noise(folder, larger):
    """The network hears the step of the schedule that the small picture is noised to: 250 of 1000 unless said."""
    system, heard = load(larger), []
    system.encoder.text = States(arrays(folder / "if_stage1_sample.npz")["e"])
    system.encoder.noised.register_forward_pre_hook(lambda _, given: heard.append(given[0].tolist()))
    for level in (None, 0.5):
        *_, _ = system.generate(["something"], seeds=[1], image=torch.zeros(1, 3, 16, 16), steps=1, level=level)
    assert {round(x, 3) for row in heard[: len(heard) // 2] for x in row} == {250.0}
    assert {round(x, 3) for row in heard[len(heard) // 2 :] for x in row} == {499.0}


# As the published stages are configured


def network(**settings):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(2)
    base = {
        "sample_size": 32,
        "in_channels": 6,
        "out_channels": 6,
        "block_out_channels": (32, 64, 64),
        "layers_per_block": (1, 2, 1),
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "cross_attention_dim": 64,
        "cross_attention_norm": "group_norm",
        "attention_head_dim": 16,
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
        "encoder_hid_dim": 24,
        "class_embed_type": "timestep",
        "resnet_time_scale_shift": "scale_shift",
        "act_fn": "gelu",
        "time_embedding_dim": 64,
        "time_embedding_act_fn": "gelu",
        "resnet_skip_time_act": True,
        "resnet_out_scale_factor": 1 / 0.7071,
        "mid_block_scale_factor": 1 / 0.7071,
    }
    net = diffusers.UNet2DConditionModel(**{**base, **settings}).eval()
    for p in net.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return net


@pytest.mark.parametrize(
    "settings",
    [
        {"only_cross_attention": True},
        {"only_cross_attention": [False, True, False], "mid_block_only_cross_attention": True},
        {"only_cross_attention": [False, False, True]},
        {"encoder_hid_dim": None, "in_channels": 3, "class_embed_type": None},
    ],
)
@torch.no_grad()
def test_live_networks_agree(tmp_path, settings):
    theirs = network(**settings)
    theirs.save_pretrained(tmp_path)
    system = load(tmp_path)
    states = torch.randn(2, 7, theirs.config.encoder_hid_dim or 64)
    x, t, level = torch.randn(2, theirs.config.in_channels, 32, 24), torch.tensor([5, 990]), torch.tensor([250, 30])
    mask = None  # diffusers' attention to tokens alone takes none
    if "only_cross_attention" not in settings:
        mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3]).bool()
    told = theirs.config.class_embed_type is not None
    out = theirs(x, t, states, class_labels=level if told else None, encoder_attention_mask=mask).sample
    cond = system.encoder.read(states, mask, level if told else None)
    if told:
        x, cond = x[:, :3], replace(cond, image=x[:, 3:])
    assert apart(system.denoiser.net(x, t, cond), out) <= 3e-5


def test_a_stage_two_makes_pictures_larger(tmp_path):
    """The small picture is noised up to level 250, by the picture's own seed, and the network is told so."""
    network(only_cross_attention=True).save_pretrained(tmp_path / "unet")
    system = load(tmp_path / "unet")
    assert (system.size, system.small, system.noised, system.encoder.level) == (32, 8, 0.251, 250)
    small = torch.rand(1, 3, 8, 8) * 2 - 1
    z = torch.randn(1, 3, 32, 32)
    alpha, sigma = system.denoiser.schedule(0.251)
    large = nn.functional.interpolate(small, (32, 32), mode="bilinear", align_corners=True)
    assert apart(system.told(small, (32, 32), z).image, alpha.float() * large + sigma.float() * z) <= 1e-5
    with pytest.raises(Problem, match="text=FOLDER"):
        next(system.generate(["something"], seeds=[0], image=small))
    system.encoder.text = States(torch.randn(2, 5, 24))

    def made(seeds, small):
        *_, last = system.generate(["something"] * len(seeds), seeds=seeds, image=small, steps=2)
        return last.picture()

    assert made([1], small).shape == (1, 3, 32, 32)
    assert apart(made([1, 2], small)[1:], made([2], small)) <= 1e-3
    assert not torch.equal(made([1], small), made([1], -small))


def test_a_pipeline_reads_words_by_its_own_t5(folder, tmp_path):
    """Its scheduler says how to sample; the bundle of it remembers where T5 lies."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("sentencepiece")
    diffusers = pytest.importorskip("diffusers")
    network(in_channels=3, class_embed_type=None).save_pretrained(tmp_path / "unet")
    settings = {"variance_type": "learned_range", "thresholding": True, "sample_max_value": 1.25}
    diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", **settings).save_pretrained(tmp_path / "scheduler")
    config = transformers.T5Config(
        vocab_size=1000, d_model=24, d_ff=32, d_kv=8, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    transformers.T5EncoderModel(config).save_pretrained(tmp_path / "text_encoder")
    (tmp_path / "tokenizer").symlink_to(folder / "t5_tokenizer")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "IFPipeline"}))
    system = load(tmp_path)
    assert list(system.threshold) == [0.995, 1.25] and not isinstance(system, Upscaler)

    def made(system, prompt):
        *_, last = system.generate([prompt], seeds=[0], steps=2)
        return last.picture()

    assert not torch.equal(made(system, "a fox"), made(system, "two pizzas"))
    again = bundle.load(bundle.save(system, tmp_path / "if.safetensors"))
    assert torch.equal(made(again, "a fox"), made(system, "a fox"))


@pytest.mark.parametrize(
    "setting",
    [
        {"addition_embed_type": "text_time"},
        {"class_embed_type": "projection"},
        {"class_embed_type": "timestep"},
        {"cross_attention_norm": "layer_norm"},
        {"cross_attention_norm": None, "only_cross_attention": True},
        {"time_embedding_act_fn": "gelu"},
        {"mid_block_scale_factor": 1.4},
        {"act_fn": "mish"},
        {"up_block_types": ["ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"]},
    ],
)
def test_what_is_not_known_is_refused_by_its_name(folder, tmp_path, setting):
    name = "diffusion_pytorch_model.safetensors"
    (tmp_path / name).symlink_to(folder / "if_stage1" / name)
    config = json.loads((folder / "if_stage1" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **setting}))
    what = "UNet2DConditionModel" if "addition_embed_type" in setting else list(setting)[-1]
    with pytest.raises(Problem, match=what):
        load(tmp_path)


# Under the published names: tests/golden/deepfloyd.npz, of deep-floyd/IF ffc8163


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    made = tmp_path_factory.mktemp("if")
    for name, tensors in state_dicts(GOLDEN).items():
        torch.save(tensors, made / f"{name}.bin")
    return lambda name: made / f"{name}.bin", arrays(GOLDEN)


@pytest.mark.filterwarnings("ignore::phosphene.weights.load.Assumed")
@pytest.mark.parametrize("stage", ["first", "second"])
@torch.no_grad()
def test_published_files_agree(published, stage):
    """The second attends to tokens alone on its first level, is told the noise's level, and shrinks its sums."""
    file, ref = published
    system = load(file(stage), head_dim=16, pool_heads=2)
    cond = system.encoder.read(ref["states"])
    if stage == "second":
        assert isinstance(system, Upscaler) and (system.size, system.small) == (16, 4)
        cond = replace(cond, image=ref["low"])
    assert apart(system.denoiser.net(ref["x"], ref["t"], cond), ref[f"out_{stage}"]) <= 3e-5
