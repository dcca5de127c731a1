"""Recorded runs on a mixture whose best denoiser is known: EDM's sampler, k-diffusion's, and the ODE's exact solution.

The recordings do not need the peers. The mixture is three isotropic Gaussians in four dimensions.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from phosphene.diffusion.denoiser import Denoised
from phosphene.diffusion.noise import Recorded
from phosphene.diffusion.samplers import sample
from phosphene.diffusion.schedule import Karras

K_DIFFUSION = {
    "euler": "euler",
    "euler_ancestral": "euler_ancestral",
    "heun": "heun",
    "lms": "lms",
    "dpmpp_2m": "dpmpp_2m",
    "dpmpp_2s_ancestral": "dpmpp_2s_ancestral",
    "dpmpp_sde": "dpmpp_sde",
    "dpmpp_2m_sde": "dpmpp_2m_sde",
    "dpmpp_3m_sde": "dpmpp_3m_sde",
}


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "fixtures" / "schedulers"


@pytest.fixture(scope="module")
def denoise(folder):
    exact = np.load(folder / "exact_ode.npz")
    mu, sd, w = (torch.from_numpy(exact[k]) for k in ("mu", "sd", "w"))

    def guess(x, t):
        _, sigma = Karras()(t)
        var = sd**2 + sigma**2
        off = x.flatten(1)[:, None] - mu  # (B, 3, 4)
        share = (w.log() - off.square().sum(-1) / (2 * var) - 2 * var.log()).softmax(-1)
        return Denoised((share[..., None] * (mu + (sd**2 / var)[:, None] * off)).sum(1).view_as(x))

    return guess


def last_of(name, denoise, x, times, **options):
    *_, last = sample(name, denoise, x, times, Karras(), **options)
    return last.x.flatten(1)


@pytest.mark.parametrize("steps", [5, 10, 18, 36, 72])
def test_edm_heun(folder, denoise, steps):
    recorded = np.load(folder / "edm_k_ref.npz")
    x = 80 * torch.from_numpy(recorded["xT"])
    got = last_of("heun", denoise, x, Karras().times(steps))
    torch.testing.assert_close(got, torch.from_numpy(recorded[f"edm_heun_{steps}"]), rtol=1e-8, atol=1e-9)
    error = (got - torch.from_numpy(recorded["edm_exact_x0"])).square().mean().sqrt()
    want = json.loads((folder / "edm_k_ref.json").read_text())["edm_heun_rms_error"][str(steps)]
    assert float(error) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("steps", [8, 16])
@pytest.mark.parametrize("name", K_DIFFUSION)
def test_k_diffusion(folder, denoise, name, steps):
    recorded = np.load(folder / "edm_k_ref.npz")
    sigmas = torch.from_numpy(recorded[f"k.sigmas_karras_{steps}"]).double()
    noise = torch.from_numpy(recorded[f"k.{name}_{steps}.noise"]) if f"k.{name}_{steps}.noise" in recorded else []
    x = sigmas[0] * torch.from_numpy(recorded["xT"])
    got = last_of(
        name, denoise, x, Karras().at(-2 * sigmas.log()), **({"noise": Recorded(noise)} if len(noise) else {})
    )
    torch.testing.assert_close(got, torch.from_numpy(recorded[f"k.{name}_{steps}"]), rtol=1e-6, atol=1e-6)


def test_the_exact_solution_is_approached(folder, denoise):
    """A fine run passes through the recorded solution at every recorded σ."""
    exact = np.load(folder / "exact_ode.npz")
    x, schedule = torch.from_numpy(exact["x_ve"]), Karras()
    sigmas = [float(exact["sigma_start"]), *exact["sigmas"].tolist()]
    for high, low, want in zip(sigmas, sigmas[1:], torch.from_numpy(exact["x"])):
        if low < high:
            grid = torch.linspace(high**0.2, low**0.2, 150, dtype=torch.float64) ** 5
            x = last_of("unipc", denoise, x, schedule.at(-2 * grid.log()), order=3)
        torch.testing.assert_close(x, want, rtol=0, atol=2e-4)
