"""CLIP: pictures and words in one space (Radford et al. 2021).

N pairs a batch; of the N² cosine similarities the N right ones are raised and the N² − N wrong ones lowered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import Problem
from ..parts import part
from ..text.encoders import TextEncoder
from .base import Batch, Loss, System


@part
class ClipSystem(System):
    """A text encoder and a picture tower (forward: (B, 3, H, W) → (B, width)), each with a projection to `width`.

    Pictures of another size than `size` are brought to size × size first; None takes them as they are.
    """

    def __init__(self, text: TextEncoder, image: nn.Module, width: int = 256, size: int | None = None):
        super().__init__()
        self.text, self.image, self.size = text, image, size
        self.text_projection = nn.Linear(text.width, width, bias=False)
        self.image_projection = nn.Linear(image.width, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # the learned temperature's inverse

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """text_emb: (B, width), of length 1."""
        return F.normalize(self.text_projection(self.text(prompts).vector).float(), dim=-1)

    def embed_image(self, pictures: Tensor) -> Tensor:
        """image_emb of pictures (B, 3, H, W) in [−1, 1]: (B, width), of length 1."""
        if self.size and pictures.shape[-2:] != (self.size, self.size):
            pictures = F.interpolate(pictures, (self.size, self.size), mode="bicubic", antialias=True).clamp(-1, 1)
        return F.normalize(self.image_projection(self.image(pictures)).float(), dim=-1)

    def loss(self, batch: Batch, turn: str = "model") -> Loss:
        """The mean of two cross-entropies, which text for a picture and which picture for a text (figure 3 there)."""
        scale = self.log_scale.clamp(max=math.log(100)).exp()
        logits = scale * self.embed_image(batch.image) @ self.embed_text(batch.prompts).T  # (N, N)
        right = torch.arange(len(logits), device=logits.device)
        total = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
        hits = (logits.argmax(1) == right).float().mean()
        return Loss(total, {"recall": hits.detach(), "scale": scale.detach()})

    @torch.no_grad()
    def nearest(self, pictures: Tensor, texts: Sequence[str], k: int = 1) -> Tensor:
        """The k texts nearest to each picture, nearest first: their numbers, (B, k).

        Zero-shot classification is this with one text a class, "a photo of a {}" (Radford et al. 2021, §3.1).
        """
        rows = [self.embed_text(texts[i : i + 256]) for i in range(0, len(texts), 256)]
        similar = torch.cat([self.embed_image(p) for p in pictures.split(256)]) @ torch.cat(rows).T
        return similar.topk(min(k, len(texts)), dim=-1).indices

    def generate(self, prompts, *, seeds, **options):
        """CLIP judges pictures and makes none. Raises Problem."""
        raise Problem("CLIP makes no pictures from words; it judges them, and its text encoder starts a latent model")
