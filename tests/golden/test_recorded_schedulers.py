"""Runs of diffusers' schedulers, recorded with random network outputs, replayed by our samplers call by call.

At every call our x is compared with the input recorded there (all in the frame where α² + σ² = 1), and the end with
the end. Left out, because no convention of ours is theirs: DDIM and PNDM on "linspace" (they step to t − 1000//n, which
is not the next time of that grid, and do not converge), clipping that keeps the old ε, Euler at zero terminal SNR (with
2⁻²⁴ for ᾱ = 0; DDIM at zero SNR is here), Euler with churn, and DPM-Solver-2, TCD and noise-predicting DPM-Solver and
UniPC, which are not among our samplers. DPM-Solver++(3M) differs in its second step; we follow k-diffusion's.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from phosphene.diffusion.denoiser import Denoised, clean
from phosphene.diffusion.guidance import clamp, dynamic_threshold
from phosphene.diffusion.noise import Recorded
from phosphene.diffusion.samplers import sample
from phosphene.diffusion.schedule import Cosine, Linear, ScaledLinear, Table

SCALED = ("Euler", "Heun", "LMS", "DPMSolverSDE")  # these keep x/α
PREDICTS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}

# case -> (our sampler, its options); every case named here must be among the recorded ones
CASES = {
    "DDIM zsnr trailing v": ("ddim", {}),
    "DDPM learned_range": ("ddpm", {"variance": "learned"}),
    "DDPM fixed_small_log": ("ddpm", {}),
    "DDPM thresholding": ("ddpm", {}),
    "DPM++2M thresholding": ("dpmpp_2m", {}),
    "UniPC squaredcos": ("unipc", {}),
    "DDIM use_clipped": ("ddim", {"eta": 0.5}),
    "DDPM fixed_small leading/epsilon/10": ("ddpm", {}),
    "DDPM fixed_small leading/v_prediction/10": ("ddpm", {}),
    "DDPM fixed_small leading/sample/10": ("ddpm", {}),
    "DDPM fixed_large trailing/epsilon/10": ("ddpm", {"variance": "large"}),
    "DDPM linspace/epsilon/10": ("ddpm", {}),
    "DDIM eta0.5/epsilon/10": ("ddim", {"eta": 0.5}),
    "DDIM eta1/epsilon/10": ("ddim", {"eta": 1.0}),
    "DDIM leading alpha_one/epsilon/10": ("ddim", {}),
    "DDIM trailing alpha_one/epsilon/10": ("ddim", {}),
    "PNDM skip_prk leading/epsilon/10": ("plms", {}),
    "PNDM skip_prk trailing/epsilon/10": ("plms", {}),
    "PNDM prk/epsilon/10": ("pndm", {}),
    "DPM++2M SDE/epsilon/10": ("dpmpp_2m_sde", {}),
    "DPM++2M SDE karras heun/epsilon/10": ("dpmpp_2m_sde", {"rule": "heun"}),
    "DPM++ SDE/epsilon/10": ("dpmpp_sde", {}),
    "DPM++ SDE karras/epsilon/10": ("dpmpp_sde", {}),
    "DPM dpmsolver++ order1 midpoint/epsilon/10": ("ddim", {}),
    "DPM dpmsolver++ order2 midpoint/epsilon/10": ("dpmpp_2m", {}),
    "DPM dpmsolver++ order2 heun/epsilon/10": ("dpmpp_2m", {"rule": "heun"}),
    "DPM++2M euler_at_final/epsilon/10": ("dpmpp_2m", {}),
    "DPM++2M lu_lambdas/epsilon/10": ("dpmpp_2m", {}),
    "UniPC bh2 order1/epsilon/10": ("unipc", {"order": 1}),
    "UniPC bh2 order2/epsilon/10": ("unipc", {"order": 2}),
    "UniPC bh2 order3/epsilon/10": ("unipc", {"order": 3}),
    "DEIS order1/epsilon/10": ("deis", {"order": 1}),
    "Euler final_sigma_min/epsilon/10": ("euler", {}),
    "Euler beta_sigmas/epsilon/10": ("euler", {}),
    "Euler log_linear/epsilon/10": ("euler", {}),
    "LCM/epsilon/4": ("lcm", {}),
    "LCM/v_prediction/4": ("lcm", {}),
}
CASES |= {f"DDIM {s}/{p}/10": ("ddim", {}) for s in ("leading", "trailing") for p in PREDICTS}
CASES |= {
    f"{n} leading/{p}/10": (o, {})
    for n, o in (("Euler", "euler"), ("DPM++2M", "dpmpp_2m"), ("UniPC", "unipc"))
    for p in PREDICTS
}
for _theirs, _ours in {"Euler": "euler", "Heun": "heun", "LMS": "lms", "DPM++2M": "dpmpp_2m", "UniPC": "unipc"}.items():
    CASES |= {f"{_theirs} {s}/epsilon/10": (_ours, {}) for s in ("leading", "linspace", "trailing")}
    CASES |= {f"{_theirs} {s}/epsilon/10": (_ours, {}) for s in ("karras", "exponential")}
CASES |= {f"EulerA {s}/epsilon/10": ("euler_ancestral", {}) for s in ("leading", "linspace", "trailing")}
DEIS = [f"DEIS {s}/epsilon/10" for s in ("leading", "linspace", "trailing", "karras", "exponential")]
CASES |= {name: ("deis", {"order": 2}) for name in DEIS}
# Compared up to the last step only: DEIS lowers its order there below 15 steps; DDPM adds noise to the finished picture
# where the last time before it is not the table's first entry
SHORTENED = {*DEIS, "DDPM fixed_large trailing/epsilon/10"}


@pytest.fixture(scope="module")
def recorded(shared):
    folder = shared / "fixtures" / "schedulers"
    return json.loads((folder / "schedulers_random.json").read_text()), np.load(folder / "schedulers_random.npz")


def our_schedule(config):
    kind = {"linear": Linear, "scaled_linear": ScaledLinear, "squaredcos_cap_v2": Cosine}[config["beta_schedule"]]
    ends = {} if kind is Cosine else {"start": config.get("beta_start", 1e-4), "end": config.get("beta_end", 0.02)}
    return kind(**ends, zero_snr=config.get("rescale_betas_zero_snr", False))


def visited(case, name, arrays, schedule):
    """Their list of times in ours: from their σ/α where recorded, else from their table index."""
    if f"{name}.sigmas" in arrays:
        sigmas = torch.from_numpy(arrays[f"{name}.sigmas"]).double()
        if case["scheduler"] in ("HeunDiscreteScheduler", "DPMSolverSDEScheduler"):  # these list a time for each call
            sigmas = torch.cat([sigmas[:1], sigmas[1::2]])
        return schedule.at(-2 * sigmas[: case["steps"] + 1].log())
    indices = list(dict.fromkeys(arrays[f"{name}.timesteps"].tolist()))
    if name.startswith("PNDM prk"):
        indices = [801.0, 601.0, 401.0, 201.0, 1.0]  # theirs has the middles too
    end = 0.0 if case["config"].get("set_alpha_to_one", True) else 1 / schedule.T
    return torch.tensor([*((i + 1) / schedule.T for i in indices), end], dtype=torch.float64)


def denoiser(case, schedule, outputs, seen):
    """A network that says what was recorded, and remembers what it was asked."""
    config = case["config"]
    predicts = PREDICTS[config.get("prediction_type", "epsilon")]

    def denoise(x, t):
        out = outputs[len(seen)]
        seen.append(x)
        out, v = out.chunk(2, dim=1) if out.shape != x.shape else (out, None)
        x0 = clean(predicts, schedule(t), x, out)
        if case["scheduler"] == "LCMScheduler":  # the boundary condition of consistency models (Luo et al. 2023)
            scaled = 10 * float(schedule.c_noise(t))
            x0 = (0.25 * x + scaled * (scaled**2 + 0.25) ** 0.5 * x0) / (scaled**2 + 0.25)
        return Denoised(x0, None if v is None else (v + 1) / 2)

    if config.get("thresholding"):
        return dynamic_threshold(denoise, config.get("dynamic_thresholding_ratio", 0.995), config["sample_max_value"])
    return clamp(denoise) if config.get("clip_sample", "DDPM" in case["scheduler"]) else denoise


@pytest.mark.parametrize("name", sorted(CASES))
def test_replay(recorded, name):
    cases, arrays = recorded
    case, (sampler, options) = cases[name], CASES[name]
    schedule = our_schedule(case["config"])
    inputs, outputs, noise = (numbered(arrays, f"{name}.{kind}") for kind in ("in", "out", "noise"))
    seen = []
    times = visited(case, name, arrays, schedule)
    run = sample(
        sampler, denoiser(case, schedule, outputs, seen), inputs[0], times, schedule, noise=Recorded(noise), **options
    )
    last = list(run)[-1].x
    assert len(seen) == len(inputs)
    tolerance = 2e-4 if "learned" in name else 5e-5  # the logarithm of a small variance, in float32
    for got, want in zip(seen, inputs):
        close(got, want, tolerance)
    if name not in SHORTENED:
        end = torch.from_numpy(arrays[f"{name}.states"][-1]).double()
        close(last, end * schedule(times[-1]).alpha if case["scheduler"].startswith(SCALED) else end, tolerance)


def numbered(arrays, stem):
    """Arrays stem0, stem1, …"""
    found = []
    while f"{stem}{len(found)}" in arrays:
        found.append(torch.from_numpy(arrays[f"{stem}{len(found)}"]).double())
    return found


def close(got, want, tolerance=5e-5):
    """Their tables and states are float32."""
    assert float((got - want).abs().max() / want.abs().max()) < tolerance


def joint_denoiser(arrays, schedule):
    """The best denoiser of their mixture: three isotropic Gaussians in four dimensions."""
    mu, sd, w = (torch.from_numpy(arrays[f"gmm_{k}"]) for k in ("mu", "sd", "w"))

    def denoise(x, t):
        alpha, sigma = schedule(t)
        var = (alpha * sd) ** 2 + sigma**2
        off = x.flatten(1)[:, None] - alpha * mu  # (B, 3, 4)
        share = (w.log() - off.square().sum(-1) / (2 * var) - 2 * var.log()).softmax(-1)
        guess = mu + (alpha * sd**2 / var)[:, None] * off
        return Denoised((share[..., None] * guess).sum(1).view_as(x))

    return denoise


def test_runs_on_a_known_mixture(shared):
    """The ends of 10 to 25 steps on data whose best denoiser is known, where the schedulers' own grids are used."""
    folder = shared / "fixtures" / "schedulers"
    cases, arrays = (
        json.loads((folder / "schedulers_ref.json").read_text())["cases"],
        np.load(folder / "schedulers_ref.npz"),
    )
    betas = 1 - arrays["alphas_cumprod"] / np.concatenate([[1.0], arrays["alphas_cumprod"][:-1]])
    schedule = Table(betas.tolist())
    # "log_linear" asks the network at other times than its σ; PNDM's middles fall between entries; LCM: above
    left_out = {*SHORTENED, "Euler log_linear/epsilon/10", "PNDM prk/epsilon/10", "LCM/epsilon/4", "LCM/v_prediction/4"}
    ours = {name.rpartition("/")[0]: v for name, v in CASES.items() if name not in left_out}
    ours |= {f"UniPC bh1 order{k}/epsilon": ("unipc", {"order": k, "rule": "bh1"}) for k in (1, 2, 3)}
    compared = 0
    for name, case in cases.items():
        if name.rpartition("/")[0] not in ours:
            continue
        sampler, options = ours[name.rpartition("/")[0]]
        times, noise = visited(case, name, arrays, schedule), Recorded(numbered(arrays, f"{name}.noise"))
        level = schedule(times[0])
        x = torch.from_numpy(arrays["xT"])
        if case["scheduler"].startswith(SCALED):
            x = x * case["init_noise_sigma"] * level.alpha
        denoise = (
            clamp(joint_denoiser(arrays, schedule))
            if case["config"].get("clip_sample")
            else joint_denoiser(arrays, schedule)
        )
        *_, last = sample(sampler, denoise, x, times, schedule, noise=noise, **options)
        want = torch.from_numpy(arrays[f"{name}.final"])
        if want.isnan().any():  # diffusers' UniPC with bh1 into σ = 0
            assert name.startswith("UniPC bh1") and last.x.isfinite().all()
            continue
        if case["scheduler"].startswith(SCALED):
            want = want * schedule(times[-1]).alpha
        # on their Karras, exponential and Lu grids, the multistep schedulers ask the network at rounded times
        rounded = case["scheduler"].startswith(("DPMSolverMultistep", "UniPC")) and any(
            case["config"].get(key) for key in ("use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas")
        )
        close(last.x.flatten(1), want, 2e-3 if rounded else 3e-6)
        compared += 1
    assert compared >= 90
