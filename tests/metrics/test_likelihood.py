"""Bits per dimension against closed forms: Gaussians, with the best denoiser there is."""

import math

import pytest
import torch

from phosphene.diffusion.bound import variational_bound
from phosphene.diffusion.denoiser import Denoised, Denoiser
from phosphene.diffusion.schedule import Cosine, Flow, Karras, Linear
from phosphene.errors import Problem
from phosphene.metrics.likelihood import bits, log_density
from phosphene.nets.autoencoder import ConvTower
from phosphene.nets.unet import UNet
from phosphene.parts import part
from phosphene.systems.clip import ClipSystem
from phosphene.systems.ddpm import Ddpm

MEAN = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
ROOT = torch.tensor([[0.5, 0, 0], [0.3, 0.4, 0], [-0.2, 0.1, 0.3]], dtype=torch.float64)
COV = ROOT @ ROOT.T
TRUTH = torch.distributions.MultivariateNormal(MEAN, COV)
X0 = MEAN + torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) @ ROOT.T


def best(schedule):
    """x̂0 = μ + αΣ(α²Σ + σ²)⁻¹(x − αμ)."""

    def denoise(x, t):
        alpha, sigma = schedule(t)
        gain = alpha * COV @ torch.linalg.inv(alpha**2 * COV + sigma**2 * torch.eye(3, dtype=torch.float64))
        return Denoised(MEAN + (x - alpha * MEAN) @ gain.T)

    return denoise


@pytest.mark.parametrize(
    "schedule", [Flow(), Cosine(zero_snr=True), Karras(), Linear()], ids=lambda s: type(s).__name__
)
def test_the_ode_knows_a_gaussians_density(schedule):
    found = log_density(best(schedule), X0, schedule, steps=200, exact=True)
    # Karras starts from N(0, 80²), whose mean is not the data's; Linear ends at σ = 0.01 and begins at α = 0.006
    coarse = 0.03 if isinstance(schedule, (Karras, Linear)) else 8e-3
    assert (found - TRUTH.log_prob(X0)).abs().max() < coarse


def test_the_rule_is_of_second_order():
    errors = []
    for steps in (20, 40):
        found = log_density(best(Flow()), X0, Flow(), steps=steps, exact=True)
        errors.append(float((found - TRUTH.log_prob(X0)).abs().max()))
    assert 3 < errors[0] / errors[1] < 5.5


def test_hutchinsons_trace_is_unbiased():
    exact = log_density(best(Flow()), X0, Flow(), steps=30, exact=True)
    generator = torch.Generator().manual_seed(0)
    one = torch.stack([log_density(best(Flow()), X0, Flow(), steps=30, generator=generator) for _ in range(20)])
    assert one.std(0).mean() > 0.05  # it is an estimate
    assert ((one.mean(0) - exact).abs() < 5 * one.std(0) / 20**0.5 + 1e-9).all()
    many = log_density(best(Flow()), X0, Flow(), steps=30, probes=64, generator=generator)
    assert (many - exact).abs().mean() < (one[0] - exact).abs().mean() / 3


@part
class Known(torch.nn.Module):
    """A network of pictures whose numbers are independent N(0.1, 0.5²): predicts ε as well as can be."""

    multiple, blocks = 1, ()

    def __init__(self, schedule):
        super().__init__()
        self.schedule, self.unused = schedule, torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, time, cond):
        alpha, sigma = self.schedule((time + 1) / self.schedule.T).onto(x)
        return sigma * (x - alpha * 0.1) / (alpha**2 * 0.25 + sigma**2)


def grey_pictures(n):
    x = 0.1 + 0.5 * torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    inside = x.abs() < 0.99  # the few others would lie in the open-ended bins
    return ((torch.where(inside, x, 0.1) + 1) * 127.5).round() / 127.5 - 1


def truth(pictures):
    """Of the bins: −log₂ of the probability of half a grey level to either side."""
    upper, lower = (torch.special.ndtr((pictures.double() + side / 255 - 0.1) / 0.5) for side in (1, -1))
    return -(upper - lower).log2().flatten(1).mean(1)


def test_bits_of_8_bit_pictures_by_both_ways():
    """In a perfect network the ODE comes to the entropy of the bins, and the bound from above ever nearer to it."""
    schedule = Linear(300, 1e-4, 0.06)
    system = Ddpm(Denoiser(Known(schedule), schedule, "eps"), size=8)
    pictures = grey_pictures(8)
    exact = float(truth(pictures).mean())
    assert float(bits(system, pictures, method="ode", steps=150).mean()) == pytest.approx(exact, abs=0.004)
    found = bits(system, pictures)
    fewer = Linear(75, 4e-4, 0.22)
    loose = bits(Ddpm(Denoiser(Known(fewer), fewer, "eps"), size=8), pictures)
    assert found.shape == (8,) and exact < float(found.mean()) < float(loose.mean())
    assert torch.equal(found, bits(system, pictures, method="bound", seed=0))
    assert not torch.equal(found, bits(system, pictures, seed=1))


def test_the_bound_is_that_of_diffusion():
    torch.manual_seed(0)
    schedule = Linear(10, 1e-3, 0.5)
    system = Ddpm(Denoiser(UNet(3, 3, (16,), 1, (0,)), schedule, "eps"), size=8)
    pictures, generator = grey_pictures(2), torch.Generator().manual_seed(3)
    eps = [torch.randn(pictures.shape, generator=generator) for _ in range(10)]
    theirs = variational_bound(system.denoiser.given(None), pictures, schedule, lambda k: eps[k - 1]).total
    assert torch.allclose(bits(system, pictures, seed=3).float(), theirs / math.log(2))


def test_what_has_no_likelihood_says_so(tiny_model):
    import phosphene

    with pytest.raises(Problem, match="Latent has no likelihood of pixels"):
        bits(phosphene.load(tiny_model), torch.zeros(1, 3, 16, 16))
    with pytest.raises(Problem, match="ClipSystem has no likelihood"):
        bits(ClipSystem(None, ConvTower(8, (8,), 1)), torch.zeros(1, 3, 8, 8))
    flow = Ddpm(Denoiser(UNet(3, 3, (16,), 1, (0,)), Flow(), "flow"), size=8)
    with pytest.raises(Problem, match="Flow is continuous: method 'ode'"):
        bits(flow, torch.zeros(1, 3, 8, 8), method="bound")
    with pytest.raises(Problem, match="unknown method of likelihood 'odd'; did you mean 'ode'"):
        bits(flow, torch.zeros(1, 3, 8, 8), method="odd")
