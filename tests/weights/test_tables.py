"""The engine of foreign formats: forms and their inverses, and strict filling."""

import pytest
import torch
from torch import nn

from phosphene.errors import Problem
from phosphene.nets.attention import Attention
from phosphene.weights.tables import SAME, TRANSPOSED, Packed, Same, empty, entry, extract, fill, layer, under


def attention_table(heads: int = 1, ones: int = 0):
    return [
        *layer([f"to_{n}" for n in "qkv"], "qkv", Packed(heads, ones)),
        *layer("to_out", "proj", Same(ones)),
    ]


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("ones", [0, 1, 2])
def test_what_is_written_is_read(heads, ones):
    torch.manual_seed(0)
    net = Attention(8, 2, bias=True)
    theirs = extract(net, attention_table(heads, ones))
    assert theirs["qkv.weight"].shape == (24, 8, *[1] * ones) and theirs["qkv.bias"].shape == (24,)
    back = fill(empty(lambda: Attention(8, 2, bias=True)), attention_table(heads), theirs, what="it")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), back.parameters(), strict=True))


def test_the_order_of_packed_rows():
    """With heads, [q|k|v] lies inside each head (guided-diffusion); without, the heads lie inside q, k and v."""
    rows = torch.arange(12.0)
    assert [t.tolist() for t in Packed().read(rows, [(4,)] * 3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert [t.tolist() for t in Packed(2).read(rows, [(4,)] * 3)] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]


def test_a_transposed_matrix():
    p = torch.randn(3, 5)
    assert torch.equal(TRANSPOSED.read(p, [(5, 3)])[0], p.T)
    assert torch.equal(TRANSPOSED.write([p.T]), p)


def test_kernels_and_matrices_stand_for_each_other():
    w = torch.randn(3, 5)
    assert torch.equal(SAME.read(w[:, :, None, None], [(3, 5)])[0], w)
    assert SAME.read(w, [(3, 5, 1, 1)])[0].shape == (3, 5, 1, 1)
    with pytest.raises(ValueError, match=r"is \[5, 3\], \[3, 5\] was expected"):
        SAME.read(w.T, [(3, 5)])
    with pytest.raises(ValueError, match="was expected"):
        SAME.read(torch.zeros(3, 5, 3, 3), [(3, 5, 1, 1)])


def test_filling_is_strict_and_assigns():
    table = [entry("0.weight", "a.w"), entry("0.bias", "a.b")]
    good = {"a.w": torch.randn(2, 3), "a.b": torch.randn(2)}

    def net():
        return empty(lambda: nn.Sequential(nn.Linear(3, 2)))

    filled = fill(net(), table, good, what="it")
    assert filled[0].weight.data_ptr() == good["a.w"].data_ptr() and not filled.training
    half = {k: v.half() for k, v in good.items()}
    assert fill(net(), table, half, what="it")[0].weight.dtype == torch.float32
    assert fill(net(), table, half, what="it", dtype=None)[0].weight.dtype == torch.float16
    with pytest.raises(Problem, match=r"it lacks a\.b"):
        fill(net(), table, {"a.w": good["a.w"]}, what="it")
    with pytest.raises(Problem, match="it holds more, for which"):
        fill(net(), table, {**good, "more": torch.zeros(1)}, what="it")
    fill(net(), table, {**good, "more": torch.zeros(1)}, what="it", ignore=lambda key: key == "more")
    with pytest.raises(Problem, match=r"it: a\.w is \[3, 2\], \[2, 3\] was expected"):
        fill(net(), table, {**good, "a.w": torch.zeros(3, 2)}, what="it")


def test_under_puts_prefixes_in_front():
    [weight, bias] = under("net.", "model.", layer("fc", "lin"))
    assert (weight.ours, weight.theirs) == (("net.fc.weight",), "model.lin.weight")
    assert (bias.ours, bias.theirs) == (("net.fc.bias",), "model.lin.bias")
