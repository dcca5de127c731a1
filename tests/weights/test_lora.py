"""LoRA files: every way of naming the layers, read and written; what is refused; whose a LoRA is."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from phosphene import adapt
from phosphene.diffusion.cond import Cond
from phosphene.errors import Problem
from phosphene.weights import files, lora, low_rank
from phosphene.weights.low_rank import Lora, LowRank
from weights import tiny_sd

TO_Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OURS = "denoiser.net.encoder.0.0.attend.layers.0.attn1.to_q"
FC1, OUR_FC1 = "text_model.encoder.layers.2.mlp.fc1", "encoder.transformer.blocks.2.mlp.fc1"


def pair(out: int = 8, inside: int = 6, rank: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rank, inside, generator=g), torch.randn(out, rank, generator=g)


def full(system: nn.Module, alphas=(1, 2, 3), tucker: bool = True, within: str = "") -> Lora:
    """A LoRA on every layer of both networks, of several ranks and alphas, some convolutions in Tucker's form."""
    torch.manual_seed(5)
    layers: dict[str, LowRank] = {}
    for path, module in system.named_modules():
        if not isinstance(module, (nn.Linear, nn.Conv2d)) or path.startswith("autoencoder") or within not in path:
            continue
        n, weight = len(layers), module.weight
        rank, mid = 2 + n % 3, None
        down, up = torch.randn(rank, *weight.shape[1:]) * 0.1, torch.randn(len(weight), rank) * 0.1
        if tucker and weight.ndim == 4 and weight.shape[2] == 3 and n % 2:
            down, mid = torch.randn(rank, weight.shape[1], 1, 1) * 0.2, torch.randn(rank, rank, 3, 3) * 0.2
        layers[path] = LowRank(
            down, up[..., None, None] if weight.ndim == 4 else up, float(alphas[n % len(alphas)]), mid
        )
    return Lora(layers, {"ss_tag_frequency": '{"a": 1}', "modelspec.title": "x"})


class Told:
    """The same numbers to both sides."""

    def __init__(self, width: int = 48):
        g = torch.Generator().manual_seed(9)
        self.x, self.t = torch.randn(2, 4, 8, 8, generator=g), torch.tensor([5, 700])
        self.tokens = torch.randn(2, 77, width, generator=g)
        self.ids = torch.randint(0, 49000, (2, 77), generator=g)

    @torch.no_grad()
    def ours(self, system) -> tuple[Tensor, Tensor]:
        return system.denoiser.net(self.x, self.t, Cond(tokens=self.tokens)), system.encoder.transformer(self.ids)

    @torch.no_grad()
    def peers(self, unet, text) -> tuple[Tensor, Tensor]:
        return unet(self.x, self.t, self.tokens).sample, text(self.ids).last_hidden_state


def apart(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> float:
    """max|Δ| / mean|reference|, the largest of both."""
    return max(((x - y).abs().max() / y.abs().mean()).item() for x, y in zip(a, b))


@pytest.fixture(scope="module")
def networks():
    pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    unet, text = tiny_sd.peer(seed=3)
    return unet, text, tiny_sd.ours(unet.state_dict(), tiny_sd.prefixed(text))


def pipeline(unet, text):
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, logging

    logging.set_verbosity_error()
    down, up = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    vae = AutoencoderKL(block_out_channels=(32, 32), down_block_types=down, up_block_types=up)
    return StableDiffusionPipeline(
        vae, text, None, unet, DDIMScheduler(steps_offset=1, clip_sample=False), None, None, None, False
    )


# Names --------------------------------------------------------------------------------------------------------------


def test_every_layer_of_the_peers_has_a_name_and_no_two_the_same(networks):
    unet, text, system = networks
    theirs = [f"unet.{name}" for name, m in unet.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for name, m in text.named_modules():
        if isinstance(m, nn.Linear):
            theirs.append(f"text_encoder.text_model.{name.removeprefix('text_model.')}")
    ours = [low_rank.names()[name] for name in theirs]  # a KeyError names the layer
    assert len(set(ours)) == len(ours) and all(system.get_submodule(path) is not None for path in ours)
    assert len(set(low_rank.names().values())) == len(low_rank.names()) == len(low_rank.kohya_names())


@pytest.mark.parametrize(
    "down, up, ours",
    [
        (f"lora_unet_{TO_Q.replace('.', '_')}.lora_down.weight", ".lora_up.weight", OURS),
        (f"lora_te_{FC1.replace('.', '_')}.lora_down.weight", ".lora_up.weight", OUR_FC1),
        (f"unet.{TO_Q}.lora.down.weight", ".lora.up.weight", OURS),
        (f"unet.{TO_Q}.lora_A.weight", ".lora_B.weight", OURS),
        (f"unet.{TO_Q.replace('to_q', 'processor.to_q')}_lora.down.weight", "_lora.up.weight", OURS),
        (f"{TO_Q.replace('to_q', 'processor.to_q')}_lora.down.weight", "_lora.up.weight", OURS),
        (
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.down.weight",
            "_lora.up.weight",
            "denoiser.net.middle.0.attend.layers.0.attn2.to_out",
        ),
        (f"text_encoder.{FC1}.lora_linear_layer.down.weight", ".lora_linear_layer.up.weight", OUR_FC1),
        (f"text_encoder.{FC1.removeprefix('text_model.')}.lora_A.weight", ".lora_B.weight", OUR_FC1),
        (
            "text_encoder.text_model.encoder.layers.1.self_attn.to_out_lora.down.weight",
            "_lora.up.weight",
            "encoder.transformer.blocks.1.attn.to_out",
        ),
        (f"base_model.model.{TO_Q}.lora_A.weight", ".lora_B.weight", OURS),
        (f"base_model.model.{FC1}.lora_A.default.weight", ".lora_B.default.weight", OUR_FC1),
        (f"{OURS}.lora_down.weight", ".lora_up.weight", OURS),
        ("stages.1.net.out.lora_down.weight", ".lora_up.weight", "stages.1.net.out"),
    ],
)
def test_all_names_in_use_lead_to_the_same_layer(tmp_path, down, up, ours):
    a, b = pair()
    end = next(down[-len(s) :] for s in sorted(lora.SUFFIXES, key=len, reverse=True) if down.endswith(s))
    save_file({down: a, down.removesuffix(end) + up: b}, tmp_path / "x.safetensors")
    found = lora.read(tmp_path / "x.safetensors")
    assert list(found.layers) == [ours]
    assert torch.equal(found.layers[ours].down, a) and torch.equal(found.layers[ours].up, b)


# alpha --------------------------------------------------------------------------------------------------------------


def stored(path, alpha=None, metadata=None, name=f"unet.{TO_Q}", rank=4):
    a, b = pair(rank=rank)
    tensors = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    save_file(tensors | ({} if alpha is None else {f"{name}.alpha": torch.tensor(alpha)}), path, metadata)
    return lora.read(path)


def adapter_metadata(**said) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in said.items()})}


def test_alpha_is_the_files_else_its_metadatas_else_r_and_that_is_noted(tmp_path):
    path = tmp_path / "x.safetensors"
    silent = stored(path)
    assert silent.layers[OURS].scale == 1 and "does not say alpha" in silent.notes[0]
    beside = stored(path, alpha=2.0)
    assert beside.layers[OURS].scale == 0.5 and not beside.notes
    assert stored(path, alpha=[8.0]).layers[OURS].scale == 2  # of one number, but not 0-d
    assert stored(path, metadata=adapter_metadata(r=4, lora_alpha=8)).layers[OURS].scale == 2
    assert stored(path, 2.0, adapter_metadata(r=4, lora_alpha=8)).layers[OURS].scale == 0.5
    told = adapter_metadata(r=4, lora_alpha=8, alpha_pattern={"attn1.to_q": 16, "to_k": 1})
    assert stored(path, metadata=told).layers[OURS].scale == 4
    assert (
        stored(path, metadata=adapter_metadata(lora_alpha=8, alpha_pattern={f"^{TO_Q}": 2})).layers[OURS].scale == 0.5
    )
    rank_stabilised = adapter_metadata(lora_alpha=8, use_rslora=True)
    assert stored(path, metadata=rank_stabilised).layers[OURS].scale == pytest.approx(8 / math.sqrt(4))


def test_the_change_is_scale_times_up_times_down_also_through_mid():
    g = torch.Generator().manual_seed(2)
    x = torch.randn(1, 6, 5, 5, generator=g)
    down, mid, up = (torch.randn(*s, generator=g) for s in ((2, 6, 1, 1), (2, 2, 3, 3), (8, 2, 1, 1)))
    low = LowRank(down, up, 6.0, mid)
    f = nn.functional.conv2d
    expected = 3 * f(f(f(x, down), mid, padding=1), up)
    assert torch.allclose(f(x, low.change(), padding=1), expected, atol=1e-4)


# Refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key, kind",
    [
        ("lora_unet_conv_in.dora_scale", "DoRA"),
        ("unet.conv_in.lora_magnitude_vector", "DoRA"),
        ("lora_unet_conv_in.hada_w1_a", "LoHa"),
        ("lora_unet_conv_in.lokr_w1", "LoKr"),
        ("lora_unet_conv_in.diff", "full difference"),
        ("unet.conv_in.lora_B.bias", "biases"),
        ("text_encoder.token.lora_embedding_A", "embedding"),
        ("lora_unet_conv_in.on_input", "IA3"),
        ("model.diffusion_model.out.2.weight", "no part of a LoRA"),
    ],
)
def test_adapters_of_other_kinds_are_refused_by_name(tmp_path, key, kind):
    a, b = pair()
    tensors = {"lora_unet_conv_in.lora_down.weight": a, "lora_unet_conv_in.lora_up.weight": b, key: torch.ones(3)}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(Problem, match=kind) as problem:
        lora.read(tmp_path / "x.safetensors")
    assert key in str(problem.value)


A, B = pair()
BAD = {
    "no up": ({"down": A}, "up"),
    "no down": ({"up": B}, "down"),
    "ranks": ({"down": A[:1], "up": B}, "no product"),
    "rank 0": ({"down": A[:0], "up": B[:, :0]}, "no product"),
    "three sides": ({"down": A[None], "up": B}, "no product"),
    "mid": ({"down": A, "up": B, "mid": torch.ones(2, 3, 3, 3)}, "no product"),
    "numbers": ({"down": A.long(), "up": B}, "whole numbers"),
    "alphas": ({"down": A, "up": B, "alpha": torch.ones(2)}, "one number"),
    "nan": ({"down": A, "up": B, "alpha": torch.tensor(math.nan)}, "a number was expected"),
    "nothing": ({}, "no tensors"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_product_is_refused(tmp_path, case):
    parts, why = BAD[case]
    called = {"down": "lora_down.weight", "up": "lora_up.weight", "mid": "lora_mid.weight", "alpha": "alpha"}
    save_file({f"lora_unet_conv_in.{called[what]}": t for what, t in parts.items()}, tmp_path / "x.safetensors")
    with pytest.raises(Problem, match=why) as problem:
        lora.read(tmp_path / "x.safetensors")
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    "metadata, why",
    [
        ({"lora_adapter_metadata": "{"}, "JSON"),
        ({"lora_adapter_metadata": "[]"}, "JSON"),
        (adapter_metadata(lora_alpha="eight"), "a number was expected"),
        (adapter_metadata(lora_alpha=4, use_dora=True), "use_dora"),
        (adapter_metadata(lora_alpha=4, bias="all"), "bias"),
        (adapter_metadata(lora_alpha=4, alpha_pattern={"(a+)+$": 3}), "regular expression"),
        (adapter_metadata(lora_alpha=4, alpha_pattern=[1]), "alpha_pattern"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(tmp_path, metadata, why):
    with pytest.raises(Problem, match=why):
        stored(tmp_path / "x.safetensors", metadata=metadata)


@pytest.mark.parametrize(
    "names, family",
    [
        (["lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"], "SDXL"),
        (["lora_te1_text_model_encoder_layers_0_mlp_fc1"], "SDXL"),
        (["text_encoder_2.text_model.encoder.layers.0.mlp.fc1"], "SDXL"),
        (["lora_unet_double_blocks_0_img_attn_qkv"], "Flux"),
        (["transformer.single_transformer_blocks.0.attn.to_q"], "Flux"),
        (["transformer.transformer_blocks.0.attn.to_q"], "Stable Diffusion 3"),
        (["base_model.model.model.layers.0.self_attn.q_proj"], "a language model"),
    ],
)
def test_whose_a_lora_is_by_its_names(tmp_path, names, family):
    a, b = pair()
    tensors = {f"{n}.{k}.weight": t for n in names for k, t in (("lora_A", a), ("lora_B", b))}
    save_file(tensors, tmp_path / "x.safetensors")
    assert lora.read(tmp_path / "x.safetensors").family == family


@pytest.mark.parametrize("width, family", [(768, "Diffusion 1"), (1024, "Diffusion 2"), (2048, "SDXL"), (333, "333")])
def test_whose_a_lora_is_by_its_width(width, family):
    down, up = pair(inside=width)
    assert family in Lora({OURS.replace("attn1.to_q", "attn2.to_k"): LowRank(down, up, 1.0)}).family
    assert family in Lora({"encoder.transformer.blocks.0.attn.to_k": LowRank(down, up, 1.0)}).family


# Files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [lora.write, lora.write_kohya])
def test_what_is_written_reads_the_same_and_loses_nothing(tmp_path, networks, write):
    made = full(networks[2])
    write(made, tmp_path / "x.safetensors")
    found = lora.read(tmp_path / "x.safetensors")
    assert found.metadata.items() >= made.metadata.items() and found.layers.keys() == made.layers.keys()
    for path, low in made.layers.items():
        other = found.layers[path]
        assert torch.equal(other.down, low.down) and torch.equal(other.up, low.up) and other.alpha == low.alpha, path
        assert (other.mid is None) == (low.mid is None) and (low.mid is None or torch.equal(other.mid, low.mid)), path


def test_kohyas_metadata_are_its_own_where_it_has_them(tmp_path):
    down, up = pair(inside=1024)
    made = Lora({OURS.replace("attn1.to_q", "attn2.to_k"): LowRank(down, up, 1.0)}, {"ss_network_dim": "32"})
    assert lora.write_kohya(made, tmp_path / "x.safetensors") == []
    found = lora.read(tmp_path / "x.safetensors")
    assert found.metadata == {
        "ss_network_module": "networks.lora", "ss_network_dim": "32", "ss_network_alpha": "1.0", "ss_v2": "True",
    }  # fmt: skip


def test_a_projection_is_a_convolution_in_stable_diffusion_1_and_a_matrix_in_2(tmp_path):
    path = "denoiser.net.encoder.0.0.attend.proj_in"
    for width, sides in ((768, [2, 6, 1, 1]), (1024, [2, 6])):
        key = OURS.replace("attn1.to_q", "attn2.to_k")
        made = Lora({key: LowRank(*pair(inside=width), 1.0), path: LowRank(*pair(), 1.0)})
        lora.write_peft(made, tmp_path / "x.safetensors")
        shapes = files.open_tensors(tmp_path / "x.safetensors").shapes
        assert list(shapes["unet.down_blocks.0.attentions.0.proj_in.lora_A.weight"]) == sides


def test_only_our_own_form_names_layers_of_other_systems(tmp_path):
    made = Lora({"denoiser.net.blocks.0.attn.to_q": LowRank(*pair(), 1.0)})
    lora.write(made, tmp_path / "x.safetensors")
    assert list(lora.read(tmp_path / "x.safetensors").layers) == list(made.layers)
    for write in (lora.write_kohya, lora.write_peft):
        with pytest.raises(Problem, match=r"blocks\.0\.attn\.to_q is no layer of Stable Diffusion"):
            write(made, tmp_path / "y.safetensors")
        assert not (tmp_path / "y.safetensors").exists()


def test_a_header_as_long_as_a_pickle_begins(tmp_path):
    """The first byte of a .safetensors is its header's length modulo 256, here 0x80, with which pickles begin."""
    for pad in range(256):
        stored(tmp_path / "x.safetensors", metadata={"x": "x" * pad})
        if (tmp_path / "x.safetensors").read_bytes()[0] == 0x80:
            break
    else:  # headers are padded to 8 bytes
        raise AssertionError
    assert list(lora.read(tmp_path / "x.safetensors").layers) == [OURS]


def test_half_of_it_is_written(tmp_path, networks):
    made = full(networks[2])
    for write in (lora.write, lora.write_kohya, lora.write_peft):
        write(made, tmp_path / "x.safetensors", torch.float16)
        tensors = files.open_tensors(tmp_path / "x.safetensors")
        assert {t.dtype for t in tensors.values()} == {torch.float16}
        assert lora.read(tmp_path / "x.safetensors").layers.keys() == made.layers.keys()


def test_what_is_a_lora_is_known_by_its_keys(tmp_path, networks):
    path = tmp_path / "x.safetensors"
    for write in (lora.write, lora.write_kohya, lora.write_peft):
        write(full(networks[2], within="conv_in"), path)
        assert lora.is_lora(path)
    save_file({"lora_unet_conv_in.hada_w1_a": torch.ones(2, 2)}, path)
    assert lora.is_lora(path)
    save_file({"model.diffusion_model.out.2.weight": torch.ones(2, 2), "schedule.alpha": torch.ones(1)}, path)
    assert not lora.is_lora(path) and not lora.is_lora(tmp_path) and not lora.is_lora("emoji")


# The command line ---------------------------------------------------------------------------------------------------


def phosphene(*argv: object) -> int:
    from phosphene.cli import main

    return main([str(word) for word in argv])


@pytest.fixture
def lora_file(tmp_path):
    down, up = pair(768, 768)
    key = "lora_te_text_model_encoder_layers_0_self_attn_k_proj"
    tensors = {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(1.0)}
    save_file(tensors, tmp_path / "ink.safetensors", {"ss_output_name": "ink\x1b[31m"})
    return tmp_path / "ink.safetensors"


def test_inspect_says_what_a_lora_changes_and_whose_it_is(lora_file, capsys):
    phosphene("inspect", lora_file)
    out = capsys.readouterr().out
    assert "a LoRA, it seems for Stable Diffusion 1" in out and "ss_output_name = ink " in out and "\x1b" not in out
    assert "1 layers, 1 of them of the text encoder; rank 2, scale 0.5" in out


def test_convert_writes_a_lora_in_every_form(lora_file, tmp_path, capsys):
    made = lora.read(lora_file)
    for to in ("peft", "kohya", "lora"):
        phosphene("convert", lora_file, tmp_path / f"{to}.safetensors", "--to", to)
        found = lora.read(tmp_path / f"{to}.safetensors")
        [(path, low)] = found.layers.items()
        assert torch.equal(low.down, made.layers[path].down) and low.alpha == 1 and found.metadata["ss_output_name"]
        phosphene("inspect", tmp_path / f"{to}.safetensors")
    assert phosphene("convert", lora_file, tmp_path / "model.safetensors") == 2
    assert "--to lora, kohya, peft write one" in capsys.readouterr().err
    assert phosphene("convert", "emoji", tmp_path / "model.safetensors", "--to", "kohya") == 2
    assert "is no LoRA" in capsys.readouterr().err


def test_convert_adds_loras_to_the_weights(tiny_model, tmp_path):
    from phosphene.weights import bundle

    system = bundle.load(tiny_model)
    change = full(system, within="denoiser")
    lora.write(change, tmp_path / "ink.safetensors")
    phosphene("convert", tiny_model, tmp_path / "out.safetensors", "--lora", f"{tmp_path / 'ink.safetensors'}:0.5")
    new = bundle.load(tmp_path / "out.safetensors").state_dict()
    for key, old in system.state_dict().items():
        low = change.layers.get(key.removesuffix(".weight")) if key.endswith(".weight") else None
        expected = old if low is None else old + 0.5 * low.change().reshape(old.shape)
        assert torch.allclose(new[key], expected, atol=1e-5), key


# The peers ----------------------------------------------------------------------------------------------------------


def test_diffusers_reads_what_is_written_for_it(tmp_path, networks):
    """Several ranks and alphas, convolutions, the text encoder, Tucker's form multiplied out."""
    pytest.importorskip("peft")
    unet, text, system = networks
    told, made = Told(), full(system)
    [note] = lora.write_peft(made, tmp_path / "pytorch_lora_weights.safetensors", ones=True)
    assert "Tucker's form" in note
    with adapt.apply(system, made):
        ours = told.ours(system)
    pipe = pipeline(unet, text)
    plain = told.peers(unet, text)
    pipe.load_lora_weights(str(tmp_path))
    try:
        peers = told.peers(pipe.unet, pipe.text_encoder)
    finally:
        pipe.unload_lora_weights()
    assert apart(ours, peers) <= 3e-5 and apart(plain, peers) > 0.1
    with adapt.apply(system, tmp_path):
        assert apart(told.ours(system), peers) <= 3e-5


def test_diffusers_reads_what_is_written_for_kohya(tmp_path, networks):
    """Of one alpha, and without Tucker's form: diffusers' reader of kohya's files overlooks the others."""
    pytest.importorskip("peft")
    unet, text, system = networks
    told, made = Told(), full(system, alphas=(3,), tucker=False)
    lora.write_kohya(made, tmp_path / "x.safetensors", ones=True)
    pipe = pipeline(unet, text)
    pipe.load_lora_weights(str(tmp_path), weight_name="x.safetensors")
    try:
        peers = told.peers(pipe.unet, pipe.text_encoder)
    finally:
        pipe.unload_lora_weights()
    for strength in (1.0, 0.6):
        with adapt.apply(system, tmp_path / "x.safetensors", strength) as on:
            on.strength = 1.0
            assert apart(told.ours(system), peers) <= 3e-5


def test_what_diffusers_and_peft_save_reads_the_same(tmp_path):
    peft, _ = pytest.importorskip("peft"), pytest.importorskip("diffusers")
    from diffusers import StableDiffusionPipeline
    from peft.utils import get_peft_model_state_dict

    unet, text = tiny_sd.peer(seed=8, linear=True, width=32)
    system = tiny_sd.ours(unet.state_dict(), tiny_sd.prefixed(text), linear=True, width=32)
    told, targets = Told(32), ["to_q", "to_v", "proj_in", "ff.net.2", "conv1"]
    torch.manual_seed(1)
    how = dict(lora_alpha=8, init_lora_weights=False)
    unet.add_adapter(config := peft.LoraConfig(r=4, target_modules=targets, rank_pattern={"to_v": 2}, **how))
    peers, _ = told.peers(unet, text)
    said = config.to_dict() | {"target_modules": targets}
    layers = get_peft_model_state_dict(unet)
    StableDiffusionPipeline.save_lora_weights(tmp_path / "told", layers, unet_lora_adapter_metadata=said)
    unet.save_lora_adapter(tmp_path / "own")
    for folder in ("told", "own"):
        with adapt.apply(system, tmp_path / folder) as on:
            assert apart(told.ours(system)[:1], (peers,)) <= 3e-5 and len(on.paths) > 20
    unet.delete_adapters("default")

    config = peft.LoraConfig(r=3, target_modules=["q_proj", "fc2"], use_rslora=True, **how)
    wrapped = peft.get_peft_model(text, config)
    wrapped.save_pretrained(tmp_path / "folder")
    _, peers = told.peers(unet, wrapped)
    with adapt.apply(system, tmp_path / "folder"):
        assert apart(told.ours(system)[1:], (peers,)) <= 3e-5


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("name", ["kohya_attn_te", "kohya_locon", "peft"])
def test_recorded(shared, name, strength):
    """The U-Net and the text encoder with each LoRA on, as diffusers recorded them; bitwise the old ones after."""
    import numpy as np
    from safetensors.torch import load_file

    folder = shared / "fixtures"
    unet = load_file(folder / "sd1/unet/diffusion_pytorch_model.safetensors")
    text = load_file(folder / "sd1/text_encoder/model.safetensors")
    text = {f"text_model.{key.removeprefix('text_model.')}": t for key, t in text.items()}
    system = tiny_sd.ours(unet, text, layers=2, width=32, heads=8, text_heads=4, vocabulary=747)
    ref = {key: torch.from_numpy(array) for key, array in np.load(folder / "lora/lora_ref.npz").items()}
    told = Told()
    told.x, told.t, told.tokens, told.ids = (ref[key] for key in ("x", "t", "ctx", "ids"))
    before = told.ours(system)
    assert apart(before[:1], (ref["eps_base"],)) <= 3e-5
    file = folder / "lora" / (name if name == "peft" else f"{name}.safetensors")
    if name != "peft":
        with adapt.apply(system, file, strength):
            assert apart(told.ours(system), (ref[f"{name}@{strength}.eps"], ref[f"{name}@{strength}.te"])) <= 3e-5
    else:  # its alpha was 2r, and saved without: diffusers reads it back at half strength, and so do we, with a note
        assert lora.read(file).notes
        recorded = {1.0: "peft_reloaded.eps", 0.6: "peft_in_memory.eps"}[strength]
        with adapt.apply(system, file, {1.0: 1.0, 0.6: 2.0}[strength]):
            assert apart(told.ours(system)[:1], (ref[recorded],)) <= 3e-5
    after = told.ours(system)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
