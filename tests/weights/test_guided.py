"""guided-diffusion against the original: recorded fixtures, and tests/golden/guided_diffusion.npz.

The latter is of openai/guided-diffusion 22e0df8 with weights made from the names of their keys, so that it
holds the results alone.
"""

import json
from pathlib import Path

import pytest
import torch

from phosphene import adapt, load
from phosphene.diffusion.cond import Cond
from phosphene.diffusion.guidance import classifier
from phosphene.diffusion.noise import Recorded
from phosphene.errors import Problem
from phosphene.nets.classifier import NoisyClassifier
from phosphene.nets.layers import AddedTimeEmbedding, Conventions, ResDownsample, ResUpsample, ScaleShiftResBlock
from phosphene.nets.unet import UNet
from phosphene.systems.upscale import Upscaler
from phosphene.weights import bundle
from phosphene.weights.guided import HEADS, Said, attention, half, network, respaced, shapes
from phosphene.weights.load import Assumed, Found
from phosphene.weights.save import save_as
from phosphene.weights.tables import empty, extract
from phosphene.weights.unets import ldm
from weights.recorded import apart, arrays, state_dicts

GOLDEN = Path(__file__).parent.parent / "golden" / "guided_diffusion.npz"
pytestmark = pytest.mark.filterwarnings("ignore::phosphene.weights.load.Assumed")


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """(what → its file, the arrays)."""
    folder = tmp_path_factory.mktemp("guided")
    for name, tensors in state_dicts(GOLDEN).items():
        torch.save(tensors, folder / f"{name}.pt")
    return lambda name: folder / f"{name}.pt", arrays(GOLDEN)


# The recorded fixtures


TOLD = {"imagenet_like": {"head_dim": 16}, "new_order": {"qkv": "new", "heads": 2}, "simple": {"head_dim": 16}}


@pytest.mark.parametrize("name", TOLD)
@torch.no_grad()
def test_unets_agree(shared, name):
    folder = shared / "fixtures" / "guided"
    ref = arrays(folder / f"{name}_ref.npz")
    system = load(folder / f"{name}_fp16.pt", **TOLD[name])
    cond = system.encoder(ref["y"].tolist()) if "y" in ref else Cond()
    assert apart(system.denoiser.net(ref["x"], ref["t"], cond), ref["out"]) <= 3e-5
    assert system.denoiser.learned_variance == (name != "simple")


@torch.no_grad()
def test_the_wrong_order_and_the_wrong_heads_are_other_networks(shared):
    folder = shared / "fixtures" / "guided"
    ref = arrays(folder / "new_order_ref.npz")
    for told in ({"qkv": "legacy", "heads": 2}, {"qkv": "new", "heads": 4}):
        system = load(folder / "new_order_fp16.pt", **told)
        assert apart(system.denoiser.net(ref["x"], ref["t"], Cond()), ref["out"]) > 1e-3


@pytest.mark.parametrize("sampler, sections", [("ddpm", "5"), ("ddim", "ddim5")])
def test_whole_runs_agree(shared, sampler, sections):
    """Five steps with the noise as it was drawn; the class was 42."""
    folder = shared / "fixtures" / "guided"
    ref = arrays(folder / "imagenet_like_ref.npz")
    system = load(folder / "imagenet_like_fp16.pt", head_dim=16, size=64)
    noise = Recorded(list(ref["ddpm5_noise"]), first=ref["xT"])
    *_, last = system.generate([42], seeds=[0], sampler=sampler, times=respaced(sections), noise=noise)
    assert apart(last.picture(), ref[f"{sampler}5"]) <= 3e-4


def test_respacing(shared):
    known = json.loads((shared / "fixtures" / "guided" / "space_timesteps.json").read_text())
    for sections, steps in known.items():
        times = respaced(sections)
        assert times[-1] == 0 and (times[:-1] * 1000 - 1).round().long().tolist() == steps[::-1]


# What is told, and what is not


@pytest.mark.parametrize("sections", ["ddim999", "1001", "600,600", "a few", ""])
def test_respacing_that_does_not_fit_is_a_problem(sections):
    with pytest.raises(Problem, match="respacing"):
        respaced(sections)


def test_the_flags_beside_the_file_are_read(shared, tmp_path):
    folder = shared / "fixtures" / "guided"
    (tmp_path / "model.pt").symlink_to(folder / "new_order_fp16.pt")
    (tmp_path / "model.json").write_text((folder / "new_order.json").read_text())
    ref = arrays(folder / "new_order_ref.npz")
    system = load(tmp_path / "model.pt")
    assert system.size == 64
    with torch.no_grad():
        assert apart(system.denoiser.net(ref["x"], ref["t"], Cond()), ref["out"]) <= 3e-5


def test_what_is_assumed_is_said(golden):
    file, _ = golden
    with pytest.warns(Assumed) as said:
        load(file("narrow"))
    assumed = " ".join(str(w.message) for w in said)
    assert all(name in assumed for name in ("qkv", "head_dim", "schedule", "size"))


def test_published_files_are_known_by_their_names(golden, tmp_path):
    file, _ = golden
    (tmp_path / "64x64_diffusion.pt").symlink_to(file("narrow"))
    with pytest.warns(Assumed, match="schedule: taken is cosine"):
        load(tmp_path / "64x64_diffusion.pt", head_dim=16)


@pytest.mark.parametrize("told", [{"qkv": "newest"}, {"heads": 5}, {"schedule": "flow"}, {"steps": 4}])
def test_nonsense_told_is_a_problem(golden, told):
    with pytest.raises(Problem):
        load(golden[0]("narrow"), **told)


def test_a_class_is_wanted(shared):
    system = load(shared / "fixtures" / "guided" / "imagenet_like_fp16.pt", head_dim=16)
    with pytest.raises(Problem, match="wants a class"):
        next(system.generate([None], seeds=[0]))
    with pytest.raises(Problem, match="guidance"):
        next(system.generate([1], seeds=[0], guidance=2.0))


# Classifiers, upsamplers and other shapes


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial", "spatial_v2"])
@torch.no_grad()
def test_classifiers_agree(golden, pool):
    file, ref = golden
    net = load(file(pool), head_dim=16, size=16) if pool != "attention" else load(file(pool), head_dim=16)
    assert isinstance(net, NoisyClassifier) and net.size == 16
    assert apart(net(ref["x"], ref["t"]), ref[f"out_{pool}"]) <= 3e-5


@torch.no_grad()
def test_narrow_first_levels_and_plain_blocks_agree(golden):
    file, ref = golden
    system = load(file("narrow"), head_dim=16)
    assert apart(system.denoiser.net(ref["x"], ref["t"], Cond()), ref["out_narrow"]) <= 3e-5


@torch.no_grad()
def test_upsamplers_agree(golden):
    file, ref = golden
    system = load(file("upsampler"), head_dim=16)
    assert isinstance(system, Upscaler) and (system.size, system.small) == (16, 4)
    cond = system.encoder([1, 4]).merged(system.told(ref["low"], (16, 16)))
    assert apart(system.denoiser.net(ref["x"], ref["t"], cond), ref["out_upsampler"]) <= 3e-5


def test_upsamplers_make_small_pictures_larger(golden, tmp_path):
    file, ref = golden
    system = load(file("upsampler"), head_dim=16)
    with pytest.raises(Problem, match="give it as image"):
        next(system.generate([1], seeds=[0]))

    def made(system, image):
        *_, last = system.generate([1, 4], seeds=[0, 1], image=image, steps=2)
        return last.picture()

    small = ref["low"].clamp(-1, 1)
    assert made(system, small).shape == (2, 3, 16, 16)
    assert not torch.equal(made(system, small), made(system, -small))
    again = bundle.load(bundle.save(system, tmp_path / "upsampler.safetensors"))
    assert torch.equal(made(again, small), made(system, small))


def test_a_classifier_guides(golden, tmp_path):
    """The guided guess is more of the class; and a bundle keeps a classifier as it is."""
    file, ref = golden
    net = load(file("attention"), head_dim=16)
    system = load(file("narrow"), head_dim=16)
    schedule, t = system.denoiser.schedule, torch.tensor(0.3, dtype=torch.float64)
    log_prob = net.log_prob([3, 5], schedule)
    plain, guided = system.denoiser.given(None), classifier(system.denoiser.given(None), log_prob, 0.1, schedule)
    with torch.no_grad():
        step = guided(ref["x"], t).x0 - plain(ref["x"], t).x0
        assert (log_prob(ref["x"] + 1e-3 * step / step.abs().max(), t) > log_prob(ref["x"], t)).all()
        again = bundle.load(bundle.save(net, tmp_path / "classifier.safetensors"))
        assert torch.equal(again(ref["x"], ref["t"]), net(ref["x"], ref["t"]))
    with pytest.raises(Problem, match="class 7"):
        net.log_prob([7], schedule)


def test_a_classifiers_file_steers_the_model_of_its_family(golden):
    """The file itself, put on as a guide; class "3" pulls another way than class "5", and off it leaves no trace."""
    file, _ = golden
    system = load(file("narrow"), head_dim=16)

    def picture(prompt):
        *_, last = system.generate([prompt], seeds=[1], steps=3, size=(16, 16))
        return last.picture()

    plain = picture("3")
    with adapt.guide(system, file("attention"), 30.0, head_dim=16) as on:
        three, five = picture("3"), picture("5")
        score = torch.stack([on.guide.scores(x, torch.tensor(0.001), ["3", "5"])[0] for x in (three, five)])
        assert score[0, 0] > score[1, 0] and score[1, 1] > score[0, 1]
    assert torch.equal(picture("3"), plain) and not torch.equal(three, plain)


# The published sizes, without their numbers

PUBLISHED = {
    "64": (192, [1, 2, 3, 4], 3, [0, 1, 1, 1]),
    "128": (256, [1, 1, 2, 3, 4], 2, [0, 0, 1, 1, 1]),
    "256": (256, [1, 1, 2, 2, 4, 4], 2, [0, 0, 0, 1, 1, 1]),
    "512": (256, [0.5, 1, 1, 2, 2, 4, 4], 2, [0, 0, 0, 0, 1, 1, 1]),
    "128 to 512": (192, [1, 1, 2, 2, 4, 4], 2, [0, 0, 0, 0, 1, 1]),
}


def large(name: str) -> dict:
    first, times, depth, attends = PUBLISHED[name]
    n = len(times)
    return {
        "in_channels": 3, "channels": [int(t * first) for t in times], "depth": [depth] * n, "attention": attends,
        "head_dim": [64] * n, "emb_dim": 4 * first, "block": ScaleShiftResBlock, "down": ResDownsample,
        "time": AddedTimeEmbedding, "time_dim": first,
    }  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_structure_of_published_unets_is_seen(name):
    arguments = large(name) | {"out_channels": 6, "up": ResUpsample}
    net = empty(lambda: UNet(**arguments, how=Conventions(groups=32)))
    stored = extract(net, ldm(net, attention()))
    assert network(shapes(stored), Said(Found(Path("model.pt")))) == arguments


@pytest.mark.parametrize("name", ["64", "128", "256", "512"])
def test_the_structure_of_published_classifiers_is_seen(name):
    """Where residual blocks are the ways down, which of them are is seen by where channels change and which attend."""
    size, arguments = int(name), large(name)
    net = empty(lambda: NoisyClassifier(**arguments, classes=1000, size=size, how=Conventions(groups=32)))
    stored = extract(net, ldm(net, attention()) + HEADS[0][2])
    assert half(shapes(stored), Said(Found(Path("model.pt")))) == arguments


@torch.no_grad()
def test_what_was_read_is_written_for_diffusers(shared, tmp_path):
    """Its class embedding, residual ways, scale and shift are a UNet2DModel's, which answers as the original does."""
    diffusers = pytest.importorskip("diffusers")
    folder = shared / "fixtures" / "guided"
    ref = arrays(folder / "imagenet_like_ref.npz")
    lost = save_as(load(folder / "imagenet_like_fp16.pt", head_dim=16), tmp_path / "out", "diffusers")
    assert len(lost) == 1 and "classes" in lost[0]
    theirs = diffusers.UNet2DModel.from_pretrained(tmp_path / "out" / "unet")
    assert apart(theirs(ref["x"], ref["t"], ref["y"]).sample, ref["out"]) <= 3e-5
