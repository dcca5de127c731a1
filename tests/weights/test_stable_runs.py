"""Whole runs of Stable Diffusion, recorded from diffusers' pipelines with their noise, and live ones, against ours.

Left out, because no convention of ours is theirs: DPM-Solver-2 (not among our samplers), DPM-Solver++(3M) (its second
step differs; ours is k-diffusion's) and DEIS (it lowers its order at the last of a few steps). diffusers' clip_skip is
that of the positive prompt only; the web UI's, which ours is, is that of both. DPM-Solver and UniPC ask the network at
whole times only; where a grid is not whole the test rounds for them.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import phosphene
from phosphene.diffusion.denoiser import Denoiser
from phosphene.diffusion.noise import Recorded
from phosphene.systems.latent import Latent
from phosphene.weights import scheduler
from weights.stable import Rounded, close

SAMPLERS = {  # case -> our sampler and its options
    "ddim": ("ddim", {}),
    "ddim_eta1": ("ddim", {"eta": 1.0}),
    "ddim_trailing_zsnr": ("ddim", {}),
    "pndm": ("plms", {}),
    "ddpm": ("ddpm", {}),
    "euler": ("euler", {}),
    "euler_karras_linspace": ("euler", {}),
    "euler_trailing": ("euler", {}),
    "euler_a": ("euler_ancestral", {}),
    "heun": ("heun", {}),
    "lms": ("lms", {}),
    "dpmpp_2m": ("dpmpp_2m", {}),
    "dpmpp_2m_karras": ("dpmpp_2m", {}),
    "dpmpp_2m_sde_karras": ("dpmpp_2m_sde", {}),
    "unipc": ("unipc", {"order": 2}),
    "lcm": ("lcm", {}),
}
RUNS = [("sd1", "sd1_pipe", case) for case in SAMPLERS]
RUNS += [("sd2", "sd2_pipe", case) for case in ("ddim", "ddim_trailing_zsnr", "ddpm", "euler", "heun", "lms")]
RUNS += [("sd2", "sd2_pipe", case) for case in ("dpmpp_2m", "dpmpp_2m_karras", "unipc")]
RUNS += [("sd1", f"sd1_pipe_{which}", case) for which in ("cfg1", "rescale") for case in ("ddim", "euler")]


@pytest.fixture(scope="module")
def recorded(shared):
    """(folder, file) -> the system, what was asked, and the arrays."""
    folder, systems = shared / "fixtures", {}

    def get(name: str, file: str):
        if name not in systems:
            systems[name] = phosphene.load(folder / name)
        asked = json.loads((folder / f"{file}.json").read_text())
        return systems[name], asked, np.load(folder / f"{file}.npz")

    return get


def visited(case: dict, arrays, name: str, schedule, end: float) -> torch.Tensor:
    """Their list of times in ours: from their σ/α where recorded, else from their table index."""
    if f"{name}.sigmas" in arrays:
        sigmas = torch.from_numpy(arrays[f"{name}.sigmas"]).double()
        if case["scheduler"] == "HeunDiscreteScheduler":  # it lists a time for each call
            sigmas = torch.cat([sigmas[:1], sigmas[1::2]])
        return schedule.at(-2 * sigmas[: case["steps"] + 1].log())
    indices = dict.fromkeys(arrays[f"{name}.timesteps"].tolist())
    return torch.tensor([*((i + 1) / schedule.T for i in indices), end], dtype=torch.float64)


def first(arrays, name: str, case: dict) -> torch.Tensor:
    """The noise they start from where α² + σ² = 1; the Euler family starts from σ·z of x/α, but for "leading"."""
    z = torch.from_numpy(arrays["latents0"])
    if not case["scheduler"].startswith(("Euler", "Heun", "LMS")):
        return z
    sigma = float(arrays[f"{name}.sigmas"][0])
    return z * (float(arrays[f"{name}.init_noise_sigma"]) / (sigma**2 + 1) ** 0.5)


@pytest.mark.parametrize(("folder", "file", "name"), RUNS)
def test_a_recorded_run(recorded, folder, file, name):
    system, asked, arrays = recorded(folder, file)
    case = asked["cases"][name]
    plan = scheduler.plan({"_class_name": case["scheduler"], **case["config"]}, name)
    sampler, options = SAMPLERS[name]
    assert plan.sampler == sampler
    net = system.denoiser.net
    whole = case["scheduler"].startswith("DPMSolver") and case["config"].get("use_karras_sigmas")
    system = Latent(
        Denoiser(Rounded(net) if whole else net, plan.schedule, plan.predicts), system.autoencoder, system.encoder
    )
    times = visited(case, arrays, name, plan.schedule, plan.end)
    count = sum(key.startswith(f"{name}.noise") for key in arrays.files)
    noise = Recorded([arrays[f"{name}.noise{i}"] for i in range(count)], first(arrays, name, case))
    asks = {"guidance": case["kwargs"]["guidance_scale"], "rescale": case["kwargs"].get("guidance_rescale", 0.0)}
    *_, last = system.generate(
        [asked["prompt"]],
        seeds=[0],
        negative=[asked["negative"]],
        sampler=sampler,
        times=times,
        noise=noise,
        size=(32, 32),
        **asks,
        **options,
    )
    made = last.picture()
    close(made, torch.from_numpy(arrays[f"{name}.image"]).permute(0, 3, 1, 2) * 2 - 1, 3e-4)
    latents = system.autoencoder.decode(torch.from_numpy(arrays[f"{name}.latents"]))
    close(made, latents.clamp(-1, 1), 3e-4)


@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_clip_skip_as_the_web_ui_counts(recorded, name):
    system, asked, arrays = recorded("sd1", "sd1_pipe_clipskip")
    case = asked["cases"][f"{name}.a1111"]
    plan = scheduler.plan({"_class_name": case["scheduler"], **case["config"]}, name)
    noise = Recorded([], torch.from_numpy(arrays["latents0"]))  # "leading": both start from z
    times = plan.schedule.times(case["steps"], "leading", offset=1, end=plan.end)
    told = dict(seeds=[0], negative=[asked["negative"]], sampler=name, times=times, noise=noise, size=(32, 32))
    *_, last = system.generate([asked["prompt"]], clip_skip=2, guidance=case["guidance_scale"], **told)
    wanted = system.autoencoder.decode(torch.from_numpy(arrays[f"{name}.a1111.latents"]))
    close(last.picture(), wanted.clamp(-1, 1), 3e-4)


@pytest.mark.parametrize("version", [1, 2])
def test_a_folder_of_diffusers_makes_what_diffusers_makes(pipeline, tmp_path, version):
    """Live: other sizes and seeds than the recorded ones', the sampler, spacing and end that the folder says."""
    pipe = pipeline(version, seed=10 + version)
    pipe.save_pretrained(tmp_path / "sd")
    system = phosphene.load(tmp_path / "sd")
    assert (system.sampler, system.spacing, system.offset, system.end) == ("ddim", "leading", 1, 1 / 1000)
    assert system.denoiser.predicts == ("eps" if version == 1 else "v")
    z = torch.randn(2, 4, 12, 8, generator=torch.Generator().manual_seed(5))
    said = ["a red cube, highly detailed", "the cat"], ["blurry", ""]
    told = dict(guidance_scale=6.0, num_inference_steps=5, latents=z, output_type="pt", height=24, width=16)
    theirs = pipe(said[0], negative_prompt=said[1], **told).images
    noise = Recorded([], z)
    *_, last = system.generate(
        said[0], seeds=[1, 2], negative=said[1], guidance=6.0, steps=5, noise=noise, size=(24, 16)
    )
    close(last.picture(), theirs * 2 - 1, 3e-4)
