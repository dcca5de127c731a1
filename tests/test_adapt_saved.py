"""What a system wears, written down with it: kept apart by a bundle, added to the weights where it is asked for."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from phosphene import adapt
from phosphene.cli import main
from phosphene.errors import Problem
from phosphene.runtime import prepare_for_sampling
from phosphene.systems.cascade import Cascade
from phosphene.weights import bundle
from systems.small import awake, ddpm, latent
from test_adapt import drawn, some


@pytest.fixture(scope="module")
def system():
    torch.manual_seed(0)
    return awake(latent())


@pytest.mark.parametrize("first", ["applied", "new"])
def test_a_bundle_keeps_what_is_on(system, tmp_path, first):
    """Two LoRAs at their strengths, one of them as it stands in training: the same picture, bit for bit."""
    plain = drawn(system)
    with adapt.apply(system, some(system, 1), 0.8, "ink") as ink, adapt.new(system, 2, 3.0, name="mine") as mine:
        torch.manual_seed(3)
        for layer in mine.layers:
            torch.nn.init.normal_(layer.up, std=0.1)
        if first == "new":
            ink.strength = 0.0
        worn = drawn(system)
        bundle.save(system, tmp_path / "model.safetensors")
        lows = mine.lora().layers
    assert not torch.equal(worn, plain)
    again = bundle.load(tmp_path / "model.safetensors")
    assert torch.equal(drawn(again), worn)
    ink, mine = adapt.worn(again)
    assert (ink.name, ink.strength, mine.name, mine.strength) == ("ink", 0.0 if first == "new" else 0.8, "mine", 1.0)
    assert all(torch.equal(low.up, lows[p].up) and low.alpha == 3.0 for p, low in mine.lora().layers.items())
    bundle.save(again, tmp_path / "again.safetensors")  # and once more
    assert torch.equal(drawn(bundle.load(tmp_path / "again.safetensors")), worn)
    ink.remove(), mine.remove()
    assert torch.equal(drawn(again), plain)


def test_prepared_for_sampling_a_loaded_one_is_still_on(system, tmp_path):
    with adapt.apply(system, some(system)):
        worn = drawn(system)
        bundle.save(system, tmp_path / "model.safetensors")
    run = prepare_for_sampling(bundle.load(tmp_path / "model.safetensors"), "cpu", "fp32")
    assert (drawn(run) - worn).abs().mean() < 1e-4 < (drawn(system) - worn).abs().mean()


def test_on_a_stage_it_stays_on_that_stage(tmp_path):
    torch.manual_seed(0)
    system = Cascade([awake(ddpm())])
    adapt.apply(system.stages[0], some(system.stages[0]), 0.5, "ink")
    worn = drawn(system, None)
    bundle.save(system, tmp_path / "model.safetensors")
    again = bundle.load(tmp_path / "model.safetensors")
    assert torch.equal(drawn(again, None), worn) and [it.strength for it in adapt.worn(again.stages[0])] == [0.5]


def test_another_autoencoder_is_kept_beside_its_own(system, tmp_path):
    plain = drawn(system)
    other = copy.deepcopy(system.autoencoder)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.05)
    bundle.save(other, tmp_path / "vae.safetensors")
    with adapt.replace_autoencoder(system, tmp_path / "vae.safetensors"):
        replaced = drawn(system)
        bundle.save(system, tmp_path / "model.safetensors")
    again = bundle.load(tmp_path / "model.safetensors")
    assert torch.equal(drawn(again), replaced) and not torch.equal(replaced, plain)
    adapt.worn(again)[0].remove()
    assert torch.equal(drawn(again), plain)


def test_a_lora_is_merged_while_it_is_written(system, tmp_path):
    """Merged it is in the weights of the file, and off again the system is bitwise what it was."""
    plain, weights = drawn(system), {k: t.clone() for k, t in system.state_dict().items()}
    with adapt.apply(system, some(system), 0.7, "ink") as on:
        worn = drawn(system)
        with adapt.merged(system):
            bundle.save(system, tmp_path / "model.safetensors")
        assert adapt.worn(system) == [on] and torch.equal(drawn(system), worn)
    assert torch.equal(drawn(system), plain)
    assert all(torch.equal(t, weights[k]) for k, t in system.state_dict().items())
    again = bundle.load(tmp_path / "model.safetensors")
    assert not adapt.worn(again) and (drawn(again) - worn).abs().max() < 1e-4 < (drawn(again) - plain).abs().max()


def test_a_bundle_that_says_wrongly_what_it_wears_is_refused(system, tmp_path):
    with adapt.apply(system, some(system), 0.7, "ink"):
        path = bundle.save(system, tmp_path / "model.safetensors")
    tensors, metadata = load_file(path), json.loads(bundle.header(path, bundle.mapped(path))[1]["phosphene"])
    [right] = metadata["worn"]
    layers = metadata["parts"]["worn.0"][1]["layers"]["dict"]
    for wrong in ({"part": "nobody"}, {"part": "denoiser"}, {"on": "denoiser"}, {"strength": "much"}, {"part": []}):
        said = metadata | {"worn": [right | wrong]}
        save_file(tensors, tmp_path / "wrong.safetensors", {"phosphene": json.dumps(said)})
        with pytest.raises(Problem, match=r"put on|strength"):
            bundle.load(tmp_path / "wrong.safetensors")
    metadata["parts"]["worn.0"][1]["layers"]["dict"] = {f"no.{path}": low for path, low in layers.items()}
    save_file(tensors, tmp_path / "wrong.safetensors", {"phosphene": json.dumps(metadata)})
    with pytest.raises(Problem, match="cannot be put on"):
        bundle.load(tmp_path / "wrong.safetensors")


def test_inspect_says_what_is_on(system, tmp_path, capsys):
    with adapt.apply(system, some(system), 0.7, "ink") as on:
        bundle.save(system, tmp_path / "model.safetensors")
        count = sum(p.numel() for p in on.parameters())
    assert main(["inspect", str(tmp_path / "model.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "wears 'ink' at strength 0.7: its part worn.0" in out
    [row] = [line for line in out.splitlines() if line.startswith("  worn.0 ")]
    assert row.split() == ["worn.0", "Adapter", f"{count:,}", f"layers=<{len(on.paths)}", "entries>"]


def test_a_guide_is_not_written_and_that_is_said(system, tmp_path):
    class Guide(adapt.Worn):
        kind = "guide"

        def _on(self, system):
            pass

        _off = _on

    on = Guide()
    on.put(system, "round", None)
    with pytest.raises(Problem, match="guide 'round'"):
        bundle.save(system, tmp_path / "model.safetensors")
    from phosphene.weights.save import _worn_in

    with _worn_in(system) as lost:
        assert lost == ["the guide 'round', which is on it"]
    system.__dict__["worn"].remove(on)
    assert not (tmp_path / "model.safetensors").exists()
