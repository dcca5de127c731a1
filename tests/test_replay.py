"""Replay: pictures made again from their receipts; what differs; and receipts that somebody else wrote."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import phosphene
import phosphene.data.sheet
from phosphene import adapt, hashes, parameters, receipt
from phosphene.cli import main
from phosphene.errors import Problem
from phosphene.request import Studio, rows
from phosphene.weights import bundle
from phosphene.weights.low_rank import Lora, LowRank


@pytest.fixture(scope="module")
def studio(tiny_model):
    return Studio(tiny_model)


@pytest.fixture
def png(studio, tmp_path):
    """Makes pictures, with these options, and writes the first, or all on a sheet."""

    def write(pairs=(("a fox", 7),), name="a.png", sheet=False, by=studio, canvas=None, **options):
        made = list(by.make(list(pairs), {"steps": 3, **options}, canvas=canvas))
        if not sheet:
            return receipt.write(tmp_path / name, made[0].image, made[0].receipt)
        whole = phosphene.data.sheet.contact_sheet([m.image for m in made], cell=max(made[0].image.size))
        return receipt.write(tmp_path / name, whole, [m.receipt for m in made])

    return write


def rewritten(path, **changes):
    """The same picture with another receipt; None takes a line off."""
    with Image.open(path) as opened:
        image = opened.copy()
    told = {**receipt.read(path), **changes}
    info = PngInfo()
    info.add_itxt(receipt.KEY, json.dumps({name: value for name, value in told.items() if value is not None}))
    image.save(path, pnginfo=info)
    return path


def test_a_receipt_is_complete(png, tiny_model):
    told = receipt.read(png(guidance=2.0, sampler="euler_ancestral", negative="pizza"))
    assert told["weights"] == hashes.sha256(tiny_model)[:12]
    assert set(told["versions"]) == {"phosphene", "torch", "python"}
    assert (told["device"], told["precision"], told["threads"]) == ("cpu", "fp32", torch.get_num_threads())
    assert torch.backends.cpu.get_cpu_capability() in told["device_kind"]
    asked = {"guidance": 2.0, "sampler": "euler_ancestral", "negative": "pizza", "steps": 3, "seed": 7}
    assert told.items() >= asked.items()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampler": "euler_ancestral", "guidance": 2.0, "negative": "pizza"},
        {"sampler": "dpmpp_2m_sde", "eta": 0.5, "rule": "heun", "spacing": "linspace"},
        {"size": (12, 20), "interval": (0.2, 0.8), "rescale": 0.5},
        {"hires": 1.5, "hires_strength": 0.4, "size": (12, 16)},
    ],
)
def test_a_picture_is_made_again(png, tiny_model, options):
    found = phosphene.replay(png(**options), tiny_model)
    assert found.equal and found.circumstances == [] and str(found) == "equal"


def test_sheets_variations_and_ways(png, tiny_model):
    varied = rows(["a fox"], [7], 3, variation_seed=5, variation_strength=0.3)
    assert phosphene.replay(png(varied, "v.png", sheet=True), tiny_model).equal
    between = rows(["a fox", "pizza"], [7, 8], between=4)
    assert phosphene.replay(png(between, "b.png", sheet=True), tiny_model).equal
    path = png([("a fox", 1), (None, 2)], "one.png", sheet=True)
    assert phosphene.replay(path, tiny_model).equal
    told = receipt.read(path)
    told[1]["seed"] = 3
    with Image.open(path) as opened:
        receipt.write(path, opened.copy(), told)
    assert not phosphene.replay(path, tiny_model).equal


def test_edits_want_their_source_and_mask(png, studio, tiny_model, tmp_path):
    source, mask = tmp_path / "source.png", tmp_path / "mask.png"
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(source)
    white = np.zeros((24, 20), dtype=np.uint8)
    white[4:12, 3:15] = 255
    Image.fromarray(white).save(mask)
    canvas = studio.canvas(source, mask, size=(16, 12), feather=2, expand={"left": 4})
    path = png(canvas=canvas, strength=0.7)
    assert phosphene.replay(path, tiny_model, source=source, mask=mask).equal
    for given, says in [({}, "name that file, --source"), ({"source": source}, "with the mask 'mask.png'")]:
        with pytest.raises(Problem, match=says):
            phosphene.replay(path, tiny_model, **given)
    Image.fromarray(255 - pixels).save(tmp_path / "other.png")
    found = phosphene.replay(path, tiny_model, source=tmp_path / "other.png", mask=mask)
    assert not found.equal and found.circumstances[0].startswith("source: 'source.png'")
    inverted = png(name="i.png", canvas=studio.canvas(source), invert="a fox")
    assert receipt.read(inverted)["sampler"] == "ddim" and phosphene.replay(inverted, tiny_model, source=source).equal
    Image.fromarray(np.dstack([pixels, 255 - white])).save(clear := tmp_path / "clear.png")
    erased = png(name="e.png", canvas=studio.canvas(clear, "alpha"))
    assert phosphene.replay(erased, tiny_model, source=clear).equal


def test_loras_are_known_by_their_hashes(png, tiny_model, tmp_path):
    system = bundle.load(tiny_model)
    path = next(name for name, module in system.named_modules() if name.endswith("to_q"))
    weight = system.get_submodule(path).weight
    low = LowRank(torch.randn(2, weight.shape[1]), torch.randn(len(weight), 2), 2.0)
    ink = adapt.apply(system, Lora({path: low}), name="ink").save(tmp_path / "ink.safetensors")
    picture = png(by=Studio(tiny_model, lora=f"{ink}:0.6"))
    with pytest.raises(Problem, match=r"with the lora 'ink' .*--lora FILE"):
        phosphene.replay(picture, tiny_model)
    assert phosphene.replay(picture, tiny_model, lora=[ink]).equal
    tagged = png([("a fox <lora:ink:0.8>", 7)], "t.png", by=Studio(tiny_model, lora=tmp_path))
    assert phosphene.replay(tagged, tiny_model, lora=[ink]).equal


def test_what_differs_is_said(png, tiny_model, tmp_path):
    path = png()
    with Image.open(path) as opened:
        image, told = opened.copy(), receipt.read(path)
    touched = np.asarray(image).copy()
    touched[3, 5] = touched[3, 5] ^ 128
    found = phosphene.replay(receipt.write(path, Image.fromarray(touched), told), tiny_model)
    assert found.most == 128 and found.share == 1 / 256 and found.mean == pytest.approx(0.5)
    assert found.circumstances == [] and str(found).startswith("differs: by at most 128 grey levels of 255, by 0.5 on")
    found = phosphene.replay(receipt.write(path, image.crop((0, 0, 9, 9)), told), tiny_model)
    assert not found.equal and found.made is None and "16x16 pixels and it has 9x9" in str(found)


def test_circumstances_that_differ_are_said(png, tiny_model, tmp_path):
    system = bundle.load(tiny_model)
    with torch.no_grad():
        for weight in system.denoiser.parameters():
            weight.add_(0.05)
    other = bundle.save(system, tmp_path / "other.safetensors", "another")
    then = receipt.read(png())
    found = phosphene.replay(png(), other)
    assert found.circumstances == [f"weights: {then['weights']} then, {bundle.fingerprint(other)} now"]
    assert not found.equal
    path = rewritten(png(), versions={**then["versions"], "torch": "1.0\x1b[31m"}, device="cuda:7", threads=3000)
    found = phosphene.replay(path, tiny_model)
    lines = ["torch: 1.0 [31m then", "device: cuda:7 then, cpu now", "threads: 3000 then"]
    assert found.equal or not torch.cuda.is_available()
    for line in lines if not torch.cuda.is_available() else lines[:1]:
        assert any(said.startswith(line) for said in found.circumstances), found.circumstances


def test_as_many_threads_as_then(png, tiny_model):
    before = torch.get_num_threads()
    assert phosphene.replay(rewritten(png(), threads=1), tiny_model).circumstances == []
    assert torch.get_num_threads() == before


def test_a_model_is_named_by_the_user(png, tiny_model):
    with pytest.raises(Problem, match=r"was made by 'tiny' .*--model FILE"):
        phosphene.replay(png())
    told = receipt.read(png())
    with pytest.raises(Problem, match="No such file"):
        phosphene.replay(png(), "no/such.safetensors")
    assert phosphene.replay(rewritten(png(), model=str(tiny_model)), tiny_model).equal and told["model"] == "tiny"


HOSTILE = [
    ({"steps": 10**9}, "steps=.*cannot be"),
    ({"steps": "ten"}, "steps=.*cannot be"),
    ({"steps": True}, "steps=.*cannot be"),
    ({"steps": float("nan")}, "steps=.*cannot be"),
    ({"seed": -1}, "seed=.*cannot be"),
    ({"seed": 2**70}, "seed=.*cannot be"),
    ({"guidance": 1e300}, "guidance=.*cannot be"),
    ({"guidance": [1]}, "guidance=.*cannot be"),
    ({"sampler": "os.system"}, "sampler=.*cannot be"),
    ({"sampler": ["ddim"]}, "sampler=.*cannot be"),
    ({"sampler": {"a": 1}}, "sampler=.*cannot be"),
    ({"prompt": {"__reduce__": 1}}, "prompt=.*cannot be"),
    ({"prompt": "x" * 10**6}, "prompt=.*cannot be"),
    ({"size": {"width": 10**6, "height": 10**6}}, "size=.*cannot be"),
    ({"size": [16, 16]}, "size=.*cannot be"),
    ({"seed": None}, "does not say seed"),
    ({"threads": 10**9}, "threads=.*cannot be"),
    ({"device": "meta"}, "device=.*cannot be"),
    ({"noise": "x"}, "'noise', which is no setting"),
    ({"denoise": "x"}, "'denoise', which is no setting"),
    ({"beside": 1}, "'beside', which is no setting"),
    ({"__class__": 1}, "'__class__', which is no setting"),
    ({"offload": True}, "'offload', which is no setting"),
    ({"eta": 10**9}, "eta=.*cannot be"),
    ({"rule": "TRAP"}, "unknown (rule|option)"),
    ({"versions": "9"}, "versions=.*cannot be"),
    ({"versions": {"phosphene": "99.1"}, "turbo": 2}, "'turbo'.* of Phosphene 99.1, and this is"),
    ({"told": {"tokenizer": "TRAP"}}, "maybe a path|may be a path"),
    ({"told": {"predicts": "v"}}, "unknown option of a bundle"),
    ({"vae": "TRAP"}, "--vae FILE"),
    ({"adapters": [{"kind": "lora", "name": "TRAP", "sha256": "0" * 64, "strength": 1}]}, "--lora FILE"),
    ({"adapters": [{"kind": "vae", "name": "TRAP", "sha256": "0" * 64, "strength": 1}]}, "adapters=.*cannot be"),
    ({"adapters": ["TRAP"]}, "adapters=.*cannot be"),
    ({"prompt": "a <lora:TRAP:1>"}, "no LoRA is known"),
    ({"source": {"name": "TRAP", "sha256": "0" * 64}}, "--source FILE"),
    ({"mask": "TRAP"}, "mask=.*cannot be"),
    ({"tile": 0}, "tile=.*cannot be"),
    ({"expand": {"left": 10**9}}, "expand=.*cannot be"),
]


@pytest.mark.parametrize(("changes", "says"), HOSTILE, ids=[f"{next(iter(c))}-{i}" for i, (c, _) in enumerate(HOSTILE)])
def test_a_hostile_receipt_is_one_line(png, tiny_model, tmp_path, opened, changes, says):
    trap = tmp_path / "trap.safetensors"
    trap.write_bytes(b"x")
    changes = json.loads(json.dumps(changes).replace("TRAP", str(trap)))
    path = rewritten(png(), **changes)
    opened.clear()
    with pytest.raises(Problem, match=says) as caught:
        phosphene.replay(path, tiny_model)
    assert str(path) in opened
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 2000
    assert str(trap) not in opened


def test_a_models_path_in_a_receipt_is_not_opened(png, tmp_path, opened, tiny_model):
    trap = tmp_path / "trap.safetensors"
    trap.write_bytes(tiny_model.read_bytes())
    for name in (str(trap), "../trap.safetensors", "/etc/passwd"):
        path = rewritten(png(), model=name)
        opened.clear()
        with pytest.raises(Problem, match="--model FILE"):
            phosphene.replay(path)
        assert not {str(trap), "/etc/passwd"} & set(opened) and str(path) in opened


def test_what_does_not_fit_into_the_picture_is_not_made(png, tiny_model):
    for changes in ({"drawn": {"width": 9000, "height": 9000}, "hires": 2}, {"expand": {"left": 9000}}):
        found = phosphene.replay(rewritten(png(), **changes), tiny_model)
        assert found.made is None and "larger than itself" in str(found)
    path = png(sheet=True)
    many = receipt.read(path) * 1000
    with Image.open(path) as opened:
        receipt.write(path, opened.copy(), many)
    assert "do not fit" in str(phosphene.replay(path, tiny_model))


@pytest.fixture
def opened():
    """The paths that are opened from here on."""
    paths: list[str] = []
    watching.append(paths)
    if not hooked:
        hooked.append(True)
        sys.addaudithook(lambda event, args: event == "open" and [w.append(str(args[0])) for w in watching])
    yield paths
    watching.clear()


watching: list[list[str]] = []
hooked: list[bool] = []


# Others' pictures -----------------------------------------------------------------------------------------------------


def foreign(tmp_path, image, text):
    info = PngInfo()
    info.add_text(parameters.KEY, text)
    image.save(tmp_path / "web.png", pnginfo=info)
    return tmp_path / "web.png"


def test_a_web_ui_picture_is_tried(png, tiny_model, tmp_path):
    path = png(sampler="euler_ancestral", guidance=2.0, negative="pizza", spacing="trailing")
    with Image.open(path) as image:
        image.load()
        text = parameters.text(receipt.read(path))
    found = phosphene.replay(foreign(tmp_path, image, text), tiny_model)
    assert found.equal and found.circumstances == [
        "not made by Phosphene: only its own pictures are made again exactly"
    ]
    with pytest.raises(Problem, match="do not say sampler, size"):
        text = "x\nSteps: 3, Sampler: Restart, CFG scale: 2, Seed: 7"
        phosphene.replay(foreign(tmp_path, image, text), tiny_model)
    with pytest.raises(Problem, match="--model FILE"):
        text = "x\nSteps: 3, Sampler: Euler, CFG scale: 2, Seed: 7, Size: 16x16, Model: /etc/passwd"
        phosphene.replay(foreign(tmp_path, image, text))


def test_pictures_that_say_nothing(tmp_path, tiny_model):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    with pytest.raises(Problem, match="carries no receipt"):
        phosphene.replay(tmp_path / "plain.png", tiny_model)
    receipt.write(tmp_path / "empty.png", Image.new("RGB", (4, 4)), [])
    assert not phosphene.replay(tmp_path / "empty.png", tiny_model).equal


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command(png, tiny_model, capsys):
    path = png()
    assert main(["replay", str(path), "--model", str(tiny_model)]) == 0
    assert capsys.readouterr().out == f"{path}: equal\n"
    assert main(["replay", str(rewritten(path, seed=8)), "--model", str(tiny_model)]) == 1
    assert "differs: by at most" in capsys.readouterr().out
    assert main(["replay", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# Hashes ---------------------------------------------------------------------------------------------------------------


def test_large_files_hashes_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "LARGE", 10)
    read = []
    monkeypatch.setattr(hashes, "_read", lambda path, real=hashes._read: read.append(path) or real(path))
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"0123456789")
    first = hashes.sha256(file)
    assert hashes.sha256(file) == first and len(read) == 1
    file.write_bytes(b"9876543210")
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert hashes.sha256(file) != first and len(read) == 2
    (tmp_path / "cache/phosphene/hashes.json").write_text("[[[", "utf-8")
    assert hashes.sha256(file) != first and len(read) == 3
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))  # no folder can be made there
    assert hashes.sha256(file) != first and len(read) == 4
    with pytest.raises(Problem, match="cannot be read"):
        hashes.sha256(tmp_path / "none")
