"""Captions that do not belong to their pictures.

Of data alone a linear probe is asked: T = |XᵀY|², X the words of each row's captions (weighed by their rarity), Y the
principal components of its thumbnail. If words and pictures belong together, T is far above what it is with the
captions shuffled. A system that is half trained, or more, is asked directly: its own loss, at the same t and noise,
must be lower with the right prompts than with those of other pictures.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor

from .finding import Finding
from .patient import Patient, losses, surely

NAME = "captions that belong to their pictures"
WORD = re.compile(r"[\u3400-\u9fff]{1,2}|[^\W\d_\u3400-\u9fff]+|\d+")
FEWEST = 100  # rows, below which chance decides
SURE = 4.0  # standard deviations


def applies(patient: Patient) -> bool:
    worded = getattr(patient.data, "prompts", "caption") == "caption"
    if _asked(patient):
        return True
    return patient.source is not None and worded and sum(map(bool, patient.table.captions)) >= FEWEST


def check(patient: Patient) -> Finding | None:
    right = probe(patient) if patient.source is not None else None
    heard = listens(patient) if _asked(patient) else None
    numbers = {k: v for k, v in {"probe": right, "loss": heard}.items() if v is not None}
    if heard is not None and heard < SURE:
        belong = right is not None and right > SURE
        return Finding(
            "The model's loss is no lower with the right prompts than with other pictures' "
            f"({heard:+.1f} standard errors; above {SURE:.0f} is sure)"
            + (f", though words and pictures do belong together in the data ({right:.0f})." if belong else "."),
            "The model has learned not to listen: it makes the same pictures whatever it is told.",
            "Look that each picture comes with its own caption where the data was prepared; that the encoder's output "
            "reaches the network; and whether the run was just too short.",
            numbers,
        )
    if heard is None and right is not None and right < SURE:
        return Finding(
            f"Words tell nothing of the pictures that a linear probe can see: {right:+.1f} standard deviations above "
            f"shuffled captions, in {len(patient.table):,} rows; above {SURE:.0f} is sure.",
            "Captions that belong to other pictures teach a model not to listen.",
            "`phosphene data SPEC --out sheet.png` shows pictures with their captions: look whether they fit. A "
            "caption "
            "list that is sorted otherwise than the pictures, or is off by one, is the usual cause.",
            numbers,
        )
    return None


def _asked(patient: Patient) -> bool:
    """Whether the system is trained so far that it must have learned to listen."""
    far = patient.settings is None or 2 * patient.step >= patient.settings.steps
    return patient.trained and far and patient.told


def probe(patient: Patient, times: int = 100) -> float | None:
    """How far T of the right pairs lies above T of shuffled ones, in their deviations; None: nothing to tell."""
    told = [i for i, row in enumerate(patient.table.captions) if row]
    if len(told) < FEWEST:
        return None
    words = _words([" ".join(patient.table.captions[i]).lower() for i in told])
    seen = _components(patient.table.thumbs[told])
    if words is None or seen is None:
        return None
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(told), generator=generator) for _ in range(times)]
    shuffled = torch.stack([(words[order].T @ seen).square().sum() for order in orders])
    right = (words.T @ seen).square().sum()
    return float((right - shuffled.mean()) / shuffled.std().clamp(min=1e-12))


def listens(patient: Patient) -> float:
    """How much the loss rises when the prompts are exchanged, in standard errors of the paired difference."""
    batches = [replace(b, prompts=_exchanged(b.prompts)) for b in patient.prepared]
    kept = [k for k, b in enumerate(batches) if b.prompts != patient.prepared[k].prompts]
    right = losses(patient.system, [patient.prepared[k] for k in kept])
    return surely(losses(patient.system, [batches[k] for k in kept]) - right)


def _exchanged(prompts: list) -> list:
    """Each prompt replaced by the next one that differs; None stays None."""
    said = [p for p in prompts if p is not None]
    after: dict = {}
    for i, p in enumerate(said):
        after.setdefault(p, next((q for q in said[i + 1 :] + said[:i] if q != p), p))
    return [None if p is None else after[p] for p in prompts]


def _words(texts: list[str], most: int = 500) -> Tensor | None:
    """(N, words), each column centred: how rare a word is, where the text has it."""
    bags = [set(WORD.findall(text)) for text in texts]
    n = len(texts)
    common = [w for w, k in Counter(w for bag in bags for w in bag).most_common(most) if 3 <= k < n]
    if not common:
        return None
    rows = torch.tensor([[float(w in bag) for w in common] for bag in bags])
    rows = rows * torch.tensor([math.log(n / sum(w in bag for bag in bags)) for w in common])
    return rows - rows.mean(0)


def _components(thumbs: Tensor, k: int = 24) -> Tensor | None:
    """(N, k): the first principal components, each of unit variance; None where all pictures are one."""
    small = torch.nn.functional.avg_pool2d(thumbs.view(len(thumbs), 3, 16, 16), 2).flatten(1)
    centred = small - small.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    values, vectors = values.flip(0)[:k], vectors.flip(1)[:, :k]
    kept = values > 1e-6 * values[0].clamp(min=1e-6)
    return centred @ vectors[:, kept] / values[kept].sqrt() if values[0] > 1e-3 else None
