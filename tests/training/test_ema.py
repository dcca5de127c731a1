import pytest
import torch
from torch import nn
from toys import OPTIONS, Data, Toy, no_bundle

from phosphene.training import ema_weights, train
from phosphene.training.ema import Ema, attach


def reference(history: list[torch.Tensor], decay: float) -> torch.Tensor:
    """The average as the weighted sum that the recursion unrolls to, in float64."""
    taken = [k for k in range(1, len(history)) if k <= 64 or k % 4 == 0]
    total, rest = torch.zeros_like(history[0], dtype=torch.float64), 1.0
    for k in reversed(taken):
        d = min(decay, k / (9 + k)) ** (1 if k <= 64 else 4)
        total, rest = total + rest * (1 - d) * history[k].double(), rest * d
    return total + rest * history[0].double()


def test_every_fourth_is_nearly_every_one():
    """Of a walk whose steps are like a training's, the sparse average is the full one to a tenth of its lag."""
    torch.manual_seed(0)
    p = nn.Parameter(torch.zeros(1000))
    ema, full, walk = Ema({"p": p}, 0.99), torch.zeros(1000), torch.zeros(1000)
    for k in range(1, 801):
        walk = walk + torch.randn(1000)
        p.data.copy_(walk)
        ema.update(k)
        full.lerp_(walk, 1 - min(0.99, k / (9 + k)))
    assert (ema.average["p"] - full).square().mean().sqrt() < 0.1 * (walk - full).square().mean().sqrt()


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_average_of_a_walk(decay):
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(5))
    ema, history = Ema({"p": p}, decay), [p.detach().clone()]
    for k in range(1, 90):
        with torch.no_grad():
            p.add_(torch.randn(5))
        ema.update(k)
        history.append(p.detach().clone())
    torch.testing.assert_close(ema.average["p"].double(), reference(history, decay), rtol=1e-5, atol=1e-6)


def test_training_keeps_it():
    system, history = Toy(), [Toy().net[0].weight.detach()]
    for progress in train(system, Data(), steps=25, ema=0.8, precision="fp32", save=no_bundle, **OPTIONS):
        if progress.step < 25:
            history.append(system.net[0].weight.detach().clone())
            with ema_weights(system):
                seen = system.net[0].weight.detach().clone()
            torch.testing.assert_close(seen.double(), reference(history, 0.8), rtol=1e-5, atol=1e-6)
            assert torch.equal(system.net[0].weight, history[-1])
    assert not torch.equal(system.net[0].weight, seen)  # the end: the average after 25 steps
    before = system.net[0].weight.detach().clone()
    with ema_weights(system):
        assert torch.equal(system.net[0].weight, before)


def test_weights_come_back_after_an_error():
    system = Toy()
    ema = Ema(dict(system.named_parameters()), 0.9)
    attach(system, ema)
    with torch.no_grad():
        system.null.fill_(3.0)
    with pytest.raises(RuntimeError), ema_weights(system):
        assert system.null.sum() == 0
        raise RuntimeError
    assert system.null.sum() == 9 and ema.average["null"].sum() == 0


def test_no_average():
    system = Toy()
    with ema_weights(system) as same:
        assert same is system
