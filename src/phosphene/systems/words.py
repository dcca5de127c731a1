"""From prompts to guidance: every picture's prompt read, encoded, changed with the steps and composed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..diffusion.cond import Cond
from ..diffusion.denoiser import Denoise, Denoiser
from ..diffusion.guidance import classifier_free, divided, switch
from ..diffusion.noise import Between
from ..errors import Problem, unknown
from ..text.between import mixing
from ..text.prompt import EMPTY, at_steps, emphasised, subprompts
from .base import Prompt

GRAMMARS = ("webui", "plain")
Parts = tuple[tuple[Any, float], ...]  # ((what an encoder takes, its weight), …): one prompt at one step
TOKENS = 16  # a prompt's tokens, where there is a mask, are padded to a multiple: few lengths are many of one length


def guided(
    denoiser: Denoiser,
    encoder: Callable[..., Cond],
    prompts: Sequence[Prompt],
    negative: Sequence[Prompt] | None,
    guidance: float,
    times: Tensor,
    *,
    also: Cond | None = None,
    grammar: str = "webui",
    clip_skip: int | None = None,
    rescale: float = 0.0,
    interval: tuple[float, float] | None = None,
) -> Denoise:
    """Classifier-free guidance by the prompts, B of them, read in the grammar of text/prompt.py (docs/prompts.md).

    negative   what stands in the place of the null prompt, B of them; None: the null prompt
    times      those of the run, (steps + 1,): a schedule's k-th step is the one that leaves times[k − 1]
    also       merged into every condition, of B rows or of one: what a picture, not a word, says
    grammar    "plain" gives the prompts to the encoder as they are; so does an encoder that does not take weights
    clip_skip  as the web UI counts: 2 leaves out the encoder's last block, for the negative prompts too
    rescale, interval  of `classifier_free`

    Every picture has its own schedule, sub-prompts and length, and depends on no other one of the batch: prompts are
    encoded one by one, and pictures of one number of tokens and of sub-prompts are one call of the network. So a
    picture is the same, to the bit, wherever a row of a batch does not depend on the number of rows (docs/trust.md).
    Raises Problem for an unknown grammar, a clip_skip that is none, and what the encoder refuses.
    """
    if grammar not in GRAMMARS:
        raise unknown("grammar", grammar, GRAMMARS)
    if negative is not None and len(negative) != len(prompts):
        raise Problem(f"{len(negative)} negative prompts for {len(prompts)} pictures: as many are wanted, or none")
    if negative is None and not getattr(encoder, "null", True):
        if guidance != 1:
            raise Problem(f"guidance={guidance}: this model has no null prompt to move away from: give a negative one")
        negative = prompts  # has no weight
    read = grammar == "webui" and getattr(encoder, "weighs", False)
    steps, encode = len(times) - 1, _skipping(encoder, clip_skip)
    rows = [_composed(p, steps) if read else [((p, 1.0),)] * steps for p in prompts]
    nulls = [_said(p, steps) if read else [p] * steps for p in negative or [None] * len(prompts)]
    given = _encoded(encode, [thing for row in rows for parts in row for thing, _ in parts])
    null = _encoded(encode, [thing for row in nulls for thing in row])
    beside = (also or Cond()).expand(len(prompts))

    def part(parts: tuple[Parts, ...], nothing: tuple[Any, ...], its: list[int]) -> Denoise:
        """For pictures of as many sub-prompts, `its` places in the batch."""
        conds = []
        for kth in zip(*(parts[i] for i in its)):  # the k-th sub-prompt of every picture
            things, weights = zip(*kth)
            weight = guidance * torch.tensor(weights, dtype=torch.float64)
            conds.append((Cond.cat([given[thing] for thing in things]).merged(beside[its]), weight))
        empty = Cond.cat([null[nothing[i]] for i in its]).merged(beside[its])
        return classifier_free(denoiser, conds, empty, interval=interval, rescale=rescale)

    @lru_cache(2)
    def told(parts: tuple[Parts, ...], nothing: tuple[Any, ...]) -> Denoise:
        alike: dict[tuple[int, int], list[int]] = {}
        for i, said in enumerate(parts):
            longest = max(cond.length for cond in [null[nothing[i]], *(given[thing] for thing, _ in said)])
            alike.setdefault((longest, len(said)), []).append(i)
        return divided([(its, part(parts, nothing, its)) for its in alike.values()])

    states = list(zip(zip(*rows), zip(*nulls)))  # what is said at each step
    if len(set(states)) == 1:
        return told(*states[0])
    at = [lambda x, t, state=state: told(*state)(x, t) for state in states]
    return switch(sorted(map(float, times), reverse=True)[1:-1], at)


def _composed(prompt: Prompt | Between, steps: int) -> list[Parts]:
    """The sub-prompts and weights at each step. One between two prompts is not composed."""
    if not isinstance(prompt, str):
        return [((thing, 1.0),) for thing in _said(prompt, steps)]
    return _each(lambda text: tuple((emphasised(t), weight) for t, weight in subprompts(text)), prompt, steps)


def _said(prompt: Prompt | Between, steps: int) -> list[Any]:
    """What the encoder is given at each step."""
    if isinstance(prompt, Between):
        return [Between(a, b, prompt.share) for a, b in zip(_said(prompt.a, steps), _said(prompt.b, steps))]
    if prompt is None:
        return [EMPTY] * steps
    return _each(emphasised, prompt, steps) if isinstance(prompt, str) else [prompt] * steps


def _each(read: Callable[[str], Any], prompt: str, steps: int) -> list[Any]:
    texts = at_steps(prompt, steps)
    known = {text: read(text) for text in dict.fromkeys(texts)}
    return [known[text] for text in texts]


def _encoded(encode: Callable[..., Cond], things: Sequence[Any]) -> dict[Any, Cond]:
    """Each different thing's Cond, of one row: encoded once, and by itself."""
    each = {thing: mixing(encode) if isinstance(thing, Between) else encode for thing in things}
    return {thing: its([thing]).padded(TOKENS) for thing, its in each.items()}


def _skipping(encoder: Callable[..., Cond], clip_skip: int | None) -> Callable[..., Cond]:
    if clip_skip is None:
        return encoder
    if not isinstance(clip_skip, int) or clip_skip < 1:
        raise Problem(f"clip_skip={clip_skip}: 1, nothing left out, 2, the last block left out, … was expected")
    if clip_skip == 1:
        return encoder
    if not hasattr(encoder, "skip"):
        raise Problem(f"clip_skip={clip_skip}: {type(encoder).__name__} has no blocks to leave out")
    return lambda prompts: encoder(prompts, skip=clip_skip - 1)
