"""What the tests of foreign formats share: distance, what was recorded, weights made from the names of their keys."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch


def apart(ours: torch.Tensor, theirs) -> float:
    """max |difference| / mean |theirs|."""
    theirs = torch.as_tensor(theirs)
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().mean())


def arrays(path: Path) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v) for k, v in np.load(path).items() if k != "keys"}


def state_dicts(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """{name: state dict} of tests/golden/NAME.npz, which holds keys and shapes; the weights are made from the keys."""
    said = json.loads(str(np.load(path)["keys"]))
    return {name: {key: _weight(key, shape) for key, shape in keys.items()} for name, keys in said.items()}


def _weight(key: str, shape: list[int]) -> torch.Tensor:
    n = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        return torch.from_numpy(n * 0.1 + (1 if key.endswith("weight") else 0))
    return torch.from_numpy(n / np.sqrt(np.prod(shape[1:])).astype(np.float32))
