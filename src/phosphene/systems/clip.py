"""CLIP: pictures and words in one space (Radford et al. 2021).

N pairs a batch; of the N² cosine similarities the N right ones are raised and the N² − N wrong ones lowered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import Problem
from ..parts import part
from ..text.encoders import TextEncoder
from .base import Batch, Loss, System

if TYPE_CHECKING:
    from PIL.Image import Image

    Pictures = Tensor | Image | Sequence[Image]

CHUNK = 256  # pictures or texts at once, where there may be many


@part
class Look:
    """What a picture tower is shown of a picture: size × size of it, (p − mean) / std for its pixels p in [0, 1].

    The short side is brought to `short`, or to `size`, and the middle is cut out (Radford et al. 2021); with `whole`
    both sides are brought to `size`. Without mean and std it is 2p − 1.
    """

    def __init__(
        self,
        size: int = 224,
        mean: Sequence[float] | None = (0.48145466, 0.4578275, 0.40821073),
        std: Sequence[float] | None = (0.26862954, 0.26130258, 0.27577711),
        whole: bool = False,
        filter: str = "bicubic",
        short: int | None = None,
    ):
        self.short = short or size
        self.size, self.mean, self.std, self.whole, self.filter = (
            size,
            mean or [0.5] * 3,
            std or [0.5] * 3,
            whole,
            filter,
        )

    def __call__(self, pictures: Pictures) -> Tensor:
        """Pictures (B, 3, H, W) in [−1, 1], a PIL picture or a list of them → (B, 3, size, size).

        Of a tensor it is differentiable. A PIL picture's 8 bits are resized as 8 bits, as PIL does.
        """
        if isinstance(pictures, Tensor):
            shown = self._fitted(pictures.float() / 2 + 0.5).clamp(0, 1)
        else:
            several = pictures if isinstance(pictures, Sequence) else [pictures]
            shown = torch.cat([self._fitted(_pixels(picture)) for picture in several]).float() / 255
        mean, std = (torch.tensor(v, device=shown.device)[:, None, None] for v in (self.mean, self.std))
        return (shown - mean) / std

    def _fitted(self, pixels: Tensor) -> Tensor:
        h, w = pixels.shape[-2:]
        size = (self.size, self.size) if self.whole else tuple(self.short * side // min(h, w) for side in (h, w))
        if (h, w) != size:
            pixels = F.interpolate(pixels, size, mode=self.filter, antialias=True)
        top, left = (round((side - self.size) / 2) for side in size)
        return pixels[..., top : top + self.size, left : left + self.size]


@part
class ClipSystem(System):
    """A text encoder and a picture tower (forward: (B, 3, H, W) → (B, width)), each with a projection to `width`.

    Either may be missing, and with width None what the towers give is not projected.
    look is what the picture tower is shown. Without one, pictures of another size than `size` are brought to
    size × size; with size None they are taken as they are.
    """

    def __init__(
        self,
        text: TextEncoder | None,
        image: nn.Module | None,
        width: int | None = 256,
        size: int | None = None,
        look: Look | None = None,
    ):
        super().__init__()
        self.text, self.image = text, image
        self.look = Look(size, None, None, whole=True) if look is None and size else look
        self.text_projection = _projection(text, width)
        self.image_projection = _projection(image, width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # the learned temperature's inverse

    def text_features(self, prompts: Sequence[str | None]) -> Tensor:
        """What the text tower makes of the prompts, projected: (B, width). Raises Problem where there is none."""
        if self.text is None:
            raise Problem("this is CLIP's picture tower alone; it reads no words")
        return self.text_projection(self.text(prompts).vector)

    def image_features(self, pictures: Pictures) -> Tensor:
        """What the picture tower makes of the pictures, projected: (B, width). Raises Problem where there is none.

        Pictures are (B, 3, H, W) in [−1, 1], or a PIL picture or a list of them.
        """
        if self.image is None:
            raise Problem("this is CLIP's text tower alone; it sees no pictures")
        shown = pictures if self.look is None else self.look(pictures)
        like = next(self.image.parameters())
        return self.image_projection(self.image(shown.to(like.device, like.dtype)))

    def embed_text(self, prompts: Sequence[str | None]) -> Tensor:
        """text_emb: (B, width), of length 1."""
        return F.normalize(self.text_features(prompts).float(), dim=-1)

    def embed_image(self, pictures: Pictures) -> Tensor:
        """image_emb of pictures (B, 3, H, W) in [−1, 1], or of PIL's: (B, width), of length 1."""
        return F.normalize(self.image_features(pictures).float(), dim=-1)

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied with before the softmax: exp(log_scale), at most 100."""
        return self.log_scale.float().clamp(max=math.log(100)).exp()

    def gather(self, batch: Batch, turn: str = "model") -> tuple[Tensor, ...]:
        """(image_emb, text_emb): every picture is told from all texts of a step, and every text from all pictures."""
        return self.embed_image(batch.image), self.embed_text(batch.prompts)

    def loss(self, batch: Batch, turn: str = "model") -> Loss:
        """The mean of two cross-entropies, which text for a picture and which picture for a text (figure 3 there).

        N pairs: those of all slots of the step, so that a batch cut into slots, or shared by processes, is one batch.
        """
        images, texts = self.gather(batch)
        if batch.slots:
            images, texts = batch.slots.joined(images, texts)
        logits = self.scale * images @ texts.T  # (N, N)
        right = torch.arange(len(logits), device=logits.device)
        total = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
        hits = (logits.argmax(1) == right).float().mean()
        return Loss(total, {"recall": hits.detach(), "scale": self.scale.detach()})

    @torch.no_grad()
    def similarity(self, pictures: Pictures, texts: Sequence[str]) -> Tensor:
        """The cosines of pictures and texts: (B, len(texts))."""
        rows = torch.cat([self.embed_text(texts[i : i + CHUNK]) for i in range(0, len(texts), CHUNK)])
        return torch.cat([self.embed_image(some) for some in _chunks(pictures)]) @ rows.T

    def nearest(self, pictures: Pictures, texts: Sequence[str], k: int = 1) -> Tensor:
        """The k texts nearest to each picture, nearest first: their numbers, (B, k).

        Zero-shot classification is this with one text a class, "a photo of a {}" (Radford et al. 2021, §3.1).
        """
        return self.similarity(pictures, texts).topk(min(k, len(texts)), dim=-1).indices

    def zero_shot(self, pictures: Pictures, names: Sequence[str], caption: str = "a photo of a {}") -> Tensor:
        """p(name | picture): (B, len(names)), softmax(scale · cosine) over the names put into the caption (§3.1)."""
        return (self.scale * self.similarity(pictures, [caption.format(n) for n in names])).softmax(-1).detach()

    def generate(self, prompts, *, seeds, **options):
        """CLIP judges pictures and makes none. Raises Problem."""
        raise Problem("CLIP makes no pictures from words; it judges them, and its text encoder starts a latent model")


def _projection(tower: nn.Module | None, width: int | None) -> nn.Module:
    """A linear layer without a bias; nothing where there is no tower, no width, or the tower projects by itself."""
    if tower is None or width is None or getattr(tower, "projects", False):
        return nn.Identity()
    return nn.Linear(tower.width, width, bias=False)


def _pixels(picture: Image) -> Tensor:
    """A PIL picture's bytes: (1, 3, H, W), uint8."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None]


def _chunks(pictures: Pictures) -> Iterator[Pictures]:
    several = pictures if isinstance(pictures, (Tensor, Sequence)) else [pictures]
    for i in range(0, len(several), CHUNK):
        yield several[i : i + CHUNK]
