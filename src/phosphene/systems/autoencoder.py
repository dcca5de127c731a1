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
from ..nets.autoencoder import Autoencoder, Coded, PatchDiscriminator, Thumbnail
from ..parts import part
from .base import Batch, Loss, System


@part
class AutoencoderSystem(System):
    """Trains an autoencoder; `kl` weighs what its latents cost, KL(q(z|x) ‖ N(0, I)), `adversarial` the discriminator's
    part. With a Thumbnail it trains a decoder of small pictures.
    """

    def __init__(
        self,
        autoencoder: Autoencoder | Thumbnail,
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

    def code(self, x: Tensor) -> Coded:
        """What the autoencoder makes of the pictures for its own decoder, and what that costs."""
        return self.autoencoder.code(x)

    def gather(self, batch: Batch, turn: str = "model") -> tuple[Tensor, ...]:
        """The gradients that are balanced: their norms are those of the whole step's."""
        if turn == "discriminator" or self.discriminator is None:
            return ()
        with torch.enable_grad():
            made = self.autoencoder.reconstruct(self.code(batch.image).raw)
            return self._pulls(reconstruction(made, batch.image), self._fooled(made))

    def loss(self, batch: Batch, turn: str = "model") -> Loss:
        x = batch.image
        if turn == "discriminator":
            return self._discriminate(x)
        code = self.code(x)
        made = self.autoencoder.reconstruct(code.raw)
        error = reconstruction(made, x)
        total = error + self.kl * code.cost
        parts = {"error": error.detach(), **code.parts, "psnr": psnr(made.detach(), x)}
        if self.discriminator is not None:
            fooled = self._fooled(made)
            pulls = batch.slots.mean() if batch.slots else self._pulls(error, fooled)
            total = total + self.adversarial * _balance(*pulls) * fooled
            parts["fooled"] = fooled.detach()
        return Loss(total, parts)

    def _fooled(self, made: Tensor) -> Tensor:
        return -self.discriminator(made).float().mean()

    def _discriminate(self, x: Tensor) -> Loss:
        """Hinge loss: real patches above 1, made ones below −1."""
        with torch.no_grad():
            made = self.autoencoder.reconstruct(self.code(x).raw)
        real, fake = self.discriminator(x).float(), self.discriminator(made).float()
        total = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        return Loss(total, {"real": real.detach().mean(), "fake": fake.detach().mean()})

    def _pulls(self, error: Tensor, fooled: Tensor) -> tuple[Tensor, ...]:
        """∇error and ∇fooled at the decoder's last layer."""
        last = self.autoencoder.decoder.conv_out.weight
        return tuple(torch.autograd.grad(f, last, retain_graph=True)[0] for f in (error, fooled))

    def generate(self, prompts, *, seeds, **options):
        """An autoencoder copies pictures and makes none. Raises Problem."""
        raise Problem("an autoencoder makes no pictures from words; it is the decoder of a latent model")


def _balance(error: Tensor, fooled: Tensor) -> Tensor:
    """‖∇error‖ / ‖∇fooled‖, at most 1e4 (Esser et al. 2021, equation 7)."""
    return (error.norm() / (fooled.norm() + 1e-6)).clamp(max=1e4)


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
