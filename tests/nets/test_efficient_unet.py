"""Efficient U-Net: where its parameters are, how its skip connections are scaled, at which size its blocks work."""

import pytest
import torch
from torch import nn

from phosphene.diffusion.cond import Cond
from phosphene.nets.efficient_unet import EfficientUNet
from phosphene.nets.joint import ImagenCrossAttention2d, ImagenJointAttention2d
from phosphene.nets.unet import UNet
from phosphene.weights.tables import empty


def net(**how) -> EfficientUNet:
    torch.manual_seed(0)
    made = EfficientUNet(
        **{"channels": (8, 16), "depth": (1, 2), "head_dim": 8, "context_dim": 12, "vector_dim": 32, **how}
    )
    for p in made.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.1)
    return made.eval()


def told(n=2, size=(16, 16), **changed):
    cond = {"vector": torch.randn(n, 32), "tokens": torch.randn(n, 5, 12), "image": torch.randn(n, 3, *size)}
    return Cond(**{**cond, **changed})


def seen(module: nn.Module) -> list[torch.Tensor]:
    """What goes into a module, filled as it is called."""
    inputs: list[torch.Tensor] = []
    module.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    return inputs


def test_parameters_stand_where_pictures_are_small():
    """At an eighth of the side and less: of the paper's network over 9 in 10, of a U-Net of these channels fewer."""
    ours = empty(lambda: EfficientUNet(context_dim=512, vector_dim=512))
    plain = empty(lambda: UNet(6, 3, (128, 256, 512, 1024), 2, (0, 0, 0, 1), head_dim=64))
    assert [len(level) for level in ours.encoder] == [len(level) for level in ours.decoder][::-1] == [2, 4, 8, 8]

    def share(it, *low):
        return sum(p.numel() for level in low for p in level.parameters()) / sum(p.numel() for p in it.parameters())

    assert share(ours, *ours.encoder[2:], *ours.decoder[:2]) > 0.9
    assert share(plain, plain.encoder[3], plain.middle, plain.decoder[0]) < 0.8


@torch.no_grad()
@pytest.mark.parametrize("every", [False, True])
def test_skip_connections_are_scaled(every):
    """The way up meets what the way down made, by 1/√2: added, or behind it with a connection from every block."""
    it, made = net(every=every), {}
    for name, module in {"level": it.encoder[0][-1], "last": it.encoder[1][-1], "up": it.ups[0]}.items():
        module.register_forward_hook(lambda _, given, out, name=name: made.__setitem__(name, out))
    first, middle = seen(it.decoder[1][0]), seen(it.decoder[0][0])
    it(torch.randn(2, 3, 16, 16), torch.tensor(5.0), told())
    if every:
        torch.testing.assert_close(first[0], torch.cat([made["up"], made["level"] / 2**0.5], 1))
        torch.testing.assert_close(middle[0], torch.cat([made["last"], made["last"] / 2**0.5], 1))
    else:
        torch.testing.assert_close(first[0], made["up"] + made["level"] / 2**0.5)
        torch.testing.assert_close(middle[0], made["last"])  # the lowest level is its own skip


@torch.no_grad()
def test_a_level_is_smaller_before_its_convolutions_and_larger_behind_them():
    """Every convolution of the two levels sees 16/2 and 16/4 pixels; with a stride of 1 the first sees them all."""
    for strides, sides in (((2, 2), (8, 4)), ((1, 2), (16, 8))):
        it = net(strides=strides)
        inputs = [
            [seen(conv) for block in level for conv in (block.block.conv1, block.block.conv2)]
            for level in (*it.encoder, *reversed(it.decoder))
        ]
        out = it(torch.randn(1, 3, 16, 16), torch.tensor(5.0), told(1))
        assert out.shape == (1, 3, 16, 16)
        found = [{x[0].shape[-1] for x in level} for level in inputs]
        assert found == [{side} for side in (*sides, *sides)]


@torch.no_grad()
@pytest.mark.parametrize("attend", [ImagenJointAttention2d, ImagenCrossAttention2d])
def test_it_listens_to_all_that_it_is_told(attend):
    it, x, cond = net(attend=attend), torch.randn(2, 3, 16, 16), told()
    out = it(x, torch.tensor(5.0), cond)
    for other in (told(vector=cond.vector), told(tokens=cond.tokens), told(image=cond.image)):
        for name in ("vector", "tokens", "image"):
            mixed = Cond(**{n: getattr(other if n == name else cond, n) for n in ("vector", "tokens", "image")})
            same = getattr(other, name) is getattr(cond, name)
            assert same == torch.allclose(it(x, torch.tensor(5.0), mixed), out, atol=1e-5)
    assert not torch.allclose(it(x, torch.tensor(900.0), cond), out, atol=1e-4)


def test_any_size_goes_and_levels_fit():
    x = torch.randn(1, 3, 13, 22)
    assert net()(x, torch.tensor(5.0), told(1, (13, 22))).shape == x.shape
    assert net().multiple == 1
    with pytest.raises(ValueError, match="2 levels"):
        net(depth=(1,))
