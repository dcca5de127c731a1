"""Captions that say nothing: missing, blank, all the same, nothing after tokenising, or cut off by the length limit.

The text encoder is asked, whatever its tokenizer: a caption that it takes for the empty one is empty; captions that
differ and that it takes for each other are alike; where more words behind a caption change nothing, it was cut.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from ..diffusion.cond import Cond
from .finding import Finding
from .patient import Patient

NAME = "captions that say something"
MOST = 256  # captions put through the text encoder
MORE = " and a yellow telephone 電話"


def applies(patient: Patient) -> bool:
    worded = getattr(patient.data, "prompts", "caption") == "caption"
    return patient.source is not None and worded and any(patient.table.captions)


def check(patient: Patient) -> Finding | None:
    rows = patient.table.captions
    blank = sum(not any(c.strip() for c in row) for row in rows) / len(rows)
    if blank > 0.05:
        return Finding(
            f"{blank:.1%} of {len(rows):,} rows have no caption, or a blank one.",
            "Such a picture is learned under the null prompt, as if its caption had been dropped: that is what "
            "drop is for.",
            "Leave those rows out, or caption them; `phosphene data SPEC` shows which columns were taken for captions.",
            {"blank": blank},
        )
    texts = [c for row in rows for c in row]
    common, times = Counter(texts).most_common(1)[0]
    if times / len(texts) > 0.9 and len(texts) > 20:
        return Finding(
            f"{times / len(texts):.1%} of {len(texts):,} captions are the same: {common[:60]!r}.",
            "What is said of every picture tells nothing of any: the model cannot learn to listen.",
            "Name the right column (caption=…), or train without words (prompts='none').",
            {"same": times / len(texts)},
        )
    encoder = _encoder(patient)
    return None if encoder is None else _encoded(encoder, list(dict.fromkeys(texts)))


def _encoder(patient: Patient):
    """What reads the words: a model's `encoder`, CLIP's `text`; None where nothing does."""
    found = getattr(patient.system, "encoder", None) or getattr(patient.system, "text", None)
    return found if any(True for _ in getattr(found, "parameters", list)()) else None


@torch.no_grad()
def _encoded(encoder, texts: list[str]) -> Finding | None:
    texts = texts[:: max(1, len(texts) // MOST)][:MOST]
    was = encoder.training
    encoder.eval()
    said = [
        _rows(encoder([*texts[i : i + 32], *(c + MORE for c in texts[i : i + 32]), ""]))
        for i in range(0, len(texts), 32)
    ]
    encoder.train(was)
    empty = cut = 0
    for rows in said:
        n = (len(rows) - 1) // 2
        empty += int(_same(rows[:n], rows[-1:]).sum())
        cut += int(_same(rows[:n], rows[n : 2 * n]).sum())
    whole = _rows(encoder(texts)) if len(said) > 1 else said[0][: len(texts)]
    alike = int((_same(whole[:, None], whole[None]).sum(1) > 1).sum())
    n = len(texts)
    numbers = {"captions": n, "empty": empty / n, "cut": (cut - empty) / n, "alike": alike / n}
    if empty / n > 0.02:
        return Finding(
            f"The text encoder takes {empty} of {n} different captions for the empty one.",
            "Its tokenizer knows nothing of what they are made of, so they say as much as no caption.",
            "Train the tokenizer on these captions, or take an encoder that knows their language.",
            numbers,
        )
    if (cut - empty) / n > 0.05:
        return Finding(
            f"More words behind a caption change nothing for {cut - empty} of {n} captions: they fill the encoder's "
            "length.",
            "What stands behind the limit is never read, and may be what tells the pictures apart.",
            "Shorten the captions, split them into several, or take a longer encoder.",
            numbers,
        )
    if alike / n > 0.1:
        return Finding(
            f"{alike} of {n} different captions are the same to the text encoder as some other one.",
            "Tokenising took out what distinguishes them, so the model cannot tell their pictures apart.",
            "Train the tokenizer on these captions, or take an encoder that knows their language.",
            numbers,
        )
    return None


def _rows(cond: Cond) -> Tensor:
    """(B, …): all that is said of a prompt, in one row."""
    told = [] if cond.vector is None else [cond.vector]
    if cond.tokens is not None:
        mask = torch.ones(cond.tokens.shape[:2]) if cond.mask is None else cond.mask
        told.append((cond.tokens * mask[..., None].to(cond.tokens)).mean(1))
    return torch.cat(told, 1).float()


def _same(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().amax(-1) < 1e-5 * (a.abs().amax(-1) + b.abs().amax(-1))
