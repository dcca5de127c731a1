"""A thousand damaged and hostile files: each loads or is a Problem, and nothing else happens.

The files that are damaged are made here. While one is read, an audit hook watches: no process, no import, no file
written, no code compiled. Each has two seconds, and all of them together little memory.
"""

from __future__ import annotations

import itertools
import json
import pickletools
import random
import resource
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from phosphene.errors import Problem
from phosphene.weights import bundle, files

TRIALS = 1000
SECONDS = 2.0  # of the processor, for one file
MEMORY = 300 << 20  # bytes, all together

# Pickle instructions that somebody might put in: calls, names, sizes, memo tricks, nesting
HOSTILE = [
    b"cos\nsystem\n(S'touch PWNED'\ntR0",
    b"cposix\nsystem\n(X\x0b\x00\x00\x00touch PWNED\x85R0",
    b'c__builtin__\nexec\n(S\'open("PWNED","w")\'\ntR0',
    b'cbuiltins\neval\n(S\'open("PWNED","w")\'\ntR',
    b"\x8c\x02os\x8c\x06mkdir\x93\x8c\x05PWNED\x85R",
    b"(S'touch PWNED'\nios\nsystem\n",
    b"(cos\nsystem\nS'touch PWNED'\no",
    b"cos\nsystem\nS'touch PWNED'\n\x85\x81",
    b"ctorch\nload\n(S'PWNED'\ntR",
    b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNNtR",
    b"ctorch._tensor\n_rebuild_from_type_v2\n(h\x00h\x00h\x00NtR",
    b"ccollections\nOrderedDict\nh\x00R",
    b"cnumpy.core.multiarray\nscalar\n(h\x00h\x00tR",
    b"}(X\x0c\x00\x00\x00__defaults__)X\x08\x00\x00\x00__code__Nub",
    b"Nr\xff\xff\xff\xff",
    b"j\xff\xff\xff\x7f",
    b"p4294967295\n",
    b"X\xff\xff\xff\x7f",
    b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x8e\x00\x00\x00\x00\x00\x00\x00\x10",
    b"\x8b\xff\xff\xff\x7f",
    b"I" + b"9" * 5000 + b"\n",
    b"(" * 500,
    b"]q\x00" + b"(h\x00h\x00tq\x00" * 60,
    b"}h\x00h\x00s",
    b"h\x00h\x00a",
    b"2" * 500,
    b"\x85" * 3000,
    b"0" * 3,
    b"Q",
    b"b",
    b"R",
    b".",
    b"\x82\x01",
    b"\x95\xff\xff\xff\xff\xff\xff\xff\xff",
]
FORBIDDEN = ("os.", "subprocess.", "shutil.", "socket.", "ctypes.", "import", "compile", "exec", "pickle.", "marshal.")
ALLOWED = ("os.listdir", "os.scandir")  # to say what a folder holds
_watch: list[str] | None = None


def _hook(event: str, args: tuple) -> None:
    """Audit hooks stay for the whole process; this one does nothing unless a file is being read."""
    if _watch is not None and (
        (event.startswith(FORBIDDEN) and event not in ALLOWED) or (event == "open" and str(args[1]) not in ("r", "rb"))
    ):
        _watch.append(f"{event}{args}"[:200])


@pytest.fixture(scope="module")
def seeds(tmp_path_factory, tiny_model) -> dict[str, dict[str, bytes]]:
    """{form: {file: content}}: the first file is the one that is opened."""
    folder = tmp_path_factory.mktemp("seeds")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Conv2d(1, 2, 3), nn.LayerNorm(4))
    weights = {"model." + k: v.half() for k, v in module.state_dict().items()} | {"ints": torch.arange(5)}
    weights["view"] = weights["model.1.weight"].mT[:, :1]
    whole = {"state_dict": weights, "epoch": 3, "callbacks": {nn.Linear: {"best": 1.5}}, "module": module}
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "a.safetensors", {"format": "pt"})
    torch.save(whole, folder / "a.ckpt")
    torch.save(whole, folder / "old.pt", _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.script(module), folder / "script.pt")
    torch.save({"b": torch.ones(3)}, folder / "b.bin")
    index = {"weight_map": {"ints": "a.safetensors", "view": "a.safetensors", "b": "b.bin"}}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "bundle").write_bytes(tiny_model.read_bytes())
    forms = {
        "safetensors": ["a.safetensors"],
        "zip": ["a.ckpt"],
        "stream": ["old.pt"],
        "script": ["script.pt"],
        "index": ["index.json", "a.safetensors", "b.bin"],
        "bundle": ["bundle"],
    }
    return {form: {name: (folder / name).read_bytes() for name in names} for form, names in forms.items()}


def bent(content: bytes, rng: random.Random, among: int) -> bytes:
    """The content with a few bytes changed, cut, doubled, or moved, most often among the first."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(min(among, len(changed)) if rng.random() < 0.7 else len(changed)) if changed else 0
        match rng.randrange(8):
            case 0 | 1:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 2:
                changed[at : at + 1] = rng.choice(
                    [b"9", b"{", b'"', b"]", b"-", b"e", b"(", b".", b"R", b"\xff", b"\0"]
                )
            case 3:
                del changed[at : at + rng.choice([1, 2, 8, 200])]
            case 4:
                changed[at : at + 8] = rng.choice([2**63 - 1, 2**31, 2**40, 100 << 20, 0]).to_bytes(8, "little")
            case 5:
                changed[at:at] = changed[at : at + rng.choice([1, 30, 300])]
            case 6:
                del changed[rng.randrange(len(changed) + 1) :]
            case 7:
                changed[at:at] = rng.choice(HOSTILE)
    return bytes(changed)


def with_opcodes(program: bytes, rng: random.Random) -> bytes:
    """A pickle with instructions put in, left out, doubled or exchanged where an instruction begins."""
    places = [position for _, _, position in pickletools.genops(program)] + [len(program)]
    pieces = [program[a:b] for a, b in itertools.pairwise(places)]
    for _ in range(rng.choice([1, 1, 2, 3])):
        at = rng.randrange(len(pieces))
        match rng.randrange(5):
            case 0 | 1:
                pieces.insert(at, rng.choice(HOSTILE))
            case 2:
                pieces[at] = rng.choice(HOSTILE)
            case 3:
                pieces[at] = pieces[rng.randrange(len(pieces))]
            case 4:
                del pieces[at]
    return b"".join(pieces) or b"."


def rezipped(path: Path, content: bytes, rng: random.Random) -> None:
    """The archive with its pickle changed, so that the checksums are right and the change is met by the machine."""
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    program = next(name for name in entries if name.endswith("data.pkl"))
    entries[program] = with_opcodes(entries[program], rng)
    if rng.random() < 0.2:
        some = rng.choice(list(entries))
        entries[some] = rng.choice([b"", entries[some] * 2, bytes(1 << 20)])
    with zipfile.ZipFile(path, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, inside in entries.items():
            archive.writestr(name, inside)


def restreamed(content: bytes, rng: random.Random) -> bytes:
    """A stream of torch before 1.6 whose fourth pickle, the object, is changed."""
    ends = [0]
    for _ in range(4):
        ends.append(ends[-1] + next(p for op, _, p in pickletools.genops(content[ends[-1] :]) if op.name == "STOP") + 1)
    return content[: ends[3]] + with_opcodes(content[ends[3] : ends[4]], rng) + content[ends[4] :]


def mutated(form: str, given: dict[str, bytes], folder: Path, others: list[bytes], rng: random.Random) -> Path:
    """One damaged file, with what lies beside it."""
    for name, content in given.items():
        (folder / name).write_bytes(content)
    name, content = next(iter(given.items()))
    path, how = folder / name, rng.random()
    if how < 0.1:  # the head of another kind, as where a download was mixed up
        path.write_bytes(rng.choice(others)[: rng.choice([4, 16, 100, 1000])] + content[rng.choice([0, 8, 100]) :])
    elif form in ("zip", "script") and how < 0.7:
        rezipped(path, content, rng)
    elif form == "stream" and how < 0.6:
        path.write_bytes(restreamed(content, rng))
    elif form == "index" and how < 0.5:
        shard = rng.choice(list(given)[1:])
        (folder / shard).write_bytes(bent(given[shard], rng, 400))
    else:
        length = int.from_bytes(content[:8], "little") if form in ("safetensors", "bundle") else 600
        path.write_bytes(bent(content, rng, 8 + length))
    return path


def read(form: str, path: Path) -> None:
    """Everything that is done with a file: the names, each tensor's numbers, the tree. Problem where that cannot be."""
    if form == "bundle":
        bundle.load(path)
        return
    tensors = files.open_tensors(path)
    size = sum(p.stat().st_size for p in path.parent.iterdir())
    for key, tensor in tensors.items():
        assert tuple(tensor.shape) == tensors.shapes[key]
        assert tensor.numel() <= max(1 << 22, 20 * size), "a small file makes a large tensor"
        tensor.clone()
    assert json.dumps(tensors.rest) is not None
    if form in ("zip", "script", "stream"):
        files.read_pickle(path)


def test_a_thousand_damaged_files(seeds, tmp_path, monkeypatch):
    global _watch
    monkeypatch.chdir(tmp_path)
    for form, given in seeds.items():  # what is imported when first needed is imported now
        read(form, mutated_not(given, tmp_path))
    for codec in ("cp437", "raw_unicode_escape"):  # of names in zip archives, of old texts in pickles
        "".encode(codec)
    sys.addaudithook(_hook)
    others = [next(iter(given.values())) for given in seeds.values()] + [
        b"<html>",
        b"\x80\x02",
        b"PK\x03\x04",
        b"{",
        b"",
    ]
    loaded, before, started = Counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for trial in range(TRIALS):
        form, rng = list(seeds)[trial % len(seeds)], random.Random(trial)
        path = mutated(form, seeds[form], tmp_path, others, rng)
        start, _watch = time.process_time(), []
        try:
            read(form, path)
            loaded[form] += 1
        except Problem as problem:
            message = str(problem)
            assert message.isprintable() and len(message) < 1000, (trial, message)
        finally:
            seen, _watch = _watch, None
        assert not seen, (trial, seen)
        assert time.process_time() - start < SECONDS, (trial, form)
    assert not (tmp_path / "PWNED").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY >> 10
    assert time.process_time() - started < 60
    for form in seeds:
        assert 0 < loaded[form] < TRIALS / len(seeds), f"{form}: the damage is too mild or too rough, {loaded}"


def mutated_not(given: dict[str, bytes], folder: Path) -> Path:
    for name, content in given.items():
        (folder / name).write_bytes(content)
    return folder / next(iter(given))
