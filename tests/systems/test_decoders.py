"""Decoders: the codebook's gradient and its dead entries, small pictures enlarged, a diffusion model that decodes."""

import pytest
import torch

from phosphene.errors import Problem
from phosphene.systems.decoder import ByDiffusion
from phosphene.systems.latent import Latent
from phosphene.systems.vq import DEAD
from systems.small import awake, made, overfit


def test_the_gradient_goes_straight_through():
    """Of the copy's error, the encoder's output gets the gradient of its entry; the codebook gets none of it."""
    system, batch = made("vq")
    ae = system.autoencoder
    z = ae.raw(batch.image).detach().requires_grad_()
    code = ae.coded(z)
    assert torch.allclose(code.raw, ae.quantised(z), atol=1e-6), "forwards it is the entry"
    pull = torch.randn_like(code.raw)
    (code.raw * pull).sum().backward(retain_graph=True)
    assert torch.equal(z.grad, pull) and ae.codebook.grad is None


def test_what_a_code_costs():
    """Equation 3: entries are pulled to what is coded by them, and that a quarter as hard to its entries."""
    system, batch = made("vq")
    ae = system.autoencoder
    z = ae.raw(batch.image).detach().requires_grad_()
    cost = ae.coded(z).cost
    cost.backward()
    e = ae.quantised(z).detach()
    assert cost.item() == pytest.approx(1.25 * (z - e).square().mean().item(), rel=1e-5)
    assert torch.allclose(z.grad, 0.25 * 2 * (z - e).detach() / z.numel(), atol=1e-8)
    which = ae.nearest(z)
    pulled = ae.codebook.grad.any(1).nonzero()[:, 0]
    assert pulled.tolist() == which.unique().tolist()
    k = int(which[0, 0, 0])
    toward = ((which == k)[:, None] * (z - e)).detach().sum((0, 2, 3))
    assert torch.allclose(ae.codebook.grad[k], -2 * toward / z.numel(), atol=1e-7)


def test_most_of_the_codebook_is_used():
    system, batch = made("vq")
    overfit(system, batch, 60, 3e-3)
    assert system.loss(batch).parts["used"] > 0.5


def test_dead_entries_are_put_where_data_is():
    system, batch = made("vq")
    book = system.autoencoder.codebook
    system.loss(batch)  # all were dead, and began on the data
    with torch.no_grad():
        book[:16] = 1000.0
    system.eval().loss(batch)
    assert (book[:16] == 1000).all(), "nothing moves outside of training"
    system.train()
    for _ in range(60):
        system.loss(batch)
    z = system.autoencoder.raw(batch.image).movedim(1, -1).flatten(0, -2)
    assert (book < 100).all() and torch.cdist(book, z).amin(1).max() < 1e-3
    assert (system.usage >= DEAD).all()


def test_latents_of_a_codebook_have_unit_power():
    system, batch = made("vq")
    ae = system.autoencoder
    ae.measure(batch.image)
    z = ae.encode(batch.image)
    assert z.square().mean().item() == pytest.approx(1, rel=1e-4) and ae.arguments["scale"] == ae.scale != 1
    assert torch.equal(ae.decode(z), ae.reconstruct(ae.quantised(ae.raw(batch.image))))


def test_small_pictures_begin_as_enlarged_ones():
    system, batch = made("enlarger")
    ae = system.autoencoder
    small = ae.encode(batch.image)
    assert small.shape == (8, 3, 8, 8) and torch.allclose(small[0, :, 0, 0], batch.image[0, :, :4, :4].mean((1, 2)))
    want = torch.nn.functional.interpolate(small, scale_factor=4, mode="bilinear")
    assert torch.equal(ae.decode(small), want)
    with pytest.raises(ValueError, match="divide by 4"):
        ae.encode(torch.zeros(1, 3, 30, 32))


def test_a_diffusion_model_decodes_what_it_is_given():
    """A copy is the picture of its latents; another latent is another picture; its noise is its seed's."""
    system, batch = made("diffusion_decoder")
    awake(system)

    def picture(**given):
        *_, last = system.generate([None] * 2, seeds=[1, 2], steps=3, **given)
        return last.picture()

    latents = system.stand_in(batch.image[:2])
    assert latents.shape == (2, 8, 8, 8)
    copies = picture(image=batch.image[:2])
    assert copies.shape == (2, 3, 32, 32) and torch.equal(copies, picture(latents=latents))
    assert not torch.allclose(copies, picture(latents=-latents), atol=1e-2)
    *_, alone = system.generate([None], seeds=[2], steps=3, latents=latents[1:])
    assert torch.allclose(copies[1:], alone.picture(), atol=1e-4)


@pytest.mark.parametrize("given", [{}, {"image": torch.zeros(1, 3, 32, 32), "latents": torch.zeros(1, 8, 8, 8)}])
def test_a_decoder_wants_one_thing_to_decode(given):
    system, _ = made("diffusion_decoder")
    with pytest.raises(Problem, match="latents"):
        next(system.generate([None], seeds=[1], **given))


def test_its_size_is_that_of_what_is_given():
    system, batch = made("diffusion_decoder")
    with pytest.raises(Problem, match="32x32"):
        next(system.generate([None], seeds=[1], image=batch.image[:1], size=(64, 64)))


def test_a_latent_model_can_decode_by_diffusion():
    """The pictures are those of the decoder, and a latent's does not depend on the others."""
    decoder, _ = made("diffusion_decoder")
    latent, batch = made("latent")
    awake(decoder), awake(latent)
    decoder.steps = 2
    whole = Latent(latent.denoiser, ByDiffusion(decoder), latent.encoder, 32, steps=2, guidance=1.0)
    assert not any(p.requires_grad for p in whole.autoencoder.parameters())
    assert torch.equal(whole.encode(batch.image), decoder.autoencoder.encode(batch.image))
    *_, two = whole.generate(batch.prompts[:2], seeds=[3, 4])
    *_, one = whole.generate(batch.prompts[1:2], seeds=[4])
    assert two.picture().shape == (2, 3, 32, 32)
    assert torch.allclose(two.picture()[1:], one.picture(), atol=1e-4)
