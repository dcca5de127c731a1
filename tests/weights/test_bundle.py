"""The bundle: what comes back is what was saved, and whatever is wrong with a file is one line."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pickle
import pkgutil
import random
import subprocess
import sys
import threading
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import phosphene
from phosphene.errors import Problem
from phosphene.parts import part
from phosphene.weights import bundle
from phosphene.weights import kinds as kinds_of_files


class Plain(nn.Module):
    """A block kind: given as a class, never built by a bundle itself."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, width)


class Wide(Plain):
    pass


@part
class Clock:
    """A part without tensors."""

    def __init__(self, T: int = 1000, shift: float = 1.0):
        self.T, self.shift = T, shift


@part
class Words:
    def __init__(self, vocabulary: str):
        self.vocabulary = json.loads(vocabulary)


@part
class Net(nn.Module):
    def __init__(self, width: int, block: type = Plain, depths: list[int] = (1, 2), options: dict | None = None):
        super().__init__()
        self.blocks = nn.ModuleList(block(width) for d in depths for _ in range(d))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("table", torch.arange(3), persistent=False)
        self.options = options


@part
class Whole(nn.Module):
    def __init__(self, net: Net, clock: Clock, others: list, words: Words):
        super().__init__()
        self.net, self.clock, self.words = net, clock, words
        self.others = nn.ModuleList(o for o in others if isinstance(o, nn.Module))
        self.head = nn.Linear(4, 2, bias=False)


@pytest.fixture(autouse=True)
def kinds(monkeypatch):
    classes = [Plain, Wide, Clock, Words, Net, Whole]
    table = {c.__name__: c for c in classes}
    for module in (kinds_of_files, bundle):
        monkeypatch.setattr(module, "KINDS", table)


@pytest.fixture
def whole() -> Whole:
    torch.manual_seed(0)
    shared = Net(4, Wide, [1], {"a": [1, 2.5, None], "part": "not a reference"})
    return Whole(shared, Clock(shift=0.5), [shared, Net(3), Clock(7)], Words('{"狐狸": 1, "fox": 2}'))


@pytest.fixture
def path(whole, tmp_path):
    return bundle.save(whole, tmp_path / "model.safetensors", card="# A model\n\nIt knows 狐狸.")


def test_what_comes_back_is_what_was_saved(whole, path):
    before = torch.get_rng_state()
    back = bundle.load(path)
    assert torch.equal(before, torch.get_rng_state()), "loading disturbs the caller's random numbers"
    assert not back.training
    assert back.arguments.keys() == whole.arguments.keys()
    assert {k: v.tolist() for k, v in back.state_dict().items()} == {
        k: v.tolist() for k, v in whole.state_dict().items()
    }
    assert back.others[0] is back.net, "a part used twice is built once"
    assert type(back.net.blocks[0]) is Wide
    assert back.net.options == {"a": [1, 2.5, None], "part": "not a reference"}
    assert (back.clock.T, back.clock.shift, back.words.vocabulary) == (1000, 0.5, {"狐狸": 1, "fox": 2})


def test_saving_what_was_loaded_gives_the_same_file(path, tmp_path):
    again = bundle.save(bundle.load(path), tmp_path / "again.safetensors", bundle.describe(path).card)
    assert bundle.fingerprint(again) == bundle.fingerprint(path)


def test_each_tensor_is_stored_once(path):
    stored = load_file(path)
    assert sum(t.numel() for t in stored.values()) == 4 * 4 + 4 + 1 + 3 * (3 * 3 + 3) + 1 + 4 * 2
    assert "system/head.weight" in stored and "net/blocks.0.linear.weight" in stored


def test_describe_reads_the_header_only(path):
    told = bundle.describe(path)
    assert told.kind == "Whole" and list(told.parts)[-1] == "system"
    assert told.parts["net"] == (
        "Net",
        {
            "width": 4,
            "block": {"class": "Wide"},
            "depths": [1],
            "options": {"dict": {"a": [1, 2.5, None], "part": "not a reference"}},
        },
    )
    assert told.parts["system"][1]["others"] == [{"part": "net"}, {"part": "others.1"}, {"part": "others.2"}]
    assert told.parameters == {"net": 21, "others.1": 37, "system": 8}
    assert told.dtypes == {"F32": 66} and "狐狸" in told.card


@pytest.mark.parametrize(("name", "stored"), [("bf16", "BF16"), ("fp16", "F16")])
def test_matrices_narrow_and_vectors_do_not(whole, tmp_path, name, stored):
    path = bundle.save(whole, tmp_path / "m.safetensors", dtype=name)
    told, back = bundle.describe(path), bundle.load(path)
    assert told.tensors["net/blocks.0.linear.weight"].dtype == stored
    assert told.tensors["net/blocks.0.linear.bias"].dtype == "F32"
    weight = whole.head.weight.to(torch.bfloat16 if name == "bf16" else torch.float16).float()
    assert torch.equal(back.head.weight, weight)
    assert torch.equal(back.net.blocks[0].linear.bias, whole.net.blocks[0].linear.bias)


def test_tied_weights_stay_tied(tmp_path, monkeypatch):
    @part
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.out.weight = self.embed.weight

    monkeypatch.setitem(bundle.KINDS, "Tied", Tied)
    path = bundle.save(tied := Tied(), tmp_path / "tied.safetensors")
    assert list(load_file(path)) == ["system/embed.weight"]
    back = bundle.load(path)
    assert back.out.weight is back.embed.weight and torch.equal(back.out.weight, tied.out.weight)


def test_modules_are_made_hollow_and_filled(whole, path, monkeypatch):
    """No parameter is initialised, what the constructor computes is kept, who held a parameter holds its numbers."""

    @part
    class Held(nn.Module):
        def __init__(self, net: Net):
            super().__init__()
            self.net = net
            assert all(p.is_meta for p in net.parameters())
            self.turns = {"model": list(net.parameters())}

    monkeypatch.setitem(bundle.KINDS, "Held", Held)
    assert not any(p.is_meta for p in whole.parameters())
    rewritten(path, lambda d, t: (d["parts"].update(system=["Held", {"net": {"part": "net"}}]), trimmed(d, t)))
    back = bundle.load(path)
    assert [id(p) for p in back.turns["model"]] == [id(p) for p in back.net.parameters()]
    assert torch.equal(back.turns["model"][0], whole.net.blocks[0].linear.weight) and back.net.scale == 1
    assert back.net.table.tolist() == [0, 1, 2] and not back.net.table.is_meta
    assert all(p.requires_grad and p.is_leaf for p in back.parameters())
    back.net.blocks[0].linear(torch.ones(1, 4)).sum().backward()
    with torch.no_grad():
        back.turns["model"][0].zero_()
    assert torch.equal(bundle.load(path).net.blocks[0].linear.weight, whole.net.blocks[0].linear.weight)
    assert not nn.Linear(2, 2).weight.is_meta, "outside of loading, modules are made as ever"


def trimmed(description, tensors):
    """Leaves what the part `net` needs."""
    description["parts"] = {name: description["parts"][name] for name in ("net", "system")}
    for key in [key for key in tensors if not key.startswith("net/")]:
        del tensors[key]


def test_other_threads_make_modules_as_ever(path):
    made = []
    with bundle.hollow():
        thread = threading.Thread(target=lambda: made.append(nn.Linear(2, 2)))
        thread.start()
        thread.join()
        assert nn.Linear(2, 2).weight.is_meta
    assert not made[0].weight.is_meta


def test_the_denoisers_network_takes_a_precision(tiny_model, monkeypatch):
    monkeypatch.undo()
    stored = load_file(tiny_model)
    plain, half = bundle.load(tiny_model), bundle.load(tiny_model, torch.bfloat16)
    assert {t.dtype for t in plain.state_dict().values() if t.is_floating_point()} == {torch.float32}
    for name, module in half.named_children():
        wanted = torch.bfloat16 if name == "denoiser" else torch.float32
        assert {p.dtype for p in module.parameters()} <= {wanted}, name
    assert {p.dtype for p in half.denoiser.net.parameters()} == {torch.bfloat16}
    for name in ("denoiser.net", "decoder", "encoder"):
        for key, value in plain.get_submodule(name).state_dict().items() if hasattr(plain, name) else ():
            assert torch.equal(value, stored.get(f"{name}/{key}", value).to(value.dtype))
    for key, value in plain.denoiser.net.state_dict().items():
        assert torch.equal(half.denoiser.net.state_dict()[key], value.bfloat16()), key


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("stored", "wanted"), [("fp32", "float32"), ("fp16", "float32"), ("fp16", "bfloat16")])
def test_loading_takes_no_more_memory_than_the_weights(tmp_path, monkeypatch, stored, wanted):
    """At most 1.3 times the weights in the precision that they run in, at the worst moment; mapped, next to nothing."""
    from phosphene.diffusion.denoiser import Denoiser
    from phosphene.diffusion.schedule import Cosine
    from phosphene.nets.unet import UNet

    monkeypatch.undo()
    system = Denoiser(UNet(3, 3, (256, 512), 1), Cosine())
    path = bundle.save(system, tmp_path / "m.safetensors", dtype=stored)
    size = sum(p.numel() for p in system.parameters()) * (4 if wanted == "float32" else 2)
    code = """if True:
        import sys
        import torch
        from phosphene.weights import bundle

        def measured(key, file):
            return next(int(line.split()[1]) for line in open(file) if line.startswith(key)) << 10

        torch.set_num_threads(1)
        bundle.load(sys.argv[2])
        peak, own = measured("VmHWM", "/proc/self/status"), measured("Anonymous", "/proc/self/smaps_rollup")
        system = bundle.load(sys.argv[1], getattr(torch, sys.argv[3]))
        every_page = sum(float(p.detach().flatten()[::256].sum()) for p in system.parameters())
        print(measured("VmHWM", "/proc/self/status") - peak, measured("Anonymous", "/proc/self/smaps_rollup") - own)"""
    small = bundle.save(Denoiser(UNet(3, 3, (32,), 1), Cosine()), tmp_path / "small.safetensors")
    run = [sys.executable, "-c", code, str(path), str(small), wanted]
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    peak, own = map(int, out.split())
    assert size > 40 << 20
    assert 0.5 * size < peak < 1.3 * size, (peak, size)
    assert (own < 0.3 * size) == (stored == "fp32"), (own, size)


def test_views_of_one_storage_and_odd_layouts_are_saved(tmp_path):
    net = Net(4, depths=[1])
    net.blocks[0].linear.weight.data = torch.randn(8, 4).T[:, ::2]
    net.blocks[0].linear.bias.data = net.blocks[0].linear.weight.data[0]
    back = bundle.load(bundle.save(net, tmp_path / "net.safetensors"))
    assert torch.equal(back.blocks[0].linear.weight, net.blocks[0].linear.weight)


def test_saving_replaces_at_once_or_not_at_all(whole, path, monkeypatch):
    before = path.read_bytes()

    def torn(tensors, partial, metadata):
        partial.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", torn)
    with pytest.raises(Problem, match="No space left"):
        bundle.save(whole, path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_class_outside_the_closed_list_is_not_saved(tmp_path, monkeypatch):
    monkeypatch.delitem(bundle.KINDS, "Wide")
    with pytest.raises(Problem, match=r"Wide is not in .*KINDS"):
        bundle.save(Net(4, Wide), tmp_path / "m.safetensors")
    with pytest.raises(Problem, match="Linear is not a part"):
        bundle.save(nn.Linear(2, 2), tmp_path / "m.safetensors")
    with pytest.raises(Problem, match="bf16"):
        bundle.save(Net(4), tmp_path / "m.safetensors", dtype="bf17")
    assert not list(tmp_path.iterdir())


def test_files_can_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        assert bundle.save(Net(4), tmp_path / "net.safetensors").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_names_of_files(tmp_path, path):
    assert bundle.find(path.parent) == path
    for name, says in [
        ("nosuchmodel", "is not there, and no model|unknown model"),
        ("x" * 5000, "is not there, and no model|unknown model"),
        ("a/" + "x" * 5000, "File name too long"),
        (tmp_path / "absent.safetensors", "No such file"),
        (tmp_path.parent, "folder without a model: none of"),
    ]:
        with pytest.raises(Problem, match=says):
            bundle.load(name)


def test_foreign_files_and_folders_are_let_through(tmp_path, path):
    (folder := tmp_path / "foreign").mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "b.bin").write_bytes(b"more")
    assert bundle.find(folder) == folder and not bundle.is_bundle(folder)
    before = bundle.fingerprint(folder)
    (folder / "b.bin").write_bytes(b"others")
    assert bundle.fingerprint(folder) != before and len(before) == 12
    assert bundle.is_bundle(path) and bundle.is_bundle(path.parent)
    for content in (b"PK\x03\x04", path.read_bytes()[:99], b"{}"):
        (tmp_path / "x.ckpt").write_bytes(content)
        assert bundle.find(tmp_path / "x.ckpt") == tmp_path / "x.ckpt" and not bundle.is_bundle(tmp_path / "x.ckpt")
    save_file({"w": torch.zeros(2)}, tmp_path / "x.ckpt")
    assert not bundle.is_bundle(tmp_path / "x.ckpt")
    with pytest.raises(Problem, match="No such file"):
        bundle.is_bundle(tmp_path / "absent.ckpt")


# What is wrong with a file ------------------------------------------------------------------------------------------


def rewritten(path, change) -> None:
    """The bundle with its description changed by `change(description, tensors)`."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        metadata = json.loads(file.read(length))["__metadata__"]
    description, tensors = json.loads(metadata["phosphene"]), load_file(path)
    change(description, tensors)
    save_file(tensors, path, {**metadata, "phosphene": json.dumps(description)})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes"),
        (b"abc", "3 bytes"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\n  <html>nope</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
        (b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00", "not opened"),
        (pickle.dumps({"state_dict": [1.0] * 100}, protocol=2), "pickle"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "a PNG picture"),
        (b'{"prompt": "a fox"}', "no .safetensors file"),
        (b"\xff" * 64, "no .safetensors file"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "no .safetensors file"),
        ((1 << 20).to_bytes(8, "little") + b"{}", "truncated"),
        ((4).to_bytes(8, "little") + b"null", "an object was expected"),
        ((4).to_bytes(8, "little") + b"{\xff\xff}", "not JSON"),
        ((40000).to_bytes(8, "little") + b"[" * 40000, "not JSON"),
    ],
)
def test_what_is_not_a_bundle_is_named(tmp_path, content, says):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(Problem, match=says) as caught:
        bundle.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_pickles_are_recognised_and_never_run(shared):
    for name in ("evil.ckpt", "evil_exec.pt", "legacy_tar.pt", "zip.pt", "lightning_callbacks.ckpt"):
        with pytest.raises(Problem, match="pickle"):
            bundle.load(shared / "fixtures" / "pickle" / name)
    for name in ("bad_offsets", "huge_header", "truncated", "dtypes"):
        with pytest.raises(Problem):
            bundle.load(shared / "fixtures" / "pickle" / f"{name}.safetensors")


def test_every_truncation_is_refused(path):
    content = path.read_bytes()
    for length in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(Problem, match="bytes"):
            bundle.load(path)
    path.write_bytes(content + b"\x00")
    with pytest.raises(Problem, match="1 bytes follow"):
        bundle.load(path)


@pytest.mark.parametrize(
    ("spans", "says"),
    [
        ([(0, 4), (2, 6)], "overlap or leave a hole at byte 4"),
        ([(0, 4), (6, 10)], "overlap or leave a hole at byte 4"),
        ([(0, 4), (4, 7)], "damaged: tensor 'b' is announced"),
        ([(0, 4), (4, 8)], "2 bytes follow"),
        ([(0, 4), (8, 4)], "damaged: tensor 'b' is announced"),
    ],
)
def test_announced_places_must_tile_the_data(tmp_path, spans, says):
    header = {k: {"dtype": "U8", "shape": [4], "data_offsets": s} for k, s in zip("ab", spans, strict=True)}
    text = json.dumps(header).encode()
    path = tmp_path / "tiled.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(10))
    with pytest.raises(Problem, match=says):
        bundle.describe(path)


def test_other_peoples_safetensors_are_named(tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "foreign.safetensors", {"format": "pt"})
    with pytest.raises(Problem, match="1 tensors but no Phosphene description"):
        bundle.load(tmp_path / "foreign.safetensors")


def test_tensors_must_be_exactly_those_described(path):
    content = path.read_bytes()
    for change, says in [
        (lambda d, t: t.pop("system/head.weight"), "lacks system/head.weight"),
        (lambda d, t: t.update(spare=torch.zeros(1)), "holds spare, for which"),
        (lambda d, t: t.update({"system/head.weight": torch.zeros(4, 2)}), r"\[4, 2\].* \[2, 4\]"),
        (lambda d, t: t.update({"net/scale": torch.ones((), dtype=torch.int64)}), "stored as I64"),
    ]:
        path.write_bytes(content)
        rewritten(path, change)
        with pytest.raises(Problem, match=says):
            bundle.load(path)


def test_descriptions_must_make_sense(path):
    content = path.read_bytes()
    for change, says in [
        (lambda d, t: d.update(format=99), "format 99"),
        (lambda d, t: d.update(parts=[]), "lacks parts"),
        (lambda d, t: d["parts"].update(system="Whole"), "lacks parts"),
        (lambda d, t: d["parts"]["net"].__setitem__(0, "Nett"), "unknown kind 'Nett'; did you mean 'Net'"),
        (lambda d, t: d["parts"]["net"].__setitem__(0, "os:system"), "unknown kind"),
        (lambda d, t: d["parts"]["net"].__setitem__(0, "Plain"), "part 'net'"),
        (lambda d, t: d["parts"]["net"][1].update(block={"class": "subprocess.Popen"}), "unknown kind"),
        (lambda d, t: d["parts"]["net"][1].update(nosuch=1), "nosuch"),
        (lambda d, t: d["parts"]["net"][1].update(width="wide"), "cannot be made"),
        (lambda d, t: d["parts"]["net"][1].update(block={"part": "system"}), "neither a part named before it"),
        (lambda d, t: d["parts"]["net"][1].update(block={"what": 1}), "neither"),
        (lambda d, t: d["parts"]["words"][1].update(vocabulary="{"), "cannot be made"),
    ]:
        path.write_bytes(content)
        rewritten(path, change)
        with pytest.raises(Problem, match=says) as caught:
            bundle.load(path)
        assert "\n" not in str(caught.value)


def test_a_small_file_cannot_ask_for_much_memory(path, monkeypatch):
    @part
    class Greedy(nn.Module):
        """Its parameter is full of numbers before it is known to be one."""

        def __init__(self, width: int):
            super().__init__()
            self.table = nn.Parameter(0.01 * torch.randn(width, generator=torch.Generator()))

    monkeypatch.setitem(bundle.KINDS, "Greedy", Greedy)
    for name, width in [("net", 60_000), ("net", 10**12), ("greedy", 10**10), ("greedy", 10**20)]:
        if name == "greedy":
            rewritten(path, lambda d, t, width=width: d["parts"].update(net=["Greedy", {"width": width}]))
        else:
            rewritten(path, lambda d, t, width=width: d["parts"]["net"][1].update(width=width))
        start = time.perf_counter()
        with pytest.raises(Problem, match=r"far more|cannot be made"):
            bundle.load(path)
        assert time.perf_counter() - start < 1


@pytest.mark.parametrize("real", [False, True])
def test_fuzz_every_damaged_file_loads_or_is_a_problem(path, tiny_model, real, monkeypatch):
    """400 times a small bundle, 100 times one with all parts of a text-to-image system; bytes of its header change."""
    if real:
        monkeypatch.undo()
    content, rng, loaded = tiny_model.read_bytes() if real else path.read_bytes(), random.Random(0), 0
    header = 8 + int.from_bytes(content[:8], "little")
    for trial in range(100 if real else 400):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(8 if trial % 8 == 0 else header if trial % 4 else len(damaged))
            what = rng.randrange(4)
            if what == 0:
                damaged[at] ^= 1 << rng.randrange(8)
            elif what == 1:
                damaged[at] = rng.choice(b'0123456789"{}[],:-x\\')
            elif what == 2:
                del damaged[at : at + rng.randint(1, 3)]
                damaged[at:at] = bytes(rng.choices(b'019"{}[],:e', k=3)) if rng.random() < 0.5 else b""
            else:
                other = rng.randrange(header)
                damaged[at : at + 4] = damaged[other : other + 4]
        path.write_bytes(damaged)
        try:
            bundle.load(path)
            loaded += 1
        except Problem as problem:
            assert "\n" not in str(problem) and len(str(problem)) < 1000
    assert 0 < loaded < trial / 2


def test_describing_needs_no_torch(path):
    code = """if True:
        import sys
        from phosphene.weights import bundle
        print(bundle.describe(sys.argv[1]).kind, "torch" in sys.modules)"""
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["Whole", "False"]


def test_every_part_of_the_library_has_its_kind(monkeypatch):
    """Whatever is decorated with @part in the package can be saved under the name of its class."""
    monkeypatch.undo()
    for module in pkgutil.walk_packages(phosphene.__path__, "phosphene."):
        if module.name.endswith("__main__"):
            continue
        for name, cls in vars(importlib.import_module(module.name)).items():
            if isinstance(cls, type) and cls.__dict__.get("is_part") and cls.__module__ == module.name:
                assert name in bundle.KINDS, f"{module.name}.{name} is missing in bundle.KINDS"
                assert bundle.class_of(name) is cls
                for default in (p.default for p in inspect.signature(cls.__init__).parameters.values()):
                    if isinstance(default, type) and default is not inspect.Parameter.empty:
                        assert bundle.class_of(default.__name__) is default
