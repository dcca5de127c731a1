"""Pieces of networks."""

from __future__ import annotations

import pytest
import torch

from phosphene.nets.layers import Dropout, ResBlock


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_the_mean_and_drops_the_share(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(7, 11, 61, 61, dtype=dtype)  # an odd number of numbers: not all of a draw is used
    out = Dropout(p).train()(x).float()
    n = x.numel()
    assert abs((out == 0).float().mean() - p) < 4 * (p * (1 - p) / n) ** 0.5
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / (1 - p)), rtol=4e-3, atol=0)


def test_dropped_places_are_independent():
    """Four numbers share a draw; neighbours, one to four places apart, are dropped independently all the same."""
    torch.manual_seed(0)
    dropped = (Dropout(0.3).train()(torch.ones(400_000)) == 0).double() - 0.3
    for apart in range(1, 5):
        assert abs((dropped[apart:] * dropped[:-apart]).mean()) < 4 * 0.21 / 400_000**0.5


def test_dropout_does_nothing_in_eval_and_without_a_rate():
    x = torch.randn(3, 5)
    assert Dropout(0.4).eval()(x) is x
    assert torch.equal(Dropout(0.0).train()(x), x) and not Dropout(1.0).train()(x).any()


def test_dropout_is_a_function_of_the_seed_and_has_the_gradient_of_its_mask():
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    layer = Dropout(0.5).train()
    torch.manual_seed(1)
    out = layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), out)
    out.sum().backward()
    torch.testing.assert_close(x.grad, (out / x).detach())


def test_a_residual_block_drops_in_training_only():
    block = ResBlock(8, 8, dropout=0.5)
    torch.nn.init.normal_(block.conv2.weight)
    x = torch.randn(2, 8, 4, 4)
    assert not torch.equal(block.train()(x), block(x))
    assert torch.equal(block.eval()(x), block(x))
    assert not any("dropout" in name for name in block.state_dict())
