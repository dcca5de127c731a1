"""The U-Net as the notes draw it, and that it listens to everything it is told."""

import pytest
import torch
from torch import nn

from phosphene.diffusion.cond import Cond
from phosphene.nets.dit import DiT
from phosphene.nets.layers import (
    Downsample,
    ResBlock,
    ScaleShiftResBlock,
    SelfAttention2d,
    SpatialTransformer,
    TransposedUpsample,
    sinusoidal,
)
from phosphene.nets.unet import UNet


def awake(net: nn.Module) -> nn.Module:
    """Layers that start at zero given numbers, so that everything shows in the output."""
    torch.manual_seed(1)
    for p in net.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.1)
    return net.eval()


def shapes_of(net: UNet, x: torch.Tensor) -> list[tuple[int, ...]]:
    """(height, channels) after the first convolution, every block and every change of size."""
    seen = []

    def note(module, inputs, output):
        seen.append((output.shape[2], output.shape[1]))

    for module in (net.conv_in, *net.downs, *net.ups, *net.blocks):
        module.register_forward_hook(note)
    net(x, torch.zeros(len(x)), Cond())
    return seen


def test_the_notes_walk_through():
    """32×32×3 → 32×32×64; DownSample → 16×16×64; DownBlock → 16×16×128, twice; DownSample → 8×8×128; and back."""
    net = UNet(3, 3, (64, 128, 256), depth=(0, 2, 2), up=TransposedUpsample)
    down = [(32, 64), (16, 64), (16, 128), (16, 128), (8, 128), (8, 256), (8, 256)]
    middle = [(8, 256), (8, 256)]
    up = [(8, 256)] * 3 + [(16, 256)] + [(16, 128)] * 3 + [(32, 128), (32, 64)]
    assert shapes_of(net, torch.randn(1, 3, 32, 32)) == down + middle + up
    assert net(torch.randn(1, 3, 32, 32), torch.zeros(1), Cond()).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("i, k, p, s", [(5, 4, 2, 1), (4, 3, 0, 1), (32, 3, 1, 2), (7, 3, 1, 2)])
def test_convolution_size(i, k, p, s):
    """o = ⌊(i − k + 2p)/s⌋ + 1, with the notes' examples 5×5 → 6×6 and 4×4 → 2×2."""
    out = nn.Conv2d(1, 1, k, stride=s, padding=p)(torch.zeros(1, 1, i, i)).shape[-1]
    assert out == (i - k + 2 * p) // s + 1
    assert (i, k, p, s) != (5, 4, 2, 1) or out == 6


def test_up_restores_the_size_that_down_halved():
    x = torch.randn(1, 8, 12, 20)
    assert TransposedUpsample(8)(Downsample(8)(x)).shape == x.shape


def test_paper_size():
    """DDPM's CIFAR-10 network has 35.7 M parameters (Ho et al. 2020, appendix B)."""
    with torch.device("meta"):
        net = UNet(3, 3, (128, 256, 256, 256), 2, (0, 1, 0, 0), dropout=0.1)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(35.7e6, rel=0.01)


def small(**more) -> UNet:
    return awake(UNet(4, 4, (16, 32), 1, (0, 1), head_dim=16, **more))


@pytest.mark.parametrize("block", [ResBlock, ScaleShiftResBlock])
def test_listens_to_time_and_vector(block):
    net, x = small(vector_dim=6, block=block), torch.randn(2, 4, 8, 8)
    vector = torch.randn(2, 6)
    out = net(x, torch.tensor([1.0, 500.0]), Cond(vector=vector))
    assert not torch.allclose(out, net(x, torch.tensor([1.0, 499.0]), Cond(vector=vector))[[0, 1]])
    other = net(x, torch.tensor([1.0, 500.0]), Cond(vector=torch.stack([vector[0], vector[1] + 1])))
    assert torch.allclose(out[0], other[0], atol=1e-5) and not torch.allclose(out[1], other[1], atol=1e-3)


def test_listens_to_tokens_but_not_to_padding():
    net = small(context_dim=6, attend=SpatialTransformer)
    x, tokens, mask = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 6), torch.tensor([[True, True, False]])
    out = net(x, torch.ones(1), Cond(tokens=tokens, mask=mask))
    changed = tokens.clone()
    changed[:, 2] += 5
    assert torch.allclose(out, net(x, torch.ones(1), Cond(tokens=changed, mask=mask)), atol=1e-6)
    changed[:, 1] += 5
    assert not torch.allclose(out, net(x, torch.ones(1), Cond(tokens=changed, mask=mask)), atol=1e-3)


def test_regions_draw_the_attention():
    """A region of +∞ makes its pixels see one token only: as if the others were masked there."""
    net = small(context_dim=6, attend=SpatialTransformer)
    x, tokens = torch.randn(1, 4, 8, 8), torch.randn(1, 2, 6)
    regions = torch.zeros(1, 2, 8, 8)
    regions[:, 0] = 1e4
    only = net(x, torch.ones(1), Cond(tokens=tokens, mask=torch.tensor([[True, False]])))
    assert torch.allclose(net(x, torch.ones(1), Cond(tokens=tokens, regions=regions)), only, atol=1e-5)


def test_image_is_concatenated():
    net, x = small(), torch.randn(1, 2, 8, 8)
    other = torch.randn(1, 2, 8, 8)
    assert torch.equal(net(x, torch.ones(1), Cond(image=other)), net(torch.cat([x, other], 1), torch.ones(1), Cond()))


def test_says_what_it_lacks():
    with pytest.raises(ValueError, match="divide by 2"):
        small(up=TransposedUpsample)(torch.randn(1, 4, 9, 8), torch.ones(1), Cond())
    with pytest.raises(ValueError, match="vector"):
        small(vector_dim=3)(torch.randn(1, 4, 8, 8), torch.ones(1), Cond())
    with pytest.raises(ValueError, match="tokens"):
        small(context_dim=6, attend=SpatialTransformer)(torch.randn(1, 4, 8, 8), torch.ones(1), Cond())


def test_attention_layer_against_torch():
    """SelfAttention2d with one head is torch's MultiheadAttention on the pixels."""
    layer = SelfAttention2d(32)
    nn.init.normal_(layer.attn.to_out.weight, std=0.2)
    theirs = nn.MultiheadAttention(32, 1, batch_first=True)
    with torch.no_grad():
        ours = layer.attn
        theirs.in_proj_weight.copy_(torch.cat([ours.to_q.weight, ours.to_k.weight, ours.to_v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.to_q.bias, ours.to_k.bias, ours.to_v.bias]))
        theirs.out_proj.load_state_dict(ours.to_out.state_dict())
    x = torch.randn(2, 32, 4, 6)
    h = layer.norm(x).flatten(2).transpose(1, 2)
    want = x + theirs(h, h, h)[0].transpose(1, 2).reshape(x.shape)
    assert torch.allclose(layer(x, Cond()), want, atol=1e-5)


def test_sinusoidal_against_the_formula():
    time = torch.tensor([0.0, 3.0])
    got = sinusoidal(time, 8)
    for k in range(4):
        angle = time * 10_000 ** (-k / 4)
        assert torch.allclose(got[:, k], angle.cos(), atol=1e-6) and torch.allclose(
            got[:, 4 + k], angle.sin(), atol=1e-6
        )


def test_dit_is_a_drop_in():
    net = awake(DiT(4, 4, patch=2, width=32, layers=2, heads=2, context_dim=6, vector_dim=6))
    cond = Cond(vector=torch.randn(2, 6), tokens=torch.randn(2, 3, 6), mask=torch.ones(2, 3, dtype=torch.bool))
    x = torch.randn(2, 4, 8, 12)
    out = net(x, torch.tensor([1.0, 2.0]), cond)
    assert out.shape == x.shape
    rolled = net(x.roll(2, -1), torch.tensor([1.0, 2.0]), cond).roll(-2, -1)
    assert not torch.allclose(out, rolled, atol=1e-3), "patches have no positions"
    alone = net(x[1:], torch.tensor(2.0), cond[1:])  # a 0-d time, another batch
    assert torch.allclose(out[1:], alone, atol=1e-5)


def test_against_diffusers():
    """The same weights in diffusers' UNet2DModel (DDPM's blocks) give the same output."""
    diffusers = pytest.importorskip("diffusers")
    ours = awake(UNet(3, 3, (64, 128), 2, (0, 1), head_dim=None))
    theirs = diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(64, 128), layers_per_block=2, attention_head_dim=None,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_eps=1e-5, flip_sin_to_cos=True, freq_shift=0, downsample_padding=1,
    ).eval()  # fmt: skip
    theirs.load_state_dict(renamed(ours.state_dict()))
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        want = theirs(x, t).sample
        assert (ours(x, t, Cond()) - want).abs().max() < 1e-5 * want.abs().mean()


BLOCK = {"emb": "time_emb_proj", "shortcut": "conv_shortcut"}


def renamed(state: dict) -> dict:
    """Our names → diffusers'."""
    out = {}
    for key, value in state.items():
        part = key.split(".")
        if part[0] == "time":
            out[f"time_embedding.linear_{1 if part[2] == '0' else 2}.{part[3]}"] = value
        elif part[0] in ("encoder", "decoder", "middle"):
            where, rest = (f"{'down' if part[0] == 'encoder' else 'up'}_blocks.{part[1]}", part[2:])
            if part[0] == "middle":
                where, rest = "mid_block", part[1:]
            j, kind, name, *tail = rest
            if kind == "block":
                out[".".join([where, "resnets", j, BLOCK.get(name, name), *tail])] = value
            elif name == "norm":
                out[".".join([where, "attentions", j, "group_norm", *tail])] = value
            else:
                layer = "to_out.0" if tail[0] == "to_out" else tail[0]
                out[".".join([where, "attentions", j, layer, *tail[1:]])] = value
        elif part[0] in ("downs", "ups"):
            side = "down" if part[0] == "downs" else "up"
            out[f"{side}_blocks.{part[1]}.{side}samplers.0.{'.'.join(part[2:])}"] = value
        else:
            out[key.replace("norm_out", "conv_norm_out")] = value
    return out


def test_odd_sizes_come_back_as_they_went():
    """The way up is told the skip's size, so nothing has to divide, but for a transposed convolution."""
    net = small()
    assert net.multiple == 1 and small(up=TransposedUpsample).multiple == 2
    assert net(torch.randn(1, 4, 9, 7), torch.ones(1), Cond()).shape[-2:] == (9, 7)
