"""Encoders of transformers, against transformers."""

import json

import pytest
import torch

from phosphene.cli import main
from phosphene.errors import Problem
from phosphene.text.hugging import HuggingEncoder
from phosphene.text.prompt import emphasised
from phosphene.weights import bundle

transformers = pytest.importorskip("transformers", reason="transformers is an extra: phosphene[encoders]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random T5 with a tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    path = tmp_path_factory.mktemp("t5")
    names = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "fox", "cat", "on", "the", "wall"]
    bpe = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="</s>").save_pretrained(
        path
    )
    torch.manual_seed(0)
    sizes = dict(vocab_size=16, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3)
    transformers.T5EncoderModel(transformers.T5Config(**sizes)).save_pretrained(path)
    return path


def test_equals_transformers(folder):
    theirs = transformers.T5EncoderModel.from_pretrained(folder).eval()
    ids = torch.tensor([[3, 4, 6, 1, 0, 0], [3, 5, 7, 8, 9, 1]])
    with torch.no_grad():
        want = theirs(ids, attention_mask=ids != 0).last_hidden_state
    encoder = HuggingEncoder(str(folder))
    cond = encoder(["a red fox", "a blue cat on the"])
    assert encoder.width == 24 and torch.equal(cond.mask, ids != 0) and cond.vector is None
    assert (cond.tokens - want).abs().max() <= 3e-5 * want.abs().mean()
    alone = encoder(["a red fox"])
    assert alone.mask.all() and torch.allclose(alone.tokens, cond.tokens[:1, :4], atol=1e-6)
    fixed = HuggingEncoder(str(folder), length=9, fixed=True)(["a red fox", None])
    assert fixed.mask is None and fixed.tokens.shape == (2, 9, 24)
    assert torch.allclose(fixed.tokens[:1, :4], alone.tokens, atol=1e-6)
    assert HuggingEncoder(str(folder), length=3)(["a red fox on the wall"]).tokens.shape == (1, 3, 24)


@pytest.mark.parametrize("name", ["t5_orig", "t5_v1_1"])
def test_recorded_states(shared, name):
    numpy = pytest.importorskip("numpy")
    want = {k: torch.from_numpy(v) for k, v in numpy.load(shared / f"fixtures/{name}_ref.npz").items()}
    encoder = HuggingEncoder(str(shared / "fixtures" / name))
    encoder.tokenizer = lambda texts, **how: transformers.BatchEncoding(
        {"input_ids": want["ids"], "attention_mask": want["mask"]}
    )
    cond = encoder(["", ""])
    assert (cond.tokens - want["out"]).abs().max() <= 3e-5 * want["out"].abs().mean()
    assert torch.equal(cond.mask, want["mask"].bool())


def test_recorded_ids(shared):
    fixtures = shared / "fixtures"
    encoder = HuggingEncoder(str(fixtures / "t5_v1_1"), str(fixtures / "t5_tokenizer"), length=512)
    for row in json.loads((fixtures / "t5_tokenizer/ref.json").read_text(encoding="utf-8")):
        assert encoder.tokenizer(row["text"]).input_ids == row["ids"], row["text"]
    said = encoder([emphasised("a (photo:2) of"), "naïve 日本"])
    plain = encoder(["a photo of", "naïve 日本"])
    assert torch.equal(said.tokens[1], plain.tokens[1]) and not torch.allclose(said.tokens[0], plain.tokens[0])


def test_emphasis(folder):
    encoder = HuggingEncoder(str(folder))
    plain = encoder(["a red fox"]).tokens
    want = plain * torch.tensor([1, 1.5, 1, 1])[:, None]
    want *= plain.square().mean().sqrt() / want.square().mean().sqrt()
    both = encoder(["a blue cat on the wall", emphasised("a (red:1.5) fox")])
    assert torch.allclose(both.tokens[1:, :4], want, atol=1e-5)


def test_a_bundle_holds_its_name_alone(folder, tmp_path):
    encoder = HuggingEncoder(str(folder), length=12)
    want = encoder(["a red fox"]).tokens
    assert not list(encoder.parameters()) and not encoder.state_dict()
    again = bundle.load(bundle.save(encoder, tmp_path / "it.safetensors"))
    assert (tmp_path / "it.safetensors").stat().st_size < 2000
    assert torch.equal(again(["a red fox"]).tokens, want)
    again.train()
    assert not again.model.training and not any(p.requires_grad for p in again.model.parameters())


def test_moves_before_and_after_it_is_read(folder):
    encoder = HuggingEncoder(str(folder)).to("meta")
    assert encoder.place.type == "meta" and next(encoder.model.parameters()).device.type == "meta"
    late = HuggingEncoder(str(folder))
    assert next(late.model.parameters()).device.type == "cpu"
    assert next(late.to("meta").model.parameters()).device.type == "meta"


def test_what_is_not_there(folder, tmp_path, monkeypatch, capsys):
    with pytest.raises(Problem, match="no text encoder there"):
        HuggingEncoder(str(tmp_path))(["a"])
    with pytest.raises(Problem, match="holds no tokenizer"):
        HuggingEncoder(str(folder), tokenizer=str(tmp_path))(["a"])
    with pytest.raises(Problem, match="wants words"):
        HuggingEncoder(str(folder))([3])

    def absent(*_):
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    monkeypatch.setattr("phosphene.cli._run", absent)
    assert main(["list"]) == 2 and "pip install 'phosphene[encoders]'" in capsys.readouterr().err
