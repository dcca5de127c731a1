"""What is recorded of attention: the weights themselves, of the tokens alone, and without a trace in the picture."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from phosphene.diffusion.cond import Cond
from phosphene.nets import attention as call_site
from phosphene.nets.attention import Attention
from phosphene.nets.dit import DiT
from phosphene.nets.joint import CrossAttention2d, JointAttention2d, NormedJointAttention2d
from phosphene.nets.layers import SpatialTransformer
from phosphene.nets.unet import UNet
from phosphene.runtime import prepare_for_sampling
from phosphene.views.recorder import grid, recording
from systems.small import W, awake, made

D, L = 32, 5  # width and number of tokens


def unet(attend) -> UNet:
    return UNet(3, 3, (W, 2 * W), 1, (0, 1), head_dim=8, context_dim=D, attend=attend)


NETS = {
    "cross": (lambda: unet(SpatialTransformer), True),
    "cross alone": (lambda: unet(CrossAttention2d), True),
    "joint": (lambda: unet(JointAttention2d), False),
    "joint, normed": (lambda: unet(NormedJointAttention2d), False),
    "DiT": (lambda: DiT(3, 3, 2, 2 * W, 2, 4, context_dim=D), True),
}


def net_and_call(name: str):
    torch.manual_seed(0)
    net = awake(NETS[name][0]())
    mask = torch.tensor([[True] * 4 + [False], [True] * 5])
    cond = Cond(tokens=torch.randn(2, L, D), mask=mask)
    return net, (torch.randn(2, 3, 8, 16), torch.tensor(3.0), cond)


def by_hand(q, k, heads: int, masked: int) -> torch.Tensor:
    """Plain loops over heads and pixels: the mean over heads of softmax(q·k/√d), (keys, pixels)."""
    d = q.shape[1] // heads
    total = torch.zeros(len(k), len(q))
    for h in range(heads):
        for pixel in range(len(q)):
            scores = [float(q[pixel, h * d : (h + 1) * d] @ key[h * d : (h + 1) * d]) / d**0.5 for key in k]
            scores = [s if i < masked or i >= L else -1e4 for i, s in enumerate(scores)]
            powers = torch.tensor(scores, dtype=torch.float64).softmax(0)
            total[:, pixel] += powers.float() / heads
    return total


@torch.no_grad()
@pytest.mark.parametrize("name", ["cross", "joint", "DiT"])
def test_what_is_recorded_is_the_softmax_by_hand(name, monkeypatch):
    """The layers' projected queries and keys are caught on their way, and their weights made by plain loops."""
    net, call = net_and_call(name)
    caught, mix = [], Attention.mix

    def watched(self, q, k, v, bias=None, told=0):
        if told:
            caught.append(by_hand(q[0], k[0], self.heads, 4)[:L])
        return mix(self, q, k, v, bias, told)

    with monkeypatch.context() as patch, recording(net) as seen:
        patch.setattr(Attention, "mix", watched)
        net(*call)
    [size] = seen.sizes
    assert size == (4, 8) and seen.counts[size] == len(caught) > 1
    torch.testing.assert_close(seen.at(size).flatten(1), torch.stack(caught).mean(0), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", NETS)
def test_weights_sum_to_one_but_where_the_picture_is_attended_to_as_well(name):
    net, call = net_and_call(name)
    with recording(net) as seen:
        for _ in range(3):
            net(*call)
    sums = seen.mean((8, 16)).sum(0)
    assert (seen.mean((8, 16))[4] == 0).all()  # the first row's fifth token is padding
    if NETS[name][1]:
        torch.testing.assert_close(sums, torch.ones(8, 16))
    else:
        assert ((sums > 0.01) & (sums < 0.9)).all()


@torch.no_grad()
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recording_changes_nothing(name, dtype):
    net, (x, time, cond) = net_and_call(name)
    net, call = net.to(dtype), (x.to(dtype), time, cond.to(dtype=dtype))
    before = net(*call)
    with recording(net) as seen:
        during = net(*call)
    assert torch.equal(before, during) and torch.equal(before, net(*call)) and seen.sums
    count = dict(seen.counts)
    net(*call)
    assert seen.counts == count  # it is over


@pytest.mark.parametrize("name", ["latent", "latent_dit"])
def test_pictures_of_a_packed_system_are_the_same_to_the_last_bit(name):
    system, _ = made(name)
    system = prepare_for_sampling(awake(system), "cpu", "fp32")
    how = dict(seeds=[3], steps=3, guidance=2.0)
    *_, plain = system.generate(["a red circle"], **how)
    with recording(system.denoiser.net) as seen:
        *_, looked = system.generate(["a red circle"], **how)
    assert torch.equal(plain.picture(), looked.picture())
    layers = sum(isinstance(m, Attention) for m in system.denoiser.net.modules()) // 2  # every second is cross
    assert sum(seen.counts.values()) == 3 * layers
    torch.testing.assert_close(seen.mean((8, 8)).sum(0), torch.ones(8, 8))


@torch.no_grad()
def test_off_it_costs_nothing(monkeypatch):
    """No weights are made where nobody listens, nor for attention that is not to a condition's tokens."""
    net, call = net_and_call("cross")

    def refuse(*_):
        raise AssertionError("weights were made")

    monkeypatch.setattr("phosphene.views.recorder.weights", refuse)
    net(*call)
    with call_site.listening(lambda *_: refuse()):
        Attention(8, 2)(torch.randn(1, 4, 8))
    with pytest.raises(AssertionError, match="weights were made"), recording(net):
        net(*call)
    net(*call)  # a call that failed leaves nothing behind


@torch.no_grad()
def test_attention_outside_of_the_net_is_not_recorded():
    """A text encoder that pools by attention (Imagen's) works meanwhile, and so may another net."""
    net, call = net_and_call("cross")
    other = Attention(8, 2, 8)
    with recording(net) as seen:
        other(torch.randn(1, 4, 8), torch.randn(1, 3, 8))
        assert not seen.sums
        net(*call)
        other(torch.randn(1, 4, 8), torch.randn(1, 3, 8))
    assert set(seen.counts.values()) == {sum(isinstance(m, SpatialTransformer) for m in net.modules())}


class Quadrant(nn.Module):
    """Pixels of the upper left quarter ask for token 2, all others for token 0."""

    def __init__(self):
        super().__init__()
        self.attn = Attention(8, 1, 8)
        for layer in (self.attn.to_q, self.attn.to_k):
            nn.init.eye_(layer.weight)

    def forward(self, x, time, cond):
        h, w = x.shape[2:]
        asked = torch.zeros(1, h, w, dtype=torch.long)
        asked[:, : h // 2, : w // 2] = 2
        queries = 20 * nn.functional.one_hot(asked, 8).float().flatten(1, 2)
        self.attn(queries, 5 * torch.eye(8)[None])
        return x


def test_a_planted_map_lies_where_it_was_planted():
    net = Quadrant()
    with recording(net) as seen:
        net(torch.zeros(1, 3, 4, 6), None, None)
    found = seen.at((4, 6))
    assert (found[2, :2, :3] > 0.99).all() and found[2].sum() < 6.01
    assert (found[0] + found[2] > 0.99).all()


def test_grids():
    assert grid(64, (128, 32)) == (16, 4) and grid(16, (64, 64)) == (4, 4) and grid(6, (4, 6)) == (2, 3)
