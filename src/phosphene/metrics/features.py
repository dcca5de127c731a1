"""What pictures are compared by: networks that turn a picture into D numbers, all of one contract.

    clip              the small CLIP that comes with the package: 128 numbers, nothing to download (models/clip.md)
    thumbnails        the picture at 8×8 pixels: 192 numbers, no weights; sees colour and layout, not what is shown
    inception         Inception-v3 as TensorFlow had it, whose 2,048 numbers FID is defined on (Heusel et al. 2017)
    dinov2[:FOLDER]   the class token of a DINOv2, through transformers (Oquab et al. 2023; Stein et al. 2023)
    anything else     another CLIP that `phosphene.load` reads: what its picture tower gives, projected

A distance is only worth something between pictures that went the same way, so the way is part of the contract: name,
checksum of the weights, size, and how pictures are brought to it.
"""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Problem, unknown
from .resize import RESIZES, resize

DEFAULT = "clip"
PUBLISHED = "6726825d"  # how the SHA-256 of the published Inception-v3 begins, as both of its addresses say
ADDRESSES = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
)
THUMBNAIL = 8
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Extractor:
    """Pictures uint8 (B, H, W, 3) → features (B, dim), float32 on the CPU.

    name      what a score says that it was measured on
    dim       numbers a picture
    size      the side that pictures are brought to; None: they are taken as they are
    resize    how: a name of resize.RESIZES
    checksum  of the weights, the first digits of a SHA-256; "none" where there are none
    network   float32 (B, 3, size, size) from 0 to 255 → (B, dim)
    classes   (classes, dim): features @ classes.T are a classifier's logits, for the inception score
    clip      the CLIP whose picture tower this is, for scores of words
    """

    name: str
    dim: int
    size: int | None
    checksum: str
    network: Callable[[Tensor], Tensor] = field(repr=False)
    resize: str = "antialiased"
    classes: Tensor | None = field(default=None, repr=False)
    clip: Any = field(default=None, repr=False)

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        side = tuple(pictures.shape[1:3]) if self.size is None else self.size
        return self.network(resize(pictures, side, self.resize)).float().cpu()

    @property
    def title(self) -> str:
        """What a score on these features is called: "FD (thumbnails)", and "FID (Inception)" for the one that is."""
        return f"FID ({self.name})" if self.name == "Inception" else f"FD ({self.name})"

    @property
    def about(self) -> dict[str, str]:
        """What a file of features has to say of how they were made."""
        size = "as it is" if self.size is None else str(self.size)
        return {"features": self.name, "checksum": self.checksum, "feature_size": size, "resize": self.resize}


def extractor(
    name: str = DEFAULT, *, inception: str | Path | None = None, resize: str | None = None, device: str = "cpu"
) -> Extractor:
    """The extractor of a name (see above). Raises Problem where its weights are not there, or are others.

    inception  the file of Inception-v3's weights, instead of the cached or fetched one
    resize     another way to bring pictures to size: "torch" and "tensorflow" are the legacy tools'
    """
    if resize is not None and resize not in RESIZES:
        raise unknown("resize", resize, RESIZES)
    kind, _, rest = name.partition(":")
    if name == "thumbnails":
        made = Extractor("thumbnails", 3 * THUMBNAIL**2, THUMBNAIL, "none", lambda x: x.flatten(1) / 255)
    elif name == "inception":
        made = of_inception(inception or inception_file(), device)
    elif kind == "dinov2":
        made = of_dinov2(rest or "facebook/dinov2-large", device)
    else:
        made = of_clip(name, device)
    return made if resize is None else replaced(made, resize)


def replaced(it: Extractor, how: str) -> Extractor:
    """The same features of pictures that are resized in another way."""
    return Extractor(**{**it.__dict__, "resize": how})


# Inception-v3 ---------------------------------------------------------------------------------------------------------


def of_inception(file: str | Path, device: str = "cpu") -> Extractor:
    """Inception-v3 from a file of its ported weights. Named "Inception" only if the file is the published one."""
    from ..nets.inception import Inception
    from ..weights.files import open_tensors

    tensors, own = open_tensors(file), Inception()
    state = own.state_dict()
    wanted = {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}
    for key, shape in wanted.items():
        if tensors.shapes.get(key) != shape:
            raise Problem(f"{file} is no ported Inception-v3: {key} is {tensors.shapes.get(key)}, not {shape}")
    own.load_state_dict({**state, **{key: tensors[key].float() for key in wanted}})
    net = own.eval().requires_grad_(False).to(device)
    digest = file_digest(file)
    name = "Inception" if digest.startswith(PUBLISHED) else f"Inception weights {digest[:8]}"
    features = lambda x: net((x.to(device) - 128) / 128)[0]  # noqa: E731
    classes = net.fc.weight.detach().cpu() if name == "Inception" else None  # other weights give no inception score
    return Extractor(name, 2048, Inception.size, digest[:12], features, classes=classes)


def inception_file() -> Path:
    """Where the published weights lie: $PHOSPHENE_INCEPTION, else the user's cache, into which they are fetched once.

    Raises Problem where they cannot be fetched, or what came is something else.
    """
    if told := os.environ.get("PHOSPHENE_INCEPTION"):
        return Path(told)
    path = cache() / "inception" / f"inception-2015-12-05-{PUBLISHED}.pth"
    return path if path.is_file() else fetched(ADDRESSES, path, PUBLISHED)


def fetched(addresses: tuple[str, ...], path: Path, begins: str) -> Path:
    """The first address that gives a file whose SHA-256 begins so, written to `path` whole or not at all."""
    failed = []
    for address in addresses:
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                data = answer.read()
        except (OSError, ValueError, urllib.error.URLError) as error:
            failed.append(f"{address}: {getattr(error, 'reason', error)}")
            continue
        digest = hashlib.sha256(data).hexdigest()
        if not digest.startswith(begins):
            failed.append(f"{address}: its SHA-256 begins with {digest[:8]}, not {begins}")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_bytes(data)
        os.replace(partial, path)
        return path
    raise Problem(f"{path} could not be fetched; put it there, or name it (--inception FILE). {'; '.join(failed)}")


def cache() -> Path:
    """The user's cache: $XDG_CACHE_HOME/phosphene or ~/.cache/phosphene."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phosphene"


# Others ---------------------------------------------------------------------------------------------------------------


def of_clip(path: str, device: str = "cpu") -> Extractor:
    """The projected, not normalised numbers of a CLIP's picture tower. Raises Problem for what has none."""
    from ..systems.clip import ClipSystem
    from ..weights.bundle import shipped
    from ..weights.load import load

    if path not in shipped() and not Path(path).exists():
        known = "clip, thumbnails, inception, dinov2, or the file, folder or run of a CLIP"
        raise Problem(f"unknown features {path!r}: neither a file nor one of {known}")
    clip = load(path)
    if not isinstance(clip, ClipSystem) or clip.image is None:
        known = "clip, thumbnails, inception, dinov2, or a CLIP with a picture tower"
        raise Problem(f"{path} holds a {type(clip).__name__}, which gives no features of pictures; {known} would")
    clip = clip.eval().requires_grad_(False).to(device)
    size = None if clip.look is None else clip.look.size
    features = lambda x: clip.image_features(x.to(device) / 127.5 - 1)  # noqa: E731
    with torch.no_grad():
        dim = features(torch.zeros(1, 3, size or 32, size or 32)).shape[1]
    digest = state_digest(clip)
    name = "our CLIP" if path in shipped() else f"CLIP {Path(path).stem}"
    return Extractor(f"{name} {digest[:8]}", dim, size, digest[:12], features, clip=clip)


def of_dinov2(folder: str, device: str = "cpu") -> Extractor:
    """The class token after the last norm, of pictures of 224×224: dgm-eval's FD-DINOv2 with dinov2-large."""
    from transformers import AutoModel

    try:
        net = AutoModel.from_pretrained(folder).eval().requires_grad_(False).to(device)
    except (OSError, ValueError) as error:
        raise Problem(f"DINOv2 at {folder} cannot be read: {str(error).splitlines()[0]}") from None
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in IMAGENET)

    def features(x: Tensor) -> Tensor:
        return net(pixel_values=(x.to(device) / 255 - mean) / std).last_hidden_state[:, 0]

    digest, dim = state_digest(net), net.config.hidden_size
    return Extractor(f"DINOv2 {Path(folder).name} {digest[:8]}", dim, 224, digest[:12], features)


def file_digest(file: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(file, "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def state_digest(net: nn.Module) -> str:
    """SHA-256 of a network's weights, by their names: the same however they were stored."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
