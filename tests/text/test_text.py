import unicodedata

import pytest
import torch

from phosphene.errors import Problem
from phosphene.nets.transformer import TextTransformer
from phosphene.text.encoders import ClassEncoder, TextEncoder, token_weights
from phosphene.text.prompt import emphasised
from phosphene.text.tokenizer import Tokenizer
from phosphene.text.vocabulary import Vocabulary

CAPTIONS = ["a small red circle", "a large blue square", "一个红色圆形", "一个蓝色正方形"] * 8


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CAPTIONS, 400, length=16)


@pytest.mark.parametrize("text", ["a small red circle", "一个红色圆形", "naïve ☃ 🦊\x00", "ﬁ"])
def test_every_text_survives(tokenizer, text):
    tokenizer = Tokenizer(tokenizer.arguments["table"], length=64)
    ids, mask = tokenizer([text])
    back = tokenizer.bpe.decode(ids[0, : mask[0].sum()].tolist())
    assert back.strip() == unicodedata.normalize("NFKC", text).lower()


def test_pads_and_cuts(tokenizer):
    ids, mask = tokenizer(["", "a small red circle", "z" * 500])
    assert ids.shape == mask.shape == (3, 16)
    assert mask.sum(1).tolist()[0] == 2 and ids[0, :2].tolist() == [tokenizer.start, tokenizer.end]
    assert ids[2, -1] == tokenizer.end and (ids[~mask] == tokenizer.pad).all()
    assert tokenizer([""])[0].shape == (1, 2)


def test_common_words_are_one_token(tokenizer):
    assert tokenizer(["red"])[1].sum() == 3


def test_the_same_captions_give_the_same_table(tokenizer):
    assert Tokenizer.train(CAPTIONS, 400, length=16).arguments == tokenizer.arguments


def test_a_broken_table():
    with pytest.raises(Problem, match="tokenizer table"):
        Tokenizer("{}")


def test_text_encoder_ignores_padding_and_batch(tokenizer):
    torch.manual_seed(0)
    encoder = TextEncoder(tokenizer, TextTransformer(len(tokenizer), 16, 2, 2, 16)).eval()
    both, alone = encoder(["red", "a large blue square 一个红色圆形"]), encoder(["red"])
    n = alone.tokens.shape[1]
    assert both.tokens.shape[1] > n
    assert torch.allclose(both.tokens[:1, :n], alone.tokens, atol=1e-6)
    assert torch.allclose(both.vector[:1], alone.vector, atol=1e-6)
    assert torch.equal(encoder([None]).tokens, encoder([""]).tokens)
    assert not torch.allclose(encoder(["red"]).vector, encoder(["blue"]).vector)
    with pytest.raises(Problem, match="wants words"):
        encoder([3])


def test_class_encoder():
    encoder = ClassEncoder(3, 8, names=["cat", "dog", "fox"])
    rows = encoder([0, "dog", "2", None]).vector
    assert torch.equal(rows, encoder.embedding.weight)
    for wrong in (3, -1, "bird", "1.5"):
        with pytest.raises(Problem, match="0 … 2 or one of cat, dog, fox"):
            encoder([wrong])


def test_vocabulary():
    known = Vocabulary(
        [
            ["grinning cat", "咧嘴笑的猫", "smile", "mouth"],
            ["rocket", "火箭", "space"],
            ["red apple", "红苹果", "fruit"],
        ],
        style=["3D", "flat", "立体"],
    )
    for prompt in ("a grinning cat", "3D rocket", "火箭", "立体 火箭", "red apples", "a smiling mouth", ""):
        assert known(prompt).known, prompt
    for prompt in ("a quantum computer on mars", "大熊猫吃竹子"):
        assert not known(prompt).known, prompt
    assert known("a rocket riding a green unicorn over paris").nearest == "rocket"


@torch.no_grad()
def test_text_encoder_takes_emphasis(tokenizer):
    """A prompt's tokens times weight, then all of the size that they had; others of the batch as they were."""
    torch.manual_seed(0)
    encoder = TextEncoder(tokenizer, TextTransformer(len(tokenizer), 16, 2, 2, 16)).eval()
    plain, said = encoder(["a small red circle"]), emphasised("a small (red:1.5) circle")
    weights = torch.tensor([1, 1, 1, 1.5, 1, 1])[None, :, None]
    want = plain.tokens * weights
    want *= plain.tokens.square().mean().sqrt() / want.square().mean().sqrt()
    alone, batch = encoder([said]), encoder(["a large blue square 一个红色圆形", said, None])
    assert torch.allclose(alone.tokens, want, atol=1e-6) and torch.allclose(alone.vector, want.mean(1), atol=1e-6)
    assert torch.allclose(batch.tokens[1:2, :6], want, atol=1e-5)
    others = encoder(["a large blue square 一个红色圆形", "a", None])
    assert torch.equal(batch.tokens[::2], others.tokens[::2])
    assert torch.equal(encoder([emphasised("a small red circle")]).tokens, plain.tokens)
    assert torch.equal(encoder([emphasised("a BREAK small")]).tokens, encoder(["a small"]).tokens)


@pytest.mark.parametrize("text, least, most", [("(一个:2)红色圆形", 1, 2), ("sm(all:0.5)", 0.5, 1)])
def test_weights_do_not_change_the_tokens(tokenizer, text, least, most):
    """Where the weight changes within a token, the token has the mean of its characters'."""
    said = emphasised(text)
    found = token_weights([said], tokenizer.spans, 16)[0]
    ids, mask = tokenizer([str(said)])
    assert torch.equal(ids, tokenizer([text.translate(str.maketrans("", "", "():.025"))])[0])
    assert least <= found.min() and found.max() <= most
    assert (found != 1).any() and found[0] == 1 and (found[mask.sum() - 1 :] == 1).all()
    assert len(tokenizer.spans(str(said))) == mask.sum()


def test_a_tokens_weight_is_the_mean_of_its_characters(tokenizer):
    assert token_weights([emphasised("sm(all:0.5)")], tokenizer.spans, 16)[0, 1] == pytest.approx((2 + 3 * 0.5) / 5)
    assert token_weights([emphasised("a (red:1.5)")], tokenizer.spans, 16)[0, 2] == 1.5  # its blank counts for nothing
