"""CLIP of others: against recorded answers, and against transformers with fresh weights; read, written, refused."""

import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from phosphene.errors import Assumed, Problem
from phosphene.nets.autoencoder import ConvTower
from phosphene.nets.resnet import ClipResNet
from phosphene.nets.transformer import TextTransformer, VisionTransformer
from phosphene.systems.clip import ClipSystem, Look
from phosphene.text.clip import ClipTextEncoder, ClipTokenizer
from phosphene.text.encoders import TextEncoder
from phosphene.text.tokenizer import Tokenizer
from phosphene.weights import bundle
from phosphene.weights.clip import write_hugging_face, write_open_clip
from phosphene.weights.load import load
from phosphene.weights.save import save_as

TOLERANCE = 3e-5  # max|Δ| / mean|reference|
PROMPTS = ["a photo of a fox", "", "Pizza, on a plate " * 20]


def off(ours: torch.Tensor, theirs) -> float:
    theirs = torch.as_tensor(theirs).detach()
    assert ours.shape == theirs.shape
    return float((ours.detach() - theirs).abs().max() / theirs.abs().mean())


def small(seed: int = 0, act: str = "gelu", resnet: bool = False) -> ClipSystem:
    """A random CLIP with OpenAI's conventions and its 49408 tokens."""
    torch.manual_seed(seed)
    text = TextTransformer(49408, 16, 2, 4, 77, True, act, hidden=40)
    encoder = ClipTextEncoder(ClipTokenizer.shipped(), text, 0, pooled="largest", long=False)
    tower = ClipResNet((1, 2, 1, 1), 8, 64, 8, 12) if resnet else VisionTransformer(32, 8, 24, 2, 3, True, act, 60)
    system = ClipSystem(encoder, tower, 12, look=Look(tower.size)).eval()
    for norm in (m for m in system.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return system


def same(a: nn.Module, b: nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def shown(system: ClipSystem) -> list:
    look = system.look
    return [look.size, list(look.mean), list(look.std), look.whole, look.filter, look.short]


# Recorded ------------------------------------------------------------------------------------------------------------

RECORDED = [
    ("clip/hf", "clip/hf_ref"),
    ("clip/hf/model.safetensors", "clip/hf_ref"),
    ("clip/vit_statedict_fp16.pt", "clip/vit_ref"),
    ("clip/rn_statedict_fp16.pt", "clip/rn_ref"),
    ("open_clip/gelu", "open_clip/gelu_ref"),
    ("open_clip/quick", "open_clip/quick_ref"),
    ("open_clip/quick/open_clip_pytorch_model.bin", "open_clip/quick_ref"),
]


@pytest.mark.parametrize("path, recorded", RECORDED)
def test_it_answers_as_recorded(path, recorded, shared):
    """What everything says is taken without a word, and both towers answer to rounding."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        system = load(shared / "fixtures" / path, tokenizer=shared / "fixtures/tokenizer/tiny")
    told = np.load(shared / f"fixtures/{recorded}.npz")
    ids = torch.from_numpy(told["ids"])
    with torch.no_grad():
        states = system.text.transformer(ids)
        text = system.text_projection(states[torch.arange(len(ids)), ids.argmax(-1)])
        image = system.image_projection(system.image(torch.from_numpy(told["image"])))
        rows = {"text_features": text, "image_features": image, "text_last_ln": states}
        rows["text_embeds_normalized"] = rows["text_features_normalized"] = F.normalize(text, dim=-1)
        rows["image_embeds_normalized"] = F.normalize(image, dim=-1)
        rows["text_penultimate_ln"] = system.text.transformer(ids, skip=1)
        rows["logits_per_image"] = system.scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    compared = [name for name in told.files if name in rows]
    assert len(compared) >= 3
    assert {name: off(rows[name], told[name]) for name in compared} == {
        name: pytest.approx(0, abs=TOLERANCE) for name in compared
    }


@pytest.mark.parametrize("kind", ["gelu", "quick"])
def test_an_open_clip_folder_is_written_as_open_clip_does(kind, shared, tmp_path):
    folder, tiny = shared / "fixtures/open_clip" / kind, shared / "fixtures/tokenizer/tiny"
    lost = write_open_clip(load(folder, tokenizer=tiny), tmp_path)
    assert len(lost) == 1 and "tokenizer" in lost[0]
    ours, theirs = (load_file(f / "open_clip_model.safetensors") for f in (tmp_path, folder))
    assert sorted(ours) == sorted(json.loads((folder / "keys.json").read_text()))
    assert all(torch.equal(ours[key], theirs[key].float()) for key in theirs)
    configs = [json.loads((f / "open_clip_config.json").read_text()) for f in (tmp_path, folder)]
    assert configs[0] == configs[1]


# Against transformers -------------------------------------------------------------------------------------------------

transformers = pytest.importorskip("transformers")

SIZES = {  # seed, activation of the text tower, of the picture tower, sizes of both
    "quick": (1, "quick_gelu", "quick_gelu", (32, 2, 4, 48), (48, 3, 2, 40, 32, 16)),
    "gelu": (2, "gelu", "gelu", (24, 3, 2, 96), (40, 2, 5, 160, 24, 4)),
    "mixed": (3, "gelu_new", "quick_gelu", (16, 1, 1, 20), (16, 1, 4, 64, 20, 10)),
}


def their_text(name: str, **more):
    _, act, _, (width, layers, heads, hidden), _ = SIZES[name]
    return transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=hidden, hidden_act=act, projection_dim=20, bos_token_id=49406, eos_token_id=49407, **more,
    )  # fmt: skip


def their_image(name: str):
    _, _, act, _, (width, layers, heads, hidden, size, patch) = SIZES[name]
    return transformers.CLIPVisionConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=hidden,
        hidden_act=act, projection_dim=20, image_size=size, patch_size=patch,
    )  # fmt: skip


def theirs(kind: str, name: str = "quick"):
    """A random model of transformers, every weight of it, that something shows of each."""
    torch.manual_seed(SIZES[name][0])
    if kind == "CLIPModel":
        both = {"text_config": their_text(name).to_dict(), "vision_config": their_image(name).to_dict()}
        config = transformers.CLIPConfig(**both, projection_dim=20)
    else:
        config = their_text(name) if "Text" in kind else their_image(name)
    model = getattr(transformers, kind)(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.2)
    return model


def pictures(size: int) -> torch.Tensor:
    return torch.randn(3, 3, size, size)


@pytest.mark.parametrize("name", SIZES)
def test_a_fresh_clip_answers_alike(name, tmp_path):
    model = theirs("CLIPModel", name)
    model.save_pretrained(tmp_path)
    system = load(tmp_path)
    ids, _ = system.text.tokenizer(PROMPTS)
    image = pictures(system.image.size)
    with torch.no_grad():
        told = model(input_ids=ids, pixel_values=image)
        assert off(system.embed_text(PROMPTS), told.text_embeds) < TOLERANCE
        assert off(F.normalize(system.image_projection(system.image(image)), dim=-1), told.image_embeds) < TOLERANCE
    assert system.scale.item() == pytest.approx(model.logit_scale.exp().item())


@pytest.mark.parametrize("name", SIZES)
def test_states_of_every_depth(name, tmp_path):
    """Clip skip: hidden_states[-1 - skip] and the last norm."""
    model = theirs("CLIPTextModel", name)
    model.save_pretrained(tmp_path)
    text = load(tmp_path).text
    ids, _ = text.tokenizer(PROMPTS)
    with torch.no_grad():
        told = model(input_ids=ids, output_hidden_states=True)
        assert off(text.transformer(ids), told.last_hidden_state) < TOLERANCE
        for skip in range(len(text.transformer.blocks)):
            state = F.layer_norm(told.hidden_states[-1 - skip], (text.width,), *text.transformer.norm.parameters())
            assert off(text.transformer(ids, skip=skip), state) < TOLERANCE


@pytest.mark.parametrize("kind", ["CLIPTextModel", "CLIPTextModelWithProjection"])
@pytest.mark.parametrize("form", ["as it is", "prefix", "no prefix", "half", "file"])
def test_a_text_tower_alone(kind, form, tmp_path):
    model = theirs(kind)
    model.save_pretrained(tmp_path)
    rewrite(tmp_path / "model.safetensors", form, "text_model.", ("text_projection.weight",))
    if form == "half":
        model = model.half().float()
    system = load(tmp_path / "model.safetensors" if form == "file" else tmp_path)
    ids, _ = system.text.tokenizer(PROMPTS)
    with torch.no_grad():
        told = model(input_ids=ids)
    features = told.text_embeds if "Projection" in kind else told.pooler_output
    assert off(system.text_features(PROMPTS), features) < TOLERANCE
    with pytest.raises(Problem, match="text tower alone"):
        system.embed_image(pictures(32))


@pytest.mark.parametrize("kind", ["CLIPVisionModel", "CLIPVisionModelWithProjection"])
@pytest.mark.parametrize("form", ["as it is", "prefix", "no prefix", "half"])
def test_a_picture_tower_alone(kind, form, tmp_path):
    model = theirs(kind)
    model.save_pretrained(tmp_path)
    rewrite(tmp_path / "model.safetensors", form, "vision_model.", ("visual_projection.weight",))
    if form == "half":
        model = model.half().float()
    system, image = load(tmp_path), pictures(32)
    with torch.no_grad():
        told = model(pixel_values=image)
    features = told.image_embeds if "Projection" in kind else told.pooler_output
    assert off(system.image_projection(system.image(image)), features) < TOLERANCE
    with pytest.raises(Problem, match="picture tower alone"):
        system.embed_text(["a fox"])


def rewrite(path, form: str, prefix: str, outside) -> None:
    """The same tensors as other versions write them: with and without a prefix, with position_ids, in half."""
    tensors = load_file(path)
    bare = {key.removeprefix(prefix): t for key, t in tensors.items()}
    if form == "prefix":
        tensors = {key if key in outside else prefix + key: t for key, t in bare.items()}
        tensors[f"{prefix}embeddings.position_ids"] = torch.arange(77)[None]
    elif form == "no prefix":
        tensors = bare
    elif form == "half":
        tensors = {key: t.half() for key, t in tensors.items()}
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("end", [2, 1])
def test_where_the_text_is_read_off(end, tmp_path):
    """eos_token_id 2: at the largest id; another: at its first place. Here <|endoftext|> is 1 and not the largest."""
    letters = [c + s for s in ("", "</w>") for c in "abcdefgh"]
    tokens = ["<|startoftext|>", "<|endoftext|>", "!", *letters]
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        projection_dim=8, bos_token_id=0, eos_token_id=end,
    )  # fmt: skip
    torch.manual_seed(end)
    model = transformers.CLIPTextModelWithProjection(config).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    system = load(tmp_path)
    prompts = ["a b c h c", "h", "dead"]
    with torch.no_grad():
        told = model(input_ids=system.text.tokenizer(prompts)[0]).text_embeds
        assert off(system.text_features(prompts), told) < TOLERANCE
    assert write_hugging_face(system, tmp_path / "again") == []
    assert json.loads((tmp_path / "again/config.json").read_text())["eos_token_id"] == end


# Written --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["gelu", "quick_gelu", "gelu_tanh"])
def test_transformers_loads_what_was_written(act, tmp_path):
    system = small(4, act)
    assert write_hugging_face(system, tmp_path) == []
    model = transformers.CLIPModel.from_pretrained(tmp_path).eval()
    ids, _ = system.text.tokenizer(PROMPTS, pad=0)
    image = pictures(32)
    with torch.no_grad():
        told = model(input_ids=ids, pixel_values=image)
        assert off(system.embed_text(PROMPTS), told.text_embeds) < TOLERANCE
        assert off(F.normalize(system.image_projection(system.image(image)), dim=-1), told.image_embeds) < TOLERANCE
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    assert tokenizer("a photo of a fox")["input_ids"] == ids[0, :7].tolist()
    back = load(tmp_path)
    assert same(back, system) and shown(back) == shown(system)
    assert back.text.pooled == "largest"


@pytest.mark.parametrize("kind", ["CLIPTextModel", "CLIPTextModelWithProjection", "CLIPVisionModelWithProjection"])
def test_one_tower_goes_there_and_back(kind, tmp_path):
    model = theirs(kind, "gelu")
    model.save_pretrained(tmp_path / "theirs")
    write_hugging_face(load(tmp_path / "theirs"), tmp_path / "ours")
    again, loading = getattr(transformers, kind).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert same(again, model) and not loading["missing_keys"] and not loading["unexpected_keys"]
    assert same(load(tmp_path / "ours"), load(tmp_path / "theirs"))


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("resnet", [False, True])
def test_open_clip_there_and_back(act, resnet, tmp_path):
    system = small(5, act, resnet)
    assert write_open_clip(system, tmp_path) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = load(tmp_path)
    assert same(back, system) and shown(back) == shown(system)
    for ours, theirs in ((back.text.transformer, system.text.transformer), (back.image, system.image)):
        assert ours.arguments == theirs.arguments


def test_the_order_inside_openai_s_names(tmp_path):
    """q, k, v in the rows of one matrix; projections stand on the right."""
    theirs("CLIPModel").save_pretrained(tmp_path)
    write_open_clip(load(tmp_path), tmp_path)
    hugging, openai = (load_file(tmp_path / f"{name}.safetensors") for name in ("model", "open_clip_model"))
    for tower, prefix, key in (("text", "", "text_projection"), ("vision", "visual.", "visual.proj")):
        for kind in ("weight", "bias"):
            attention = f"{tower}_model.encoder.layers.1.self_attn"
            packed = torch.cat([hugging[f"{attention}.{q}_proj.{kind}"] for q in "qkv"])
            assert torch.equal(openai[f"{prefix}transformer.resblocks.1.attn.in_proj_{kind}"], packed)
        projection = "visual_projection" if prefix else "text_projection"
        assert torch.equal(openai[key], hugging[f"{projection}.weight"].T)


def test_the_resnet_from_its_tensors(tmp_path):
    """As the paper's code goes through the tensors, by their names."""
    system = small(10, resnet=True)
    write_open_clip(system, tmp_path)
    w = {k.removeprefix("visual."): t for k, t in load_file(tmp_path / "open_clip_model.safetensors").items()}

    def conv(x, name, norm, **how):
        x = F.conv2d(x, w[f"{name}.weight"], **how)
        return F.batch_norm(x, *(w[f"{norm}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")))

    image = pictures(64)
    x = conv(image, "conv1", "bn1", stride=2, padding=1).relu()
    for i in (2, 3):
        x = conv(x, f"conv{i}", f"bn{i}", padding=1).relu()
    x = F.avg_pool2d(x, 2)
    for at, stride in (("layer1.0", 1), ("layer2.0", 2), ("layer2.1", 1), ("layer3.0", 2), ("layer4.0", 2)):
        h = conv(x, f"{at}.conv1", f"{at}.bn1").relu()
        h = F.avg_pool2d(conv(h, f"{at}.conv2", f"{at}.bn2", padding=1).relu(), stride)
        if at.endswith(".0"):
            x = conv(F.avg_pool2d(x, stride), f"{at}.downsample.0", f"{at}.downsample.1")
        x = (conv(h, f"{at}.conv3", f"{at}.bn3") + x).relu()
    pool = {k.removeprefix("attnpool."): t for k, t in w.items() if k.startswith("attnpool.")}
    x = x.flatten(2).permute(2, 0, 1)
    x = torch.cat([x.mean(0, keepdim=True), x]) + pool["positional_embedding"][:, None]
    out, _ = F.multi_head_attention_forward(
        x[:1], x, x, x.shape[-1], 8, None, torch.cat([pool[f"{q}_proj.bias"] for q in "qkv"]), None, None, False, 0.0,
        pool["c_proj.weight"], pool["c_proj.bias"], use_separate_proj_weight=True, training=False, need_weights=False,
        q_proj_weight=pool["q_proj.weight"], k_proj_weight=pool["k_proj.weight"], v_proj_weight=pool["v_proj.weight"],
    )  # fmt: skip
    assert off(system.image(image), out[0]) < TOLERANCE


def text_encoder() -> TextEncoder:
    tokenizer = Tokenizer.train(["a fox", "pizza"], size=300, length=16)
    return TextEncoder(tokenizer, TextTransformer(len(tokenizer), 16, 1, 2, 16))


@pytest.mark.parametrize("to", ["hf-clip", "open-clip"])
def test_it_is_converted(to, tmp_path):
    """As `phosphene convert` does it, and again to a bundle: the same weights in half."""
    system = small(11)
    assert save_as(system, tmp_path / to, to, half=True) == []
    save_as(load(tmp_path / to), tmp_path / "ours.safetensors")
    assert same(load(tmp_path / "ours.safetensors"), system.half().float())


def test_half(tmp_path):
    system = small(6)
    write_hugging_face(system, tmp_path / "hf", torch.float16)
    write_open_clip(system, tmp_path / "open", torch.float16)
    for file in (tmp_path / "hf/model.safetensors", tmp_path / "open/open_clip_model.safetensors"):
        assert {t.dtype for t in load_file(file).values()} == {torch.float16}
    assert same(load(tmp_path / "hf"), system.half().float())


def test_what_a_format_cannot_hold(tmp_path):
    whole, text = small(), small().text
    with pytest.raises(Problem, match="Hugging Face's format has no place for this picture tower, a ClipResNet"):
        write_hugging_face(small(resnet=True), tmp_path)
    with pytest.raises(Problem, match="open_clip's format has no place for this picture tower, a ConvTower"):
        write_open_clip(ClipSystem(text, ConvTower(16, (16,)), 12, size=16), tmp_path)
    with pytest.raises(Problem, match="both projected"):
        write_open_clip(ClipSystem(text, None, 12), tmp_path)
    with pytest.raises(Problem, match="activations gelu_tanh"):
        write_open_clip(small(act="gelu_tanh"), tmp_path)
    with pytest.raises(Problem, match="holds a CLIP; this is a VisionTransformer"):
        write_hugging_face(whole.image, tmp_path)
    with pytest.raises(Problem, match="takes pictures as they are"):
        write_hugging_face(ClipSystem(None, whole.image, 12), tmp_path)
    with pytest.raises(Problem, match="not CLIP's"):
        write_hugging_face(ClipSystem(text_encoder(), whole.image, 12, size=32), tmp_path)
    whole.look = Look(32, short=40)
    assert "40" in write_open_clip(whole, tmp_path)[0]


# What files do not say ------------------------------------------------------------------------------------------------


class Tree(nn.Module):
    """Modules inside modules, with the tensors of a state dict at their places."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        super().__init__()
        inside: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            name, dot, rest = key.partition(".")
            if dot:
                inside.setdefault(name, {})[rest] = tensor
            elif tensor.is_floating_point():
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)
        for name, more in inside.items():
            self.add_module(name, Tree(more))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize("resnet", [False, True])
def test_openai_s_archive(resnet, tmp_path):
    """TorchScript, in half: QuickGELU and heads of 64 channels without a word."""
    system = small(7, "quick_gelu", resnet)
    write_open_clip(system, tmp_path, torch.float16)
    tensors = load_file(tmp_path / "open_clip_model.safetensors")
    for name, number in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
        tensors[name] = torch.tensor(number)
    torch.jit.trace(Tree(tensors), torch.zeros(1)).save(str(tmp_path / "ViT.pt"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = load(tmp_path / "ViT.pt", heads=4, image_heads=8 if resnet else 3)  # these are narrower than OpenAI's
    assert same(back, system.half().float()) and back.text.transformer.arguments["act"] == "quick_gelu"


def test_a_bare_open_clip_file(tmp_path):
    """It does not say activation nor heads: they are taken and that is said, or they are told."""
    write_open_clip(small(8, "quick_gelu"), tmp_path)
    (tmp_path / "open_clip_model.safetensors").rename(tmp_path / "some.safetensors")
    with pytest.warns(Assumed) as heard:
        load(tmp_path / "some.safetensors")
    assert len(heard) == 3  # act, heads and image_heads
    told = {"heads": 4, "image_heads": 3}
    with pytest.warns(Assumed, match="does not say act.* gelu; act=…") as heard:
        system = load(tmp_path / "some.safetensors", **told)
    assert len(heard) == 1 and system.image.arguments["act"] == "gelu"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        system = load(tmp_path / "some.safetensors", act="quick_gelu", **told)
    assert system.text.transformer.arguments["act"] == "quick_gelu"


def changed(folder, file: str, *path, **change) -> None:
    """A configuration with something in it changed."""
    config = inside = json.loads((folder / file).read_text())
    for key in path:
        inside = inside[key]
    inside.update(change)
    (folder / file).write_text(json.dumps(config))


OPENAIS = [[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]]
PREPROCESSORS = [
    ({}, [32, *OPENAIS, False, "bicubic", 32]),
    ({"size": 40, "resample": 2}, [32, *OPENAIS, False, "bilinear", 40]),  # old ones
    (
        {"size": {"shortest_edge": 36}, "image_mean": [0.5, 0.4, 0.3]},
        [32, [0.5, 0.4, 0.3], OPENAIS[1], False, "bicubic", 36],
    ),
    ({"size": {"height": 32, "width": 32}, "do_normalize": False}, [32, [0.0] * 3, [1.0] * 3, True, "bicubic", 32]),
]


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("said, expected", PREPROCESSORS)
def test_what_the_preprocessor_says(said, expected, within, tmp_path):
    """preprocessor_config.json, or the same inside of processor_config.json, as transformers 5 writes it."""
    write_hugging_face(small(), tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    name, content = ("processor", {"image_processor": said}) if within else ("preprocessor", said)
    (tmp_path / f"{name}_config.json").write_text(json.dumps(content))
    assert shown(load(tmp_path)) == expected


BAD = [
    ("hf", (), {"text_config": 3}, "text_config is 3, an object was expected"),
    ("hf", ("text_config",), {"num_attention_heads": 3}, "3 heads do not divide a width of 16"),
    ("hf", ("text_config",), {"num_attention_heads": "4"}, "num_attention_heads is '4', a whole number"),
    ("hf", ("vision_config",), {"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06; 1e-05 is read"),
    ("hf", ("vision_config",), {"hidden_act": "swish"}, "unknown hidden_act 'swish'"),
    ("open", ("model_cfg", "vision_cfg"), {"timm_model_name": "convnext"}, "timm_model_name = 'convnext' is not read"),
    ("open", ("model_cfg", "text_cfg"), {"pool_type": "last"}, "pool_type = 'last' is not read"),
    ("open", ("model_cfg", "vision_cfg"), {"head_width": 0}, "head_width is 0, a whole number"),
    ("open", ("preprocess_cfg",), {"mean": [0.5, 0.5]}, "mean is .0.5, 0.5., three numbers were expected"),
    ("open", ("preprocess_cfg",), {"interpolation": "nearest"}, "unknown interpolation 'nearest'"),
    ("open", ("preprocess_cfg",), {"resize_mode": "longest"}, "resize_mode is 'longest'; shortest and squash"),
]


@pytest.mark.parametrize("kind, path, change, message", BAD)
def test_configurations_that_cannot_be(kind, path, change, message, tmp_path):
    write, file = {"hf": (write_hugging_face, "config.json"), "open": (write_open_clip, "open_clip_config.json")}[kind]
    write(small(), tmp_path)
    changed(tmp_path, file, *path, **change)
    with pytest.raises(Problem, match=message):
        load(tmp_path)


def test_tensors_that_cannot_be(tmp_path):
    write_hugging_face(small(), tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for change, message in (
        ({"vision_model.head.weight": torch.ones(2)}, "holds vision_model.head.weight, for which this network has no"),
        ({"vision_model.embeddings.position_embedding.weight": torch.ones(12, 24)}, "12 rows, a square and one"),
        ({"text_model.encoder.layers.1.mlp.fc1.weight": torch.ones(2)}, "layers.1.mlp.fc1.weight is .2., .40, 16."),
        ({"text_model.encoder.layers.0.mlp.fc1.weight": torch.ones(2)}, "fc1.weight is .2., 2 sides were expected"),
        ({"vision_model.post_layernorm.bias": None}, "lacks vision_model.post_layernorm.bias"),
        ({"text_model.embeddings.token_embedding.weight": torch.ones(99, 16)}, "knows 99 tokens, its tokenizer 49408"),
    ):
        save_file({k: t for k, t in (tensors | change).items() if t is not None}, file)
        with pytest.raises(Problem, match=message):
            load(tmp_path)


def test_a_bundle_holds_it(tmp_path):
    """A CLIP of others, saved as ours, is the same again."""
    for number, system in enumerate((small(9), small(9, "quick_gelu", resnet=True))):
        back = load(bundle.save(system, tmp_path / f"{number}.safetensors"))
        image = torch.rand(2, 3, 70, 90) * 2 - 1
        assert torch.equal(back.embed_text(PROMPTS), system.embed_text(PROMPTS))
        assert torch.equal(back.embed_image(image), system.embed_image(image))
