import pytest
import torch

from phosphene.nets.autoencoder import Autoencoder, ConvDecoder, ConvEncoder, PatchCode, PatchDiscriminator, Posterior
from phosphene.systems.autoencoder import AutoencoderSystem, psnr, reconstruction
from phosphene.systems.base import Batch


def small(f: int = 4, channels: int = 6, start: bool = True) -> Autoencoder:
    widths = (8, 16) if f == 4 else (8, 8, 16)
    encoder, decoder = ConvEncoder(2 * channels, widths), ConvDecoder(channels, widths, 1)
    return Autoencoder(encoder, decoder, channels, f, PatchCode(f, channels) if start else None)


def pictures(n: int = 8, size: int = 16) -> torch.Tensor:
    coarse = torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(-1, 1)


@pytest.mark.parametrize("f", [4, 8])
def test_shapes(f):
    ae, x = small(f), pictures(size=16)
    z = ae.encode(x)
    assert z.shape == (8, 6, 16 // f, 16 // f) and ae.decode(z).shape == x.shape


def test_a_size_that_does_not_divide():
    with pytest.raises(ValueError, match="divide by 4"):
        small().encode(torch.zeros(1, 3, 18, 16))


def test_start_is_the_best_linear_code():
    """With all components kept the copy is exact; with k, the error is the sum of the eigenvalues left out."""
    x = pictures(16)
    whole = PatchCode(4, 48)
    whole.fit(x)
    assert torch.allclose(whole.decoder(whole.encoder(x)), x, atol=1e-4)
    code = PatchCode(4, 6)
    code.fit(x)
    patches = torch.nn.functional.unfold(x, 4, stride=4).transpose(1, 2).flatten(0, 1).double()
    about = patches - patches.unflatten(1, (3, 16)).mean((0, 2)).repeat_interleave(16)
    values = torch.linalg.eigvalsh(about.T @ about / len(patches))
    error = (code.decoder(code.encoder(x)) - x).square().sum() / len(patches)
    assert error.item() == pytest.approx(values[:-6].sum().item(), rel=1e-3)


def test_starts_as_the_linear_code():
    ae, x = small(), pictures(16)
    ae.start.fit(x)
    assert torch.allclose(ae.decode(ae.encode(x)), ae.start.decoder(ae.start.encoder(x)), atol=1e-5)


@pytest.mark.parametrize("sensitivity", [0.0, 0.5])
def test_what_leaves_encode_has_unit_variance(sensitivity):
    ae, x = small(), pictures(32)
    ae.start.fit(x)
    ae.start.encoder.weight.data *= 7
    ae.measure(x, sensitivity)
    z = ae.encode(x)
    assert z.mean((0, 2, 3)).abs().max() < 1e-3
    assert z.var((0, 2, 3)).mean().item() == pytest.approx(1, rel=0.02)
    if sensitivity:
        assert z.std((0, 2, 3))[0] > z.std((0, 2, 3))[-1], "what shows most must be the loudest"
    else:
        assert torch.allclose(z.std((0, 2, 3)), torch.ones(6), rtol=0.02)


def test_kl_against_torch():
    q = Posterior(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4))
    normal = torch.distributions.Normal(q.mean, (0.5 * q.logvar).exp())
    want = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean()
    assert q.kl().item() == pytest.approx(want.item(), rel=1e-5)
    draws = torch.stack([q.draw() for _ in range(4000)])
    assert torch.allclose(draws.mean(0), q.mean, atol=0.3) and torch.allclose(
        draws.std(0), (0.5 * q.logvar).exp(), rtol=0.1
    )


def test_psnr_and_reconstruction():
    x = torch.zeros(1, 3, 8, 8)
    assert psnr(x + 0.2, x).item() == pytest.approx(20.0, abs=1e-3)  # 10·log10(2²/0.2²)
    assert reconstruction(x + 0.2, x).item() == pytest.approx(0.2 + 0.02, abs=1e-6)  # no differences in a flat error


def test_vae_gan_has_two_turns():
    torch.manual_seed(0)
    system = AutoencoderSystem(small(start=False), PatchDiscriminator((8, 16)), adversarial=0.5)
    assert list(system.turns) == ["discriminator", "model"]
    batch = Batch(pictures(), [None] * 8, torch.arange(8))
    system.loss(batch, "discriminator").total.backward()
    assert all(p.grad is None for p in system.autoencoder.parameters())
    assert any(p.grad.abs().sum() > 0 for p in system.discriminator.parameters())
    system.loss(batch, "model").total.backward()
    assert any(p.grad.abs().sum() > 0 for p in system.autoencoder.decoder.parameters())


def test_overfits_eight_pictures():
    torch.manual_seed(0)
    system = AutoencoderSystem(small(), kl=1e-6)
    x = pictures()
    system.autoencoder.start.fit(x)
    batch = Batch(x, [None] * 8, torch.arange(8))
    optimiser = torch.optim.Adam(system.parameters(), lr=5e-3)
    first = system.loss(batch).parts["psnr"].item()
    for _ in range(150):
        optimiser.zero_grad()
        system.loss(batch).total.backward()
        optimiser.step()
    assert system.loss(batch).parts["psnr"].item() > first + 5
