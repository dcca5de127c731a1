"""Attention of pixels to tokens and to themselves at once; and what the U-Net's left half does for classifiers."""

import pytest
import torch

from phosphene.diffusion.cond import Cond
from phosphene.nets.classifier import AttentionHead, MeanHead, NoisyClassifier, SpatialHead
from phosphene.nets.joint import CrossAttention2d, JointAttention2d, NormedJointAttention2d
from phosphene.nets.layers import SelfAttention2d
from phosphene.nets.unet import UNet

KINDS = [JointAttention2d, NormedJointAttention2d, CrossAttention2d]


def made(kind, **how):
    torch.manual_seed(0)
    layer = kind(32, 8, 64, **how)
    torch.nn.init.normal_(layer.attn.to_out.weight)
    return layer


@torch.no_grad()
def test_joint_attention_is_one_softmax_over_tokens_and_pixels():
    layer = made(JointAttention2d)
    x, tokens = torch.randn(2, 32, 3, 4), torch.randn(2, 5, 64)
    h = layer.norm(x).flatten(2).transpose(1, 2)
    k = torch.cat([layer.to_k(tokens), layer.attn.to_k(h)], 1)
    v = torch.cat([layer.to_v(tokens), layer.attn.to_v(h)], 1)
    split = lambda y: y.unflatten(2, (4, 8)).transpose(1, 2)  # noqa: E731
    scores = split(layer.attn.to_q(h)) @ split(k).transpose(2, 3) / 8**0.5
    out = (scores.softmax(-1) @ split(v)).transpose(1, 2).flatten(2)
    wanted = x + layer.attn.to_out(out).transpose(1, 2).unflatten(2, (3, 4))
    torch.testing.assert_close(layer(x, Cond(tokens=tokens)), wanted)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_padding_is_not_attended_to(kind):
    """Behind a norm over all tokens padding still counts, so there it is the same padding that is hidden or not."""
    layer, x = made(kind), torch.randn(1, 32, 4, 4)
    tokens = torch.randn(1, 5, 64)
    mask = torch.tensor([[True, True, True, False, False]])
    hidden = layer(x, Cond(tokens=tokens, mask=mask))
    assert not torch.allclose(hidden, layer(x, Cond(tokens=tokens)))
    if kind is JointAttention2d:
        torch.testing.assert_close(hidden, layer(x, Cond(tokens=tokens[:, :3])))


@torch.no_grad()
def test_one_token_alone_says_the_same_to_every_pixel():
    layer, x = made(CrossAttention2d), torch.randn(1, 32, 4, 4)
    added = layer(x, Cond(tokens=torch.randn(1, 1, 64))) - x
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added))


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_their_width_are_wanted(kind):
    with pytest.raises(ValueError, match="context_dim"):
        kind(32, 8)
    with pytest.raises(ValueError, match="the condition has none"):
        made(kind)(torch.zeros(1, 32, 2, 2), Cond())


def test_the_middle_may_attend_otherwise_and_the_time_have_other_waves():
    kinds = [SelfAttention2d, JointAttention2d, CrossAttention2d]
    net = UNet(3, 3, (32, 64), 1, (1, 1), 8, context_dim=64, attend=kinds, time_dim=48)
    assert [type(blocks[0].attend) for blocks in (*net.encoder, net.middle, *net.decoder)] == [*kinds, *kinds[1::-1]]
    assert net.time.mlp[0].in_features == 48
    tokens = Cond(tokens=torch.randn(1, 2, 64))
    assert net(torch.randn(1, 3, 8, 8), torch.tensor(3.0), tokens).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("head", [AttentionHead, MeanHead, SpatialHead])
def test_a_classifier_of_noisy_pictures_learns(head):
    """Bright or dark, at two times: it tells them apart after a few steps, and wants its size."""
    torch.manual_seed(0)
    net = NoisyClassifier(3, 2, 8, (32, 32), 1, (0, 1), 8, head=head)
    y = torch.arange(8) % 2
    x = 0.3 * torch.randn(8, 3, 8, 8) + (2.0 * y - 1)[:, None, None, None]
    time = torch.tensor([5.0, 700.0]).repeat(4)
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(30):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(x, time), y).backward()
        optimiser.step()
    assert (net(x, time).argmax(1) == y).all()
    with pytest.raises(ValueError, match="8×8"):
        net(torch.zeros(1, 3, 16, 16), torch.tensor(1.0))
