"""The same picture, always: in any batch, at any place, beside any others, in any order, in any process; to the bit."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from phosphene import adapt, packed
from phosphene.packed import StripGroupNorm
from phosphene.request import Studio
from phosphene.runtime import prepare_for_sampling
from phosphene.weights import bundle
from phosphene.weights.low_rank import Lora, LowRank
from systems.small import GENERATE, awake, made

SAMPLERS = ["ddim", "euler_ancestral", "dpmpp_2m_sde"]
LONG = "a much longer prompt than any of the others here, of so many words that it has a length of its own " * 2
COMPANIONS = {  # of the one picture, and its place among them
    "pairs": (["other"], 1),
    "the same prompt": (["same"] * 4, 2),
    "others": (["other", "long", "composed", "null"], 0),
    "many": (["other", "same", "long", "other", "composed", "same", "null"], 5),
}

on_this_processor = pytest.mark.skipif(
    not packed.works(torch.float32), reason="oneDNN's packed layers are not here: the default mode agrees to rounding"
)


def prompts_for(name: str, batch) -> dict:
    """One's own prompt, and others' by what they are."""
    own, other = batch.prompts[1], batch.prompts[2]
    words = isinstance(own, str)
    more = {"long": LONG, "composed": "red AND (blue:1.3) :0.5"} if words else {"long": other, "composed": other}
    return {"same": own, "other": other, "null": None if name != "upscaler" else 3, **more}


@contextmanager
def threads(n: int):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def picture(system, prompts, seeds, image=None, **how):
    shown = {} if image is None else {"image": image[: len(prompts)]}
    *_, last = system.generate(prompts, seeds=seeds, **shown, **how)
    return last.picture()


@on_this_processor
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", [*GENERATE, "upscaler"])
@pytest.mark.parametrize("cores", [1, 2])
def test_no_bit_depends_on_the_batch(name, sampler, cores):
    system, batch = made(name)
    system = prepare_for_sampling(awake(system), "cpu", "fp32")
    kinds = prompts_for(name, batch)
    how = {"steps": 3, "sampler": sampler}
    how |= {} if name in ("ddpm", "upscaler") else {"guidance": 2.5}
    small = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)).expand(8, -1, -1, -1)
    image = small if name == "upscaler" else None
    with threads(cores):
        alone = picture(system, [kinds["same"]], [6], image, **how)[0]
        assert torch.equal(picture(system, [kinds["same"]], [6], image, **how)[0], alone)
        for case, (others, place) in COMPANIONS.items():
            prompts, seeds = [kinds[kind] for kind in others], list(range(20, 20 + len(others)))
            prompts.insert(place, kinds["same"]), seeds.insert(place, 6)
            assert torch.equal(picture(system, prompts, seeds, image, **how)[place], alone), case
            back = picture(system, prompts[::-1], seeds[::-1], image, **how)[len(others) - place]
            assert torch.equal(back, alone), f"{case}, in the other order"


@on_this_processor
@pytest.mark.parametrize("shape", [(5, 96, 32, 32), (3, 32, 48, 40), (4, 32, 16, 16)])
def test_a_group_norm_of_one_picture_is_that_of_many(shape):
    """At 1024 pixels and more torch's kernel divides a batch's pixels among the threads."""
    norm = nn.GroupNorm(32, shape[1])
    norm.__class__ = StripGroupNorm
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    with torch.no_grad(), threads(2):
        whole = norm(x)
        assert all(torch.equal(norm(x[i : i + 1])[0], whole[i]) for i in range(shape[0]))
    assert torch.allclose(whole, nn.functional.group_norm(x, 32, eps=norm.eps), atol=1e-5)


# The studio ----------------------------------------------------------------------------------------------------------


def made_by(studio: Studio, pairs, **options) -> list[bytes]:
    return [np.asarray(one.image).tobytes() for one in studio.make(pairs, {"steps": 3, **options})]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_strict_is_one_picture_at_a_time(tiny_model, precision):
    """So that all calls are the same calls, whatever a kernel does with more rows; in any precision, on any device."""
    studio = Studio(tiny_model, strict=True, precision=precision)
    rows: list[int] = []
    studio.system.denoiser.net.register_forward_hook(lambda net, inputs, out: rows.append(len(out)))
    pairs = [("pizza", 1), ("a fox", 7), (LONG, 2), ("a fox", 8)]
    together = made_by(studio, pairs, sampler="euler_ancestral", guidance=2.0)
    assert set(rows) == {2}, "prompt and null prompt, and no other picture"
    for i in (3, 1, 0, 2):
        assert made_by(studio, [pairs[i]], sampler="euler_ancestral", guidance=2.0) == [together[i]]
    assert next(studio.make(pairs[:1], {"steps": 1})).receipt["strict"] is True


@on_this_processor
def test_loras_of_others_leave_no_trace(tiny_model, tmp_path):
    """Nor does the order of requests."""
    system = bundle.load(tiny_model)
    path = next(name for name, _ in system.denoiser.net.named_modules() if name.endswith("to_q"))
    weight = system.denoiser.net.get_submodule(path).weight
    low = LowRank(torch.randn(2, weight.shape[1]), torch.randn(len(weight), 2), 2.0)
    file = adapt.apply(system, Lora({f"denoiser.net.{path}": low}), name="ink").save(tmp_path / "ink.safetensors")
    studio = Studio(tiny_model, lora=tmp_path)
    plain, worn = ("a fox", 7), ("a fox <lora:ink:0.8>", 7)
    first = made_by(studio, [plain])
    [inked] = made_by(studio, [worn])
    assert first != [inked] and file.is_file()
    assert made_by(studio, [worn, plain, worn, ("pizza", 2)])[:3] == [inked, *first, inked]
    assert made_by(Studio(tiny_model, lora=tmp_path), [("pizza <lora:ink:0.8>", 3), worn])[1] == inked


MAKES = """
import sys, hashlib
from phosphene.request import Studio
studio = Studio(sys.argv[1])
pairs = [(word.rpartition("=")[0], int(word.rpartition("=")[2])) for word in sys.argv[2:]]
for m in studio.make(pairs, {"steps": 3, "sampler": "dpmpp_2m_sde"}):
    print(m.receipt["prompt"], m.receipt["seed"], hashlib.sha256(m.image.tobytes()).hexdigest())
"""


@on_this_processor
def test_processes_make_the_same(tiny_model):
    asked = ["a fox=7", "pizza=1", f"{LONG}=3", "狐狸=4"]
    runs = [asked, asked[::-1], asked[:1]]
    commands = [[sys.executable, "-c", MAKES, str(tiny_model), *words] for words in runs]
    said = [subprocess.run(one, check=True, capture_output=True, text=True).stdout for one in commands]
    lines = [set(text.splitlines()) for text in said]
    assert len(lines[0]) == 4 and lines[0] == lines[1] and lines[2] < lines[0]
