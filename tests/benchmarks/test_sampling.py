"""The benchmark of sampling runs on a tiny Stable Diffusion; what it measures there means nothing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def sampling(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("sampling")
    for name in ("sampling", "peers"):
        sys.modules.pop(name, None)


def test_both_sides_calculate_the_same(sampling, tmp_path):
    pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    sampling.checkpoint(tmp_path, "tiny")
    with torch.no_grad():
        ours = sampling.our_tasks(tmp_path, "tiny", 2, precision="fp32")
        theirs = sampling.their_tasks(tmp_path, "tiny", 2, dtype="float32", channels_last=False, compiled=False)
        for task in ("step64", "step32", "decode"):
            torch.testing.assert_close(ours[task](), theirs[task](), rtol=1e-4, atol=1e-4)
        assert ours["picture"]().shape == theirs["picture"]().shape == (1, 3, 64, 64)


@pytest.mark.slow
def test_every_side_is_measured_in_its_own_process(sampling, capsys):
    pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    reached = sampling.main(rounds=1, quick=True, size="tiny", threads=1, profile=True, only=["step32", "decode"])
    said = capsys.readouterr().out
    assert [a.task for a in reached] == ["step32", "step32", *["decode"] * (len(reached) - 2)]
    assert all(times > 0 for times in reached.values())
    assert said.count("reached") + said.count("MISSED") == len(reached)
    assert said.count("phosphene fp32, step32:") == 1 and "mkldnn" in said
