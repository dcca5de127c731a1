"""phosphene compare, and what a picture costs."""

import json

import pytest
import torch
from torch import nn

from phosphene.cli import main
from phosphene.metrics.cost import Peak, cost_apart, flops
from phosphene.weights import bundle
from systems.small import awake, ddpm, latent
from test_evaluate import Opened


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def counted_by_hand(system, **options) -> int:
    """Of convolutions and linear layers: 2 · weights · places, of all calls."""
    total = 0

    def count(layer, given, out):
        nonlocal total
        each = layer.weight.numel()
        places = out[:, 0].numel() if isinstance(layer, nn.Conv2d) else out.numel() // layer.out_features
        total += 2 * each * places

    layers = [m for m in system.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    for _ in system.generate([None], seeds=[0], **options):
        pass
    for hook in hooks:
        hook.remove()
    return total


def test_flops_are_those_of_the_layers():
    system = ddpm().eval()
    ours, theirs = flops(system, None, steps=2), counted_by_hand(system, steps=2)
    assert theirs <= ours < 1.1 * theirs  # attention's own products are not a layer's
    assert flops(system, None, steps=4) == 2 * ours


def test_peak_memory_sees_what_was_taken():
    peak = Peak()
    if peak.before is None:
        pytest.skip("this system does not say how much memory a process has had")
    held = torch.ones(40, 2**20)  # 160 MiB, above what any allocator keeps
    del held
    assert 150 * 2**20 < peak() < 400 * 2**20


def test_cost_in_a_process_of_its_own(tmp_path):
    system = ddpm()
    it = cost_apart(
        str(bundle.save(system, tmp_path / "it.safetensors")), [None], device="cpu", precision="fp32", steps=2
    )
    assert it.parameters == sum(p.numel() for p in system.parameters())
    assert it.flops == flops(system.eval(), None, steps=2) and it.seconds > 0
    assert it.peak is None or it.peak > 4 * it.parameters


def test_runs_side_by_side(tmp_path, capsys):
    torch.manual_seed(0)
    runs = [tmp_path / name for name in ("one", "two")]
    for run, system in zip(runs, (ddpm(), latent())):
        bundle.save(system, run / "model.safetensors")
    rows = [json.dumps({"step": i, "loss": 3 / i}) for i in range(1, 1000)]
    (runs[0] / "metrics.jsonl").write_text("\n".join([*rows, '{"step": 1000, "lo']))
    out = tmp_path / "page.html"
    words = ["--data", "scenes:n=8", "-n", "6", "--samples", "3", "--steps", "1", "--out", str(out)]
    assert main(["compare", *map(str, runs), *words, "--precision", "fp32", "--device", "cpu"]) == 0
    page, printed = Opened(out.read_text()), capsys.readouterr().out
    assert page.pictures == 2 and page.fetched == []
    for word in ("FD (our CLIP", "GFLOPs a picture", "peak memory", "Loss", "one", "two"):
        assert word in page.words
    assert printed.count("parameters") == 2 and "right: all" in printed  # the one that takes words
    assert out.read_text().count('fill="none"') == 1  # one run has a loss


def test_the_same_prompts_stand_side_by_side(tmp_path, capsys):
    """Both take words: a row a prompt, a column a run; scores with arrows and notes, what each run was."""
    runs = [tmp_path / name for name in ("one", "two")]
    for i, run in enumerate(runs):
        torch.manual_seed(i)
        bundle.save(awake(latent()), run / "model.safetensors")
    (runs[1] / "settings.json").write_text(json.dumps({"training": {"steps": 3000, "seed": 4}}))
    out = tmp_path / "page.html"
    words = ["--data", "scenes:n=8", "-n", "6", "--samples", "3", "--steps", "1", "--out", str(out)]
    assert main(["compare", *map(str, runs), *words]) == 0
    page, printed = Opened(out.read_text()), capsys.readouterr().out
    assert page.pictures == 6 and page.fetched == [] and out.read_text().count("<td class=said>") == 3
    for word in ("steps of training", "3,000", "R-precision ↑", "kernel distance ↓", "6 made pictures"):
        assert word in page.words, word
    assert "copies of training pictures ↑" not in page.words and "Note: 6 made pictures" in printed


def test_scores_that_evaluate_left_are_read(tmp_path, capsys):
    run = bundle.save(ddpm(), tmp_path / "run/model.safetensors").parent
    it = {"value": 12.5, "low": 11, "high": 14}
    (run / "scores.json").write_text(json.dumps({"title": "FID (Inception)", "guidance": {"1": {"frechet": it}}}))
    assert main(["compare", str(run), "--samples", "1", "--steps", "1", "--out", str(tmp_path / "p.html")]) == 0
    assert "12.5 (11 to 14)" in capsys.readouterr().out
    assert "FID (Inception)" in (tmp_path / "p.html").read_text()


def test_what_cannot_be_compared(capsys, tmp_path, tiny_model):
    assert main(["compare"]) == 2
    assert "compare wants runs" in capsys.readouterr().err
    assert main(["compare", str(tiny_model)]) == 2
    assert "what is" in (said := capsys.readouterr().err) and "--prompts" in said


def test_names_are_as_long_as_tells_them_apart():
    from phosphene.cli.compare import _names

    assert _names(["runs/a/scenes.latent", "runs/b/scenes.latent"]) == ["a/scenes.latent", "b/scenes.latent"]
    assert _names(["emoji", "runs/one/model.safetensors"]) == ["emoji", "one/model"]
    assert _names(["runs/one", "more/two.safetensors"]) == ["one", "two"]
    assert _names(["same", "same"]) == ["same", "same"]
