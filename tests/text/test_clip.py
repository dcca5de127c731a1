"""CLIP's tokenizer and text encoder, against OpenAI's recorded ids and transformers' models."""

import json
import time

import pytest
import torch

from phosphene.errors import Problem
from phosphene.nets.transformer import TextTransformer
from phosphene.parts import again
from phosphene.text.clip import END, SHIPPED, ClipTextEncoder, ClipTokenizer, Token, _openai, mean, packed
from phosphene.text.encoders import resized
from phosphene.text.prompt import emphasised
from phosphene.weights import bundle
from phosphene.weights.clip import text_entries_hf
from phosphene.weights.tables import fill

LONG = "a red fox, sitting on a wall, in the evening sun, " * 6 + "and many more words"  # 88 tokens


@pytest.fixture(scope="module")
def shipped():
    return ClipTokenizer.shipped()


@pytest.fixture(scope="module")
def encoder(shipped):
    torch.manual_seed(0)
    net = TextTransformer(len(shipped), 16, 3, 2, 77, causal=True, act="quick_gelu")
    torch.nn.init.normal_(net.norm.bias)  # a norm as it begins leaves no mean
    return ClipTextEncoder(shipped, net).eval()


OPENAI = {"table": "openai", "mark": END}


# The tokenizer


def test_known_ids(shipped):
    assert len(shipped) == 49408 and (shipped.start, shipped.end) == (49406, 49407)
    assert shipped.ids("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert shipped.ids("") == []
    ids, mask = shipped(["a photo of a cat", LONG], pad=0)
    assert ids.shape == mask.shape == (2, 77) and mask.sum(1).tolist() == [7, 77]
    assert ids[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    assert ids[1].tolist() == [49406, *shipped.ids(LONG)[:75], 49407]
    assert shipped(["x"])[0][0, -1] == 49407


@pytest.mark.parametrize(
    "awkward, same",
    [
        ("don’t “smart” quotes", 'don\'t "smart" quotes'),
        ("Ben &amp;amp; Jerry&#39;s", "ben & jerry's"),
        ("  lots \t of\n white\xa0space ", "lots of white space"),
        ("ﬁne ＡＢＣ １２", "fine abc 12"),
        ("null\x00byte", "nullbyte"),
        ("schÃ¶n", "schön"),
    ],
)
def test_cleaning_is_openais(shipped, awkward, same):
    assert shipped.ids(awkward) == shipped.ids(same)


def test_special_tokens_in_a_text_are_these(shipped):
    assert shipped.ids("a <|ENDOFTEXT|>") == [320, 49407]


def test_openais_ids(shared, shipped):
    """30 awkward texts, of which transformers' own tokenizer gets 8 wrong."""
    folder = shared / "fixtures/tokenizer"
    tiny = ClipTokenizer.from_merges(folder / "tiny/bpe_tiny.txt.gz")
    for row in json.loads((folder / "tokenizer_ref.json").read_text(encoding="utf-8"))["rows"]:
        assert shipped.ids(row["text"]) == row["real"]["openai"], row["text"]
        assert tiny.ids(row["text"]) == row["tiny"]["openai"], row["text"]


def folder_of(path, vocabulary, merges):
    path.mkdir(exist_ok=True)
    (path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return path


def test_folders(tmp_path, shipped):
    """The two ways in which Hugging Face writes it; CLIP's own vocabulary is stored by its name."""
    vocabulary, merges = _openai()
    assert ClipTokenizer.from_folder(folder_of(tmp_path / "full", vocabulary, merges)).arguments == OPENAI
    assert ClipTokenizer.from_merges(SHIPPED).arguments == OPENAI

    few = merges[:300]
    tokens = [*list(vocabulary)[:512], *("".join(m.split()) for m in few), *list(vocabulary)[-2:]]
    small = ClipTokenizer.from_folder(folder_of(tmp_path / "small", {t: i for i, t in enumerate(tokens)}, few))
    assert len(small) == 814 and small.arguments["table"] != "openai"
    (tmp_path / "new").mkdir()
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer(str(tmp_path / "small/vocab.json"), str(tmp_path / "small/merges.txt"))
    theirs.backend_tokenizer.save(str(tmp_path / "new/tokenizer.json"))
    assert ClipTokenizer.from_folder(tmp_path / "new").arguments == small.arguments
    again = bundle.load(bundle.save(small, tmp_path / "it.safetensors"))
    assert again.ids("an astronaut") == small.ids("an astronaut")


def test_ordinary_text_as_transformers_has_it(tmp_path, shipped):
    transformers = pytest.importorskip("transformers")
    folder = folder_of(tmp_path / "full", *_openai())
    theirs = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    for text in (
        LONG,
        "It's 3.14 o'clock; they're WE'LL (x:1.2) [y] <z>!!!",
        "Żółw 日本の猫 Привет 😀👍🏽",
        "1,000 xs",
    ):
        assert shipped.ids(text) == theirs(text, add_special_tokens=False).input_ids
        ours, mask = shipped([text])
        want = theirs([text], padding="max_length", max_length=77, truncation=True)
        assert ours.tolist() == want.input_ids and mask.long().tolist() == want.attention_mask


def test_a_folder_that_pads_with_a_word(tmp_path):
    """Stable Diffusion 2's "!": transformers reads it as padding in texts too, so "cat!" ends in 0."""
    transformers = pytest.importorskip("transformers")
    folder = folder_of(tmp_path / "two", *_openai())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer", "pad_token": "!"}')
    ours, theirs = ClipTokenizer.from_folder(folder), transformers.CLIPTokenizer.from_pretrained(folder)
    assert ours.arguments == {"table": "openai", "mark": "!"} and ours.pad == theirs.pad_token_id == 0
    text = "a cat! and!! more"
    assert ours.ids(text) == theirs(text, add_special_tokens=False).input_ids and ours.ids("cat!") == [2368, 0]
    assert ClipTokenizer.shipped().ids("cat!") == [2368, 256]


def test_what_is_no_tokenizer(tmp_path):
    (tmp_path / "vocab.json").write_text("[1, 2]")
    with pytest.raises(Problem, match=r"vocab\.json and merges.txt"):
        ClipTokenizer.from_folder(tmp_path)
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.raises(Problem, match="JSON object"):
        ClipTokenizer.from_folder(tmp_path)
    for vocabulary, says in (
        ('{"a": 0, "b": 1}', "'a b' does not merge"),
        ('{"a": 0, "b": "x"}', "numbers"),
        ('{"ab": 0}', "out of vocabulary"),
        ('{"a": 0, "b": 1, "ab": 2}', "endoftext"),
    ):
        (tmp_path / "vocab.json").write_text(vocabulary)
        with pytest.raises(Problem, match=says):
            ClipTokenizer.from_folder(tmp_path)
    (tmp_path / "x.gz").write_bytes(b"nothing")
    for path, says in ((tmp_path / "x.gz", "gzip"), (tmp_path / "none.gz", "not there")):
        with pytest.raises(Problem, match=says):
            ClipTokenizer.from_merges(path)
    with pytest.raises(Problem, match="tokenizer table"):
        ClipTokenizer("{}")


# Chunks


def tokens(*ids):
    return [[Token(i)] for i in ids]


def lengths(units, size=75, comma=0):
    return [len(chunk) for chunk in packed(units, size, comma)]


def test_chunks():
    assert packed([], 75, 0) == [[]]
    assert lengths(tokens(*[1] * 75)) == [75]
    assert lengths(tokens(*[1] * 76)) == [75, 1]
    assert lengths(tokens(*[1] * 151)) == [75, 75, 1]


@pytest.mark.parametrize("at, want", [(74, [75, 5]), (60, [61, 19]), (55, [56, 24]), (54, [75, 5]), (10, [75, 5])])
def test_what_follows_a_near_comma_moves_into_the_next_chunk(at, want):
    ids = [1] * 80
    ids[at] = 0
    assert lengths(tokens(*ids)) == want
    assert [t.id for chunk in packed(tokens(*ids), 75, 0) for t in chunk] == ids


def test_a_comma_does_not_move_for_a_comma():
    assert lengths(tokens(*[1] * 60, 0, *[1] * 14, 0, 1)) == [75, 2]


def test_a_word_of_several_vectors_stays_together():
    word = [Token(1)] * 10
    assert lengths([*tokens(*[1] * 70), word]) == [70, 10]
    assert lengths([*tokens(*[1] * 60, 0, *[1] * 14), [Token(1)] * 70]) == [61, 14, 70]
    with pytest.raises(Problem, match="76 vectors"):
        lengths([[Token(1)] * 76])


# The encoder


def test_equals_transformers(shipped):
    """Random CLIP text models of two kinds: states, clip skip, pooled vector, on prompts that end early or never."""
    transformers = pytest.importorskip("transformers")
    for act, pad, seed in (("quick_gelu", None, 1), ("gelu", 0, 2)):
        torch.manual_seed(seed)
        sizes = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3)
        config = transformers.CLIPTextConfig(hidden_act=act, projection_dim=24, eos_token_id=49407, **sizes)
        theirs = transformers.CLIPTextModel(config).eval()
        net = TextTransformer(49408, 24, 3, 3, 77, causal=True, act=act, hidden=40)
        state = {k.removeprefix("text_model."): v for k, v in theirs.state_dict().items() if "position_ids" not in k}
        fill(net, text_entries_hf(3), state, what="a test")
        ours = ClipTextEncoder(shipped, net, pad, pooled=True, long=False).eval()
        prompts = ["a photo of a cat", "", None, LONG]
        ids, _ = shipped([p or "" for p in prompts], pad=pad)
        with torch.no_grad():
            want, cond = theirs(ids, output_hidden_states=True), ours(prompts)
            skipped = getattr(theirs, "text_model", theirs).final_layer_norm(want.hidden_states[-2])
            for a, b in (
                (cond.tokens, want.last_hidden_state),
                (cond.vector, want.pooler_output),
                (ours(prompts, skip=1).tokens, skipped),
                (ClipTextEncoder(shipped, net, pad, skip=1, long=False)(prompts).tokens, skipped),
            ):
                assert (a - b).abs().max() <= 3e-5 * b.abs().mean()
        assert cond.mask is None


def test_recorded_states(shared):
    """SD 1's and SD 2's encoders: Stable Diffusion's padding, clip skip and pooling."""
    numpy = pytest.importorskip("numpy")
    from phosphene.weights import files

    fixtures = shared / "fixtures"
    for name, act, pad in (("sd1", "quick_gelu", None), ("sd2", "gelu", None)):
        config = json.loads((fixtures / name / "text_encoder/config.json").read_text())
        net = TextTransformer(
            config["vocab_size"],
            config["hidden_size"],
            config["num_hidden_layers"],
            config["num_attention_heads"],
            77,
            causal=True,
            act=act,
            hidden=config["intermediate_size"],
        )
        weights = files.open_tensors(fixtures / name / "text_encoder/model.safetensors")
        fill(
            net,
            text_entries_hf(config["num_hidden_layers"]),
            weights.under("text_model."),
            what=name,
            ignore=lambda k: "position_ids" in k,
        )
        ours = ClipTextEncoder(ClipTokenizer.from_folder(fixtures / name / "tokenizer"), net, pad, pooled=True).eval()
        told = json.loads((fixtures / f"{name}_ref.json").read_text())
        want = numpy.load(fixtures / f"{name}_ref.npz")
        with torch.no_grad():
            cond, skipped = ours(told["prompts"]), ours(told["prompts"], skip=1)
        for got, key in ((cond.tokens, "te_last"), (cond.vector, "te_pooled"), (skipped.tokens, "te_skip2")):
            if key in want:
                reference = torch.from_numpy(want[key])
                assert (got - reference).abs().max() <= 3e-5 * reference.abs().mean(), (name, key)


@torch.no_grad()
def test_long_prompts(encoder):
    """Chunks are encoded each by itself, and joined; a shorter prompt of the batch is masked, not filled."""
    ids = encoder.tokenizer.ids(LONG)
    assert len(ids) == 88
    both, alone = encoder([LONG, "a cat"]), encoder(["a cat"])
    assert both.tokens.shape == (2, 154, 16) and both.mask.sum(1).tolist() == [154, 77]
    assert alone.mask is None and torch.allclose(both.tokens[1:, :77], alone.tokens, atol=1e-6)
    split = lambda ids: "".join(map(encoder.tokenizer.bpe.id_to_token, ids)).replace("</w>", " ")  # noqa: E731
    joined = encoder([emphasised(f"{split(ids[:75])} BREAK {split(ids[75:])}")])
    assert joined.tokens.shape == (1, 154, 16)
    first = encoder([LONG]).tokens  # its 74th token is a comma, so the 75th moves on
    assert not torch.allclose(first, joined.tokens, atol=1e-3)
    assert ids[73] == encoder.tokenizer.comma
    moved = encoder([emphasised(f"{split(ids[:74])} BREAK {split(ids[74:])}")])
    assert torch.allclose(first, moved.tokens, atol=1e-6)


def test_an_absurdly_long_prompt_is_cut_into_chunks_in_no_time(encoder):
    """In time that grows with its length, not with the square of it."""
    text = "".join("etaoin shrdlu"[i * i % 13] for i in range(300_000))
    began = time.process_time()
    chunks = encoder._chunks(text)
    assert time.process_time() - began < 10
    assert [token.id for chunk in chunks for token in chunk] == encoder.tokenizer.ids(text)


@torch.no_grad()
def test_padding_is_left_out_where_it_is_masked(encoder):
    """Of every chunk what lies behind its <|endoftext|>; the states are the same."""
    masked = again(encoder, masked=True)
    ours, theirs = masked(["a red fox", LONG]), encoder(["a red fox", LONG])
    assert torch.equal(ours.tokens, theirs.tokens)
    tokens = len(encoder.tokenizer.ids(LONG))
    assert ours.mask.sum(1).tolist() == [5, tokens + 4] and ours.mask[0, :5].all()
    assert masked(["a"]).mask.sum() == 3 and encoder(["a"]).mask is None


def test_breaks(encoder):
    a, b, none = (encoder([t]).tokens for t in ("a", "b", ""))
    assert torch.allclose(encoder([emphasised("a BREAK b")]).tokens, torch.cat([a, b], 1), atol=1e-6)
    assert torch.allclose(encoder([emphasised("BREAK b")]).tokens, torch.cat([none, b], 1), atol=1e-6)
    assert torch.allclose(encoder([emphasised("a BREAK ")]).tokens, a, atol=1e-6)


@torch.no_grad()
def test_emphasis(encoder):
    """Tokens times weight, then the chunk's mean as before; whatever else is in the batch."""
    plain = encoder(["a red cat"]).tokens
    said = emphasised("a (red:1.5) cat")
    weights = torch.ones(1, 77, 1)
    weights[0, 2] = 1.5
    want = plain * weights
    want *= plain.mean() / want.mean()
    assert torch.allclose(encoder([said]).tokens, want, atol=1e-5)
    batch = encoder(["a dog", said, emphasised("(a:0.1) pig")])
    assert torch.allclose(batch.tokens[1:2], want, atol=1e-5)
    assert torch.allclose(batch.tokens[:1], encoder(["a dog"]).tokens, atol=1e-6)
    assert torch.equal(encoder([emphasised("(a red cat:1.0)")]).tokens, plain)


def test_emphasis_of_tokens_without_a_mean(shipped):
    """A chunk whose mean is rounding alone is not brought to it: that would be any factor, of either sign."""
    torch.manual_seed(0)
    encoder = ClipTextEncoder(shipped, TextTransformer(len(shipped), 16, 1, 2, 77, causal=True)).eval()
    with torch.no_grad():
        plain, said = encoder(["a red cat"]).tokens, encoder([emphasised("a (red:1.5) cat")]).tokens
    assert torch.equal(said[0, 2], 1.5 * plain[0, 2]) and torch.equal(said[0, 3:], plain[0, 3:])


def test_recorded_emphasis(shared):
    numpy = pytest.importorskip("numpy")
    told = {k: torch.from_numpy(v) for k, v in numpy.load(shared / "fixtures/a1111_emphasis.npz").items()}
    weighted = told["z"] * told["mult"][..., None]
    assert torch.allclose(weighted, told["no_norm"], atol=1e-12)
    got = resized(told["z"], weighted, mean)
    assert torch.allclose(got, told["original"], atol=1e-12)


@torch.no_grad()
def test_words(encoder):
    """Vectors in the place of embeddings: found by the trigger's tokens, the longest first, in any case."""
    vector = torch.randn(3, 16)
    embedding = encoder.transformer.token
    try:
        plain = encoder(["a cat dog"]).tokens
        cat, dog = (embedding.weight[encoder.tokenizer.ids(w)[0]] for w in ("cat", "dog"))
        encoder.words = {"zz": torch.stack([cat, dog])}
        assert torch.allclose(encoder(["a ZZ"]).tokens, plain, atol=1e-6)
        encoder.words = {"my": vector[:1], "my style": vector}
        one = encoder(["in my style, my cat"])
        embedded = embedding(encoder.tokenizer(["in x x x, x cat"])[0])
        embedded[0, 2:5], embedded[0, 6] = vector, vector[0]
        ids, _ = encoder.tokenizer(["in x x x, x cat"])
        assert torch.allclose(one.tokens, encoder.transformer(ids, words=embedded), atol=1e-6)
        assert encoder([f"{'my style ' * 30}"]).tokens.shape[1] == 154  # 25 words of 3 vectors a chunk
    finally:
        encoder.words = {}


def test_files_and_refusals(encoder, tmp_path):
    again = bundle.load(bundle.save(encoder, tmp_path / "it.safetensors"))
    assert torch.equal(again(["a fox"]).tokens, encoder(["a fox"]).tokens)
    assert (tmp_path / "it.safetensors").stat().st_size < 49408 * 16 * 4 + 100_000  # no vocabulary inside
    with pytest.raises(Problem, match="has 3 blocks"):
        encoder(["a"], skip=3)
    with pytest.raises(Problem, match="wants words"):
        encoder([3])
    assert END == "<|endoftext|>" and encoder.pad == encoder.tokenizer.end
