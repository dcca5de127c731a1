"""Textual inversion: the files it comes in, and the words that a system learns and forgets."""

from __future__ import annotations

import base64
import json

import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file
from torch import Tensor

from phosphene import adapt
from phosphene.errors import Problem
from phosphene.weights import embedding
from weights import tiny_sd

V = torch.randn(3, 48, generator=torch.Generator().manual_seed(4))


def webui(vectors: Tensor = V, name: str = "inside") -> dict:
    return {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": name, "step": 500}


def picture(path, text: str | None) -> None:
    told = PngImagePlugin.PngInfo()
    if text is not None:
        told.add_text("sd-ti-embedding", text)
    Image.new("RGB", (4, 4)).save(path, "PNG", pnginfo=told)


def as_text(data: dict) -> str:
    listed = json.dumps(data, default=lambda t: {"TORCHTENSOR": t.tolist()})
    return base64.b64encode(listed.encode()).decode()


def written(folder, kind: str):
    """A file of this kind with V in it, and the word that it should be."""
    path = folder / {"png": "ink.png", "safetensors": "ink.safetensors", "token": "x.safetensors"}.get(kind, "ink.pt")
    if kind == "pt":
        torch.save(webui(), path)
    elif kind == "original":
        params = torch.nn.ParameterDict({"*": torch.nn.Parameter(V)})
        torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": params}, path)
    elif kind == "safetensors":
        save_file({"emb_params": V}, path)
    elif kind == "token":
        save_file({"<ink>": V}, path)
    elif kind == "bin":
        torch.save({"<ink>": V[0]}, path)
    else:
        picture(path, as_text(webui()))
    return path, {"png": "inside", "token": "<ink>", "bin": "<ink>"}.get(kind, "ink")


@pytest.mark.parametrize("kind", ["pt", "original", "safetensors", "token", "bin", "png"])
def test_every_file_that_people_have(tmp_path, kind):
    path, word = written(tmp_path, kind)
    found = embedding.read(path)
    assert found.trigger == word and found.vectors.dtype == torch.float32
    assert torch.allclose(found.vectors, V[:1] if kind == "bin" else V)


def test_the_content_says_what_it_is_and_not_the_suffix(tmp_path):
    path, _ = written(tmp_path, "pt")
    path.rename(tmp_path / "other.safetensors")
    assert embedding.read(tmp_path / "other.safetensors").trigger == "other"


BAD = {
    "several": (lambda p: save_file({"a": V, "b": V + 1}, p), "several tensors"),
    "SDXL": (lambda p: save_file({"clip_l": V, "clip_g": V + 1}, p), "SDXL"),
    "sides": (lambda p: save_file({"emb_params": V[None]}, p), r"\[1, 3, 48\]"),
    "whole numbers": (lambda p: save_file({"emb_params": V.long()}, p), "int64"),
    "none": (lambda p: save_file({"emb_params": V[:0]}, p), r"\[0, 48\]"),
    "nan": (lambda p: save_file({"emb_params": V * torch.nan}, p), "finite"),
    "no word": (lambda p: save_file({" ": V}, p), "names no word"),
    "nothing": (lambda p: save_file({}, p), "no tensors"),
    "PNG without": (lambda p: picture(p, None), "without an embedding"),
    "no base64": (lambda p: picture(p, "?!"), "no base64"),
    "no JSON": (lambda p: picture(p, base64.b64encode(b"{").decode()), "no base64 of JSON"),
    "no object": (lambda p: picture(p, base64.b64encode(b"[1]").decode()), "JSON list"),
    "ragged": (lambda p: picture(p, base64.b64encode(b'{"a": {"TORCHTENSOR": [[1], 2]}}').decode()), "no base64 of"),
    "no tensor": (lambda p: picture(p, as_text({"string_to_param": {"*": [1]}})), "no textual-inversion"),
    "half a PNG": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n\0\0"), "cannot be read"),
    "not there": (lambda p: None, "cannot be read"),
    "a page": (lambda p: p.write_text("<html><body>Not found</body></html>"), "web page"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_embedding_is_refused_in_one_line(tmp_path, case):
    write, why = BAD[case]
    write(tmp_path / "x.pt")
    with pytest.raises(Problem, match=why) as problem:
        embedding.read(tmp_path / "x.pt")
    assert "\n" not in str(problem.value) and "x.pt" in str(problem.value)


# On a system --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def networks():
    pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    unet, text = tiny_sd.peer(seed=6)
    return text, tiny_sd.ours(unet.state_dict(), tiny_sd.prefixed(text))


@torch.no_grad()
def said(system, prompt: str) -> Tensor:
    return system.encoder([prompt]).tokens


def test_a_word_is_learned_and_forgotten(tmp_path, networks):
    _, system = networks
    path, _ = written(tmp_path, "pt")
    before = said(system, "a cat, ink")
    on = adapt.teach(system, path)
    assert not torch.equal(said(system, "a cat, ink"), before) and adapt.worn(system) == [on]
    assert torch.equal(said(system, "a cat, INK"), said(system, "a cat, ink"))  # CLIP knows no capitals
    on.remove()
    assert torch.equal(said(system, "a cat, ink"), before) and adapt.worn(system) == [] and system.encoder.words == {}
    with adapt.teach(system, path, word="another") as on:
        assert torch.equal(said(system, "a cat, ink"), before) and on.name == "another"


def test_what_cannot_be_taught_says_why(tmp_path, networks):
    _, system = networks
    wide = tmp_path / "wide.safetensors"
    save_file({"emb_params": torch.ones(1, 1024)}, wide)
    with pytest.raises(Problem, match="1024 numbers a token, as in Stable Diffusion 2; this model's tokens have 48"):
        adapt.teach(system, wide)
    path, _ = written(tmp_path, "pt")
    with adapt.teach(system, path):
        with pytest.raises(Problem, match=r"'INK' is a word already, 'ink'"):
            adapt.teach(system, path, word="INK")
        with pytest.raises(Problem, match="on already"):
            adapt.teach(system, path, word="other")
    with pytest.raises(Problem, match="no word to CLIP"):
        adapt.teach(system, path, word=" ")
    assert adapt.worn(system) == [] and system.encoder.words == {}


def test_a_system_without_clip_takes_no_words(tmp_path):
    from systems.small import latent

    path, _ = written(tmp_path, "pt")
    with pytest.raises(Problem, match="CLIP's text encoder"):
        adapt.teach(latent(), path)


def test_transformers_with_the_vectors_in_its_table_says_the_same(tmp_path, networks):
    """As diffusers puts them in: a new row in the table for each vector, and their numbers in the place of the word."""
    text, system = networks
    path, word = written(tmp_path, "token")
    ids = system.encoder.tokenizer(["a  in the rain"])[0]
    assert ids[0, 2] == system.encoder.tokenizer.ids("in")[0]
    table = text.get_input_embeddings()
    rows = table.weight.shape[0] + torch.arange(3)
    text.resize_token_embeddings(int(rows[-1]) + 1)
    with torch.no_grad():
        text.get_input_embeddings().weight[rows] = V
        placed = torch.cat([ids[:, :2], rows[None], ids[:, 2:-3]], dim=1)
        theirs = text(placed).last_hidden_state
    with adapt.teach(system, path):
        ours = said(system, f"a {word} in the rain")
    assert (ours - theirs).abs().max() / theirs.abs().mean() <= 3e-5
    text.resize_token_embeddings(int(rows[0]))


@pytest.mark.parametrize(
    "file, case, prompt",
    [
        *[(f, "v3", "a photo in the style of {} with a cat") for f in ("my-style.pt", "my-style.safetensors")],
        ("original_ti.pt", "v3", "a photo in the style of {} with a cat"),
        ("my-style.pt", "v3_twice", "a {} and {}"),
        ("learned_embeds.bin", "v1", "{} on the mat"),
        ("learned_embeds.safetensors", "v1", "{} on the mat"),
    ],
)
def test_recorded(shared, file, case, prompt):
    import numpy as np
    from safetensors.torch import load_file

    from phosphene.text.clip import ClipTokenizer

    folder = shared / "fixtures"
    unet = load_file(folder / "sd1/unet/diffusion_pytorch_model.safetensors")
    text = load_file(folder / "sd1/text_encoder/model.safetensors")
    text = {f"text_model.{key.removeprefix('text_model.')}": t for key, t in text.items()}
    tokenizer = ClipTokenizer.from_folder(folder / "sd1/tokenizer")
    system = tiny_sd.ours(unet, text, tokenizer, layers=2, width=32, heads=8, text_heads=4, vocabulary=747)
    hidden = torch.from_numpy(np.load(folder / "ti/ti_ref.npz")[f"{case}.hidden"])
    with adapt.teach(system, folder / "ti" / file) as on:
        ours = said(system, prompt.format(on.name, on.name))
    assert (ours - hidden).abs().max() / hidden.abs().mean() <= 3e-5
