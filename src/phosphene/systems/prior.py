"""unCLIP's priors: from words to CLIP's picture embedding z_i, by diffusion or code by code (Ramesh et al. 2022, §2.2).

Both model p(z_i | y) with a transformer over the states that CLIP's text tower gives for the words y, and its embedding
z_t. A prior alone makes no picture: a decoder does (systems/unclip.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..diffusion.cond import Cond
from ..diffusion.denoiser import Denoised, Denoiser
from ..diffusion.guidance import clamp, classifier_free
from ..diffusion.noise import Between, path
from ..diffusion.samplers import sample, start
from ..errors import Problem
from ..nets.ar_prior import CodeTransformer, PcaCodes
from ..parts import part
from ..text.encoders import words
from .base import Batch, Loss, Prompt, System, frozen
from .clip import ClipSystem

STAGE = "prior"  # of the noise
Drawn = Callable[..., Any]  # numbers of a row -> the noise path of such rows, one a seed


class ClipPrior(System):
    """What both priors share: a frozen CLIP, what it says of the words, and what is learned from.

    length    of the text, in tokens: padded, or cut
    guidance  by the empty text, what `embeddings` uses unless it is told otherwise
    unit      embeddings are of length 1, as ClipSystem.embed_image gives them; else they are as CLIP projects them
    """

    predicted: Callable[..., Tensor]  # (z_t, cond, drawn, guidance, …) -> what `embeddings` gives; each prior's own

    def __init__(self, clip: ClipSystem, length: int, guidance: float, unit: bool):
        super().__init__()
        self.clip, self.length, self.guidance, self.unit = frozen(clip), length, guidance, unit

    @torch.no_grad()
    def prepare(self, batch: Batch) -> Batch:
        """The pictures' embeddings z_i, (B, dim), in their place."""
        embed = self.clip.embed_image if self.unit else self.clip.image_features
        return replace(batch, image=embed(batch.image).float(), prompts=batch.prompts, prepared=True)

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Cond]:
        """z_t (B, dim), and with it as vector the states as tokens, (B, length, ·): None is the empty text."""
        said = self.clip.text([words(p) for p in prompts])
        text_emb = self.clip.text_projection(said.vector).float()
        text_emb = F.normalize(text_emb, dim=-1) if self.unit else text_emb
        said = said.padded(self.length)
        mask = None if said.mask is None else said.mask[:, : self.length]
        return text_emb, Cond(self.scaled(text_emb), said.tokens[:, : self.length], mask)

    def scaled(self, embedding: Tensor) -> Tensor:
        """As the networks want it: its numbers of unit variance, about."""
        return embedding * embedding.shape[-1] ** 0.5 if self.unit else embedding

    def finished(self, embedding: Tensor) -> Tensor:
        """Made embeddings as CLIP's are: of length 1, where those are."""
        return F.normalize(embedding, dim=-1) if self.unit else embedding

    @torch.no_grad()
    def embeddings(
        self,
        prompts: Sequence[Prompt],
        *,
        seeds: Sequence[int | Between],
        text_emb: Tensor | None = None,
        guidance: float | None = None,
        noise: Any = None,
        **options: Any,
    ) -> Tensor:
        """z_i for each of the prompts, (B, dim), one seed each; what is not told is the system's own.

        text_emb  (B or 1, dim), in the place of the words' own z_t
        noise     a noise path in the place of the seeds', of the shape that `predicted` says
        options   more of what `predicted` takes
        Raises Problem: as many seeds as prompts are wanted; for what `predicted` raises it.
        """
        if len(seeds) != len(prompts) or not prompts:
            raise Problem(f"{len(prompts)} prompts, {len(seeds)} seeds: as many of one as of the other, at least one")
        rows = [self.embed_text([prompt]) for prompt in prompts]  # row by row: none depends on another one's length
        cond = Cond.cat([row for _, row in rows])
        if text_emb is None:
            text_emb = torch.cat([z for z, _ in rows])
        else:
            text_emb = text_emb.to(self.device, torch.float32).expand(len(prompts), -1)
            cond = replace(cond, vector=self.scaled(text_emb))

        def drawn(*shape: int) -> Any:
            return noise or path(shape, seeds, STAGE, self.device)

        return self.predicted(text_emb, cond, drawn, self.guidance if guidance is None else guidance, **options)

    def generate(self, prompts, *, seeds, **options):
        """A prior makes embeddings. Raises Problem."""
        raise Problem("a prior makes no pictures, but what a decoder makes them of: CLIP's embedding of one")


@part
class DiffusionPrior(ClipPrior):
    """The diffusion prior: a denoiser, of which x is z_i itself, brought to unit variance (nets/prior.Prior).

    steps, guidance, sampler, spacing, end   what `embeddings` uses unless it is told otherwise
    candidates   how many embeddings are made, of which the one with the largest dot product with z_t is kept
    bound        what x0 is clamped to on both sides; None: not clamped
    """

    def __init__(
        self,
        clip: ClipSystem,
        denoiser: Denoiser,
        candidates: int = 2,
        steps: int = 64,
        guidance: float = 1.0,
        sampler: str = "ddpm",
        spacing: str | None = None,
        end: float = 0.0,
        bound: float | None = 5.0,
        unit: bool = True,
    ):
        super().__init__(clip, denoiser.net.length, guidance, unit)
        self.denoiser, self.candidates, self.bound = denoiser, candidates, bound
        self.steps, self.sampler, self.spacing, self.end = steps, sampler, spacing, end

    @torch.no_grad()
    def measure(self, image_emb: Tensor, text_emb: Tensor | None = None) -> None:
        """Takes the mean and the deviation of z_i (N, dim), which bring it to x; of z_t there is nothing to measure."""
        net = self.denoiser.net
        net.mean.copy_(image_emb.mean(0))
        net.std.copy_(image_emb.std(0).clamp(min=1e-6))

    def loss(self, batch: Batch, turn: str = "model") -> Loss:
        """The mean of ‖z_i − f(z_i noised, t, y)‖² over the numbers of x (equation 2 there)."""
        _, cond = self.embed_text(batch.prompts)
        total = self.denoiser.loss(self.denoiser.net.normal(batch.image), cond).mean()
        return Loss(total, {"loss": total.detach()})

    def predicted(
        self, text_emb: Tensor, cond: Cond, drawn: Drawn, guidance: float, candidates: int | None = None,
        steps: int | None = None, sampler: str | None = None, spacing: str | None = None, **options: Any,
    ) -> Tensor:  # fmt: skip
        """z_i (B, dim): of the candidates, made of noise of (candidates, dim), the nearest to z_t.

        options   the sampler's own, such as eta
        Raises Problem for unknown names, and for no steps, or no candidates.
        """
        k = self.candidates if candidates is None else candidates
        if k < 1:
            raise Problem(f"candidates={k}: at least 1 was expected")
        schedule = self.denoiser.schedule
        times = schedule.times(self.steps if steps is None else steps, spacing or self.spacing, end=self.end)
        noise = drawn(k, text_emb.shape[1])
        x = start(noise.start().to(self.device), times[0], schedule)  # (B, k, D)
        denoise = self._denoise(cond, k, guidance)
        *_, last = sample(sampler or self.sampler, denoise, x, times, schedule, noise=noise, **options)
        made = self.finished(self.denoiser.net.embedding(last.x))
        best = (made * text_emb[:, None]).sum(-1).argmax(1)
        return made[torch.arange(len(made)), best]

    def _denoise(self, cond: Cond, k: int, guidance: float):
        """Guided by the empty text; of x (B, k, D), k candidates a row, all told the same."""
        told = cond[[row for row in range(len(cond)) for _ in range(k)]]
        _, null = self.embed_text([None])
        guided = classifier_free(self.denoiser, [(told, guidance)], null)
        inner = guided if self.bound is None else clamp(guided, self.bound)

        def denoise(x: Tensor, t: Tensor) -> Denoised:
            return Denoised(inner(x.flatten(0, 1), t).x0.unflatten(0, x.shape[:2]))

        return denoise


@part
class ArPrior(ClipPrior):
    """The autoregressive prior: z_i as the codes of its principal components, and a transformer that tells the next.

    In front of the codes stands how near the picture is to its words: the bucket of the dot product z_i·z_t. The
    buckets are as full as each other in training, and at sampling one is drawn from the upper ones.

    net       CodeTransformer; codes: PcaCodes, which `measure` fits
    guidance  what `embeddings` uses unless it is told otherwise; so `nearest`:
    nearest   the share of the buckets of dot products that none is drawn from, the lower ones
    """

    def __init__(
        self,
        clip: ClipSystem,
        net: CodeTransformer,
        codes: PcaCodes,
        guidance: float = 1.0,
        nearest: float = 0.5,
        unit: bool = True,
    ):
        super().__init__(clip, net.length, guidance, unit)
        if codes.components != net.components or codes.buckets != len(net.code):
            raise Problem(
                f"{codes.components} components of {codes.buckets} buckets do not fit a network of "
                f"{net.components} of {len(net.code)}"
            )
        self.net, self.codes, self.nearest = net, codes, nearest
        self.dots = net.dot.num_embeddings - 1  # how many buckets; the token after them says nothing
        self.register_buffer("edges", torch.linspace(-1, 1, self.dots + 1)[1:-1].clone())  # between those of dots

    @torch.no_grad()
    def measure(self, image_emb: Tensor, text_emb: Tensor) -> None:
        """Principal components and ranges of z_i (N, dim), and the buckets of z_i·z_t, (N, dim) each."""
        self.codes.fit(image_emb)
        shares = torch.arange(1, self.dots, device=image_emb.device) / self.dots
        self.edges.copy_((image_emb * text_emb).sum(-1).quantile(shares))

    def loss(self, batch: Batch, turn: str = "model") -> Loss:
        """−log p(codes | y) in nats a component. Where no words are told, neither is the dot product."""
        text_emb, cond = self.embed_text(batch.prompts)
        codes = self.codes(batch.image)  # (B, components)
        dot = torch.bucketize((batch.image * text_emb).sum(-1), self.edges)
        told = torch.tensor([bool(words(p)) for p in batch.prompts], device=dot.device)
        logits = self.net(codes[:, :-1], torch.where(told, dot, self.dots), cond)
        total = F.cross_entropy(logits.float().flatten(0, 1), codes.flatten())
        return Loss(total, {"loss": total.detach()})

    def predicted(
        self, text_emb: Tensor, cond: Cond, drawn: Drawn, guidance: float, nearest: float | None = None
    ) -> Tensor:
        """z_i (B, dim), of noise of (1 + components,): the dot product's, then the codes'.

        nearest   from 0 to below 1: 0 draws from all buckets of dot products, 0.9 from the uppermost tenth
        Raises Problem for nearest outside of its range.
        """
        nearest = self.nearest if nearest is None else nearest
        if not 0 <= nearest < 1:
            raise Problem(f"nearest={nearest}: a share from 0 to below 1 was expected")
        z = drawn(1 + self.codes.components).start().to(self.device)
        u = torch.special.ndtr(z.double())  # uniform
        dot = ((nearest + (1 - nearest) * u[:, 0]) * self.dots).long().clamp(max=self.dots - 1)
        return self.finished(self.codes.decode(self._told(dot, cond, guidance, u[:, 1:])))

    def _told(self, dot: Tensor, cond: Cond, guidance: float, u: Tensor) -> Tensor:
        """Codes (B, components), drawn by uniform numbers u of that shape: each where P(it or a lower one) comes to u.

        Guided in the logits, by the empty text without a dot product.
        """
        if guided := guidance != 1:
            _, null = self.embed_text([None])
            cond = Cond.cat([cond, null.expand(len(cond))])
            dot = torch.cat([dot, torch.full_like(dot, self.dots)])
        going, codes = self.net.steps(dot, cond), list[Tensor]()
        logits = next(going)
        for i, place in enumerate(u.T.contiguous()):
            if i:
                logits = going.send(codes[-1].repeat(1 + guided))
            if guided:
                told, untold = logits.chunk(2)
                logits = untold + guidance * (told - untold)
            reached = logits.double().softmax(-1).cumsum(-1)  # (B, buckets)
            codes.append(torch.searchsorted(reached, place[:, None])[:, 0].clamp(max=self.codes.buckets - 1))
        return torch.stack(codes, dim=1)
