"""Adapters on systems: on, off, several at once, in any precision; trained, baked, named in prompts, refused whole."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from torch import Tensor, nn

from phosphene import adapt
from phosphene.errors import Problem
from phosphene.runtime import prepare_for_sampling
from phosphene.weights import bundle, lora
from phosphene.weights.low_rank import Lora, LowRank
from systems.small import W, autoencoder, awake, ddpm, latent, latent_dit, made

TO_Q = "denoiser.net.encoder.0.0.attend.layers.0.attn1.to_q"


def some(system: nn.Module, seed: int = 0, rank: int = 2, within: str = "") -> Lora:
    """A LoRA on every linear layer and convolution of the denoiser and the encoder, strong enough to be seen."""
    g = torch.Generator().manual_seed(seed)
    layers = {}
    for path, module in system.named_modules():
        if not isinstance(module, (nn.Linear, nn.Conv2d)) or path.startswith("autoencoder") or within not in path:
            continue
        weight = module.weight
        down = torch.randn(rank, *weight.shape[1:], generator=g) / weight[0].numel() ** 0.5
        layers[path] = LowRank(down, torch.randn(len(weight), rank, generator=g) * 0.2, 1.5)
    return Lora(layers)


@pytest.fixture(scope="module")
def system():
    torch.manual_seed(0)
    return awake(latent())


@torch.no_grad()
def drawn(system: nn.Module, prompt: str = "a red circle") -> Tensor:
    return list(system.generate([prompt], seeds=[3], steps=2))[-1].picture()


def hooks(system: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in system.modules())


# On and off ---------------------------------------------------------------------------------------------------------


def test_off_again_the_pictures_are_bitwise_the_same(system):
    before, weights = drawn(system), {k: t.clone() for k, t in system.state_dict().items()}
    first = adapt.apply(system, some(system, 1), 0.8, name="first")
    second = adapt.apply(system, some(system, 2), 0.5, name="second")
    assert adapt.worn(system) == [first, second]
    both = drawn(system)
    assert not torch.equal(both, before)
    second.remove(), second.remove()
    one = drawn(system)
    assert adapt.worn(system) == [first] and not torch.equal(one, before) and not torch.equal(one, both)
    first.remove()
    assert torch.equal(drawn(system), before) and hooks(system) == 0 and adapt.worn(system) == []
    assert all(torch.equal(t, weights[k]) for k, t in system.state_dict().items())


def test_strength_is_set_while_it_is_on_and_zero_is_nothing(system):
    before = drawn(system)
    with adapt.apply(system, some(system)) as on:
        full = drawn(system)
        on.strength = 0.0
        assert torch.equal(drawn(system), before) and hooks(system) == 0
        on.strength = 1
        assert torch.equal(drawn(system), full)
        on.strength = -0.5
        assert not torch.equal(drawn(system), full)
        with pytest.raises(Problem, match="strength"):
            on.strength = float("nan")
    assert torch.equal(drawn(system), before)


def test_several_add_up_as_their_changes_of_the_weights_do(system):
    changes = some(system, 1), some(system, 2, rank=3)
    dense = copy.deepcopy(system)
    for change, strength in zip(changes, (0.7, -0.3)):
        for path, low in change.layers.items():
            dense.get_submodule(path).weight.data += strength * low.change().reshape(
                dense.get_submodule(path).weight.shape
            )
    with adapt.apply(system, changes[0], 0.7, "a"), adapt.apply(system, changes[1], -0.3, "b"):
        assert (drawn(system) - drawn(dense)).abs().max() < 1e-4


@pytest.mark.parametrize("make", [ddpm, latent_dit])
def test_any_system_takes_one(make):
    torch.manual_seed(0)
    system = awake(make())
    prompts = [None] if make is ddpm else ["a red circle"]

    def now() -> Tensor:
        return list(system.generate(prompts, seeds=[3], steps=2))[-1].picture()

    before = now()
    with adapt.apply(system, some(system)):
        assert not torch.equal(now(), before)
    assert torch.equal(now(), before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("first", ["dressed", "prepared"])
def test_on_a_system_that_is_prepared_for_sampling(system, precision, first):
    """Whichever comes first; and off again there, bitwise."""
    change, run = some(system), copy.deepcopy(system)
    with adapt.apply(system, change):
        reference = drawn(system)
    if first == "dressed":
        on = adapt.apply(run, change)
    run = prepare_for_sampling(run, "cpu", precision)
    if first == "prepared":
        before = drawn(run)
        on = adapt.apply(run, change)
    close = 1e-4 if precision == "fp32" else 0.01
    assert (drawn(run) - reference).abs().mean() < close < (drawn(system) - reference).abs().mean()
    on.remove()
    if first == "prepared":
        assert torch.equal(drawn(run), before)


def test_a_convolution_that_wraps_around_wraps_around_in_the_adapter_too(system):
    change, path = some(system), "denoiser.net.conv_in"
    wrapped, x = copy.deepcopy(system.denoiser.net.conv_in), torch.randn(1, 8, 6, 6)
    run = copy.deepcopy(system)
    adapt.apply(run, change)
    run.denoiser.net.conv_in.padding_mode = wrapped.padding_mode = "circular"
    wrapped.weight.data += change.layers[path].change()
    with torch.no_grad():
        assert torch.allclose(run.denoiser.net.conv_in(x), wrapped(x), atol=1e-5)


def test_a_one_by_one_convolution_and_a_linear_layer_are_the_same(system):
    low = some(system).layers[TO_Q]
    square = LowRank(low.down[..., None, None], low.up[..., None, None], low.alpha)
    with adapt.apply(system, Lora({TO_Q: low})):
        reference = drawn(system)
    with adapt.apply(system, Lora({TO_Q: square})) as on:
        assert torch.equal(drawn(system), reference)
        assert on.lora().layers[TO_Q] is square  # as it came, for writing


# Refused ------------------------------------------------------------------------------------------------------------


def low(inside: int) -> LowRank:
    return LowRank(torch.ones(2, inside), torch.ones(32, 2), 1.0)


TO_K = TO_Q.replace("attn1.to_q", "attn2.to_k")  # it reads the text
SEEMS = r"1024 → 32 in the file and 32 → 32 in this model, whose text is 32 wide: it seems to be for Stable Diffusion 2"
REFUSED = {
    "family by width": ({TO_Q: low(32), TO_K: low(1024)}, SEEMS),
    "family by name": ({"lora_unet_input_blocks_1_1_proj_in": low(32)}, "it seems to be for SDXL"),
    "no such layer": ({TO_Q: low(32), "denoiser.net.nowhere": low(32)}, "nowhere, which is not in"),
    "no layer": ({"denoiser.net.norm_out": low(32)}, "is a GroupNorm, which takes no LoRA"),
    "a kernel": ({"denoiser.net.conv_in": low(8)}, "8 → 32 in the file and 8 → 32, 3×3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_whole(system, case):
    change, why = REFUSED[case]
    with pytest.raises(Problem, match=why) as problem:
        adapt.apply(system, Lora(change))
    assert "\n" not in str(problem.value) and hooks(system) == 0 and adapt.worn(system) == []


@pytest.mark.parametrize("strength", ["1", None, float("nan"), float("inf")])
def test_a_strength_is_a_number(system, strength):
    with pytest.raises(Problem, match="strength"):
        adapt.apply(system, some(system), strength)
    assert hooks(system) == 0


def test_the_same_file_and_the_same_name_are_put_on_once(system, tmp_path):
    lora.write(some(system), tmp_path / "ink.safetensors")
    shutil.copy(tmp_path / "ink.safetensors", tmp_path / "copy.safetensors")
    with adapt.apply(system, tmp_path / "ink.safetensors") as on:
        number = hooks(system)
        for file, name in (("ink", None), ("ink", "other"), ("copy", None)):
            with pytest.raises(Problem, match="on already, as 'ink'"):
                adapt.apply(system, tmp_path / f"{file}.safetensors", name=name)
        with pytest.raises(Problem, match="on already"):
            adapt.apply(system, some(system), name="ink")
        assert hooks(system) == number and adapt.worn(system) == [on]
    with adapt.apply(system, tmp_path / "ink.safetensors"):
        pass


# Baked and trained --------------------------------------------------------------------------------------------------


def test_baked_it_is_in_the_weights(system):
    run = copy.deepcopy(system)
    adapt.apply(run, some(run, 1), 0.7, "a"), adapt.apply(run, some(run, 2), 0.4, "b")
    reference = drawn(run)
    adapt.bake(run)
    assert hooks(run) == 0 and adapt.worn(run) == []
    assert (drawn(run) - reference).abs().max() < 1e-4 and not torch.equal(drawn(system), drawn(run))


def test_packed_weights_are_not_baked_into(system):
    packed = pytest.importorskip("phosphene.packed")
    if not packed.works(torch.float32):
        pytest.skip("no packed operators here")
    run = copy.deepcopy(system)
    packed.pack(run)
    adapt.apply(run, some(system))
    with pytest.raises(Problem, match="packed for sampling"):
        adapt.bake(run)
    assert len(adapt.worn(run)) == 1


def test_one_is_trained_on_a_frozen_system_saved_and_put_on(tmp_path):
    """It begins as nothing, learns one batch by heart while the system stays as it is, and its file does the same."""
    system, batch = made("latent")
    awake(system).requires_grad_(False)
    weights = {k: t.clone() for k, t in system.state_dict().items()}
    before = drawn(system)
    targets = ["denoiser.*.to_[qkv]", "denoiser.*.ff.*", "denoiser.net.*.conv[12]"]
    on = adapt.new(system, rank=8, alpha=16, targets=targets)
    assert torch.equal(drawn(system), before) and len(on.paths) > 20
    assert all(p.requires_grad for p in on.parameters()) and not any(p.requires_grad for p in system.parameters())
    batch, losses = system.prepare(batch), []
    optimiser = torch.optim.Adam(on.parameters(), lr=5e-3)
    for _ in range(40):
        torch.manual_seed(2)
        loss = system.loss(batch).total
        optimiser.zero_grad(), loss.backward(), optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(t, weights[k]) for k, t in system.state_dict().items())
    after = drawn(system)
    on.save(tmp_path / "new.safetensors")
    on.remove()
    assert torch.equal(drawn(system), before) and not torch.equal(after, before)
    with adapt.apply(system, tmp_path / "new.safetensors"):
        assert torch.equal(drawn(system), after)


@pytest.mark.parametrize(
    "rank, targets, why", [(0, ["*"], "rank=0"), (2, ["*.nowhere"], "nowhere"), (2, ["*.norm*"], "norm")]
)
def test_nothing_to_train_is_refused(system, rank, targets, why):
    with pytest.raises(Problem, match=why):
        adapt.new(system, rank, targets=targets)
    assert hooks(system) == 0


# Asked for ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(system, tmp_path):
    """A folder of LoRAs, one of them in a folder as PEFT writes it, another in a folder of a theme."""
    for i, name in enumerate(("ink.safetensors", "themes/Night.safetensors", "oil/pytorch_lora_weights.safetensors")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        lora.write(some(system, i), tmp_path / name)
    (tmp_path / "readme.md").write_text("no LoRA")
    return tmp_path


def test_names_are_found_in_folders_and_among_files(shelf):
    assert adapt.find("ink", [shelf]) == adapt.find("INK", [shelf / "ink.safetensors:0.5"]) == shelf / "ink.safetensors"
    assert adapt.find("night", [shelf]) == adapt.find("themes/night", [shelf]) == shelf / "themes/Night.safetensors"
    assert adapt.find("oil", [shelf]) == adapt.find("oil", [shelf / "oil"])
    assert adapt.find("oil", [shelf]).parent == shelf / "oil"
    with pytest.raises(Problem, match="did you mean 'ink'"):
        adapt.find("inks", [shelf])
    with pytest.raises(Problem, match="--lora"):
        adapt.find("ink", [])


def test_a_file_and_its_strength(tmp_path):
    assert [adapt.spec(t)[1] for t in ("a.pt", "a.pt:0.5", "c:\\a.pt", "a.pt:-1", "a.pt:")] == [1, 0.5, 1, -1, 1]
    assert str(adapt.spec("a:b.pt:2")[0]) == "a:b.pt" and str(adapt.spec("c:\\a.pt")[0]) == "c:\\a.pt"


def test_prompts_put_theirs_on_for_as_long_as_it_takes(system, shelf):
    before = drawn(system)
    with adapt.wearing(system, [("ink", 0.4), ("night", 1.0), ("ink", 0.2)], [shelf]) as on:
        assert [(w.name, round(w.strength, 6)) for w in on] == [("ink", 0.6), ("Night", 1.0)]
        changed = drawn(system)
    assert torch.equal(drawn(system), before) and not torch.equal(changed, before) and hooks(system) == 0
    on = adapt.worn(system)
    with adapt.wearing(system, [("ink", 0.6), ("night", 1.0)], [shelf]):  # read once
        assert adapt.worn(system) == on and torch.equal(drawn(system), changed)
    for each in adapt.worn(system):
        each.remove()
    with pytest.raises(Problem, match="unknown LoRA"), adapt.wearing(system, [("inkk", 1.0)], [shelf]):
        pass


def test_everything_asked_for_is_put_on_and_noted(system, shelf):
    run = copy.deepcopy(system)
    other = autoencoder()
    bundle.save(other, shelf / "vae.safetensors")
    before, own = drawn(run), run.autoencoder
    on = adapt.dress(run, [shelf, f"{shelf / 'ink.safetensors'}:0.5", shelf / "oil"], vae=shelf / "vae.safetensors")
    assert [(w.kind, w.name, w.strength) for w in on] == [("vae", "vae", 1), ("lora", "ink", 0.5), ("lora", "oil", 1)]
    assert all(len(w.record["sha256"]) == 64 for w in on) and on == adapt.worn(run)
    assert run.autoencoder is not own and not any(p.requires_grad for p in run.autoencoder.parameters())
    assert not torch.equal(drawn(run), before)
    for each in on:
        each.remove()
    assert run.autoencoder is own and torch.equal(drawn(run), before)


def test_one_that_cannot_be_put_on_takes_all_others_off(system, shelf):
    own = system.autoencoder
    bundle.save(autoencoder(), shelf / "vae.safetensors")
    with pytest.raises(Problem, match="themes"):
        adapt.dress(
            system, [shelf / "ink.safetensors", shelf / "themes/none.safetensors"], vae=shelf / "vae.safetensors"
        )
    assert hooks(system) == 0 and adapt.worn(system) == [] and system.autoencoder is own


def test_an_autoencoder_of_other_latents_is_refused(system, tmp_path):
    from phosphene.nets.autoencoder import Autoencoder, ConvDecoder, ConvEncoder

    bundle.save(Autoencoder(ConvEncoder(8, (W,)), ConvDecoder(4, (W,)), 4, 2), tmp_path / "other.safetensors")
    with pytest.raises(Problem, match=r"4 channels at 1/2 of a picture's size, the model's 8 channels at 1/4"):
        adapt.replace_autoencoder(system, tmp_path / "other.safetensors")
    bundle.save(ddpm(), tmp_path / "ddpm.safetensors")
    with pytest.raises(Problem, match="is a Ddpm, an autoencoder was expected"):
        adapt.replace_autoencoder(system, tmp_path / "ddpm.safetensors")
    with pytest.raises(Problem, match="no autoencoder"):
        adapt.replace_autoencoder(ddpm(), tmp_path / "other.safetensors")
