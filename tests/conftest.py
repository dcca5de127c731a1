"""What several rooms' tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Tests do not fight for the cores: waiting threads sleep, and each of pytest-xdist's processes has one thread."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data and recorded fixtures beside the project."""
    folder = PROJECT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no shared data beside the project ({folder.name}/ is not there)")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a latent text-to-image system with random weights: every part is there, as small as can be."""
    import torch

    from phosphene.diffusion.denoiser import Denoiser
    from phosphene.diffusion.schedule import Cosine
    from phosphene.nets.autoencoder import Autoencoder, ConvDecoder, ConvEncoder, PatchCode
    from phosphene.nets.layers import SpatialTransformer
    from phosphene.nets.transformer import TextTransformer
    from phosphene.nets.unet import UNet
    from phosphene.systems.latent import Latent
    from phosphene.text.encoders import TextEncoder
    from phosphene.text.tokenizer import Tokenizer
    from phosphene.text.vocabulary import Vocabulary
    from phosphene.weights import bundle

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = Tokenizer.train(["a fox", "pizza", "狐狸"], size=300, length=16)
        encoder = TextEncoder(tokenizer, TextTransformer(len(tokenizer), 16, 1, 2, 16))
        net = UNet(4, 4, (32, 32), 1, (0, 1), context_dim=16, vector_dim=16, attend=SpatialTransformer)
        for weights in net.parameters():  # what begins at zero would make it deaf to the prompt
            if not weights.any():
                torch.nn.init.normal_(weights, std=0.1)
        halves = ConvEncoder(8, (16,), 1), ConvDecoder(4, (16,), 1)
        system = Latent(
            Denoiser(net, Cosine(zero_snr=True), "v"),
            Autoencoder(*halves, 4, 2, PatchCode(2, 4)),
            encoder,
            size=16,
            steps=4,
            vocabulary=Vocabulary([["fox", "狐狸"], ["pizza", "披萨"]], ["flat"]),
        )
    card = "# Tiny\n\nA random system of no use."
    return bundle.save(system, tmp_path_factory.mktemp("tiny") / "tiny.safetensors", card, dtype="bf16")


@pytest.fixture(scope="session")
def k_sampling():
    """k-diffusion's `sampling` module alone, with an empty stand-in for the torchvision that its package wants."""
    import importlib
    import sys
    import types

    names = ["torchvision", "torchvision.transforms", "torchvision.transforms.functional", "k_diffusion"]
    before = {name: sys.modules.get(name) for name in names}
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip("k-diffusion is not there: pip install --no-deps -r tests/peers.txt")
    try:
        for name in names:
            sys.modules[name] = types.ModuleType(name)
        sys.modules["torchvision.transforms"].functional = sys.modules["torchvision.transforms.functional"]
        sys.modules["k_diffusion"].__path__ = list(spec.submodule_search_locations)
        return pytest.importorskip("k_diffusion.sampling")
    finally:
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


class Mixture:
    """A mixture of three Gaussians in every dimension: data whose best denoiser and whose ODE's solution are known."""

    def __init__(self, mu=(-1.0, 0.3, 1.2), sd=(0.3, 0.2, 0.4), w=(0.3, 0.3, 0.4)):
        import torch

        self.mu, self.sd, self.w = (torch.tensor(v, dtype=torch.float64) for v in (mu, sd, w))

    def guess(self, x, level):
        """E[x0 | x], elementwise."""
        alpha, sigma = (v.view(-1, *[1] * x.ndim) if v.ndim else v for v in level)
        var = (alpha * self.sd) ** 2 + sigma**2
        off = x[..., None] - alpha * self.mu
        share = (-(off**2) / (2 * var) - 0.5 * var.log() + self.w.log()).softmax(-1)
        return (share * (self.mu + alpha * self.sd**2 / var * off)).sum(-1)

    def denoise(self, schedule):
        """The best Denoise on a schedule."""
        from phosphene.diffusion.denoiser import Denoised

        return lambda x, t: Denoised(self.guess(x, schedule(t)))

    def cdf(self, x, level):
        import torch

        alpha, sigma = level
        return (
            self.w * torch.special.ndtr((x[..., None] - alpha * self.mu) / ((alpha * self.sd) ** 2 + sigma**2) ** 0.5)
        ).sum(-1)

    def carried(self, x, level, to):
        """Where the ODE carries x: in one dimension, to the same quantile of the other level, found by bisection."""
        import torch

        quantile = self.cdf(x, level)
        low, high = torch.full_like(x, -500), torch.full_like(x, 500)
        for _ in range(100):
            middle = (low + high) / 2
            below = self.cdf(middle, to) < quantile
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


@pytest.fixture(scope="session")
def mixture() -> Mixture:
    return Mixture()
