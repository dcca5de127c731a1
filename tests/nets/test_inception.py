"""Inception-v3: names, shapes and counts of the ported file, and torch-fidelity's network with the same weights."""

import importlib.util
import sys
import types

import pytest
import torch

from phosphene.nets.inception import Inception, average


def random_weights(seed: int = 0) -> dict:
    """Weights at which no layer dies or explodes."""
    torch.manual_seed(seed)
    state = Inception().state_dict()
    for key, value in state.items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif key.endswith(("running_mean", "bias")):
            value.normal_(std=0.2)
        elif value.ndim == 4:
            value.normal_(std=(2 / value[0].numel()) ** 0.5)
    return state


@pytest.fixture(scope="module")
def theirs():
    """torch-fidelity's network: the one file of it, without the rest of its package, which wants torchvision."""
    package = importlib.util.find_spec("torch_fidelity")
    if package is None:
        pytest.skip("torch-fidelity is not there: pip install --no-deps -r tests/peers.txt")
    hollow = types.ModuleType("torch_fidelity")
    hollow.__path__ = list(package.submodule_search_locations)
    before = sys.modules.get("torch_fidelity")
    sys.modules["torch_fidelity"] = hollow
    try:
        yield importlib.import_module("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    finally:
        sys.modules.pop("torch_fidelity")
        if before is not None:
            sys.modules["torch_fidelity"] = before


def test_names_and_counts():
    state = Inception().state_dict()
    named = {key for key in state if not key.endswith("num_batches_tracked")}
    assert len(named) == 94 * 5 + 2  # 94 convolutions with four numbers of batch norm, and the classes
    others = 23_834_568  # of the Inception-v3 that other libraries have, with 1,000 classes
    assert sum(p.numel() for p in Inception().parameters()) == others + 8 * 2049
    assert state["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)
    assert state["Mixed_6b.branch7x7_2.conv.weight"].shape == (128, 128, 1, 7)
    assert state["fc.weight"].shape == (1008, 2048)


def test_is_torch_fidelitys_network(theirs, tmp_path):
    state = random_weights()
    torch.save(state, tmp_path / "weights.pth")
    peer = theirs("it", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(tmp_path / "weights.pth"))
    ours = Inception().eval()
    ours.load_state_dict(state)
    pictures = torch.randint(0, 256, (1, 3, 299, 299), dtype=torch.uint8)
    with torch.no_grad():
        for mine, its in zip(ours((pictures.float() - 128) / 128), peer(pictures), strict=True):
            assert (mine - its).abs().max() <= 3e-5 * its.abs().mean()


def test_the_average_does_not_count_the_border():
    assert torch.equal(average(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))
