"""Does a picture show what was asked for? Judged by a CLIP: CLIP score, R-precision, nearest names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import Problem
from .interval import Interval, mean_of


def clip_scores(image_emb: Tensor, text_emb: Tensor) -> Tensor:
    """max(100·cos, 0) of each picture and its own prompt, (B,), from embeddings (B, D) of any length.

    Its mean is torchmetrics' CLIPScore; Hessel et al. 2021 write 2.5·max(cos, 0), 1/40 of it.
    """
    if image_emb.shape != text_emb.shape:
        raise Problem(f"{list(image_emb.shape)} embeddings of pictures, {list(text_emb.shape)} of prompts: a pair each")
    return 100 * F.cosine_similarity(image_emb.double(), text_emb.double()).clamp(min=0)


def r_precision(
    image_emb: Tensor, text_emb: Tensor, prompts: Sequence[str], *, others: int = 99, seed: int = 0
) -> Interval:
    """The share of pictures whose own prompt is nearer than `others` prompts of other pictures (Xu et al. 2018, R = 1).

    The others are drawn by `seed` among those that say something else; where there are fewer, it is all of them.
    Chance is 1/(others + 1). The interval is Wilson's.
    """
    from ..data.scenes import wilson

    images, texts = F.normalize(image_emb.double(), dim=1), F.normalize(text_emb.double(), dim=1)
    said = {prompt: k for k, prompt in enumerate(dict.fromkeys(prompts))}
    if len(said) < 2:
        raise Problem(f"R-precision wants prompts that differ; all {len(prompts)} are {next(iter(said), None)!r}")
    same = torch.tensor([said[prompt] for prompt in prompts])
    generator, hits = torch.Generator().manual_seed(seed), 0
    for i, image in enumerate(images):  # one at a time: of 10,000 pictures all cosines would be 800 MB
        rivals = (same != same[i]).nonzero()[:, 0]
        drawn = rivals[torch.randperm(len(rivals), generator=generator)[:others]]
        hits += bool((image @ texts[i] > texts[drawn] @ image).all())
    return Interval(hits / len(prompts), *wilson(hits, len(prompts)))


def recall_at(scores: Tensor, right: Sequence[int], k: int) -> int:
    """How many rows of scores (B, N) have their right one among the k highest."""
    return sum(int(r) in row for r, row in zip(right, scores.topk(min(k, scores.shape[1])).indices.tolist()))


@torch.no_grad()
def embedded(clip, prompts: Sequence[str], batch: int = 128) -> Tensor:
    """The CLIP's embeddings of prompts, (B, D) on the CPU. Raises Problem where it reads no words."""
    return torch.cat([clip.embed_text(list(prompts[i : i + batch])).cpu() for i in range(0, len(prompts), batch)])


def alignment(clip, features: Tensor, prompts: Sequence[str], seed: int = 0) -> dict[str, Interval]:
    """CLIP score and R-precision of pictures given as what the CLIP's tower made of them (B, D): Extractor's features.

    A judge that has guided the pictures, or whose text encoder made them, is partial: take another.
    """
    text_emb = embedded(clip, prompts)
    return {
        "clip_score": mean_of(clip_scores(features, text_emb)),
        "r_precision": r_precision(features, text_emb, prompts, seed=seed),
    }
