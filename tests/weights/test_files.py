"""Containers of weights: what comes out is what torch put in, nothing is run, and whatever is wrong is one line."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from phosphene.errors import Problem
from phosphene.weights import files
from phosphene.weights.stored import DTYPES

FORMS = ["zip", "stream", "deflated"]


def saved(value, path, form="zip"):
    """`value` as torch writes it: since 1.6, before, or packed again by somebody's zip program."""
    torch.save(value, path, _use_new_zipfile_serialization=form != "stream")
    if form == "deflated":
        repacked(path, lambda name, content: content, zipfile.ZIP_DEFLATED)
    return path


def repacked(path, change, compression=zipfile.ZIP_STORED):
    """The archive with each entry's content changed by change(name, content); None leaves it out."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: change(name, archive.read(name)) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            if content is not None:
                archive.writestr(name, content)
    return path


def same(tensors, expected):
    assert list(tensors) == list(expected)
    for key, wanted in expected.items():
        found = tensors[key]
        assert found.dtype == wanted.dtype and tensors.shapes[key] == tuple(wanted.shape) and not found.requires_grad
        assert found.stride() == wanted.stride() and torch.equal(found, wanted.detach()), key


def some_tensors():
    torch.manual_seed(3)
    whole = torch.randn(6, 7)
    return {
        "w": whole,
        "nested.name-with.дots": torch.randn(3, 1, 2).half(),
        "bf16": torch.randn(5).bfloat16(),
        "ints": torch.arange(4),
        "bytes": torch.arange(4, dtype=torch.uint8),
        "bools": torch.tensor([True, False]),
        "double": torch.randn(2, dtype=torch.float64),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "tied": whole,
        "turned": whole.T,
        "view": whole[1:4, ::3],
        "parameter": nn.Parameter(torch.randn(2)),
    }


@pytest.mark.parametrize("form", FORMS)
def test_pickles_hold_what_torch_put_in(tmp_path, form):
    expected = some_tensors()
    same(files.open_tensors(saved(expected, tmp_path / "any.suffix", form)), expected)


@pytest.mark.parametrize("form", FORMS)
def test_state_dicts_lie_in_many_places(tmp_path, form):
    weights = {"a.weight": torch.ones(2), "b": torch.zeros(())}
    for value, rest in [
        ({"state_dict": weights, "global_step": 7, "callbacks": {nn.Linear: {"best": 1}}}, {"global_step": 7}),
        ({"model": weights, "ema": {k: v + 1 for k, v in weights.items()}, "opt": {"state": {0: torch.ones(9)}}}, {}),
        ({"epoch": 3, "model": {"state_dict": collections.OrderedDict(weights)}}, {"epoch": 3}),
        ({f"module.{k}": v for k, v in weights.items()}, {}),
    ]:
        tensors = files.open_tensors(saved(value, tmp_path / "x.pt", form))
        same(tensors, {k: v + ("ema" in value) for k, v in weights.items()})
        assert rest.items() <= tensors.rest.items()


@pytest.mark.parametrize("form", ["zip", "stream"])
def test_modules_that_were_pickled_whole_are_state_dicts(tmp_path, form):
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ModuleDict({"in": nn.Embedding(4, 2)}))
    module.register_buffer("passing", torch.zeros(1), persistent=False)
    same(files.open_tensors(saved(module, tmp_path / "m.pt", form)), dict(module.state_dict()))
    embedding = {"string_to_param": nn.ParameterDict({"*": torch.ones(2, 3)}), "name": "cat", "step": np.int64(9)}
    tensors = files.open_tensors(saved(embedding, tmp_path / "e.pt", form))
    assert list(tensors) == ["string_to_param.*"] and tensors.rest == {"name": "cat", "step": 9}
    tree = files.read_pickle(tmp_path / "e.pt")
    assert torch.equal(tree["string_to_param"]["*"], torch.ones(2, 3)) and tree["name"] == "cat"


def test_torchscript_archives_are_state_dicts(tmp_path):
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))).half()
    module.register_buffer("input_resolution", torch.tensor(224))
    torch.jit.save(torch.jit.script(module), tmp_path / "clip.pt")
    tensors = files.open_tensors(tmp_path / "clip.pt")
    assert {k: v.tolist() for k, v in tensors.items()} == {k: v.tolist() for k, v in module.state_dict().items()}
    assert tensors["0.weight"].dtype == torch.float16


def test_old_streams_whose_storages_are_parts_of_others(tmp_path):
    """Before 0.4 a storage could be a part of another, which the reference says."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.said if isinstance(value, Part) else None

    class Part:
        def __init__(self, *said):
            self.said = said

    def tensor(*view):
        storage = Part("storage", torch.FloatStorage, "94000", "cpu", 6, view or None)
        return Evil(torch._utils._rebuild_tensor, storage, 1, (2,), (1,))

    with open(path := tmp_path / "old.pt", "wb") as file:
        for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(value, file, protocol=2)
        Pickler(file, protocol=2).dump({"whole": tensor(), "part": tensor("94001", 3, 3)})
        pickle.dump(["94000"], file, protocol=2)
        file.write((6).to_bytes(8, "little") + np.arange(6, dtype="<f4").tobytes())
    tensors = files.open_tensors(path)
    assert {k: v.tolist() for k, v in tensors.items()} == {"whole": [1.0, 2.0], "part": [4.0, 5.0]}


def test_numbers_of_numpy_and_of_other_protocols(tmp_path):
    value = {"w": torch.ones(3), "lr": np.float64(0.25), "n": np.int32(-4), "b": np.bool_(True), "none": None}
    for protocol in (2, 3, 4, 5):
        torch.save(value, tmp_path / "n.pt", pickle_protocol=protocol)
        tensors = files.open_tensors(tmp_path / "n.pt")
        assert tensors.rest == {"lr": 0.25, "n": -4, "b": True, "none": None} and torch.equal(tensors["w"], value["w"])


def test_tensors_are_mapped_and_the_file_is_never_written(tmp_path):
    for path in (saved({"w": torch.ones(64, 64)}, tmp_path / "a.pt"), tmp_path / "a.safetensors"):
        if not path.exists():
            save_file({"w": torch.ones(64, 64)}, path)
        before, tensors = path.read_bytes(), files.open_tensors(path)
        assert tensors["w"].data_ptr() == tensors["w"].data_ptr(), "asked for twice, it is in memory once"
        tensors["w"].zero_()
        assert not tensors["w"].any() and path.read_bytes() == before
        half = tensors.read("w", torch.float16)
        assert half.dtype == torch.float16 and tensors.read("w", None).dtype == torch.float32


def test_every_dtype_of_safetensors(tmp_path):
    given = {name: torch.arange(4).to(getattr(torch, name)) for _, name in DTYPES.values()}
    header, data = {}, b""
    for code, (size, name) in DTYPES.items():
        header[name] = {"dtype": code, "shape": [4], "data_offsets": [len(data), len(data) + 4 * size]}
        data += bytes(given[name].view(torch.uint8).tolist())
    path = written(tmp_path / "d.safetensors", header, data)
    for name, tensor in files.open_tensors(path).items():
        assert tensor.dtype == getattr(torch, name) and tensor.tolist() == given[name].tolist(), name


def written(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize("length", [0x80, 0x0280, 0x7B20, 0x5B20, 0x3C20])
def test_a_safetensors_is_not_taken_for_what_its_length_looks_like(tmp_path, length):
    """The first bytes are a number, which may be those of a pickle, of JSON, or of a web page."""
    entry = {"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "__metadata__": {"pad": ""}}
    entry["__metadata__"]["pad"] = "x" * (length - len(json.dumps(entry)))
    tensors = files.open_tensors(written(tmp_path / "m", entry, b"\x07"))
    assert tensors["w"].tolist() == [7] and len(tensors.metadata["pad"]) > 10


def test_under_takes_a_prefix_off(tmp_path):
    save_file({"vae.a": torch.ones(1), "vae.b.c": torch.ones(2), "unet.a": torch.ones(3)}, tmp_path / "x.safetensors")
    tensors = files.open_tensors(tmp_path / "x.safetensors")
    assert tensors.under("vae.").shapes == {"a": (1,), "b.c": (2,)} and "unet.a" in tensors and len(tensors) == 3


def test_writing_and_reading_again(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.ones(2).half()}
    path = files.write_tensors(tmp_path / "new" / "w.safetensors", tensors, {"format": "pt"})
    same(back := files.open_tensors(path), tensors)
    assert back.metadata == {"format": "pt"} and [p.name for p in path.parent.iterdir()] == [path.name]
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match="cannot be written"):
        files.write_tensors(tmp_path / "file" / "w.safetensors", tensors)


# Folders and shards -------------------------------------------------------------------------------------------------


def test_the_file_in_a_folder(tmp_path):
    def chosen(*names, **told):
        for old in tmp_path.iterdir():
            old.unlink()
        for name in names:
            (tmp_path / name).touch()
        return files.weight_file(tmp_path, **told).name

    st, fp16 = "model.safetensors", "model.fp16.safetensors"
    assert chosen("pytorch_model.bin", st, fp16) == st
    assert chosen("pytorch_model.bin", fp16) == "pytorch_model.bin", "full precision before a smaller variant"
    assert chosen(fp16, "model.fp16.bin") == fp16
    assert chosen(st, fp16, variant="fp16") == fp16
    assert chosen(st, variant="non_ema") == st
    assert chosen("model.safetensors.index.json", "pytorch_model.bin") == "model.safetensors.index.json"
    assert chosen("model.safetensors.index.fp16.json") == "model.safetensors.index.fp16.json"
    assert chosen("open_clip_model.safetensors", names=("open_clip_model",)) == "open_clip_model.safetensors"
    with pytest.raises(Problem, match=r"holds no weights.*there is readme\.md"):
        chosen("readme.md")
    with pytest.raises(Problem, match="is not there"):
        files.weight_file(tmp_path / "absent")


@pytest.fixture
def index(tmp_path):
    """Two shards, one of each kind, and their index."""
    save_file({"a": torch.ones(2), "spare": torch.ones(1)}, tmp_path / "m-1.safetensors")
    saved({"b": torch.zeros(3)}, tmp_path / "m-2.bin")
    places = {"b": "m-2.bin", "a": "m-1.safetensors"}
    (path := tmp_path / "m.index.json").write_text(json.dumps({"metadata": {"total_size": 20}, "weight_map": places}))
    return path


def test_shards_are_one_set_of_tensors(index):
    same(files.open_tensors(index), {"b": torch.zeros(3), "a": torch.ones(2)})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"c": "m-3.bin"}, r"m\.index\.json: its shard 'm-3\.bin' is missing"),
        ({"c": "m-2.bin"}, r"m-2\.bin lacks tensor 'c'"),
        ({"c": "../m-2.bin"}, "not the name of a file in the same folder"),
        ({"c": "/etc/passwd"}, "not the name of a file in the same folder"),
        ({"c": ".."}, "not the name of a file"),
        ({"c": "m\x00\n.bin"}, "not the name of a file"),
        ({"c": "m.index.json"}, "begins with"),
        ({"c": "x" * 999}, "is missing"),
        ({"c": 3}, "neither weights nor an index"),
    ],
)
def test_an_index_must_name_files_beside_it(index, change, says):
    told = json.loads(index.read_text())
    told["weight_map"] |= change
    index.write_text(json.dumps(told))
    refused(index, says)


# What is wrong with a file ------------------------------------------------------------------------------------------


def refused(path, says, read=files.open_tensors):
    with pytest.raises(Problem, match=says) as caught:
        read(path)
    message = str(caught.value)
    assert str(path.parent) in message and message.isprintable() and len(message) < 1000
    return message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"abc", "3 bytes"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b'{"error": "Repository not found"}', "JSON, neither weights.*Repository not found"),
        (b"[1, 2, 3, 4]", "an object was expected"),
        (b'{"weight_map": {"a": ', "not JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "a PNG picture"),
        (b"GGUF\x03\x00\x00\x00" + bytes(99), "a GGUF file"),
        (b"\x1f\x8b\x08\x00\x11\x22\x33\x44\x00\x03" + bytes(99), "gzip archive: unpack it"),
        (b"PK\x03\x04" + bytes(200), "truncated or damaged.*download it again"),
        (b"PK\x05\x06" + bytes(18), r"without data\.pkl"),
        (b"\x80\x02" + bytes(50), "damaged or only half there"),
        (pickle.dumps({"a": [1.0] * 100}, protocol=2), "without tensors"),
        (b"x" * 257 + b"ustar\x0000" + bytes(300), "tar archive"),
        (b"\xff" * 64, "begins with"),
        ((1 << 20).to_bytes(8, "little") + b"{}", "truncated"),
    ],
)
def test_what_is_not_weights_is_named(tmp_path, content, says):
    for name in ("x.safetensors", "x.ckpt", "x.index.json"):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, says)


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "notes.txt").touch()
    refused(tmp_path, r"a folder.*notes\.txt")
    refused(tmp_path / "absent.pt", "No such file")
    with pytest.raises(Problem, match="cannot be read"):
        files.open_tensors(tmp_path / "nul\0.pt")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "a file was expected")
    refused(tmp_path / "notes.txt", "empty", files.read_pickle)
    (tmp_path / "notes.txt").write_text("<html>")
    refused(tmp_path / "notes.txt", "web page.*a pickle was expected", files.read_pickle)
    refused(tmp_path / "notes.txt", "not JSON", files.read_json)


@pytest.mark.parametrize("form", FORMS)
def test_every_truncation_is_refused(tmp_path, form):
    content = saved(some_tensors(), tmp_path / "t.pt", form).read_bytes()
    for length in [*range(1, len(content), 211), len(content) - 1]:
        (tmp_path / "t.pt").write_bytes(content[:length])
        refused(tmp_path / "t.pt", "bytes|truncated|half there")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}, "tensors take 36 bytes, 8 are there"),
        ({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, "damaged: tensor 'a' is announced"),
        ({"a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}, "damaged: tensor 'a' is announced"),
        ({"a": {"dtype": "F32", "shape": [10**4000] * 9, "data_offsets": [0, 8]}}, "damaged: tensor 'a'"),
        ({"a": {"dtype": "F32", "shape": [1] * 65 + [2], "data_offsets": [0, 8]}}, "damaged: tensor 'a'"),
        ({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 8]}}, "dtype 'F4'; read are F64"),
        ({"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}, "damaged: tensor 'a'"),
        ({"a\nb": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, r"tensor 'a\\nb'"),
        ({"a": [1]}, "damaged: tensor 'a'"),
        ({"__metadata__": {"a": 1}}, "metadata"),
        ({"__metadata__": []}, "metadata"),
    ],
)
def test_headers_of_safetensors_must_make_sense(tmp_path, header, says):
    refused(written(tmp_path / "h.safetensors", header, bytes(8)), says)


def test_a_header_that_is_too_large_is_said_to_be(tmp_path):
    """And why; what merely begins with a large number is no .safetensors file."""
    path = tmp_path / "h.safetensors"
    path.write_bytes((files.MAX_HEADER + 2**20).to_bytes(8, "little") + b'{"a": ')
    refused(path, r"announces a .safetensors header of 65 MB; at most 64 MB are read, as .* into memory whole")
    path.write_bytes((files.MAX_HEADER + 2**20).to_bytes(8, "little") + b"weights")
    refused(path, "no .safetensors file and no PyTorch pickle")


def test_archives_must_be_whole_and_of_honest_size(tmp_path):
    path = tmp_path / "z.pt"

    def entry(changed, content):
        saved({"w": torch.ones(1000), "b": torch.ones(2)}, path)
        return repacked(path, lambda name, before: content if name.endswith(changed) else before, zipfile.ZIP_DEFLATED)

    refused(entry("data/1", None), "storage 1 is missing")
    refused(entry("data/1", bytes(7)), "storage 1 has 7 bytes for 2 numbers of F32")
    refused(entry("data.pkl", None), r"without data\.pkl")
    refused(entry("byteorder", b"big"), "big-endian")
    refused(entry("data/0", bytes(50 << 20)), "unpack to more than 20 times")
    saved({"w": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes().replace(b"data/0", b"data/9", 1))  # one of an entry's two names
    same(files.open_tensors(path), {"w": torch.ones(1000)})


# Pickles are programs -----------------------------------------------------------------------------------------------


class Evil:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Sets(dict):
    """Writes into whatever stands before it."""

    def __reduce__(self):
        return files.open_tensors, (), {"__defaults__": ()}


def program(path, opcodes: bytes):
    """A zip of torch whose pickle is these instructions."""
    saved({"w": torch.ones(2)}, path)
    return repacked(path, lambda name, before: opcodes if name.endswith("data.pkl") else before)


@pytest.mark.parametrize("form", ["zip", "stream"])
def test_nothing_that_a_pickle_names_is_run(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    calls = [Evil(os.mkdir, "PWNED"), Evil(exec, "open('PWNED', 'w')"), Evil(subprocess.check_call, ["touch", "PWNED"])]
    path = saved({"state_dict": {"w": torch.ones(2)}, "x": calls, "y": Sets()}, tmp_path / "e.pt", form)
    same(files.open_tensors(path), {"w": torch.ones(2)})
    assert files.read_pickle(path)["x"] == [{}, {}, {}]
    message = refused(saved(calls, path, form), "without tensors; it calls")
    assert "mkdir" in message and "exec" in message and "check_call" in message
    assert sorted(os.listdir()) == ["e.pt"]


def test_a_name_that_imports_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "bait.py").write_text("open('PWNED', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for named in (b"cbait\nfall\n(tR.", b"\x80\x04\x8c\x04bait\x8c\x04fall\x93)R.", b"(ibait\nfall\n."):
        refused(program(tmp_path / "i.pt", named), r"calls 'bait\.fall'")
    assert "bait" not in sys.modules and not (tmp_path / "PWNED").exists()


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE  # of 2 numbers
TWICE = b"(" + b"]q\x00" + b"(h\x00h\x00tq\x00" * 60  # ((((…),(…)),…): 2^60 leaves in 400 bytes


@pytest.mark.parametrize(
    ("opcodes", "says"),
    [
        (TENSOR + b"K\x00(K\x03t(K\x01t\x89NtR.", "reaches out of its storage of 2 numbers"),
        (TENSOR + b"K\x01(K\x02t(K\x01t\x89NtR.", "reaches out"),
        (TENSOR + b"K\x00(K\x02t(J\xff\xff\xff\xfft\x89NtR.", "no natural numbers"),
        (TENSOR + b"K\x00(J\xff\xff\xff\x7ft(K\x00t\x89NtR.", "made of 2 numbers"),
        (TENSOR + b"K\x00(" + b"K\x01" * 65 + b"t(K\x01t\x89NtR.", "without a shape"),
        (b"N}q\x00X\x05\x00\x00\x00modelh\x00s.", "too deep"),
        (b"}q\x00X\x01\x00\x00\x00ah\x00s.", "too deep"),
        (TWICE + b"}X\x01\x00\x00\x00ah\x00s.", "too deep, or too large"),
        (TWICE + b"}h\x00K\x01s.", "without tensors"),  # as a key: its hash would take for ever
        (TWICE + b"Q.", "no storage"),
        (b"ctorch\nSize\n(" + b"N" * 99 + b"tR.", "odd arguments"),
        (TWICE + b"h\x00h\x00\x93.", "class without a name"),
        (b"r\xff\xff\xff\x7f.", "damaged"),
        (b"Nr\xff\xff\xff\x7f.", "without tensors"),  # a memo of 2^31 places
        (b"X\xff\xff\xff\x7fabc.", "damaged"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x0fabc.", "damaged"),
        (b"\x82\x01.", "EXT1"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"(" * 5000 + b"N.", "without tensors"),
        (b"]" * 5000 + b"a" * 4999 + b".", "without tensors|too deep"),
        (b"h\x07.", "damaged"),
        (b".", "damaged"),
        (b"N", "damaged"),
        (b"\x80\x04\x8c\x05\x1b[2Jx\x8c\x02a\n\x93)R.", r"calls '\\x1b\[2Jx\.a\\n'"),
    ],
)
def test_hostile_programs_are_one_line(tmp_path, opcodes, says):
    refused(program(tmp_path / "p.pt", opcodes), says)
    with contextlib.suppress(Problem):
        files.read_pickle(tmp_path / "p.pt")


def test_a_dag_of_tensors_is_not_walked_for_ever(tmp_path):
    value = {"w": torch.ones(1)}
    for _ in range(60):
        value = {"a": value, "b": value}
    refused(saved(value, tmp_path / "d.pt"), "too large")
    assert files.read_pickle(tmp_path / "d.pt")["a"]["b"] is not None


# What other people's files hold -------------------------------------------------------------------------------------


def test_recorded_files_give_their_recorded_tensors(shared):
    folder = shared / "fixtures" / "pickle"
    expected = np.load(folder / "expected.npz")
    seen = 0
    for name in ("zip.pt", "legacy_tar.pt", "dtypes.safetensors", "lightning_callbacks.ckpt", "evil.ckpt"):
        tensors = files.open_tensors(folder / name)
        for key in set(tensors) & set(expected):
            assert np.array_equal(tensors[key].float().numpy(), expected[key]), (name, key)
            seen += 1
    assert seen == 12
    view = files.open_tensors(folder / "view_of_big.pt")
    assert torch.equal(view["small_view"], torch.load(folder / "view_of_big.pt")["small_view"])
    assert files.open_tensors(folder / "lightning_callbacks.ckpt").rest["global_step"] == 5


def test_recorded_attacks_do_nothing(shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("evil.ckpt", "evil_exec.pt"):
        assert list(files.open_tensors(shared / "fixtures" / "pickle" / name)) == ["w"]
        files.read_pickle(shared / "fixtures" / "pickle" / name)
    assert not os.listdir()
    for name, says in [("bad_offsets", "damaged"), ("huge_header", "begins with"), ("truncated", "truncated")]:
        refused(shared / "fixtures" / "pickle" / f"{name}.safetensors", says)


def test_recorded_checkpoints_are_what_torch_reads(shared):
    fixtures = shared / "fixtures"
    patterns = ["*.ckpt", "sd1_oldstyle/*/*.bin", "clip/*.pt", "guided/*.pt", "open_clip/*/*.bin", "ti/learned*.bin"]
    paths = [path for pattern in patterns for path in fixtures.glob(pattern)]
    assert len(paths) >= 10
    for path in paths:
        theirs = torch.load(path, weights_only=True)
        same(files.open_tensors(path), theirs.get("state_dict", theirs))
    for name in ("my-style.pt", "original_ti.pt"):
        tree = files.read_pickle(fixtures / "ti" / name)
        assert tree["string_to_param"]["*"].shape == (3, 32)
        assert "string_to_param.*" in files.open_tensors(fixtures / "ti" / name)


def test_opening_needs_no_torch(tmp_path):
    paths = [saved(some_tensors(), tmp_path / f"{form}.pt", form) for form in FORMS]
    code = """if True:
        import sys
        from phosphene.weights import files
        print(*(len(files.open_tensors(path).shapes) for path in sys.argv[1:]), "torch" in sys.modules)"""
    out = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["13", "13", "13", "False"]
