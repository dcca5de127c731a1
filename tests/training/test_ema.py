import pytest
import torch
from torch import nn
from toys import OPTIONS, Data, Toy, no_bundle

from phosphene.training import ema_weights, train
from phosphene.training.ema import Ema, attach


def reference(history: list[torch.Tensor], decay: float) -> torch.Tensor:
    """The average as the weighted sum that the recursion unrolls to, in float64."""
    keep = [min(decay, k / (9 + k)) for k in range(1, len(history))]
    total, rest = torch.zeros_like(history[0], dtype=torch.float64), 1.0
    for d, w in zip(reversed(keep), reversed(history[1:]), strict=True):
        total, rest = total + rest * (1 - d) * w.double(), rest * d
    return total + rest * history[0].double()


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_average_of_a_walk(decay):
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(5))
    ema, history = Ema({"p": p}, decay), [p.detach().clone()]
    for k in range(1, 60):
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
