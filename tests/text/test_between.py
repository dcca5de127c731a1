"""Prompts on the way between two prompts."""

from __future__ import annotations

import pytest
import torch

from phosphene.diffusion.cond import Cond
from phosphene.diffusion.noise import Between
from phosphene.errors import Problem
from phosphene.text.between import mixing

WORDS = {"one": [1.0], "two": [2.0, 3.0], None: []}


def padded(prompts):
    """Its words' numbers and an end, 9, padded with 100 to the batch's longest; as vector their number."""
    rows = [[*WORDS[p], 9.0] for p in prompts]
    longest = max(map(len, rows))
    tokens = torch.tensor([[*r, *[100.0] * (longest - len(r))] for r in rows])[..., None]
    mask = torch.tensor([[i < len(r) for i in range(longest)] for r in rows])
    return Cond(vector=torch.tensor([[float(len(r))] for r in rows]), tokens=tokens, mask=mask)


def test_tensors_are_mixed_and_none_appears_at_once():
    way = mixing(padded)([Between("one", "two", 0.25), "two", None, Between("two", "one", 0.5)])
    assert way.vector[:, 0].tolist() == [2.25, 3.0, 1.0, 2.5]
    assert way.tokens[0, :, 0].tolist() == [1.25, 7.5, 9.0]  # one 9 9 → two three 9: its end stands in
    assert way.mask[0].all() and way.tokens[3, :, 0].tolist() == [1.5, 6.0, 9.0]
    assert way.tokens[1, :, 0].tolist() == [2.0, 3.0, 9.0]
    assert way.mask[2].tolist() == [True, False, False] and way.tokens[2, 0, 0] == 9


def test_the_ends_are_the_prompts_themselves():
    ways = mixing(padded)([Between("one", "two", 0.0), Between("one", "two", 1.0)])
    own = padded(["one", "two"])
    assert torch.equal(ways.mask, own.mask) and torch.equal(ways.vector, own.vector)
    assert torch.equal(ways.tokens[ways.mask], own.tokens[own.mask])


def test_encoders_without_masks_or_tokens():
    way = mixing(lambda prompts: Cond(vector=torch.tensor([[float(p)] for p in prompts])))([Between(2, 4, 0.5), 3])
    assert way.vector[:, 0].tolist() == [3.0, 3.0] and way.tokens is None and way.mask is None
    with pytest.raises(Problem, match="share 2"):
        mixing(padded)([Between("one", "two", 2)])
