import math

import pytest
import torch

from phosphene.errors import Problem
from phosphene.training import Settings
from phosphene.training.settings import resolve


def test_rate_rises_stays_and_goes_down_a_cosine():
    s = Settings(steps=1000, lr=2.0, warmup=10, decay=0.5, floor=0.03)
    assert [s.rate(k) for k in (0, 4, 9, 10, 499)] == pytest.approx([0.2, 1.0, 2.0, 2.0, 2.0])
    assert s.rate(749) == pytest.approx(2 * (0.03 + 0.97 / 2))  # half-way down
    assert s.rate(624) == pytest.approx(2 * (0.03 + 0.97 * (1 + math.cos(math.pi / 4)) / 2))
    assert s.rate(999) == pytest.approx(0.06)
    rates = [s.rate(k) for k in range(500, 1000)]
    assert rates == sorted(rates, reverse=True)


def test_rate_without_decay_or_warmup():
    s = Settings(steps=10, lr=0.1, warmup=0, decay=0)
    assert {s.rate(k) for k in range(10)} == {0.1}
    assert Settings(steps=1, lr=0.1, warmup=0, decay=1, floor=0).rate(0) == pytest.approx(0)


def test_each_turn_has_its_rate():
    s = Settings(steps=10, lr={"generator": 0.1, "discriminator": 0.4}, warmup=0, decay=0)
    assert s.rate(3, "generator") == 0.1 and s.rate(3, "discriminator") == 0.4
    with pytest.raises(Problem, match="no rate for the turn 'model'"):
        s.rate(0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0), ("lr", 0), ("lr", -1.0), ("lr", {"model": math.inf}), ("warmup", -1), ("decay", 1.1),
        ("betas", (0.9, 1.0)), ("betas", (0.9,)), ("weight_decay", -0.1), ("clip", -1), ("ema", 1.0), ("workers", -1),
        ("log_every", -1), ("checkpoint_every", -5), ("sample_every", -1), ("keep", 0), ("precision", "bf-16"),
        ("floor", -0.1), ("lr", math.nan), ("steps", 2.5),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_named(name, value):
    with pytest.raises(Problem) as caught:
        Settings.of({"steps": 10} | {name: value})
    assert name in str(caught.value) and str(value) in str(caught.value)


def test_unknown_and_missing_settings():
    with pytest.raises(Problem, match="did you mean 'warmup'"):
        Settings.of({"steps": 1, "warm_up": 3})
    with pytest.raises(Problem, match="steps"):
        Settings.of({})


def test_precision():
    cpu = torch.device("cpu")
    assert resolve("bf16", cpu) == "bf16" and resolve("fp32", cpu) == "fp32"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert resolve("auto", cpu) == ("bf16" if fast else "fp32")
    assert resolve("auto", torch.device("mps")) == "fp32"
