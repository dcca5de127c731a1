"""What runtime.py puts on: the same results from packed weights, in parts, in tiles, and out again without a trace."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from phosphene import packed, runtime
from phosphene.diffusion.cond import Cond
from phosphene.diffusion.denoiser import Denoiser
from phosphene.diffusion.schedule import Cosine
from phosphene.errors import Problem
from phosphene.nets import attention as at
from phosphene.nets.autoencoder import Autoencoder, ConvDecoder, ConvEncoder
from phosphene.nets.layers import GEGLU, CornerDownsample, SelfAttention2d, SpatialTransformer, TransposedUpsample
from phosphene.nets.unet import UNet
from phosphene.packed import PackedConv2d, PackedGEGLU, PackedHalves, PackedLinear, pack, unpack
from phosphene.runtime import best_precision, prepare_for_sampling
from phosphene.systems.latent import Latent
from phosphene.text.encoders import ClassEncoder
from phosphene.tiles import blended, make_seamless, make_tiled
from phosphene.weights import bundle

needs_packing = pytest.mark.skipif(not packed.works(torch.float32), reason="this torch has no packed operators")


def random(net: nn.Module) -> nn.Module:
    """Without the layers that begin as nothing, and hide what is before them."""
    for p in net.parameters():
        nn.init.normal_(p, std=0.3 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.3)
    return net.eval().requires_grad_(False)


def apart(a, b) -> float:
    """Relative to what is usual in b."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def unet(**more) -> UNet:
    how = dict(attention=(1, 1), head_dim=8, context_dim=12, attend=SpatialTransformer) | more
    return random(UNet(4, 4, (16, 32), 1, **how))


def autoencoder(**more) -> Autoencoder:
    halves = ConvEncoder(8, (8, 16, 16), attend=SelfAttention2d, **more), ConvDecoder(4, (8, 16, 16), depth=1)
    return random(Autoencoder(*halves, channels=4, f=8))


def latent() -> Latent:
    net = unet(vector_dim=6, context_dim=None, attend=SelfAttention2d)
    system = Latent(Denoiser(net, Cosine()), autoencoder(), random(ClassEncoder(3, 6)), size=64, steps=2)
    return system


def picture(system: Latent, seed: int = 0, size=None) -> torch.Tensor:
    *_, last = system.generate([1], seeds=[seed], size=size)
    return last.picture()


# Packed weights -----------------------------------------------------------------------------------------------------

CONVOLUTIONS = {
    "3×3": dict(kernel_size=3, padding=1),
    "stride": dict(kernel_size=3, stride=2, padding=1),
    "1×1": dict(kernel_size=1),
    "patches": dict(kernel_size=4, stride=4),
    "dilated": dict(kernel_size=3, dilation=2, padding=2),
    "groups": dict(kernel_size=3, padding=1, groups=3),
    "no bias": dict(kernel_size=3, bias=False),
    "uneven": dict(kernel_size=(3, 1), padding=(1, 0), stride=(1, 2)),
    "circular": dict(kernel_size=3, padding=1, padding_mode="circular"),
}


@needs_packing
@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_convolution_is_the_same(kind, dtype):
    layer = nn.Conv2d(6, 12, **CONVOLUTIONS[kind]).to(dtype)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        inputs = [torch.randn(b, 6, h, w, dtype=dtype) for b, h, w in ((2, 13, 9), (1, 8, 8), (3, 5, 31))]
        plain = [layer(x) for x in inputs]
        pack(layer)
        assert type(layer) is PackedConv2d and layer.weight.is_mkldnn
        for x, y in zip(inputs, plain):
            assert layer(x).shape == y.shape
            assert apart(layer(x), y) < (1e-6 if dtype == torch.float32 else 1e-2)
        unpack(layer)
        assert type(layer) is nn.Conv2d and torch.equal(layer.weight, before)


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_linear_layer_is_the_same(bias):
    layer = nn.Linear(7, 5, bias=bias)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        inputs = [torch.randn(*shape, 7) for shape in ((), (3,), (2, 11), (2, 3, 4))]
        plain = [layer(x) for x in inputs]
        pack(layer)
        assert type(layer) is PackedLinear
        for x, y in zip(inputs, plain):
            torch.testing.assert_close(layer(x), y)
        unpack(layer)
        assert torch.equal(layer.weight, before)


@needs_packing
def test_a_gate_is_fused_and_its_hooks_see_what_they_saw():
    layer = GEGLU(24)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    x, seen = torch.randn(2, 7, 24), []
    with torch.no_grad():
        plain, inside = layer(x), layer.proj(x)
        pack(layer)
        assert type(layer) is PackedGEGLU and type(layer.proj) is PackedHalves
        torch.testing.assert_close(layer(x), plain)
        handle = layer.proj.register_forward_hook(lambda module, inputs, y: seen.append(y) or y + 1)
        hooked = layer(x)
        torch.testing.assert_close(seen[0], inside)
        handle.remove()
        value, gate = (inside + 1).chunk(2, dim=-1)
        torch.testing.assert_close(hooked, layer.out(value * nn.functional.gelu(gate)))
        unpack(layer)
    assert all(torch.equal(p, before[name]) for name, p in layer.named_parameters()) and type(layer) is GEGLU


@needs_packing
@pytest.mark.parametrize("b, c, h, w", [(1, 16, 256, 256), (2, 64, 33, 47), (2, 8, 5, 3), (1, 6, 1033, 3)])
@pytest.mark.parametrize("affine", [True, False])
def test_a_group_norm_is_exact_with_channels_last(b, c, h, w, affine):
    layer = nn.GroupNorm(2, c, affine=affine)
    x = (torch.randn(b, c, h, w) + 5).contiguous(memory_format=torch.channels_last)
    if affine:
        nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    given = [p.double() for p in layer.parameters()]
    exact = nn.functional.group_norm(x.double(), 2, *given, eps=layer.eps)
    with torch.no_grad():
        plain, row = layer(x), layer(x[:, :, 0])
        pack(layer)
        assert apart(layer(x), exact) < 5e-7 and layer(x).is_contiguous(memory_format=torch.channels_last)
        assert apart(layer(x), exact) < apart(plain, exact) or h * w < 100  # what this is there for
        assert torch.equal(layer(x[:, :, 0]), row)
        unpack(layer)
    assert type(layer) is nn.GroupNorm


@needs_packing
@pytest.mark.parametrize("size", [(16, 16), (10, 22), (48, 40)])
def test_a_packed_unet_is_the_same(size):
    net = unet()
    x, cond = torch.randn(2, 4, *size), Cond(tokens=torch.randn(2, 5, 12), mask=torch.arange(5)[None] < 4)
    with torch.no_grad():
        plain = net(x, torch.tensor(3.0), cond)
        pack(net)
        assert not any(type(m) in (nn.Linear, nn.Conv2d) for m in net.modules())
        assert apart(net(x, torch.tensor(3.0), cond), plain) < 1e-6


@needs_packing
def test_a_gradient_goes_through_packed_layers():
    """Guidance by a gradient asks for one with respect to x."""
    net, x = unet(), torch.randn(1, 4, 8, 8, requires_grad=True)
    cond = Cond(tokens=torch.randn(1, 5, 12))
    (plain,) = torch.autograd.grad(net(x, torch.tensor(3.0), cond).square().sum(), x)
    pack(net)
    (same,) = torch.autograd.grad(net(x, torch.tensor(3.0), cond).square().sum(), x)
    assert plain.norm() > 0 and apart(same, plain) < 1e-5


def test_where_the_operators_are_missing_everything_stays_plain(monkeypatch):
    def missing(*_, **__):
        raise NotImplementedError("mkldnn::_reorder_linear_weight")

    packed.works.cache_clear()
    monkeypatch.setattr(packed.torch.ops.mkldnn, "_reorder_linear_weight", missing)
    try:
        system, same = latent(), latent()
        same.load_state_dict(system.state_dict())
        assert not packed.works(torch.float32)
        prepare_for_sampling(system, "cpu")
        assert not any(p.is_mkldnn for p in system.parameters())
        assert torch.equal(picture(system), picture(same.eval()))
    finally:
        packed.works.cache_clear()


@pytest.mark.parametrize("wrong", [torch.zeros, torch.ones])
def test_an_operator_that_errs_is_not_used(monkeypatch, wrong):
    packed.works.cache_clear()
    monkeypatch.setattr(packed.PackedConv2d, "forward", lambda self, x: wrong(2, 5, 3, 3))
    assert not packed.works(torch.float32)
    packed.works.cache_clear()


# A whole system -----------------------------------------------------------------------------------------------------


def test_a_prepared_system_makes_the_same_picture_and_may_be_prepared_again():
    system, numbers = latent(), torch.random.get_rng_state()
    plain = picture(system)
    for options in ({}, {"tile": 64}, {"seamless": True}, {"offload": True}, {}):
        prepare_for_sampling(system, "cpu", **options)
    assert apart(picture(system), plain) < 1e-5
    assert torch.equal(numbers, torch.random.get_rng_state())  # whoever drew random numbers draws the same
    assert not any(p.requires_grad for p in system.parameters()) and not system.training


def test_bf16_reaches_the_network_and_large_autoencoders(monkeypatch):
    system = latent()
    plain = picture(system)
    monkeypatch.setattr(runtime, "LARGE", 10)
    prepare_for_sampling(system, "cpu", "bf16")
    assert {p.dtype for p in system.denoiser.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in system.autoencoder.decoder.parameters()} == {torch.bfloat16}
    assert system.autoencoder.scale.dtype == torch.float32
    assert {p.dtype for p in system.encoder.parameters()} == {torch.float32}
    assert picture(system).dtype == torch.float32 and 1e-5 < apart(picture(system), plain) < 0.1
    assert system.autoencoder.encode(plain).dtype == torch.float32
    prepare_for_sampling(system, "cpu", "fp32")  # rounded once, but in one piece
    assert not system.autoencoder.decoder._forward_hooks and not system.autoencoder.encoder._forward_pre_hooks
    assert apart(picture(system), plain) < 0.1


def test_auto_is_exact_for_small_networks(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert best_precision(cpu, runtime.LARGE - 1) == "fp32" and best_precision(cpu, runtime.LARGE) == "bf16"
    for test in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, test, lambda: False, raising=False)
    assert best_precision(cpu, runtime.LARGE) == "fp32"


def test_training_is_left_as_it_is():
    """A system that is not prepared has gradients, by the two products."""
    net = unet().requires_grad_(True).train()
    net(torch.randn(1, 4, 8, 8), torch.tensor(3.0), Cond(tokens=torch.randn(1, 5, 12))).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


PEAK = """if True:
    import sys, torch
    from phosphene import runtime
    from phosphene.runtime import PRECISIONS, prepare_for_sampling
    from phosphene.weights import bundle

    def peak():  # of resident memory, pages of mapped files counted
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

    small, large, precision, early = sys.argv[1:]
    keep_freed, runtime.keep_freed = runtime.keep_freed, bool
    for path in (small, large):  # the small one brings all the code in
        before = peak()
        system = bundle.load(path, PRECISIONS[precision] if early == "early" else None)
        prepare_for_sampling(system, "cpu", precision)
        runtime.keep_freed = keep_freed
    weights = sum(p.numel() * p.element_size() for p in system.parameters())
    print((peak() - before) / weights)
"""


@needs_packing
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("precision, early", [("fp32", "early"), ("bf16", "early"), ("bf16", "late")])
def test_the_peak_of_memory_is_the_weights(tmp_path, precision, early):
    """What is loaded as it is stored and packed is in memory once; and what is converted on the way, too."""
    net = UNet(4, 4, (128, 256, 512), 2, (1, 1, 1), context_dim=256, head_dim=64, attend=SpatialTransformer)
    system = Latent(Denoiser(net, Cosine()), autoencoder(), ClassEncoder(3, 6))
    assert runtime.parameters(system) > 60e6  # so that little things do not count
    paths = [bundle.save(s, tmp_path / f"{i}.safetensors") for i, s in enumerate((latent(), system))]
    command = [sys.executable, "-c", PEAK, *map(str, paths), precision, early]
    assert float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 1.3


# Attention ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "keys", "all", "causal"])
@pytest.mark.parametrize("length, keys, d", [(600, 600, 8), (513, 1025, 5), (3, 300, 7), (1030, 77, 16)])
def test_every_way_to_attend_is_the_same(kind, length, keys, d):
    q, k, v = (torch.randn(2, n, 3, d).transpose(1, 2) for n in (length, keys, keys))  # as Attention gives them
    bias = {
        "none": None,
        "keys": at.visible(torch.arange(keys)[None] < torch.tensor([[keys], [keys - 9]])),
        "all": torch.randn(2, 1, length, keys),
        "causal": torch.full((length, keys), -torch.inf).triu(1)[None, None],
    }[kind]
    scores = q.double() @ k.double().mT / d**0.5 + (0 if bias is None else bias.double())
    exact = scores.softmax(-1) @ v.double()
    for way in (at.attention, at._by_rows, at._by_products):
        assert apart(way(q, k, v, bias), exact) < 2e-6
        assert apart(way(*(t.bfloat16() for t in (q, k, v)), bias), exact) < 0.02


def test_half_precision_goes_by_rows_where_the_fused_kernel_is_slow(monkeypatch):
    asked = []
    monkeypatch.setattr(at, "_by_rows", lambda q, k, v, bias: asked.append(q.dtype) or q)
    for fast in (True, False):
        monkeypatch.setattr(at, "_fused_is_fast", lambda: fast)  # noqa: B023
        for dtype in (torch.float32, torch.bfloat16):
            q = torch.randn(1, 1, 300, 8, dtype=dtype)
            at.attention(q, q, q)
    assert asked == [torch.bfloat16]


# Offload ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch):
    """A device that is none: what is "there" has been copied, and who was there is noted."""
    stays, system = [], latent().eval()
    for name in ("bring", "home"):
        plain = getattr(runtime.Offload, name)

        def noted(self, *part, name=name, plain=plain):
            stays.append((name, *part))
            plain(self, *part)

        monkeypatch.setattr(runtime.Offload, name, noted)
    monkeypatch.setattr(runtime, "_there", lambda tensor, place: tensor.clone())
    return system, stays


def test_one_part_at_a_time_is_on_the_device(elsewhere):
    system, stays = elsewhere
    plain, at_home = picture(system), {id(p): p.data_ptr() for p in system.parameters()}
    offload = runtime.Offload(system, torch.device("cpu"))
    assert torch.equal(picture(system), plain)
    brought = [part for name, *parts in stays if name == "bring" for part in parts]
    assert brought == [system.encoder, system.denoiser.net, system.autoencoder]
    here = {id(p) for p in system.parameters() if p.data_ptr() != at_home[id(p)]}
    assert here == {id(p) for p in system.autoencoder.parameters()}  # it was the last
    system.encode(plain)
    assert len([name for name, *_ in stays if name == "bring"]) == 3  # it was there
    offload.end()
    assert all(p.data_ptr() == at_home[id(p)] for p in system.parameters())
    assert "forward" not in system.denoiser.net.__dict__ and "decode" not in system.autoencoder.__dict__
    assert torch.equal(picture(system), plain)


def test_an_offloaded_system_calculates_on_the_device(elsewhere):
    system, _ = elsewhere
    runtime.Offload(system, torch.device("cuda"))  # never entered: no such device is needed
    assert system.device == torch.device("cuda")
    assert next(system.parameters()).device.type == "cpu"
    prepare_for_sampling(system, "cpu")
    assert system.device == torch.device("cpu") and picture(system).isfinite().all()


# Tiles --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height, width", [(8, 8), (9, 21), (32, 13), (40, 11)])
@pytest.mark.parametrize("wrap", [False, True])
def test_what_is_local_is_the_same_in_tiles(height, width, wrap):
    """Squares cut out and put together again; and the far side goes on where the picture ends."""
    z = torch.randn(1, 2, height, width)
    wide = torch.nn.functional.pad(z, (height,) * 4, mode="circular") if height <= min(z.shape[2:]) else None

    def part(at):
        top, left, h, w = at
        assert (top + h <= height and left + w <= width) or wrap
        rows, columns = torch.arange(top, top + h) % height, torch.arange(left, left + w) % width
        return z[..., rows[:, None], columns].repeat_interleave(2, -1).repeat_interleave(2, -2)

    whole = blended(part, height, width, 8, 2, wrap)
    torch.testing.assert_close(whole, z.repeat_interleave(2, -1).repeat_interleave(2, -2))
    assert wide is None or wide.shape[-1] == width + 2 * height


@pytest.mark.parametrize("wrap", [False, True])
def test_squares_fade_into_each_other(wrap):
    """Squares that differ, each in one number: between the numbers there is no step larger than the ramp's."""
    seen: list[int] = []

    def part(at):
        seen.append(at[1])
        return torch.full((1, 1, 2 * at[2], 2 * at[3]), float(len(seen) % 2))

    row = blended(part, 8, 24 if wrap else 20, 8, 2, wrap)[0, 0, 3]
    assert len(seen) == (4 if wrap else 3) and row.max() == 1 and row.min() == 0
    steps = (row - row.roll(1)).abs() if wrap else row.diff().abs()
    assert steps.max() < 0.3  # in four numbers, which two squares share, from the one to the other


def test_tiled_decoding_is_close_to_the_whole():
    """Apart are what a convolution sees beyond a tile, and the norms, which see a tile at a time."""
    made = autoencoder()
    z, x = torch.randn(1, 4, 20, 28), torch.rand(1, 3, 160, 224) * 2 - 1
    with torch.no_grad():
        decoded, encoded = made.decode(z), made.encode(x)
        make_tiled(made, 96)
        assert 0 < apart(made.decode(z), decoded) < 0.25 and made.decode(z).shape == decoded.shape
        assert 0 < apart(made.encode(x), encoded) < 0.25 and made.encode(x).shape == encoded.shape
        assert torch.equal(made.decode(z[..., :12, :12]), type(made).decode(made, z[..., :12, :12]))  # one tile
        noise = torch.randn(1, 4, 20, 28)
        drawn = made.encode(x, draw=noise)
        with pytest.raises(ValueError, match="divide by 8"):
            made.encode(x[..., :-1])
        make_tiled(made, None)
        assert torch.equal(made.decode(z), decoded) and apart(drawn, made.encode(x, draw=noise)) < 0.25
    with pytest.raises(Problem, match=r"tile=32: .*at least 64"):
        make_tiled(made, 32)


# Seamless -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [None, 64])
def test_a_rolled_latent_is_a_rolled_picture(tile):
    made = autoencoder(down=CornerDownsample)
    z, x = torch.randn(1, 4, 12, 16), torch.rand(1, 3, 96, 128) * 2 - 1
    with torch.no_grad():
        for half in (made.encoder, made.decoder):
            make_seamless(half)
            pack(half)
        make_tiled(made, tile, wrap=True)
        close = 1e-5 if tile is None else 0.3  # the tiles are where they were
        rolled = made.decode(z.roll((4, -5), (-2, -1))).roll((-32, 40), (-2, -1))
        assert apart(rolled, made.decode(z)) < close
        assert apart(made.encode(x.roll((32, -40), (-2, -1))).roll((-4, 5), (-2, -1)), made.encode(x)) < close
        make_tiled(made, None)
        for half in (made.encoder, made.decoder):
            make_seamless(half, False)
        assert apart(made.decode(z.roll((4, -5), (-2, -1))).roll((-32, 40), (-2, -1)), made.decode(z)) > 1e-3


def test_a_prepared_system_is_seamless_in_its_tiles_too(monkeypatch):
    asked = []
    monkeypatch.setattr(runtime, "make_tiled", lambda autoencoder, tile, wrap: asked.append((tile, wrap)))
    system = prepare_for_sampling(latent(), "cpu", tile=64, seamless=True)
    prepare_for_sampling(system, "cpu")
    assert asked == [(64, True), (None, False)]


def test_a_seamless_unet_is_rolled_with_its_input():
    net = unet(attend=SelfAttention2d, context_dim=None, up=TransposedUpsample)
    x, t = torch.randn(1, 4, 8, 12), torch.tensor(3.0)
    roll = dict(shifts=(2, 4), dims=(-2, -1))
    with torch.no_grad():
        plain = net(x, t, Cond())
        assert apart(net(x.roll(**roll), t, Cond()), plain.roll(**roll)) > 1e-3
        make_seamless(net)
        make_seamless(net)  # twice is once
        assert apart(net(x.roll(**roll), t, Cond()), net(x, t, Cond()).roll(**roll)) < 1e-5
        make_seamless(net, False)
        assert torch.equal(net(x, t, Cond()), plain)
