"""Whole runs of Stable Diffusion by diffusers, recorded with their noise: from words, from a picture, in a mask.

t is recorded as the entry k of 0 … 999; our t is (k + 1)/1000. Where diffusers disagrees with itself the consistent
answer is ours, and the case is left out, with the reason at the case.
"""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

from phosphene.diffusion.cond import Cond
from phosphene.diffusion.denoiser import Denoiser
from phosphene.diffusion.noise import Recorded
from phosphene.diffusion.schedule import ScaledLinear
from phosphene.systems.latent import Latent
from phosphene.text.encoders import NoEncoder
from phosphene.weights.load import load

CLOSE = 3e-4  # max |difference| / mean |reference|
SAMPLERS = {  # the first words of a case -> our sampler and its options
    "ddim": ("ddim", {}),
    "ddim_eta1": ("ddim", {"eta": 1.0}),
    "ddpm": ("ddpm", {"variance": "small"}),
    "pndm": ("plms", {}),
    "euler": ("euler", {}),
    "euler_a": ("euler_ancestral", {}),
    "heun": ("heun", {}),
    "lms": ("lms", {}),
    "dpmpp_2m": ("dpmpp_2m", {}),
    "dpmpp_2m_sde": ("dpmpp_2m_sde", {}),
    "unipc": ("unipc", {"order": 2}),
    "lcm": ("lcm", {}),
}
# Left out: DPM-Solver++(3M), whose second step we take as k-diffusion does; DEIS, which lowers its order at the last
# step of fewer than 15; DPM2, which is not among our samplers; PNDM on v: diffusers averages v, the method says ε.
SD1 = [
    "ddim", "ddim_eta1", "ddim_trailing_zsnr", "pndm", "ddpm", "euler", "euler_karras_linspace", "euler_trailing",
    "euler_a", "heun", "lms", "dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde_karras", "unipc", "lcm",
]  # fmt: skip
SD2 = ["ddim", "ddim_trailing_zsnr", "ddpm", "euler", "heun", "lms", "dpmpp_2m", "dpmpp_2m_karras", "unipc"]


class Record:
    """A recording: its arrays, its cases, and what they say in our words."""

    def __init__(self, folder, name):
        self.arrays = {k: torch.from_numpy(v) for k, v in np.load(folder / f"{name}.npz").items()}
        told = json.loads((folder / f"{name}.json").read_text())
        self.cases, self.prompt, self.negative = told["cases"], told["prompt"], told["negative"]

    def noise(self, case):
        names = sorted(
            (k for k in self.arrays if k.startswith(f"{case}.noise")), key=lambda k: int(k.split("noise")[1])
        )
        return [self.arrays[name] for name in names]


@pytest.fixture(scope="module")
def loaded(shared):
    """A system of a folder of fixtures, loaded once; what a case turns on it is put back."""
    systems = {}

    def get(name):
        if name not in systems:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                systems[name] = load(shared / "fixtures" / name)
        return systems[name]

    return get


def sampler_of(case):
    name = max((name for name in SAMPLERS if case == name or case.startswith(f"{name}_")), key=len)
    return SAMPLERS[name]


def end_of(config, kind):
    """DDIM and PNDM may end at the first entry; the others end at 0."""
    return 0.0 if config.get("set_alpha_to_one", True) or kind not in ("DDIMScheduler", "PNDMScheduler") else 1 / 1000


def visited(told, timesteps):
    """Our times for recorded entries: each once, then the end."""
    entries = list(dict.fromkeys(timesteps))
    return [(k + 1) / 1000 for k in entries] + [end_of(told["config"], told["scheduler"])]


def run(system, monkeypatch, prompts, **how):
    """The last x of a run: what it would decode."""
    seen = []
    monkeypatch.setattr(system, "decode", lambda x: seen.append(x) or torch.zeros(1, 3, 1, 1))
    *_, last = system.generate(prompts, seeds=[0] * len(prompts), **how)
    last.picture()
    return seen[-1]


def off(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().mean())


@pytest.mark.parametrize(("name", "case"), [("sd1", c) for c in SD1] + [("sd2", c) for c in SD2])
def test_from_words(loaded, shared, monkeypatch, name, case):
    record, system = Record(shared / "fixtures", f"{name}_pipe"), loaded(name)
    told = record.cases[case]
    config = told["config"]
    prepared(monkeypatch, system, config)
    schedule = system.denoiser.schedule
    times = visited(told, told["timesteps"])
    if config.get("use_karras_sigmas") and told["scheduler"].startswith("DPM"):
        # exact σ, but the network is asked at the nearest entry
        times = schedule.times(told["steps"], "karras").tolist()
        exact = type(schedule).c_noise
        monkeypatch.setattr(schedule, "c_noise", lambda t: exact(schedule, t).round(), raising=False)
    first = record.arrays["latents0"] * first_scale(schedule, told, times)
    sampler, options = sampler_of(case)
    kwargs = told["kwargs"]
    options = options | {"guidance": kwargs["guidance_scale"], "rescale": kwargs.get("guidance_rescale", 0.0)}
    noise = Recorded(record.noise(case), first)
    ours = run(
        system,
        monkeypatch,
        [record.prompt],
        sampler=sampler,
        times=times,
        noise=noise,
        negative=[record.negative],
        **options,
    )
    assert off(ours, record.arrays[f"{case}.latents"]) < CLOSE


def prepared(monkeypatch, system, config):
    """The system with a case's schedule and prediction."""
    from phosphene.weights.scheduler import PREDICTS, schedule_of

    monkeypatch.setattr(system.denoiser, "schedule", schedule_of(config, "the case"))
    monkeypatch.setattr(system.denoiser, "predicts", PREDICTS[config.get("prediction_type", "epsilon")])


def first_scale(schedule, told, times):
    """In σ-space a run starts from σ·z, but for leading from √(σ² + 1)·z, which is z as ours; FORMATS, §3."""
    inflated = (
        told["scheduler"].startswith(("Euler", "Heun", "LMS")) and told["config"]["timestep_spacing"] != "leading"
    )
    return schedule(times[0]).sigma.float() if inflated else 1.0


@pytest.mark.parametrize("file", ["sd1_pipe_cfg1", "sd1_pipe_rescale", "sd1_pipe_clipskip"])
@pytest.mark.parametrize("case", ["ddim", "euler"])
def test_guidance_rescale_and_clip_skip(loaded, shared, monkeypatch, file, case):
    """clip_skip as the web UI counts it, for the negative prompt too; diffusers' acts on the positive one only."""
    record, system = Record(shared / "fixtures", file), loaded("sd1")
    skips = file == "sd1_pipe_clipskip"
    told = record.cases[f"{case}.a1111" if skips else case]
    prepared(monkeypatch, system, told["config"])
    same = Record(shared / "fixtures", "sd1_pipe_cfg1").cases[case]["timesteps"]
    kwargs = told.get("kwargs") or {}
    how = {"guidance": kwargs.get("guidance_scale", 7.5), "rescale": kwargs.get("guidance_rescale", 0.0)}
    how |= {"clip_skip": 2} if skips else {}
    noise = Recorded([], record.arrays["latents0"])
    ours = run(
        system, monkeypatch, [record.prompt], sampler=case, times=visited(told, same), noise=noise,
        negative=[record.negative], **how,
    )  # fmt: skip
    assert off(ours, record.arrays[f"{case}.a1111.latents" if skips else f"{case}.latents"]) < CLOSE


def partial(told):
    """The times of a run that starts within the picture: diffusers takes int(n · strength) steps."""
    n = told["steps"]
    if told["config"]["timestep_spacing"] == "linspace":  # DPM-Solver's: n + 1 entries, the last of them not visited
        entries = np.linspace(0, 999, n + 1).round()[::-1][:-1]
    else:
        entries = np.arange(n)[::-1] * (1000 // n) + told["config"]["steps_offset"]
    return visited(told, entries[n - int(n * told["strength"]) :].tolist())


# Not pndm: begun in the middle, diffusers' PNDM takes the entry after the first for its repeated one, and from there on
# stands one level beside the entry that it asks its network at.
@pytest.mark.parametrize("case", [f"{s}@{u}" for s in ("ddim", "euler", "dpmpp_2m", "euler_a") for u in (0.75, 0.3)])
def test_from_a_picture(loaded, shared, monkeypatch, case):
    record, system = Record(shared / "fixtures", "sd1_img2img"), loaded("sd1")
    told = record.cases[case]
    prepared(monkeypatch, system, told["config"])
    picture, z, *rest = record.noise(case)
    sampler, options = sampler_of(case.split("@")[0])
    ours = run(
        system, monkeypatch, [record.prompt], sampler=sampler, times=partial(told), negative=[record.negative],
        noise=Recorded(rest, {"start": z, "picture": picture}), guidance=told["guidance_scale"],
        image=record.arrays["image01"] * 2 - 1, draw=True, **options,
    )  # fmt: skip
    assert off(ours, record.arrays[f"{case}.latents"]) < CLOSE


@pytest.mark.parametrize("name", ["sd1_inpaint4", "sd1_inpaint9_pipe"])
@pytest.mark.parametrize("case", ["ddim@1.0", "euler@1.0", "dpmpp_2m@0.6", "ddim@0.6"])
def test_in_a_mask(loaded, shared, monkeypatch, name, case):
    record, system = Record(shared / "fixtures", name), loaded("sd1" if name == "sd1_inpaint4" else "sd1_inpaint9")
    told = record.cases[case]
    prepared(monkeypatch, system, told["config"])
    who = ["rest" if "vae" in by else "start" for by in told["noise"]]  # in the order in which they were drawn
    if "rest" in who[: who.index("start")]:
        who[who.index("rest")] = "picture"
    first = dict(zip(who, record.noise(case), strict=True))
    anew = told["strength"] == 1.0  # from noise alone: diffusers' case, and ours by strength 1
    times = partial(told)
    # these are the times that are left: below 1 the strength says only that the run starts from the picture
    ours = run(
        system, monkeypatch, [record.prompt], sampler=sampler_of(case.split("@")[0])[0], times=times,
        negative=[record.negative], noise=Recorded([], first), guidance=told["guidance_scale"], draw=True,
        image=record.arrays["image01"] * 2 - 1, mask=record.arrays["mask"], strength=1.0 if anew else 0.99,
    )  # fmt: skip
    assert off(ours, record.arrays[f"{case}.latents"]) < CLOSE


class Said(torch.nn.Module):
    """An encoder that knows one prompt: the peer is given the same tokens."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def forward(self, prompts):
        return Cond(tokens=torch.stack([self.tokens[int(p is not None)] for p in prompts]))


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """{channels: (diffusers' U-Net, VAE, a system of ours of what they save, tokens)}, all random."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(5)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16, 32, 32), layers_per_block=1, norm_num_groups=8, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    ).eval()  # fmt: skip
    tokens = torch.randn(2, 9, 24)
    made = {}
    for channels in (4, 9):
        unet = diffusers.UNet2DConditionModel(
            sample_size=8, in_channels=channels, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
            cross_attention_dim=24, attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ).eval()  # fmt: skip
        folder = tmp_path_factory.mktemp("peer")
        unet.save_pretrained(folder / "unet"), vae.save_pretrained(folder / "vae")
        ours = [load(folder / name) for name in ("unet", "vae")]
        system = Latent(Denoiser(ours[0], ScaledLinear()), ours[1], NoEncoder(), size=32)
        system.encoder = Said(tokens)
        made[channels] = unet, vae, system.eval().requires_grad_(False), tokens
    return made


@pytest.mark.parametrize(
    "channels", [None, 4, 9]
)  # from a picture; in a mask, by an ordinary and an inpainting network
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_against_diffusers_pipelines(peers, monkeypatch, channels, strength):
    import diffusers

    unet, vae, system, tokens = peers[channels or 4]
    ddim = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1,
        clip_sample=False, set_alpha_to_one=False,
    )  # fmt: skip
    kind = diffusers.StableDiffusionImg2ImgPipeline if channels is None else diffusers.StableDiffusionInpaintPipeline
    parts = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    pipe = kind(unet=unet, vae=vae, scheduler=ddim, requires_safety_checker=False, **parts)
    pipe.set_progress_bar_config(disable=True)
    height, width, steps = 24, 40, 5
    numbers = torch.Generator().manual_seed(8)
    picture = torch.rand(1, 3, height, width, generator=numbers)
    mask = torch.zeros(1, 1, height, width)
    mask[..., 8:20, 12:] = 1
    where = {} if channels is None else {"mask_image": mask, "height": height, "width": width}
    theirs = pipe(
        prompt_embeds=tokens[1:], negative_prompt_embeds=tokens[:1], guidance_scale=4.0, num_inference_steps=steps,
        image=picture, strength=strength, generator=torch.Generator().manual_seed(3), output_type="latent", **where,
    ).images  # fmt: skip
    drawn = torch.Generator().manual_seed(3)
    order = ["start", "rest"] if channels == 9 and strength == 1 else ["picture", "start", "rest"]
    first = {name: torch.randn(1, 4, height // 4, width // 4, generator=drawn) for name in order}
    entries = list(range(801, 0, -200))[-int(steps * strength) :]
    how = {} if channels is None else {"mask": mask}
    anew = channels is not None and strength == 1
    ours = run(
        system, monkeypatch, ["said"], sampler="ddim", guidance=4.0, image=picture * 2 - 1, draw=True,
        times=[(k + 1) / 1000 for k in entries] + [1 / 1000], noise=Recorded([], first),
        strength=1.0 if anew else 0.99, **how,
    )  # fmt: skip
    assert off(ours, theirs) < CLOSE
