"""GLIDE's base and upsampler against the recorded original; its tokenizer against GPT-2's with a vocabulary of ours."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from phosphene import load
from phosphene.errors import Problem
from phosphene.systems.cascade import Cascade
from phosphene.systems.glide import Inpaint, InpaintUpscaler
from phosphene.systems.upscale import Upscaler
from phosphene.text.glide import GlideTokenizer
from phosphene.weights import bundle
from weights.recorded import apart, arrays

TOLD = {"head_dim": 16, "text_heads": 2}
pytestmark = pytest.mark.filterwarnings("ignore::phosphene.weights.load.Assumed")


@pytest.fixture
def fixture(shared):
    def at(name):
        folder = shared / "fixtures" / "glide"
        return load(folder / f"{name}.safetensors", **TOLD), arrays(folder / f"{name}_ref.npz")

    return at


@pytest.fixture
def words(tmp_path):
    """A folder with encoder.json and vocab.bpe of 200 tokens: too few for all bytes, so of those of ASCII."""
    folder = tmp_path / "words"
    folder.mkdir()
    merges = ["t h", "th e", "Ġ the", "f o", "fo x", "Ġ fox", "i n", "in g"]
    letters = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ"]
    tokens = [*letters, *("".join(m.split()) for m in merges)]
    tokens += [f"<{i}>" for i in range(199 - len(tokens))] + ["<|endoftext|>"]
    (folder / "encoder.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "vocab.bpe").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return folder


@torch.no_grad()
def test_the_base_agrees(fixture):
    """Also for a text without a single token: the second row's mask may be anything."""
    system, ref = fixture("base")
    assert not ref["mask"].all()
    cond = system.encoder.read(ref["tokens"], ref["mask"])
    assert apart(system.denoiser.net(ref["x"], ref["t"], cond), ref["out"]) <= 3e-5
    assert system.denoiser.learned_variance


@torch.no_grad()
def test_the_upsampler_agrees(fixture):
    system, ref = fixture("upsample")
    assert isinstance(system, Upscaler) and system.small == 4
    cond = system.encoder.read(ref["tokens"], ref["mask"]).merged(system.told(ref["low_res"], (16, 16)))
    assert apart(system.denoiser.net(ref["x"], ref["t"], cond), ref["out"]) <= 3e-5


def widened(shared, name, tmp_path):
    """The recorded file with four channels more behind x, as OpenAI's inpainting networks have them."""
    tensors = load_file(shared / "fixtures" / "glide" / f"{name}.safetensors")
    first = tensors["input_blocks.0.0.weight"]
    new = 0.1 * torch.randn(len(first), 4, 3, 3, generator=torch.Generator().manual_seed(0))
    tensors["input_blocks.0.0.weight"] = torch.cat([first[:, :3], new, first[:, 3:]], dim=1)
    save_file(tensors, tmp_path / f"{name}_inpaint.safetensors")
    return load(tmp_path / f"{name}_inpaint.safetensors", **TOLD), new


def convolved(system):
    """Keeps what goes into the first layer and what comes out."""
    seen = []
    system.denoiser.net.conv_in.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    return seen


@torch.no_grad()
def test_the_base_that_inpaints(shared, fixture, tmp_path):
    """x, rest of the picture, where it is left: OpenAI's order. Without a picture both are 0, as it is there."""
    system, new = widened(shared, "base", tmp_path)
    plain, ref = fixture("base")
    assert type(system) is Inpaint and system.denoiser.schedule.arguments == plain.denoiser.schedule.arguments
    seen, before = convolved(system), convolved(plain)
    side = system.size
    picture, mask = torch.rand(1, 3, side, side) * 2 - 1, torch.zeros(1, 1, side, side)
    mask[..., : side // 2] = 1
    *_, last = system.generate([None], seeds=[0], steps=2, image=picture, mask=mask, guidance=1.0)
    assert torch.equal(last.picture()[..., side // 2 :], picture[..., side // 2 :])
    given, out = seen[0]
    assert torch.equal(given[:, 3:6], picture * (1 - mask)) and torch.equal(given[:, 6:], 1 - mask)
    cond = plain.encoder([None])
    plain.denoiser.net(given[:, :3], ref["t"][:1], cond)
    expected = before[0][1] + torch.nn.functional.conv2d(given[:, 3:], new, padding=1)
    torch.testing.assert_close(out, expected)
    next(system.generate([None], seeds=[0], steps=2, guidance=1.0))
    assert not seen[-1][0][:, 3:].any()


@torch.no_grad()
def test_the_upsampler_that_inpaints(shared, fixture, tmp_path):
    """x, rest, where it is left, the small picture enlarged."""
    system, _ = widened(shared, "upsample", tmp_path)
    assert type(system) is InpaintUpscaler and system.small == fixture("upsample")[0].small
    seen = convolved(system)
    small, picture = torch.rand(1, 3, 4, 4) * 2 - 1, torch.rand(1, 3, 16, 16) * 2 - 1
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 5:9, :] = 1
    *_, last = system.generate([None], seeds=[0], steps=2, image=small, picture=picture, mask=mask)
    assert torch.equal(last.picture()[..., 9:, :], picture[..., 9:, :])
    given = seen[0][0]
    assert torch.equal(given[:, 3:6], picture * (1 - mask)) and torch.equal(given[:, 6:7], 1 - mask)
    torch.testing.assert_close(given[:, 7:], torch.nn.functional.interpolate(small, size=(16, 16), mode="bilinear"))
    next(system.generate([None], seeds=[0], steps=2, image=small))
    assert not seen[-1][0][:, 3:7].any() and torch.equal(seen[-1][0][:, 7:], given[:, 7:])


@torch.no_grad()
def test_base_and_upsampler_are_a_cascade(shared, fixture):
    """OpenAI's two files drive the very system that is trained here."""
    base, upsampler = fixture("base")[0], fixture("upsample")[0]
    upsampler.small, upsampler.size = base.size, 2 * base.size
    *_, last = Cascade([base, upsampler]).generate([None], seeds=[1], steps=[2, 2])
    assert last.stage == "upscale" and last.picture().shape == (1, 3, 2 * base.size, 2 * base.size)


@pytest.mark.parametrize("other", [{"head_dim": 8, "text_heads": 2}, {"head_dim": 16, "text_heads": 1}])
@torch.no_grad()
def test_other_heads_are_another_network(shared, fixture, other):
    _, ref = fixture("base")
    system = load(shared / "fixtures" / "glide" / "base.safetensors", **other)
    cond = system.encoder.read(ref["tokens"], ref["mask"])
    assert apart(system.denoiser.net(ref["x"], ref["t"], cond), ref["out"]) > 1e-3


def test_the_flags_beside_the_file_are_read(shared, fixture, tmp_path):
    folder = shared / "fixtures" / "glide"
    (tmp_path / "base.safetensors").symlink_to(folder / "base.safetensors")
    (tmp_path / "base.json").write_text((folder / "base.json").read_text())
    system, ref = load(tmp_path / "base.safetensors"), fixture("base")[1]
    with torch.no_grad():
        cond = system.encoder.read(ref["tokens"], ref["mask"])
        assert apart(system.denoiser.net(ref["x"], ref["t"], cond), ref["out"]) <= 3e-5


def test_without_a_tokenizer_words_are_a_problem_and_nothing_is_not(fixture):
    system, _ = fixture("base")
    with pytest.raises(Problem, match=r"vocab\.bpe"):
        next(system.generate(["a fox"], seeds=[0]))
    *_, last = system.generate([None], seeds=[0], steps=2)
    assert last.picture().shape == (1, 3, 8 * 2, 8 * 2)


def test_words_become_pictures(shared, words, tmp_path):
    """The tokenizer told, or beside the file; a bundle holds it."""
    file = shared / "fixtures" / "glide" / "base.safetensors"

    def made(system, prompt, **how):
        *_, last = system.generate([prompt], seeds=[0], steps=2, **how)
        return last.picture()

    system = load(file, tokenizer=words, **TOLD)
    assert not torch.equal(made(system, "a fox"), made(system, "the pizza"))
    assert not torch.equal(made(system, "a fox"), made(system, "a fox", guidance=1.0))
    (words / "base.safetensors").symlink_to(file)
    assert torch.equal(made(load(words / "base.safetensors", **TOLD), "a fox"), made(system, "a fox"))
    again = bundle.load(bundle.save(system, tmp_path / "glide.safetensors"))
    assert torch.equal(made(again, "a fox"), made(system, "a fox"))


def test_the_tokenizer_is_gpt2s_in_lower_case(words):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2Tokenizer(
        str(words / "encoder.json"), str(words / "vocab.bpe"), unk_token="<|endoftext|>"
    )
    ours = GlideTokenizer.from_folder(words)
    for text in ("a fox, the theme", "THE  fox\nsing it's 12!", "the" * 30):
        ids, mask = ours([text], 24)
        wanted = theirs(text.lower())["input_ids"][:24]
        assert ids[0, mask[0]].tolist() == wanted
        assert (ids[0, ~mask[0]] == 199).all()
    assert ours([""], 8)[1].sum() == 0


def test_nonsense_is_a_problem(shared, words, tmp_path):
    file = shared / "fixtures" / "glide" / "base.safetensors"
    with pytest.raises(Problem, match=r"no encoder\.json"):
        load(file, tokenizer=tmp_path, **TOLD)
    (words / "vocab.bpe").write_text("#version\nx yz\n")
    with pytest.raises(Problem, match="do not fit"):
        load(file, tokenizer=words, **TOLD)
    with pytest.raises(Problem, match="text_heads"):
        load(file, text_heads=5)
    tensors = load_file(file)
    tensors["input_blocks.0.0.weight"] = torch.zeros(32, 8, 3, 3)
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(Problem, match=r"takes 8 channels: GLIDE's networks take 3, 6, 7, 10"):
        load(tmp_path / "other.safetensors", **TOLD)
    del tensors["transformer_proj.bias"]
    tensors["input_blocks.0.0.weight"] = torch.zeros(32, 3, 3, 3)
    save_file(tensors, tmp_path / "short.safetensors")
    with pytest.raises(Problem, match=r"lacks transformer_proj\.bias"):
        load(tmp_path / "short.safetensors", **TOLD)
