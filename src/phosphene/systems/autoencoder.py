"""VAE + GAN: a KL autoencoder trained on pictures alone (Kingma & Welling 2014; Rombach et al. 2022, appendix G).

Reconstruction needs no downloaded weights: absolute and squared error and the error of the differences between
neighbours at three scales, where others compare the features of a trained classifier. With a discriminator the patches
must also pass for real ones (Esser et al. 2021, equations 5 to 7).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import Problem
from ..nets.autoencoder import Autoencoder, PatchDiscriminator
from ..parts import part
from .base import Batch, Loss, System


@part
class AutoencoderSystem(System):
    """Trains an autoencoder; `kl` weighs KL(q(z|x) ‖ N(0, I)), `adversarial` the discriminator's part."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        discriminator: PatchDiscriminator | None = None,
        kl: float = 5e-4,
        adversarial: float = 0.1,
    ):
        super().__init__()
        self.autoencoder, self.discriminator = autoencoder, discriminator
        self.kl, self.adversarial = kl, adversarial

    @property
    def turns(self) -> dict[str, list[nn.Parameter]]:
        """One turn, or with a discriminator two: first it learns, then the autoencoder."""
        if self.discriminator is None:
            return {"model": list(self.autoencoder.parameters())}
        return {"discriminator": list(self.discriminator.parameters()), "model": list(self.autoencoder.parameters())}

    def loss(self, batch: Batch, turn: str = "model") -> Loss:
        x = batch.image
        if turn == "discriminator":
            return self._discriminate(x)
        posterior = self.autoencoder.posterior(x)
        made = self.autoencoder.reconstruct(posterior.draw())
        error = reconstruction(made, x)
        total = error + self.kl * posterior.kl()
        parts = {"error": error.detach(), "kl": posterior.kl().detach(), "psnr": psnr(made.detach(), x)}
        if self.discriminator is not None:
            fooled = -self.discriminator(made).float().mean()
            total = total + self.adversarial * self._balance(error, fooled) * fooled
            parts["fooled"] = fooled.detach()
        return Loss(total, parts)

    def _discriminate(self, x: Tensor) -> Loss:
        """Hinge loss: real patches above 1, made ones below −1."""
        with torch.no_grad():
            made = self.autoencoder.reconstruct(self.autoencoder.posterior(x).draw())
        real, fake = self.discriminator(x).float(), self.discriminator(made).float()
        total = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        return Loss(total, {"real": real.detach().mean(), "fake": fake.detach().mean()})

    def _balance(self, error: Tensor, fooled: Tensor) -> Tensor:
        """‖∇error‖ / ‖∇fooled‖ at the decoder's last layer, at most 1e4 (Esser et al. 2021, equation 7)."""
        last = self.autoencoder.decoder.conv_out.weight
        ours, theirs = (torch.autograd.grad(f, last, retain_graph=True)[0].norm() for f in (error, fooled))
        return (ours / (theirs + 1e-6)).clamp(max=1e4).detach()

    def generate(self, prompts, *, seeds, **options):
        """An autoencoder copies pictures and makes none. Raises Problem."""
        raise Problem("an autoencoder makes no pictures from words; it is the decoder of a latent model")


def reconstruction(made: Tensor, x: Tensor) -> Tensor:
    """|error| + ½·error² + |error of neighbours' differences| at full, half and quarter size: 0-d."""
    error = made - x
    total = error.abs().mean() + 0.5 * error.square().mean()
    for _ in range(3):
        total = total + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        error = F.avg_pool2d(error, 2)
    return total


def psnr(made: Tensor, x: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures in [−1, 1], from the mean squared error of them all: 0-d."""
    return 10 * torch.log10(4 / (made.clamp(-1, 1) - x).square().mean().clamp(min=1e-10))
