"""Editing from Python and from the command line."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

import phosphene
from phosphene import receipt
from phosphene.canvas import prepare
from phosphene.cli import main
from phosphene.diffusion.noise import Between
from phosphene.errors import Problem
from phosphene.nets.components import Components
from phosphene.request import rows, to_images
from phosphene.systems.unclip import Unclip
from phosphene.weights import bundle
from systems.small import awake, eight, unclip_decoder, unclip_upscaler


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.fixture
def source(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    path = tmp_path / "in.png"
    Image.fromarray(levels).resize((24, 16), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def mask(tmp_path):
    it = Image.new("L", (24, 16), 0)
    it.paste(255, (12, 0, 24, 16))
    it.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.fixture
def told(capsys):
    def run(*argv):
        code = main([str(a) for a in argv])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_edit_gives_pictures(tiny_model, source, mask):
    how = {"seed": 7, "model": tiny_model, "steps": 4}
    weak, strong = (phosphene.edit(source, "a fox", strength=s, **how) for s in (0.25, 1.0))
    assert weak.size == (24, 16) and (pixels(weak) != pixels(strong)).any()
    default = phosphene.edit(Image.open(source), "a fox", **how)
    assert np.array_equal(pixels(default), pixels(phosphene.edit(source, "a fox", strength=0.6, **how)))
    part = phosphene.edit(source, "a fox", mask=mask, **how)
    assert np.array_equal(pixels(part)[:, :12], pixels(Image.open(source))[:, :12])
    assert abs(pixels(part)[:, 12:] - pixels(Image.open(source))[:, 12:]).mean() > 5
    assert np.array_equal(pixels(part), pixels(phosphene.edit(source, "a fox", mask=mask, strength=1.0, **how)))
    grown = phosphene.edit(source, "a fox", expand={"right": 6, "top": 2}, **how)
    assert grown.size == (30, 18) and np.array_equal(pixels(grown)[2:, :24], pixels(Image.open(source)))
    assert len(phosphene.edit(source, ["a fox", "pizza"], n=2, **how)) == 4


def test_inversion_starts_from_what_the_receipt_says(tiny_model, tmp_path, told):
    """The way back and forth is the picture's own: no seed has a part in it."""
    path, line = tmp_path / "fox.png", ["--model", tiny_model, "--steps", 6]
    told("generate", "a fox", "--seed", 3, "--out", path, *line)
    for name, *how in [
        ("a", "--invert", "--seed", 1),
        ("b", "--source", "a fox", "--seed", 2),
        ("c", "--source", "pizza"),
    ]:
        code, _, err = told("edit", path, "pizza", *how, "--out", tmp_path / f"{name}.png", *line)
        assert code == 0, err
    r = receipt.read(tmp_path / "a.png")
    assert r["invert"] == "a fox" and r["strength"] == 1.0
    assert receipt.read(tmp_path / "c.png")["invert"] == "pizza"
    a, b, c = (pixels(Image.open(tmp_path / f"{n}.png")) for n in "abc")
    assert np.array_equal(a, b) and abs(a - c).max() > 1


def test_every_receipt_says_all_that_the_picture_is_made_of(told, tiny_model, source, mask, tmp_path):
    line = ["edit", source, "a fox", "--seed", 4, "--model", tiny_model, "--steps", 3, "--mask", mask, "--feather", 2]
    code, out, err = told(*line, "--expand", "left=8", "--strength", 0.7, "--negative", "pizza", "--out", tmp_path)
    assert (code, err) == (0, "") and out.strip() == str(tmp_path / "in-a-fox-4.png")
    r = receipt.read(tmp_path / "in-a-fox-4.png")
    wanted = {
        "prompt": "a fox",
        "seed": 4,
        "steps": 3,
        "strength": 0.7,
        "feather": 2,
        "negative": "pizza",
        "model": "tiny",
    }
    assert r.items() >= wanted.items()
    assert r["source"] == {"name": "in.png", "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    assert r["mask"]["sha256"] == hashlib.sha256(mask.read_bytes()).hexdigest()
    assert r["expand"] == {"left": 8, "top": 0, "right": 0, "bottom": 0} and r["size"] == {"width": 32, "height": 16}
    again = phosphene.edit(
        source, r["prompt"], seed=r["seed"], mask=mask, expand=r["expand"], model=tiny_model,
        **{k: r[k] for k in ("steps", "strength", "feather", "negative", "sampler", "guidance")},
    )  # fmt: skip
    assert np.array_equal(pixels(again), pixels(Image.open(tmp_path / "in-a-fox-4.png")))


def test_no_prompt_is_needed(told, tiny_model, source, tmp_path):
    code, out, _ = told("edit", source, "--seed", 4, "--model", tiny_model, "--steps", 3, "--out", tmp_path)
    assert code == 0 and out.strip() == str(tmp_path / "in-4.png")


@pytest.fixture(scope="module")
def unclip_model(tmp_path_factory):
    """A bundle of unCLIP without a prior, with random weights that hear everything."""
    torch.manual_seed(0)
    decoder = awake(unclip_decoder(16))
    components = Components.of(decoder.seen(eight().image))
    whole = Unclip([decoder, awake(unclip_upscaler())], None, components)
    return bundle.save(whole, tmp_path_factory.mktemp("unclip") / "unclip.safetensors")


def test_edits_of_unclip(told, unclip_model, source, tmp_path):
    """Variations, the way to another picture, from words to words, by components: each as System.generate makes it,
    and again from its receipt."""
    other = tmp_path / "other.png"
    Image.new("RGB", (16, 24), "red").save(other)
    model, system = ["--model", unclip_model, "--steps", 3], bundle.load(unclip_model)
    canvas = prepare(source, trained=32, multiple=system.multiple).image
    size = tuple(canvas.shape[2:])
    beside = prepare(other, size=size).image
    ways = {
        "varied": ([], {}),
        "dialled": (["--eta", 0.3], {"eta": 0.3}),
        "between": (["--other", other, "--strength", 0.25], {"towards": beside, "strength": 0.25}),
        "said": (["a red circle", "--source", "a blue ring"], {"prompt": "a red circle", "invert": ["a blue ring"]}),
        "told": (["--components", 2], {"components": 2}),
    }
    for name, (argv, how) in ways.items():
        path = tmp_path / f"{name}.png"
        code, _, err = told("edit", source, *argv, "--seed", 5, *model, "--out", path)
        assert code == 0, err
        said = [how.pop("prompt", None)]
        *_, last = system.generate(said, seeds=[5], image=canvas, size=size, steps=3, **how)
        made = pixels(Image.open(path))
        want = pixels(to_images(last.picture())[0])[: made.shape[0], : made.shape[1]]
        assert abs(made - want).max() <= 1, name  # the studio's memory format rounds otherwise
        code, out, err = told("replay", path, "--source", source, "--other", other, "--model", unclip_model)
        assert code == 0 and "equal" in out, out + err
    again = phosphene.edit(source, other=other, strength=0.25, seed=5, steps=3, model=unclip_model)
    assert np.array_equal(pixels(again), pixels(Image.open(tmp_path / "between.png")))
    assert receipt.read(tmp_path / "between.png")["other"]["name"] == "other.png"
    code, _, err = told("replay", tmp_path / "between.png", "--source", source, "--model", unclip_model)
    assert code == 2 and "--other FILE" in err


def test_other_pictures_are_unclips_alone(told, tiny_model, source, tmp_path):
    code, _, err = told("edit", source, "--other", source, "--model", tiny_model, "--out", tmp_path)
    assert code == 2 and "no way between two pictures" in err
    code, _, err = told("edit", source, "--components", 2, "--model", tiny_model, "--out", tmp_path)
    assert code == 2 and "components" in err


def test_edit_says_what_cannot_be(told, tiny_model, source, tmp_path):
    (tmp_path / "black.png").write_bytes(b"")
    Image.new("L", (4, 4)).save(tmp_path / "black.png")
    for wrong, says in [
        (["--strength", 0], "strength=0"),
        (["--strength", 1.5], "strength=1.5"),
        (["--mask", tmp_path / "none.png"], "none.png cannot be read"),
        (["--mask", tmp_path / "black.png"], "mask is empty"),
        (["--mask", "alpha"], "nothing transparent"),
        (["--expand", "up=3"], "side to expand 'up'"),
        (["--size", "0"], "size=(0, 0)"),
        (["--strenght", 1], "did you mean '--strength'"),
        (["-n", 2, "--out", tmp_path / "a.png"], "is one file"),
    ]:
        code, _, err = told("edit", source, "a fox", "--model", tiny_model, *wrong)
        assert code == 2 and err.count("\n") == 1 and says in err, err
    code, _, err = told("edit", tmp_path / "none.png", "a fox", "--model", tiny_model)
    assert code == 2 and "none.png cannot be read" in err
    code, _, err = told("edit")
    assert code == 2 and "picture" in err.lower()


# variations, ways, a second pass --------------------------------------------------------------------------------------


def test_variations_of_a_seed(tiny_model):
    def made(**how):
        return pixels(phosphene.generate("a fox", model=tiny_model, **how))

    seed, other = made(seed=4), made(seed=9)
    assert abs(made(seed=4, variation_seed=9, variation_strength=0.0) - seed).max() <= 1
    assert abs(made(seed=4, variation_seed=9, variation_strength=1.0) - other).max() <= 1
    half = made(seed=4, variation_seed=9, variation_strength=0.5)
    assert abs(half - seed).max() > 1 and abs(half - other).max() > 1


def test_ways_between_prompts_and_seeds():
    way = rows(["a", "b", "b"], [1, 2, 5], between=3)
    assert way == [
        ("a", 1), (Between("a", "b", 0.5), Between(1, 2, 0.5)), ("b", 2), ("b", Between(2, 5, 0.5)), ("b", 5),
    ]  # fmt: skip
    assert rows(["a"], [1], n=2) == [("a", 1), ("a", 2)]
    for wrong, says in [
        ({"variation_strength": 1.5}, "variation_strength=1.5"),
        ({"between": 4}, "at least 2 pictures"),
        ({"prompts": ["a", "b"], "between": 1}, "at least 2 pictures"),
        ({"variation_strength": 0.5, "between": 4}, "give one of them"),
        ({"variation_strength": 0.5, "variation_seed": -1}, "seed -1"),
        ({"variation_strength": 0.5, "n": 0}, "n=0"),
    ]:
        with pytest.raises(Problem, match=says):
            rows(**{"prompts": ["a"], "seeds": [1], **wrong})


def test_several_variations_are_of_one_seed():
    ways = rows(["a", "b"], [4], 2, 9, 0.25)
    assert ways == [(p, Between(4, 9 + i, 0.25)) for p in ("a", "b") for i in (0, 1)]
    (_, a), (_, b) = rows(["a"], [4], 2, None, 0.25)
    assert a.a == b.a == 4 and b.b == a.b + 1 and rows(["a"], [4], 1, None, 0.25)[0][1].b != a.b


def test_the_command_line_walks_and_tells_how(told, tiny_model, tmp_path):
    line = ["generate", "a fox", "pizza", "--seed", 4, "--model", tiny_model, "--steps", 2]
    code, out, err = told(*line, "--between", 3, "--out", tmp_path)
    assert (code, err) == (0, "")
    names = [f"a-fox-4-to-pizza-4-{i}.png" for i in (1, 2, 3)]
    assert out.split() == [str(tmp_path / name) for name in names]
    middle = receipt.read(tmp_path / names[1])
    assert middle.items() >= {"prompt": "a fox", "seed": 4, "towards": "pizza", "towards_share": 0.5}.items()
    told(*line[:1], "a fox", *line[3:], "--out", tmp_path / "end.png")
    assert abs(pixels(Image.open(tmp_path / "end.png")) - pixels(Image.open(tmp_path / names[0]))).max() <= 1
    code, out, err = told(
        "generate", "a fox", "--seed", 4, "--variation-seed", 5, "--variation-strength", 0.25, "--model", tiny_model,
        "--hires", 2, "--hires-strength", 0.5, "--steps", 2, "--out", tmp_path / "large.png",
    )  # fmt: skip
    assert code == 0, err
    r = receipt.read(tmp_path / "large.png")
    wanted = {"seed": 4, "variation_seed": 5, "variation_strength": 0.25, "hires": 2.0, "hires_strength": 0.5}
    assert r.items() >= wanted.items() and r["size"] == {"width": 32, "height": 32}


def test_a_small_picture_is_drawn_larger(told, source, tmp_path):
    """By a model of that kind: it is told the picture, and `strength` has no meaning."""
    import torch

    from phosphene.diffusion.denoiser import Denoiser
    from phosphene.diffusion.schedule import Cosine
    from phosphene.nets.unet import UNet
    from phosphene.systems.upscale import Upscaler
    from phosphene.weights import bundle

    torch.manual_seed(0)
    system = Upscaler(Denoiser(UNet(6, 3, (16, 16), 1), Cosine(T=20)), size=32, small=16, steps=2)
    model = bundle.save(system, tmp_path / "larger.safetensors")
    code, _, err = told("edit", source, "--seed", 1, "--model", model, "--out", tmp_path / "large.png")
    assert code == 0, err
    assert Image.open(tmp_path / "large.png").size == (48, 32)
    assert "strength" not in receipt.read(tmp_path / "large.png")


def test_edits_may_have_a_second_pass(tiny_model, source):
    assert phosphene.edit(source, "a fox", seed=1, model=tiny_model, steps=2, hires=2.0).size == (48, 32)
