"""What the tests of foreign formats share."""

from __future__ import annotations

import importlib.util

import pytest


@pytest.fixture
def pipeline(tmp_path):
    """(version, seed, …) -> diffusers' pipeline, tiny and random (stable.py)."""
    if importlib.util.find_spec("diffusers") is None or importlib.util.find_spec("transformers") is None:
        pytest.skip("diffusers and transformers are not there: pip install '.[test]'")
    from weights import stable

    return lambda version=1, seed=0, **unet: stable.pipeline(tmp_path / "tokenizer", version, seed, **unet)
