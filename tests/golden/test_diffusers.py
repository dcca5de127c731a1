"""Step by step the same numbers as diffusers' schedulers, run here in float64 on data whose best denoiser is known.

diffusers makes its tables in float32, so ours in float64 are put in their place. Its Euler schedulers cast to float32
and are compared by the recorded runs; k-diffusion compares the same functions in float64.
"""

from __future__ import annotations

import pytest
import torch

from phosphene.diffusion.denoiser import Denoised, target
from phosphene.diffusion.guidance import clamp
from phosphene.diffusion.noise import Recorded
from phosphene.diffusion.samplers import eps_of, sample
from phosphene.diffusion.schedule import Cosine, Flow, Karras, Linear, ScaledLinear

schedulers = pytest.importorskip("diffusers.schedulers", reason="diffusers is not there: pip install '.[test]'")

BETAS = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
STEPS = 10  # divides 1000: the one case in which DDIM's and PNDM's grids are their steps'
TRAILING, LEADING = {"timestep_spacing": "trailing"}, {"timestep_spacing": "leading"}
PLAIN = {"clip_sample": False}
DDIM = ("DDIMScheduler", {**TRAILING, **PLAIN, "set_alpha_to_one": True})
DDPM = ("DDPMScheduler", LEADING)
PNDM = ("PNDMScheduler", {**LEADING, "set_alpha_to_one": True})
DPM = ("DPMSolverMultistepScheduler", {**TRAILING, "lower_order_final": False, "final_sigmas_type": "zero"})
UNIPC = ("UniPCMultistepScheduler", {**TRAILING, "solver_order": 3})
DEIS = ("DEISMultistepScheduler", {**TRAILING, "lower_order_final": False})
CASES = [  # our sampler and its options, their scheduler, its further configuration
    ("ddim", {}, DDIM, {}),
    ("ddim", {"eta": 0.6}, DDIM, {}),
    ("ddpm", {}, DDPM, PLAIN),
    ("ddpm", {"variance": "large"}, DDPM, {"variance_type": "fixed_large"}),
    ("ddpm", {"variance": "learned"}, DDPM, {"variance_type": "learned_range"}),
    ("plms", {}, PNDM, {**TRAILING, "skip_prk_steps": True}),
    ("pndm", {}, PNDM, {}),
    ("dpmpp_2m", {}, DPM, {}),
    ("dpmpp_2m", {"rule": "heun"}, DPM, {"solver_type": "heun"}),
    ("dpmpp_2m_sde", {}, DPM, {"algorithm_type": "sde-dpmsolver++"}),
    ("unipc", {"order": 1}, UNIPC, {"solver_order": 1}),
    ("unipc", {"order": 2}, UNIPC, {"solver_order": 2}),
    ("unipc", {"order": 3}, UNIPC, {"solver_order": 3}),
    ("unipc", {"order": 3, "rule": "bh1"}, UNIPC, {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}),
    ("deis", {"order": 1}, DEIS, {"solver_order": 1}),
    ("deis", {"order": 2}, DEIS, {"solver_order": 2}),
    ("deis", {"order": 3}, DEIS, {"solver_order": 3}),
]


def their_states(scheduler, x, model, options):
    states = []
    for t in scheduler.timesteps:
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x, **options).prev_sample
        states.append(x)
    return states


@pytest.mark.parametrize("predicts", ["eps", "v", "x0"])
@pytest.mark.parametrize("name, options, theirs, more", CASES)
def test_tables(mixture, monkeypatch, name, options, theirs, more, predicts):
    theirs, config = theirs[0], {**theirs[1], **more}
    if name in ("plms", "pndm") and predicts != "eps":
        pytest.skip("diffusers' PNDM has no x0 prediction, and averages v where the method averages ε")
    schedule = ScaledLinear()
    prediction = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}[predicts]
    scheduler = getattr(schedulers, theirs)(**BETAS, **config, prediction_type=prediction)
    scheduler.set_timesteps(STEPS)
    times = schedule.times(STEPS, config["timestep_spacing"])
    if theirs == "DEISMultistepScheduler" or config.get("final_sigmas_type") == "sigma_min":
        times[-1] = 1 / schedule.T
    doubled(scheduler, schedule, times)
    spread = 0.3 if options.get("variance") == "learned" else None

    def model(x, t):
        level = schedule((float(t) + 1) / 1000)
        x0 = mixture.guess(x, level)
        out = target(predicts, level, x0, eps_of(x, x0, level))
        return out if spread is None else torch.cat([out, torch.full_like(out, 2 * spread - 1)], dim=1)

    def denoise(x, t):
        return Denoised(mixture.guess(x, schedule(t)), None if spread is None else torch.full_like(x, spread))

    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2 * STEPS, 3, 2, 4, 4, generator=generator, dtype=torch.float64)
    path = iter(draws[1:])
    for module in ("scheduling_ddim", "scheduling_ddpm", "scheduling_dpmsolver_multistep"):
        monkeypatch.setattr(f"diffusers.schedulers.{module}.randn_tensor", lambda *a, **k: next(path))
    clipped = theirs == "DDPMScheduler" and "clip_sample" not in config
    want = their_states(scheduler, draws[0], model, {"eta": options["eta"]} if options.get("eta") else {})
    got = sample(
        name, clamp(denoise) if clipped else denoise, draws[0], times, schedule, noise=Recorded(draws[1:]), **options
    )
    ours = [step.x for step in got]
    if theirs == "PNDMScheduler":
        want = want[-len(ours) + 3 :] if name == "pndm" else [want[1], *want[2:]]  # each call is a state there
        ours = ours[-len(want) :]
    single = theirs == "DPMSolverMultistepScheduler"  # casts x to float32
    torch.testing.assert_close(ours, want, rtol=0, atol=3e-6 if single else 1e-9)


def doubled(scheduler, schedule, times):
    """Our tables in float64 in the place of theirs."""
    table = schedule(torch.arange(1, schedule.T + 1, dtype=torch.float64) / schedule.T)
    scheduler.alphas_cumprod = table.alpha**2
    scheduler.alphas = scheduler.alphas_cumprod / torch.cat([torch.ones(1), scheduler.alphas_cumprod[:-1]])
    scheduler.betas = 1 - scheduler.alphas
    scheduler.one = torch.ones((), dtype=torch.float64)
    scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = schedule(times).ratio


def test_lcm(mixture, monkeypatch):
    schedule, draws = ScaledLinear(), torch.randn(9, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    scheduler = schedulers.LCMScheduler(**BETAS, clip_sample=False)
    scheduler.set_timesteps(8)
    times = torch.tensor([*((int(t) + 1) / 1000 for t in scheduler.timesteps), 0.0], dtype=torch.float64)
    doubled(scheduler, schedule, times)

    def model(x, t):
        level = schedule((float(t) + 1) / 1000)
        return eps_of(x, mixture.guess(x, level), level)

    def denoise(x, t):  # with the boundary condition that their scheduler adds
        scaled = 10 * float(schedule.c_noise(t))
        skip = 0.25 / (scaled**2 + 0.25)
        return Denoised(skip * x + scaled / (scaled**2 + 0.25) ** 0.5 * mixture.guess(x, schedule(t)))

    path = iter(draws[1:])
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *a, **k: next(path))
    want = their_states(scheduler, draws[0], model, {})
    got = [step.x for step in sample("lcm", denoise, draws[0], times, schedule, noise=Recorded(draws[1:]))]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-7)  # that condition is float32 there


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_rectified_flow(mixture, shift):
    """Flux's and Stable Diffusion 3's Euler. Theirs casts to float32."""
    schedule = Flow(shift=shift)
    scheduler = schedulers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[1 - i / STEPS for i in range(STEPS)])
    times = schedule.times(STEPS)
    torch.testing.assert_close(scheduler.sigmas.double(), times, rtol=1e-6, atol=1e-7)
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    want, states = x, []
    for t in scheduler.timesteps:
        level = schedule(float(t) / 1000)
        x0 = mixture.guess(want.double(), level)
        want = scheduler.step((eps_of(want.double(), x0, level) - x0).float(), t, want).prev_sample
        states.append(want.double())
    got = [step.x for step in sample("euler", mixture.denoise(schedule), x.double(), times, schedule)]
    torch.testing.assert_close(got, states, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name, theirs", [("euler", "EDMEulerScheduler"), ("dpmpp_2m", "EDMDPMSolverMultistepScheduler")]
)
def test_edm(mixture, name, theirs):
    """The five rows' fifth, with its own input scale. Theirs casts to float32."""
    schedule = Karras()
    scheduler = getattr(schedulers, theirs)()
    scheduler.set_timesteps(STEPS)
    times = schedule.times(STEPS)
    torch.testing.assert_close(schedule(times).sigma, scheduler.sigmas.double(), rtol=1e-5, atol=1e-7)
    want = 80 * torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    got = [step.x for step in sample(name, mixture.denoise(schedule), want.double(), times, schedule)]
    for i, t in enumerate(scheduler.timesteps):
        level = schedule(times[i])
        scaled = scheduler.scale_model_input(want, t).double()
        x = scaled * (0.25 + level.sigma**2).sqrt()
        x0 = mixture.guess(x, level)
        want = scheduler.step(target("edm", level, x0, eps_of(x, x0, level)).float(), t, want).prev_sample
        torch.testing.assert_close(got[i], want.double(), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kind, name", [(Linear, "linear"), (Cosine, "squaredcos_cap_v2")])
def test_tables_are_theirs(kind, name):
    theirs = schedulers.DDPMScheduler(beta_schedule=name)
    alpha, sigma = kind()(torch.arange(1, 1001) / 1000)
    torch.testing.assert_close((alpha**2).float(), theirs.alphas_cumprod, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close((alpha**2 + sigma**2), torch.ones(1000, dtype=torch.float64))
