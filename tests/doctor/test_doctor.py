"""Every fault: planted, it is found, and found alone by its own check; in a sound run, recipe and data nothing is."""

from __future__ import annotations

import importlib
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from doctor.sick import FOUND, SETTINGS, Squares, batches, first, folder_of, ill, patient, system, told, trained
from phosphene import doctor, open_source
from phosphene.data.base import Example
from phosphene.diffusion.schedule import Cosine, Linear, ScaledLinear
from phosphene.doctor.probe import noise, probe
from phosphene.doctor.table import copies, table
from phosphene.errors import Problem
from phosphene.systems.base import Batch, Loss, System
from phosphene.weights import bundle
from recipes import banded
from systems.small import clip, latent, vae_gan


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder_of(Squares(), tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A sound run, of a few seconds."""
    return trained(data, tmp_path_factory.mktemp("runs") / "sound")


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch):
    monkeypatch.setattr("phosphene.doctor.probe.STEPS", 6)


def fault(name: str):
    return importlib.import_module(f"phosphene.doctor.{name}")


def found(name: str, of) -> doctor.Finding:
    """What the check of this name finds, which must be something."""
    it = fault(name)
    assert it.applies(of), f"{name} does not look at it"
    finding = it.check(of)
    assert finding is not None, f"{name} found nothing"
    assert finding.seen and finding.wrong and finding.change
    assert all(isinstance(v, (int, float)) for v in finding.numbers.values())
    FOUND.setdefault(name, []).append(finding)
    return finding


def sound(name: str, of) -> None:
    it = fault(name)
    assert it.applies(of), f"{name} does not look at it"
    assert it.check(of) is None


# No false alarm -----------------------------------------------------------------------------------------------------


def test_a_sound_run_has_no_fault(run):
    looked = list(doctor.examine(doctor.of_run(run)))
    assert [one for one in looked if one.finding or one.unable] == []
    missing = {"discriminator that learns", "embeddings that differ", "latents of unit variance"}
    assert {f.NAME for f in doctor.FAULTS} - {one.name for one in looked} == missing | {
        fault("leak").NAME,
        fault("out_of_band").NAME,
    }


def test_a_sound_recipe_and_sound_data_have_no_fault(data):
    looked = list(doctor.examine(patient(system())))
    assert [one for one in looked if one.finding or one.unable] == [] and len(looked) >= 8
    looked = list(doctor.examine(doctor.of_data(str(data))))
    assert [one for one in looked if one.finding or one.unable] == [] and len(looked) == 4


def test_every_file_of_the_room_is_in_the_registry():
    files = {p.stem for p in Path(doctor.__file__).parent.glob("*.py")}
    helpers = {"__init__", "finding", "patient", "probe", "table"}
    assert {f.__name__.rpartition(".")[2] for f in doctor.FAULTS} == files - helpers
    assert len({f.NAME for f in doctor.FAULTS}) == len(doctor.FAULTS)


def test_the_page_names_every_fault():
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")][1:] == [f.NAME for f in doctor.FAULTS]


# Data ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scaled, says",
    [
        (lambda p: p / 255, "in \\[0, 1\\]"),
        (lambda p: p, "0 to 255"),
        (lambda p: (p / 255 - 0.45) / 0.22, "normalise"),
        (lambda p: (p / 255) ** 1.1, "in \\[0, 1\\]"),  # no 8-bit levels any more
    ],
)
def test_pictures_of_another_range(scaled, says):
    def tensor(i: int, example: Example) -> Example:
        pixels = torch.from_numpy(np.array(example.image)).float().permute(2, 0, 1)
        return replace(example, image=scaled(pixels))

    finding = found("value_range", patient(data=batches(Squares(plant=tensor))))
    assert re.search(says, f"{finding.seen} {finding.wrong} {finding.change}")


def test_bright_pictures_in_the_right_range():
    def pastel(i: int, example: Example) -> Example:
        return replace(example, image=Image.fromarray(128 + np.array(example.image) // 2))

    sound("value_range", patient(data=batches(Squares(plant=pastel))))


def test_pictures_that_are_there_twice():
    twice = lambda i, example: Squares()[i - 1 - (i % 2 == 0)] if i % 10 == 9 else example  # noqa: E731
    finding = found("duplicates", patient(data=batches(Squares(plant=twice))))
    assert finding.numbers["equal"] == 16 and "row 9 is 8" in finding.seen

    def again(i: int, example: Example) -> Example:  # saved once more, and so a little different
        pixels = np.array(Squares()[i - 1].image).astype(int) + 1
        return replace(example, image=Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))

    near = lambda i, example: again(i, example) if i % 10 == 9 else example  # noqa: E731
    finding = found("duplicates", patient(data=batches(Squares(plant=near))))
    assert finding.numbers["near"] == 16 and finding.numbers["equal"] == 0


def test_copies_are_those_of_every_pair():
    a, b = table(Squares(60), 60), table(Squares(40, lambda i, e: Squares()[i] if i < 5 else e, seed=1), 40)
    slow = {i for i in range(40) if (a.thumbs - b.thumbs[i]).square().mean(1).sqrt().min() < 2}
    equal, near = copies(a, b)
    assert equal == {i: i for i in range(5)} and set(equal) | set(near) == slow


def test_test_pictures_among_the_training_ones(tmp_path):
    leaking = Squares(40, lambda i, example: Squares()[3 * i] if i % 4 == 0 else example, seed=1)
    seen, held = folder_of(Squares(), tmp_path / "train"), folder_of(leaking, tmp_path / "test")
    finding = found("leak", doctor.of_data(str(seen)))  # finds the folder beside it by itself
    assert finding.numbers["equal"] == 10 and finding.numbers["share"] == 0.25
    clean = folder_of(Squares(40, seed=1), tmp_path / "clean")
    sound("leak", doctor.of_data(str(seen), test=str(clean)))
    assert not fault("leak").applies(doctor.of_data(str(held)))


# Captions -----------------------------------------------------------------------------------------------------------


def said(captions) -> Squares:
    return Squares(plant=lambda i, example: replace(example, captions=captions(i, example)))


def test_captions_that_say_nothing():
    finding = found("captions_empty", patient(data=batches(said(lambda i, e: e.captions if i % 3 else ("  ",)))))
    assert "33.8%" in finding.seen
    assert "the same" in found("captions_empty", patient(data=batches(said(lambda i, e: ("an image",))))).seen
    sound("captions_empty", patient(system()))


def test_captions_that_the_encoder_does_not_read(monkeypatch):
    model = system()
    long = said(lambda i, e: ("a very long caption of many a word that goes on and on and on " + e.captions[1],))
    assert "length" in found("captions_empty", patient(model, batches(long))).seen
    tokenizer = type(model.encoder.tokenizer)
    read = tokenizer.__call__
    monkeypatch.setattr(tokenizer, "__call__", lambda self, texts: read(self, ["" for _ in texts]))
    assert "empty one" in found("captions_empty", patient(model)).seen
    monkeypatch.setattr(tokenizer, "__call__", lambda self, texts: read(self, [t and t[:12] + t[40:] for t in texts]))
    assert "same to the text encoder" in found("captions_empty", patient(model)).seen


def test_captions_of_other_pictures_in_data():
    order = np.random.default_rng(0).permutation(160)
    shuffled = said(lambda i, e: Squares()[int(order[i])].captions)
    finding = found("captions_shuffled", patient(data=batches(shuffled)))
    assert abs(finding.numbers["probe"]) < 4
    sound("captions_shuffled", patient())


def test_captions_of_other_pictures_in_a_run(run, tmp_path):
    order = np.random.default_rng(0).permutation(160)
    shuffled = folder_of(said(lambda i, e: Squares()[int(order[i])].captions), tmp_path / "shuffled")
    deaf = doctor.of_run(trained(shuffled, tmp_path / "run", steps=60))
    assert found("captions_shuffled", deaf).numbers["loss"] < 4
    assert fault("captions_shuffled").listens(doctor.of_run(run)) > 10
    deaf.settings = replace(deaf.settings, steps=1000)  # too early to tell: the data alone is asked
    assert "loss" not in found("captions_shuffled", deaf).numbers


@pytest.mark.parametrize("drop, says", [(0.0, "None of"), (1.0, "100%")])
def test_prompts_that_are_never_or_always_dropped(drop, says):
    assert says in found("dropout", patient(system(), batches(drop=drop))).seen
    sound("dropout", patient(system(), batches(drop=0.02)))


def test_never_dropped_is_right_without_guidance():
    sound("dropout", patient(system(guidance=1.0), batches(drop=0.0)))


# Latents and schedules ----------------------------------------------------------------------------------------------


def test_latents_of_another_size():
    model, scenes = latent(), batches(open_source("scenes:n=200,objects=1"), size=32)
    sound("latents", patient(model, scenes))
    model.autoencoder.scale.mul_(5.5)
    finding = found("latents", patient(model, scenes))
    assert finding.numbers["std"] == pytest.approx(5.5, rel=0.3)


def test_a_schedule_that_keeps_signal_at_its_end():
    finding = found("terminal", patient(system(ScaledLinear()), batches(size=64)))
    assert finding.numbers["alpha"] == pytest.approx(0.0683, abs=1e-3)
    sound("terminal", patient(system(ScaledLinear(zero_snr=True)), batches(size=64)))
    sound("terminal", patient(system(Linear(), "eps"), batches()))  # too little for anyone to see
    leading = found("terminal", patient(system(ScaledLinear(), spacing="leading"), batches(size=64)))
    assert leading.numbers["t"] == 0.901 and leading.numbers["reached"] < 0.7 * finding.numbers["reached"]
    shifted = found("terminal", patient(system(ScaledLinear(), spacing="leading", offset=1), batches(size=64)))
    assert shifted.numbers["t"] == 0.902


def test_how_much_brightness_is_out_of_reach():
    """What the finding says, made: an ideal denoiser of pictures of one brightness each, started from noise alone."""
    finding = found("terminal", patient(system(ScaledLinear()), batches(size=64)))
    alpha, s, n = finding.numbers["alpha"], finding.numbers["spread"], 64 * 64
    sigma = (1 - alpha**2) ** 0.5
    torch.manual_seed(0)
    z = torch.randn(200_000, dtype=torch.float64) * sigma / n**0.5  # the mean of the first x
    shrunk = alpha * s**2 / (alpha**2 * s**2 + sigma**2 / n)
    left = (s**2 - shrunk * alpha * s**2) ** 0.5
    made = shrunk * z + left * torch.randn_like(z)
    assert float(made.std()) / s == pytest.approx(finding.numbers["reached"], rel=0.01)


# Weights ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", ["eps", "x0", "flow"])
def test_weights_that_predict_something_else(run, reading):
    of = doctor.of_run(run)
    of.system.denoiser.predicts = reading
    if reading == "eps":
        of.system.denoiser.schedule = Cosine()
    finding = found("prediction", of)
    assert "predicts='v'" in finding.change and min(finding.numbers, key=finding.numbers.get) == "v"


def test_an_average_that_does_not_move(run, tmp_path):
    old = first(run, "ema")
    finding = found("average", doctor.of_run(ill(run, tmp_path / "a", lambda step, ema: old, "ema")))
    assert "decay of 1.0" in finding.change
    weights = {step: first(run, "weights", step) for step in (100, 120)}
    same = ill(run, tmp_path / "b", lambda step, ema: {k: weights[step][k] for k in ema}, "ema")
    assert "raw ones" in found("average", doctor.of_run(same)).seen


def test_an_average_that_lags(run, tmp_path):
    """With one checkpoint alone, an average that still is the first weights."""
    it = ill(run, tmp_path / "a", lambda step, ema: {k: v for k, v in system().state_dict().items() if k in ema}, "ema")
    shutil.rmtree(it / "checkpoints" / "step-100")
    finding = found("average", doctor.of_run(it))
    assert finding.numbers["loss average"] > 1.3 * finding.numbers["loss raw"]


def test_weights_that_are_no_numbers(run, tmp_path):
    def spoil(step: int, tensors: dict) -> dict:
        name = next(n for n in tensors if n.endswith("weight"))
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[3] = math.nan
        return tensors

    assert "NaN" in found("not_finite", doctor.of_run(ill(run, tmp_path / "a", spoil))).seen
    assert "ema" in found("not_finite", doctor.of_run(ill(run, tmp_path / "b", spoil, "ema"))).seen
    model = system()
    next(model.parameters()).data.view(-1)[0] = math.inf
    (tmp_path / "c").mkdir()
    bundle.save(model, tmp_path / "c" / "model.safetensors")
    assert "model.safetensors" in found("not_finite", doctor.of_run(tmp_path / "c")).seen


def test_weights_that_do_not_move(run, tmp_path):
    old = first(run, "weights")
    halted = lambda step, now: now | {n: t for n, t in old.items() if n.startswith("encoder")}  # noqa: E731
    finding = found("still", doctor.of_run(ill(run, tmp_path / "a", halted)))
    assert "encoder." in finding.seen and 0.01 < finding.numbers["share"] < 1 and "The loss was" in finding.seen


def test_parts_without_a_gradient(monkeypatch):
    model = system()
    sound("no_gradient", patient(model))
    forward = model.encoder.forward
    model.encoder.forward = lambda prompts: forward(prompts).map(lambda v: v.detach())
    of = patient(model)
    monkeypatch.setattr(of, "twin", lambda weights=None: model)  # the copy would lose what was planted
    finding = found("no_gradient", of)
    assert "encoder." in finding.seen and finding.numbers["share"] < 0.9


# Training -----------------------------------------------------------------------------------------------------------


def test_a_rate_that_is_too_high(run):
    of = doctor.of_run(run)
    sound("rate", of)
    of = doctor.of_run(run)
    of.settings = replace(of.settings, lr=2e-3 * 64)  # as if it had been multiplied by the batch
    finding = found("rate", of)
    advised = float(finding.change.split("lr to ")[1].split()[0])
    assert 2e-4 <= advised <= 4e-2 and math.isfinite(finding.numbers["noise"])


def test_the_probe_goes_on_as_the_run_would(run):
    """From the raw weights, with AdamW's own state and the run's clip."""
    after = []
    for change in (None, "optimizer", "weights", "clip"):
        of = doctor.of_run(run)
        if change == "clip":
            of.settings = replace(of.settings, clip=1e-9)
        else:
            of.files[change] = {} if change == "optimizer" else of.files["ema"]
        after.append(float(probe(of).after.mean()))
    assert len(set(after)) == 4 and max(after) < 0.5


def test_a_run_that_went_wrong_by_its_rate(data, tmp_path):
    it = trained(data, tmp_path / "run", lr=0.5, steps=40, checkpoint_every=20, decay=0.0)
    assert found("rate", doctor.of_run(it)).numbers["lr"] == 0.5


def test_a_rate_that_is_too_low():
    finding = found("rate", patient(system(), settings={"lr": 2e-7}))
    assert "Raise lr" in finding.change
    sound("rate", patient(system(), settings={"lr": 2e-3}))


def test_a_discriminator_that_is_dead_or_too_sure():
    scenes = batches(open_source("scenes:n=200,objects=1"), size=32, prompts="none")
    model = vae_gan()
    sound("discriminator", patient(model, scenes, kind="run"))
    last = model.discriminator.net[-1]
    nn.init.zeros_(last.weight)
    assert "dead" in found("discriminator", patient(model, scenes, kind="run")).wrong
    model.discriminator = Sure()
    assert "saturated" in found("discriminator", patient(model, scenes, kind="run")).wrong


class Sure(nn.Module):
    """Tells 8-bit pictures from any others, and says so."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        levels = (x + 1) * 127.5
        off = (levels - levels.round()).abs().flatten(1).mean(1)
        return self.gain * (torch.where(off < 0.01, 5.0, -5.0) + x.flatten(1).mean(1))[:, None, None, None]


def test_a_clip_that_collapsed():
    scenes = batches(open_source("scenes:n=200,objects=1"), size=32, drop=0.0)
    model = clip()
    nn.init.normal_(model.image_projection.weight, std=1.0)
    with torch.no_grad():  # towers that tell pictures apart, as trained ones do
        images = torch.cat([model.image(b.image) for b in patient(model, scenes, kind="run").drawn])
        model.image.net.conv_out.bias.sub_(images.mean(0))
    model.eval()
    of = patient(model, scenes, kind="run")
    seen = model.embed_image(of.drawn[0].image)
    assert (seen @ seen.T).mean() < 0.98
    sound("collapsed_clip", of)
    with torch.no_grad():
        model.log_scale.fill_(5.0)
    assert "bound" in found("collapsed_clip", patient(model, scenes, kind="run")).wrong
    with torch.no_grad():
        model.image.net.conv_out.bias.add_(1e3)
    assert "same place" in found("collapsed_clip", patient(model, scenes, kind="run")).wrong


def test_a_clip_is_measured_and_tried_with_the_pairs_of_a_whole_step():
    """Its loss tells each pair from all others of a step: of a slot alone, or of fewer pairs, it is another loss."""
    source, tried = open_source("scenes:n=200,objects=1"), []
    for slots in (1, 4):
        torch.manual_seed(0)
        of = patient(clip(), batches(source, size=32, batch=64 // slots, slots=slots, drop=0.0))
        assert [len(b.image) for b in of.drawn] == [64] * 4
        whole = [of.data.at(0, slot).index for slot in range(slots)]
        assert torch.equal(of.drawn[0].index, torch.cat(whole))
        tried.append(probe(of))
        assert math.isnan(noise(of))
    one, cut = tried
    assert torch.equal(one.before, cut.before) and 0.8 * math.log(64) < one.before.mean() < 1.5 * math.log(64)
    assert torch.allclose(one.after, cut.after, rtol=1e-2) and (one.after < one.before).all()
    assert all(abs(cut.norms[name] - norm) <= 0.02 * norm + 1e-4 for name, norm in one.norms.items())


# Where a patient comes from -----------------------------------------------------------------------------------------


def test_a_system_and_data_of_ones_own():
    """Only the contracts are known: a System, and something with .at and .stream."""

    class Own(System):
        def __init__(self):
            super().__init__()
            self.net = nn.Conv2d(3, 3, 3, padding=1)

        def loss(self, batch, turn="model"):
            return Loss((self.net(batch.image) - batch.image).square().mean())

    class Data:
        slots = 1

        def at(self, step, slot):
            return Batch(
                torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(step)) * 2 - 1,
                [None] * 8,
                torch.arange(8),
            )

    from phosphene.recipes.base import Plan

    plan = Plan(Own(), Data(), {"steps": 50, "lr": 1e-2})
    looked = list(doctor.examine(doctor.of_plan("mine", plan)))
    assert {"range of the pictures", "learning rate", "gradients everywhere"} == {one.name for one in looked}
    assert not any(one.finding or one.unable for one in looked)


def test_a_run_without_its_data_says_so(run, tmp_path):
    shutil.copytree(run, tmp_path / "moved")
    told(tmp_path / "moved", "data", source="nowhere/at/all")
    of = doctor.of_run(tmp_path / "moved")
    assert of.data is None and "nowhere/at/all" in of.remarks[0]
    assert {one.name for one in doctor.examine(of)} == {
        "weights that are numbers",
        "averaged weights",
        "weights that move",
    }
    with pytest.raises(Problem, match="no data at"):
        doctor.of_run(run, data="nowhere")
    with pytest.raises(Problem, match="neither a checkpoint"):
        doctor.of_run(tmp_path)


def test_examining_changes_nothing(run):
    """Neither the run nor torch's generator nor the system's weights."""
    files = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    of = doctor.of_run(run)
    weights = {n: t.clone() for n, t in of.system.state_dict().items()}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(doctor.examine(of))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(t, weights[n]) for n, t in of.system.state_dict().items())
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == files
    assert SETTINGS["steps"] == of.step


# The band -----------------------------------------------------------------------------------------------------------


def test_a_run_outside_of_the_band_of_its_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr("phosphene.training.band.FOLDER", tmp_path)
    banded.write(tmp_path)

    def of(lines: list, **record) -> doctor.Patient:
        return doctor.Patient("run", str(banded.run(tmp_path / "toy.toy", lines, **record)), lines=lines)

    finding = found("out_of_band", of(banded.log(9, factor=1.6)))
    assert "loss/model is outside" in finding.seen and "above the band" in finding.seen
    assert finding.numbers["loss/model"] > 30
    sound("out_of_band", of(banded.log(9)))
    turned = of(banded.log(9, factor=1.6), system={"kind": "Toy", "shapes": "2"})
    assert not fault("out_of_band").applies(turned)
    (tmp_path / "toy.toy.json").unlink()
    assert not fault("out_of_band").applies(of(banded.log(9, factor=1.6)))
