"""Tokens back to words, and words onto the picture."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from phosphene import views
from phosphene.data.scenes import Scenes
from phosphene.errors import Problem
from phosphene.nets.transformer import TextTransformer
from phosphene.text.clip import ClipTextEncoder, ClipTokenizer
from phosphene.text.encoders import ClassEncoder, TextEncoder
from phosphene.text.tokenizer import Tokenizer
from phosphene.views.words import attended, overlaid, words_of
from systems.small import awake, made


@pytest.fixture(scope="module")
def ours() -> TextEncoder:
    captions = [c for i in range(40) for c in Scenes(n=40)[i].captions]
    tokenizer = Tokenizer.train(captions, 330)
    return TextEncoder(tokenizer, TextTransformer(len(tokenizer), 16, 1, 2))


@pytest.fixture(scope="module")
def clip() -> ClipTextEncoder:
    tokenizer = ClipTokenizer.shipped()
    return ClipTextEncoder(tokenizer, TextTransformer(len(tokenizer), 8, 1, 1, 77, True))


def spelled(encoder, prompt: str) -> list[str]:
    return [word.text for word in words_of(encoder, prompt)]


def test_words_are_whole_again(ours):
    assert spelled(ours, "a Red hexagon, left-of TWO zebras") == ["a", "Red", "hexagon", "left", "of", "TWO", "zebras"]
    ids, _ = ours.tokenizer(["a Red hexagon, left-of TWO zebras"])
    for word in words_of(ours, "a Red hexagon, left-of TWO zebras"):
        assert ours.tokenizer.bpe.decode(ids[0, list(word.tokens)].tolist()).strip() == word.text.lower()
    assert any(len(word.tokens) > 1 for word in words_of(ours, "hexagon"))


def test_chinese_words_are_what_tokens_stand_for(ours):
    prompt = "一个红色圆形 and 狐狸"
    words = words_of(ours, prompt)
    assert "".join(word.text for word in words) == prompt.replace(" ", "")
    assert len(words) > 4 and {"and", "狐", "狸"} <= {word.text for word in words}  # 狐 is several bytes' tokens
    assert max(len(word.tokens) for word in words) > 1
    every = [token for word in words for token in word.tokens]
    assert sorted(every) == list(range(1, len(ours.tokenizer.spans(prompt)) - 1))  # each token once, but start and end


def test_clips_words_stand_in_chunks_of_77(clip):
    prompt = " ".join(["a Fox,"] * 30 + ["behind", "the", "lighthouse"])
    words = words_of(clip, prompt)
    ids = clip._ids(clip._chunks(prompt)).flatten()
    assert len(ids) == 2 * 77 and [w.text for w in words[-3:]] == ["behind", "the", "lighthouse"]
    for word in words:
        said = clip.tokenizer.bpe.decode(ids[list(word.tokens)].tolist()).replace(" ", "")
        assert said.replace("</w>", "") == word.text.lower()
    assert words[-1].tokens[0] > 77


def test_what_has_no_words_is_refused(ours):
    for encoder, prompt, says in (
        (ours, "  ", "words are wanted"),
        (ours, None, "words are wanted"),
        (ours, "?!", "no word"),
        (ClassEncoder(3, 4), "cat", "ClassEncoder"),
    ):
        with pytest.raises(Problem, match=says):
            words_of(encoder, prompt)


@pytest.fixture(scope="module")
def system():
    return awake(made("latent")[0])


def test_maps_add_up(system):
    found = attended(system, "a red circle", 3, steps=2, guidance=2.0)
    assert [w.text for w in found.words] == ["a", "red", "circle"] and set(found.by_size) == {(8, 8), (4, 4)}
    assert float(found.maps.sum(0).mean()) + found.other + found.beside == pytest.approx(1, abs=1e-5)
    assert found.beside == pytest.approx(0, abs=1e-5) and found.other > 0.05
    *_, plain = system.generate(["a red circle"], seeds=[3], steps=2, guidance=2.0)
    assert torch.equal(found.picture, plain.picture())


def test_maps_are_of_the_prompt_and_not_of_the_null(system):
    """At guidance 1 the null is not asked; what is recorded of the first step, before they part, is the same."""
    alone = attended(system, "a red circle", 3, steps=1, guidance=1.0)
    both = attended(system, "a red circle", 3, steps=1, guidance=5.0)
    torch.testing.assert_close(alone.maps, both.maps, atol=1e-6, rtol=1e-4)


def test_a_view_of_words(system):
    view = views.words("a red circle", model=system, seed=3, steps=2)
    [grid] = view.parts
    assert [c.split("\n")[0] for c in grid.columns] == ["the picture", "a", "red", "circle"]
    assert len(grid.cells) == 3 and grid.rows[1:] == ["layers of 8x8", "layers of 4x4"]
    assert sum(view.numbers["shares"]) + view.numbers["other"] == pytest.approx(1, abs=1e-5)


def test_a_model_that_hears_no_words_is_told_so():
    system, _ = made("ddpm_class")
    with pytest.raises(Problem, match="ClassEncoder does not say"):
        views.words("3", model=system, steps=1)


def test_heat_is_where_the_weights_are():
    weights = torch.zeros(4, 4)
    weights[0, 3] = 1.0
    shown = overlaid(Image.new("RGB", (64, 64), "white"), weights).convert("L")
    assert shown.getpixel((58, 5)) > 200 and shown.getpixel((5, 58)) < 110
    even = overlaid(Image.new("RGB", (8, 8), "white"), torch.full((4, 4), 0.3))
    assert len(even.getcolors()) == 1
