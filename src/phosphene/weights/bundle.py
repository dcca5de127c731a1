"""The bundle: one .safetensors file that describes itself.

The tensors are the weights that one samples with. The header's metadata holds, as JSON, the model card and a flat list
of named parts, {name: [kind, arguments]}, each after the parts that it refers to, the whole last. In the arguments
plain values stand as they are, and an object says what it is: {"part": name} another part, {"class": name} a class (a
block kind), {"dict": {…}} a plain dictionary. So a part used twice is built once and stored once. What a system wears
(adapt/: LoRAs, words, another autoencoder) are parts too, and "worn" lists on what, by what name and how strongly.

A kind is a key of KINDS (kinds.py), which is closed: a file can never name code to run. Loading is strict; every way
in which a file can be wrong is a Problem. Whatever is read comes from outside, so nothing here trusts it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phosphene.errors import Problem, unknown
from phosphene.hashes import sha256
from phosphene.parts import PLAIN, is_part
from phosphene.weights.files import Stored, header, mapped, parsed, write_tensors
from phosphene.weights.kinds import KINDS, class_of
from phosphene.weights.stored import line, short

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FORMAT = 1
ROOT = "system"  # the name of the whole
MODELS = Path(__file__).resolve().parent.parent / "models"  # what is shipped with the package
CONFIGS = ("model_index.json", "config.json", "open_clip_config.json")  # of a foreign model's folder


# Writing ------------------------------------------------------------------------------------------------------------


def save(system: Any, path: str | Path, card: str | None = None, dtype: str | torch.dtype | None = None) -> Path:
    """Write `system`, or any other part, and all it is made of and wears, into one file; at once or not at all.

    `card` is the model card, in Markdown. `dtype` ("bf16", "fp16") is what matrices and kernels are stored in; vectors
    and scalars (biases, norms, scales) keep their own, they weigh next to nothing. Raises Problem where the path cannot
    be written, a class is not in KINDS, or the system wears a guide, which no bundle holds.
    """
    parts = parts_of(system)
    names = {id(p): name for name, p in parts.items()}
    description = {
        "format": FORMAT,
        "parts": {name: [_kind(type(p)), _written(p.arguments, names)["dict"]] for name, p in parts.items()},
        "card": card or "",
    }
    if on := [_on(name, it, names) for name, p in parts.items() for it in _worn(p)]:
        description["worn"] = on
    stored = {key: _narrowed(t.detach(), _dtype(dtype)) for key, t in _tensors(parts).items()}
    metadata = {"phosphene": json.dumps(description, ensure_ascii=False)}  # one key: several are written in any order
    return write_tensors(path, stored, metadata)


def parts_of(whole: Any) -> dict[str, Any]:
    """{name: part}, dependencies first. A name is the path of arguments that leads to the part, `denoiser.net`."""
    if not is_part(whole):
        raise Problem(f"a {type(whole).__name__} is not a part: only classes decorated with @part are saved")
    found: dict[int, tuple[str, Any]] = {}

    def visit(value: Any, name: str) -> None:
        if is_part(value):
            if id(value) not in found:
                for key, argument in value.arguments.items():
                    visit(argument, key if name == ROOT else f"{name}.{key}")
                for i, it in enumerate(_worn(value)):
                    visit(it, f"worn.{i}" if name == ROOT else f"{name}.worn.{i}")
                found[id(value)] = (name, value)
        elif isinstance(value, (list, dict)):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                visit(item, f"{name}.{key}")

    visit(whole, ROOT)
    return dict(found.values())


def _worn(part: Any) -> list[Any]:
    """What adapt/ has put on a part."""
    return part.__dict__.get("worn", [])


def _on(part: str, it: Any, names: dict[int, str]) -> dict[str, Any]:
    """How a part wears something. Raises Problem for what is no part itself, such as a guide."""
    if not is_part(it):
        raise Problem(f"a bundle does not hold the {it.kind} {it.name!r} that is on this model: remove it first")
    return {"on": part, "part": names[id(it)], "name": it.name, "strength": it.strength}


def _written(value: Any, names: dict[int, str]) -> Any:
    if is_part(value):
        return {"part": names[id(value)]}
    if isinstance(value, type):
        return {"class": _kind(value)}
    if isinstance(value, list):
        return [_written(v, names) for v in value]
    if isinstance(value, dict):
        return {"dict": {k: _written(v, names) for k, v in value.items()}}
    assert isinstance(value, PLAIN), value
    if isinstance(value, float) and not math.isfinite(value):
        raise Problem(f"a part was made with {value}, which JSON cannot say")
    return value


def _kind(cls: type) -> str:
    """The name of a class in files."""
    name = cls.__name__
    if name not in KINDS or class_of(name) is not cls:
        raise Problem(f"class {cls.__module__}.{name} is not in phosphene.weights.bundle.KINDS, so no file can name it")
    return name


def _tensors(parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """{part/key: tensor}: each parameter and buffer once, under the first part that has it.

    What was just built shares as what was saved did, so both sides of a file have the same keys.
    """
    from torch import nn

    found: dict[int, tuple[str, Tensor]] = {}
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            for key, tensor in part.state_dict(keep_vars=True).items():
                found.setdefault(id(tensor), (f"{name}/{key}", tensor))
    return dict(found.values())


def _narrowed(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    narrow = dtype is not None and tensor.is_floating_point() and tensor.ndim >= 2
    tensor = tensor.to("cpu", dtype if narrow else None)
    return tensor.contiguous().clone()  # two views of one storage cannot be written


def _dtype(name: str | torch.dtype | None) -> torch.dtype | None:
    import torch

    known = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if isinstance(name, str) and name not in known:
        raise unknown("dtype", name, known)
    return known[name] if isinstance(name, str) else name


# Reading ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Description:
    """What a bundle's header says. parts {name: (kind, arguments)}; tensors {part/key: Stored}."""

    path: Path
    parts: dict[str, tuple[str, dict[str, Any]]]
    tensors: dict[str, Stored]
    card: str
    size: int  # bytes
    worn: Sequence[dict[str, Any]] = ()  # what is on which part: {"on", "part", "name", "strength"}

    @property
    def kind(self) -> str:
        return self.parts[ROOT][0]

    @property
    def parameters(self) -> dict[str, int]:
        """{part: how many numbers it stores}, for the parts that store any."""
        counts: dict[str, int] = {}
        for key, stored in self.tensors.items():
            name = key.split("/")[0]
            counts[name] = counts.get(name, 0) + stored.count
        return counts

    @property
    def dtypes(self) -> dict[str, int]:
        """{dtype: how many numbers}, the most first."""
        counts: dict[str, int] = {}
        for stored in self.tensors.values():
            counts[stored.dtype] = counts.get(stored.dtype, 0) + stored.count
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    @property
    def outside(self) -> list[str]:
        """The folders, or names on the Hub, of the frozen text encoders that the system reads its words by."""
        told = [arguments for kind, arguments in self.parts.values() if kind == "HuggingEncoder"]
        return list(dict.fromkeys(str(a[key]) for a in told for key in ("name", "tokenizer") if a.get(key)))

    @property
    def vocabulary(self) -> tuple[list[str], list[str]]:
        """(what the system knows by name, the words for style); both empty where it does not say."""
        for kind, arguments in self.parts.values():
            entries = arguments.get("entries")
            if kind == "Vocabulary" and isinstance(entries, list) and all(isinstance(e, list) and e for e in entries):
                return [str(e[0]) for e in entries], [str(s) for s in arguments.get("style") or []]
        return [], []


def shipped() -> dict[str, Path]:
    """{name: file} of the models that came with the package."""
    return {path.stem: path for path in sorted(MODELS.glob("*.safetensors"))}


def find(path_or_name: str | Path) -> Path:
    """The file of a shipped model's name, of a path, or of a run's folder, which holds model.safetensors.

    The folder of a foreign model, with its configuration in it, stands for itself.
    """
    path = Path(path_or_name)
    if str(path_or_name) in shipped():
        return shipped()[str(path_or_name)]
    if os.path.isdir(path):  # unlike Path's, which raises where a name is too long for a file
        if any((path / name).is_file() for name in CONFIGS):
            return path
        if not (path / "model.safetensors").is_file():
            wanted = f"none of {', '.join(CONFIGS)} and model.safetensors is in it"
            raise Problem(f"{path} is a folder without a model: {wanted}")
        return path / "model.safetensors"
    if path.suffix or len(path.parts) > 1 or os.path.exists(path):
        return path
    if not shipped():
        raise Problem(f"{path} is not there, and no model came with this installation")
    raise unknown("model", str(path_or_name)[:200], shipped())


def is_bundle(path_or_name: str | Path) -> bool:
    """Whether it is a bundle of ours, from its header alone. Raises Problem where it cannot be read."""
    path = find(path_or_name)
    if path.is_dir():
        return False
    data = mapped(path)
    try:
        return "phosphene" in header(path, data)[1]
    except Problem:
        return False


def describe(path_or_name: str | Path) -> Description:
    """What a bundle is, from its header alone; needs no torch. Raises Problem where it is not a bundle of ours."""
    path = find(path_or_name)
    data = mapped(path)
    tensors, metadata = header(path, data)
    if "phosphene" not in metadata:
        raise Problem(f"{path} holds {len(tensors)} tensors but no Phosphene description: not a bundle of ours")
    told = parsed(path, metadata["phosphene"], "its description")
    if told.get("format") != FORMAT:
        raise Problem(f"{path} is of bundle format {short(told.get('format'))}; this Phosphene reads format {FORMAT}")
    parts = told.get("parts")
    if not isinstance(parts, dict) or ROOT not in parts or not all(_is_entry(p) for p in parts.values()):
        raise Problem(f"{path}: its description lacks parts, name: [kind, arguments], the whole named {ROOT!r}")
    parts = {name: (kind, arguments) for name, (kind, arguments) in parts.items()}
    worn = told.get("worn", [])
    if not isinstance(worn, list) or not all(isinstance(each, dict) for each in worn):
        raise Problem(f"{path}: worn is {short(worn)}, a list of what the model wears was expected")
    return Description(path, parts, tensors, str(told.get("card", "")), len(data), worn)


def load(path_or_name: str | Path, dtype: torch.dtype | None = None) -> Any:
    """The system in a bundle, on the CPU and in eval mode: in float32, but for its denoisers' networks in `dtype`.

    What is stored in the precision that it is wanted in is mapped into memory and not read before it is used; writing
    to it is allowed and leaves the file alone. The rest is converted tensor by tensor.
    Raises Problem, one line, where the file is truncated, foreign or damaged, where it names an unknown kind, or where
    its tensors are not exactly those of the system that it describes. The caller's random numbers are left alone.
    """
    import torch
    from torch import nn

    from phosphene.diffusion.denoiser import Denoiser

    told = describe(path_or_name)
    with torch.random.fork_rng(devices=[]), _at_most(told), hollow():
        built = _built(told)
    system = built[ROOT]
    if isinstance(system, nn.Module):
        for denoiser in (m for m in system.modules() if dtype is not None and isinstance(m, Denoiser)):
            denoiser.net.to(dtype)  # costs nothing: there are no numbers yet
        system.eval()
    wanted = _tensors(built)
    _check(told, wanted)
    for key, tensor in wanted.items():
        numbers = told.tensors[key].tensor(tensor.dtype)
        if isinstance(tensor, nn.Parameter):
            numbers = nn.Parameter(numbers, tensor.requires_grad)
        torch.utils.swap_tensors(tensor, numbers)  # in its place, so that whoever holds the parameter has the new one
    for each in told.worn:
        _put_on(each, built, told.path)
    return system


@contextlib.contextmanager
def hollow() -> Iterator[None]:
    """Modules made in this context have no numbers: each parameter goes to the meta device when it is registered,
    before it is initialised. Buffers are what the constructor makes them, as not all of them are stored."""
    import torch
    from torch import nn
    from torch.nn.modules.module import register_module_parameter_registration_hook

    thread = threading.get_ident()  # the hook is one for the whole program

    def empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta and threading.get_ident() == thread:
            hollow = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
            torch.utils.swap_tensors(parameter, hollow)

    hook = register_module_parameter_registration_hook(empty)
    try:
        yield
    finally:
        hook.remove()


def fingerprint(path_or_name: str | Path) -> str:
    """The first 12 hexadecimal digits of the file's SHA-256: which weights a picture was made with.

    Of a folder: of all the weights in it, in the order of their names; of the index of a sharded file, of its folder.
    """
    path = find(path_or_name)
    path = path.parent if path.name.endswith(".index.json") else path
    kinds = (".safetensors", ".bin", ".ckpt", ".pt")
    files = sorted(p for p in path.rglob("*") if p.suffix in kinds) if path.is_dir() else [path]
    digests = [sha256(each) for each in files]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()
    return whole[:12]


def _is_entry(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict)


def _built(told: Description) -> dict[str, Any]:
    """{name: part}, made in the file's order, so that nothing can refer to itself."""
    built: dict[str, Any] = {}
    for name, (kind, arguments) in told.parts.items():
        where = f"{told.path}: part {name!r}"
        if kind not in KINDS:
            raise Problem(f"{where}: {unknown('kind', kind, KINDS)}")
        given = {key: _value(argument, built, where) for key, argument in arguments.items()}
        try:
            part = class_of(kind)(**given)
        except Problem:
            raise
        except Exception as error:  # the arguments come from the file, and so does whatever they lead to
            raise Problem(f"{where} cannot be made: {kind} says {line(error)}") from None
        if not is_part(part):
            raise Problem(f"{where}: {kind} is a block kind, not a part")
        built[name] = part
    return built


def _put_on(told: Mapping[str, Any], built: Mapping[str, Any], path: Path) -> None:
    """Puts a part that is worn on the part that wears it, as it was when they were written."""
    try:
        it = built[told["part"]]
        it.strength = told["strength"]
        it.put(built[told["on"]], str(told["name"]), None)
    except Problem:
        raise
    except Exception as error:  # whatever the file says it is
        raise Problem(f"{path}: what the model wears, {short(dict(told))}, cannot be put on: {line(error)}") from None


def _value(value: Any, built: dict[str, Any], where: str) -> Any:
    if isinstance(value, list):
        return [_value(v, built, where) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        [(what, inside)] = value.items()
        if what == "dict" and isinstance(inside, dict):
            return {k: _value(v, built, where) for k, v in inside.items()}
        if what == "part" and isinstance(inside, str) and inside in built:
            return built[inside]
        if what == "class" and isinstance(inside, str):
            if inside not in KINDS:
                raise Problem(f"{where}: {unknown('kind', inside, KINDS)}")
            return class_of(inside)
    raise Problem(f"{where}: {short(value)} is neither a part named before it, nor a class, nor a dict")


def _check(told: Description, wanted: Mapping[str, Tensor]) -> None:
    """Problem where the file's tensors are not those of the system: one missing, one too many, one misshapen."""
    missing, extra = sorted(wanted.keys() - told.tensors), sorted(told.tensors.keys() - wanted)
    if missing:
        raise Problem(f"{told.path} lacks {_some(missing)}, which its description asks for")
    if extra:
        raise Problem(f"{told.path} holds {_some(extra)}, for which its description has no place")
    for key, tensor in wanted.items():
        stored = told.tensors[key]
        if stored.shape != tuple(tensor.shape):
            raise Problem(f"{told.path}: {key} is {list(stored.shape)}, its description asks for {list(tensor.shape)}")
        if (stored.dtype[0] in "FB" and stored.dtype != "BOOL") != tensor.is_floating_point():
            raise Problem(f"{told.path}: {key} is stored as {stored.dtype}, its description asks for {tensor.dtype}")


def _at_most(told: Description) -> Any:
    """A context in which a part can make no more tensors than the file can fill: a Problem before memory is taken."""
    import torch
    from torch.overrides import TorchFunctionMode

    makers = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.linspace}

    class Bounded(TorchFunctionMode):
        room = 2 * sum(t.count for t in told.tensors.values()) + (1 << 22)  # some are made in passing

        def __torch_function__(self, function, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            if function in makers:
                shape_only = {k: v for k, v in kwargs.items() if k != "generator"} | {"device": "meta"}
                self.room -= function(*args, **shape_only).numel()
                if self.room < 0:
                    raise Problem(f"{told.path}: its description asks for far more than the file holds")
            return function(*args, **kwargs)

    return Bounded()


def _some(keys: list[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more tensors"
