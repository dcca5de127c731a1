"""From prompts to pictures, in Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import phosphene
from phosphene import receipt, request
from phosphene.diffusion.noise import Between
from phosphene.errors import Problem
from phosphene.request import paired
from phosphene.runtime import choose_device, prepare_for_sampling
from phosphene.weights import bundle


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize(
    ("prompts", "seeds", "n", "rows"),
    [
        (["fox", "pizza"], [4, 5], 1, [("fox", 4), ("pizza", 5)]),
        (["fox"], [4, 5], 1, [("fox", 4), ("fox", 5)]),
        (["fox", "pizza"], [4], 1, [("fox", 4), ("pizza", 4)]),
        (["fox", "pizza"], [4, 9], 2, [("fox", 4), ("fox", 5), ("pizza", 9), ("pizza", 10)]),
        ([], [4], 1, [(None, 4)]),
    ],
)
def test_prompts_and_seeds_pair_up_or_broadcast(prompts, seeds, n, rows):
    assert paired(prompts, seeds, n) == rows


def test_without_a_seed_each_prompt_draws_its_own():
    (_, a), (_, b) = paired(["fox", "fox"], [])
    assert a != b


@pytest.mark.parametrize(
    ("prompts", "seeds", "n", "says"),
    [
        (["a", "b"], [1, 2, 3], 1, "2 prompts and 3 seeds"),
        (["a"], [-1], 1, "seed -1"),
        (["a"], [2**63], 1, "whole number from 0"),
        (["a"], [1.5], 1, "seed 1.5"),
        (["a"], [1], 0, "n=0"),
    ],
)
def test_pairs_that_cannot_be(prompts, seeds, n, says):
    with pytest.raises(Problem, match=says):
        paired(prompts, seeds, n)


def test_generate_gives_pictures(tiny_model):
    one = phosphene.generate("a fox", seed=7, model=tiny_model)
    assert isinstance(one, Image.Image) and one.size == (16, 16) and one.mode == "RGB"
    both = phosphene.generate(["a fox", "披萨"], seed=[7, 8], model=tiny_model, negative="pizza", guidance=2.0)
    assert len(both) == 2
    wide = phosphene.generate("a fox", seed=7, model=tiny_model, size=(8, 24))
    assert wide.size == (24, 8)


def test_a_picture_depends_on_its_own_prompt_and_seed_and_on_nothing_else(tiny_model):
    alone = pixels(phosphene.generate("a fox", seed=7, model=tiny_model))
    among = phosphene.generate(["披萨", "a fox", "a fox"], seed=[1, 7, 8], model=tiny_model)
    assert abs(pixels(among[1]) - alone).max() <= 1
    assert abs(pixels(among[2]) - alone).max() > 1, "another seed is another picture"
    other = phosphene.generate("pizza", seed=7, model=tiny_model)
    assert abs(pixels(other) - alone).max() > 1, "another prompt is another picture"


def test_many_pictures_go_in_batches(tiny_model, monkeypatch):
    monkeypatch.setattr(request, "BATCH", 2)
    seen = []
    studio = request.Studio(tiny_model)
    made = list(studio.make(paired(["a fox"], [1], 5), {"steps": 2}, lambda first, p: seen.append((first, p.index))))
    assert seen == [(0, 0), (0, 1), (2, 0), (2, 1), (4, 0), (4, 1)]
    assert [m.receipt["seed"] for m in made] == [1, 2, 3, 4, 5]


def test_the_loop_over_previews(tiny_model):
    system = phosphene.load(tiny_model)
    previews = list(system.generate(["a fox"], seeds=[7]))
    assert [p.index for p in previews] == [0, 1, 2, 3] and previews[0].total == 4
    assert previews[0].picture().shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"sampler": "dimd"}, "unknown sampler 'dimd'; did you mean 'ddim'"),
        ({"spacing": "x"}, "unknown spacing"),
        ({"size": (17, 16)}, "17x16"),
        ({"size": (0, 16)}, "size="),
        ({"size": (16, 10**6)}, "at most 16384 pixels"),
        ({"size": (16, 4096), "hires": 5.0}, "with hires=5.0: at most 16384 pixels"),
        ({"hires": 0.5}, "hires=0.5"),
        ({"hires": 1000}, "hires=1000"),
        ({"guidance": float("nan")}, "guidance=nan"),
        ({"device": "cpux"}, "unknown device 'cpux'"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"model": "no/such.safetensors"}, "No such file"),
        ({"eta_": 1.0}, "eta_"),
    ],
)
def test_what_cannot_be_is_a_problem(tiny_model, options, says):
    with pytest.raises(Problem, match=says):
        phosphene.generate("a fox", seed=1, **{"model": tiny_model, **options})


def test_a_prompt_longer_than_a_receipt_may_say_is_refused_at_once(tiny_model):
    for prompt, options in (("fox" * 100_000, {}), ("fox", {"negative": "x" * 20_001})):
        with pytest.raises(Problem, match=r"prompt of (300,000|20,001) characters, .*at most 20,000"):
            phosphene.generate(prompt, model=tiny_model, seed=1, steps=1, **options)
    between = Between("fox", "x" * 20_001, 0.5)
    with pytest.raises(Problem, match="20,001 characters"):
        list(request.Studio(tiny_model).make([(between, 1)], {"steps": 1}))


def test_a_size_that_the_autoencoder_cannot_halve_is_a_problem(tiny_model):
    assert phosphene.generate("a fox", seed=1, model=tiny_model, size=(18, 14)).size == (14, 18)
    with pytest.raises(Problem, match="multiples of 2"):
        phosphene.generate("a fox", seed=1, model=tiny_model, size=(17, 18))


def test_a_prompt_outside_the_vocabulary_is_told(tiny_model):
    studio = request.Studio(tiny_model)
    assert studio.outside("a flat fox") is None and studio.outside("狐狸") is None and studio.outside(None) is None
    assert "outside the vocabulary of tiny" in studio.outside("a combine harvester")
    assert studio.outside("(fox:1.35) [pizza:fox:0.25] <lora:ink:1>") is None  # the grammar is not looked up


def test_a_broken_network_is_told(tiny_model):
    with pytest.raises(Problem, match="NaN"):
        request.to_images(torch.full((1, 3, 4, 4), float("nan")))


def test_precision_reaches_the_denoiser_and_hardly_changes_the_picture(tiny_model):
    system = prepare_for_sampling(bundle.load(tiny_model), "cpu", "bf16")
    assert next(system.denoiser.parameters()).dtype is torch.bfloat16
    assert next(system.autoencoder.parameters()).dtype is torch.float32
    assert not any(p.requires_grad for p in system.parameters())
    exact = pixels(phosphene.generate("a fox", seed=7, model=tiny_model, precision="fp32"))
    narrow = pixels(phosphene.generate("a fox", seed=7, model=tiny_model, precision="bf16"))
    assert 0 < abs(exact - narrow).mean() < 8


def test_devices():
    assert choose_device("cpu").type == "cpu" and choose_device().type in ("cpu", "cuda", "mps")
    for name, says in [("gpu", "unknown device"), ("cuda:99", "not there"), ("meta", "unknown device")]:
        with pytest.raises(Problem, match=says):
            choose_device(name)


def test_pixels_round_to_the_nearest():
    x = torch.tensor([-1.2, -1.0, 0.0, 1.0, 1.1]).expand(1, 3, 1, 5)
    assert np.asarray(request.to_images(x)[0])[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_what_is_no_text_can_be_written(tmp_path):
    """A byte that is not UTF-8 comes from the command line as half of a surrogate pair."""
    receipt.write(tmp_path / "a.png", Image.new("RGB", (8, 8)), {"prompt": "caf\udce9", "seed": 1})
    assert receipt.read(tmp_path / "a.png")["prompt"] == "caf?"


def test_receipts_come_back_as_written(tmp_path):
    path = receipt.write(tmp_path / "a" / "b.png", Image.new("RGB", (4, 4)), {"prompt": "狐狸 🦊", "seed": 2**62})
    assert phosphene.read_receipt(path) == {"prompt": "狐狸 🦊", "seed": 2**62}
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, says in [("plain.png", "no receipt"), ("text.png", "not a picture"), ("absent.png", "No such file")]:
        with pytest.raises(Problem, match=says):
            receipt.read(tmp_path / name)
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match="cannot be written"):
        receipt.write(tmp_path / "file" / "x.png", Image.new("RGB", (4, 4)), {})


@pytest.fixture
def ink(tiny_model, tmp_path):
    """A LoRA for the tiny model, in a folder of LoRAs."""
    from phosphene import adapt

    torch.manual_seed(0)
    adapter = adapt.new(phosphene.load(tiny_model))
    for weights in adapter.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    (tmp_path / "shelf").mkdir()
    adapter.save(tmp_path / "shelf" / "ink.safetensors")
    return tmp_path / "shelf" / "ink.safetensors"


def test_loras_of_the_command_and_of_the_prompts(tiny_model, ink):
    """Those in prompts are worn by these pictures alone, in whatever order they come."""
    plain = pixels(phosphene.generate("a fox", seed=7, model=tiny_model))
    worn = pixels(phosphene.generate("a fox", seed=7, model=tiny_model, lora=f"{ink}:0.5"))
    assert abs(worn - plain).max() > 1
    prompts = ["a fox", "a fox <lora:ink:0.5>", "a fox"]
    studio = request.Studio(tiny_model, lora=ink.parent)
    made = list(studio.make(paired(prompts, [7]), {}))
    for m, prompt, want in zip(made, prompts, (plain, worn, plain), strict=True):
        assert abs(pixels(m.image) - want).max() <= 1 and m.receipt["prompt"] == prompt
    [told] = made[1].receipt["adapters"]
    assert (told["name"], told["strength"]) == ("ink", 0.5) and len(told["sha256"]) >= 12
    assert "adapters" not in made[0].receipt and "adapters" not in made[2].receipt
    with pytest.raises(Problem, match="did you mean 'ink'"):
        list(studio.make([("a fox <lora:inkk>", 1)], {}))
    spelled = list(studio.make([("a fox <lora:ink>", 1)], {"grammar": "plain"}))
    assert "adapters" not in spelled[0].receipt


def test_a_loras_share_fades_over_between_prompts(tiny_model, ink):
    studio = request.Studio(tiny_model, lora=ink.parent)
    pairs = request.rows(["a fox", "a fox <lora:ink:0.8>"], [7], between=3)
    made = list(studio.make(pairs, {}))
    strengths = [m.receipt.get("adapters", [{"strength": 0.0}])[0]["strength"] for m in made]
    assert strengths == pytest.approx([0.0, 0.4, 0.8])


def test_a_checkpoint_in_a_folder_is_named_by_all_its_files(tiny_model, tmp_path, shared):
    path, weights = request._found(shared / "fixtures/sd1")
    assert path.name == "sd1" and len(weights) == 12
    other = request._found(shared / "fixtures/sd1_inpaint9")[1]
    assert weights != other and request._found(tiny_model)[1] == bundle.fingerprint(tiny_model)
