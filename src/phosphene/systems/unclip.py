"""unCLIP, DALL·E 2 (Ramesh et al. 2022): words → CLIP's picture embedding z_i → a small picture → larger ones.

What it alone can do comes from the middle: a picture is (z_i, x_T), what it means and how it is drawn (§3 there).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.cond import Cond
from ..diffusion.denoiser import Denoiser
from ..diffusion.noise import Begun, Between, between, path
from ..errors import Problem
from ..nets.components import Components
from ..parts import part
from ..text.unclip import Meant
from .base import Batch, Preview, Prompt, System, frozen
from .cascade import Cascade
from .clip import ClipSystem
from .ddpm import Ddpm
from .source import Source

UNTOLD = 0.1  # how often z_i is not told in training (§2.1 there); the words are left out by data/, half of the time


@part
class UnclipDecoder(Ddpm):
    """GLIDE's base, told z_i too: its encoder is an UnclipEncoder, its prompts are words, `Meant`s or None.

    clip, which is frozen, sees the pictures that it learns from as they are, and it learns to make them at `size`.
    """

    def __init__(
        self,
        clip: ClipSystem,
        denoiser: Denoiser,
        encoder: nn.Module,
        size: int = 64,
        sampler: str = "ddpm",
        spacing: str | None = None,
        steps: int = 250,
        guidance: float = 1.0,
        options: dict | None = None,
    ):
        super().__init__(denoiser, encoder, size, 3, sampler, spacing, steps, guidance, options=options)
        self.clip = frozen(clip)

    @torch.no_grad()
    def prepare(self, batch: Batch) -> Batch:
        """The pictures at `size`, and with each caption what CLIP sees in the picture itself."""
        meant = [Meant(prompt, z) for prompt, z in zip(batch.prompts, self.seen(batch.image))]
        small = F.interpolate(batch.image, size=(self.size, self.size), mode="area")
        return replace(batch, image=small, prompts=meant, prepared=True)

    def seen(self, pictures: Tensor) -> Tensor:
        """What CLIP sees in pictures (B, 3, H, W): z_i (B, dim), of length 1 where the encoder is told such."""
        pictures = pictures.to(self.device)
        return self.clip.embed_image(pictures) if self.encoder.unit else self.clip.image_features(pictures).float()

    def said(self, texts: Sequence[str]) -> Tensor:
        """What CLIP reads in texts, each by itself: z_t (B, dim), of z_i's kind."""
        read = self.clip.embed_text if self.encoder.unit else self.clip.text_features
        return torch.cat([read([text]).float() for text in texts])

    def cond(self, batch: Batch) -> Cond:
        """The prompts, of some of which z_i is dropped, by torch's generator on the CPU, for guidance."""
        told = torch.rand(len(batch.prompts)) >= UNTOLD
        return self.encoder([p if keep else Meant(p) for p, keep in zip(batch.prompts, told)])

    @torch.no_grad()
    def inverted(
        self, pictures: Tensor, prompts: Sequence[Prompt], steps: int | None = None
    ) -> Generator[Preview, None, Tensor]:
        """Returns the noise (B, 3, H, W) from which DDIM, so told and without guidance, makes the pictures."""
        times = self._times(steps, "ddim", self.spacing)
        source = Source(pictures.to(self.device, torch.float32), invert=prompts)
        return (yield from self._inversion(self.encode(source.picture), times, source))


class Bipartite(NamedTuple):
    """Pictures as unCLIP sees them (§3): what they mean, z_i (B, dim), and all the rest, x_T (B, 3, h, w)."""

    image_emb: Tensor
    noise: Tensor

    def towards(self, other: Bipartite, share: float | Tensor) -> Bipartite:
        """On the way to others, share 0 is these and 1 those: both along their great circles (§3.2)."""
        return Bipartite(*(_circle(a, b, share) for a, b in zip(self, other)))

    def turned(self, direction: Tensor, share: float | Tensor) -> Bipartite:
        """z_i turned towards a direction (B, dim) of its space, x_T as it is (§3.3); a direction of 0 turns nothing."""
        share = torch.as_tensor(share, device=direction.device) * direction.any(-1)
        return self._replace(image_emb=_circle(self.image_emb, direction.to(self.image_emb), share))


@part
class Unclip(Cascade):
    """A prior, a decoder that makes small pictures of what it says, and Upscalers, all of them systems of their own.

    stages      an UnclipDecoder, whose CLIP is everybody's, then Upscalers
    prior       a System with `embeddings` (systems/prior.py); None: the decoder is given the text's own embedding
    components  principal components of the CLIP's picture embeddings, for `simplified`
    Raises Problem where the prior's embeddings are another CLIP's.
    """

    def __init__(self, stages: Sequence[System], prior: System | None = None, components: Components | None = None):
        super().__init__(stages)
        self.prior, self.components, self.likens = prior, components, True
        if prior is not None and prior.clip is not self.clip:
            raise Problem("the prior says embeddings of another CLIP than the decoder's: see systems.unclip.joined")

    @property
    def clip(self) -> ClipSystem:
        """The one in whose space prior and decoder meet."""
        return self.stages[0].clip  # type: ignore[return-value]

    # From words -----------------------------------------------------------------------------------------------------

    def generate(  # type: ignore[override]  # of a picture it makes others, and changes nothing of it
        self,
        prompts: Sequence[Prompt | Tensor | Between],
        *,
        seeds: Sequence[int | Between],
        image: Tensor | None = None,
        prior: dict[str, Any] | None = None,
        size: tuple[int, int] | None = None,
        **how: Any,
    ) -> Iterator[Preview]:
        """Pictures for the prompts: previews of the prior and of every stage, the last one is the result.

        prompts  words, for which the prior says z_i; or what is told in the place of words: a picture (3, H, W) or a
                 z_i (dim,); or a Between of two of those, z_i on the great circle
        image    (B or 1, 3, H, W): the pictures are made of it, see `edited`, which takes what else is given
        prior    options of the prior's: steps, guidance, candidates
        size, how   as Cascade.generate takes them: a list of steps, guidance, sampler, spacing has one a stage
        Raises Problem for what a stage raises it.
        """
        if image is not None:
            yield from self.edited(image, prompts, seeds=seeds, size=size, **how)
            return
        if len(seeds) != len(prompts) or not prompts:
            raise Problem(f"{len(prompts)} prompts, {len(seeds)} seeds: as many of one as of the other, at least one")
        meant = self.meant(prompts, seeds=seeds, **(prior or {}))
        if self.prior is not None:
            yield Preview("prior", 0, 1, lambda: self._glimpse(meant, seeds))
        yield from super().generate(meant, seeds=seeds, size=size, **how)

    @torch.no_grad()
    def meant(
        self, prompts: Sequence[Prompt | Tensor | Between], *, seeds: Sequence[int | Between], **how: Any
    ) -> list[Meant | Between]:
        """What the decoder is told for each prompt, of `generate`'s kinds: words and z_i. how: the prior's options."""
        ends = [(p.a, p.b) if isinstance(p, Between) else (p,) for p in prompts]  # one, or two that it is between
        flat = [(end, seed) for two, seed in zip(ends, seeds) for end in two]
        said = [i for i, (prompt, _) in enumerate(flat) if not isinstance(prompt, (Tensor, Meant)) and prompt]
        made = [p if isinstance(p, Meant) else self._seen(p) for p, _ in flat]
        rows = self.embeddings([flat[i][0] for i in said], [flat[i][1] for i in said], **how) if said else ()
        for i, row in zip(said, rows):
            made[i] = Meant(flat[i][0], row)
        told = iter(made)
        return [_way([next(told) for _ in two], prompt) for two, prompt in zip(ends, prompts)]

    def embeddings(self, prompts: Sequence[str], seeds: Sequence[int], **how: Any) -> Tensor:
        """z_i (B, dim) for words: the prior's; without one, z_t."""
        if self.prior is not None:
            return self.prior.embeddings(prompts, seeds=seeds, **how)
        return self.stages[0].said(prompts)

    def _seen(self, prompt: Tensor | None) -> Meant:
        """A picture, or a z_i, in the place of words; None says nothing."""
        if prompt is None or isinstance(prompt, str):
            return Meant(None)
        picture = prompt.ndim == 3
        return Meant(None, self.stages[0].seen(prompt[None])[0] if picture else prompt)

    def _glimpse(self, meant: Sequence[Meant | Between], seeds: Sequence[int | Between]) -> Tensor:
        """What the decoder guesses at once of what the prior says: the prior makes no picture by itself."""
        *_, guess = self.stages[0].generate(meant, seeds=seeds, steps=1)
        return guess.picture()

    # From pictures --------------------------------------------------------------------------------------------------

    def latent(self, pictures: Tensor, *, steps: int | None = None, size: tuple[int, int] | None = None) -> Bipartite:
        """(z_i, x_T) of pictures (B, 3, H, W): what CLIP sees, and the noise that DDIM inversion finds in `steps`.

        size  (height, width) of what is to be made of them; None: the trained size
        """
        return _result(self._latent(pictures, steps, size))

    def decode(
        self,
        latent: Bipartite,
        *,
        seeds: Sequence[int],
        prompts: Sequence[str] | None = None,
        eta: float = 0.0,
        guidance: Any = None,
        **how: Any,
    ) -> Iterator[Preview]:
        """The pictures of (z_i, x_T), by every stage. eta is the dial: at 0 they are what was encoded, as far as the
        stages can tell; the nearer to 1, the more is made anew, by the seeds, and only the meaning stays (§3.1).

        prompts   words that are told besides
        guidance  counts as far as eta goes, as 1 + eta·(g − 1): x_T was found without it, and the way back is the same
        how       as Cascade.generate takes it, but the first stage steps by DDIM
        Raises Problem for another sampler of the first stage.
        """
        how = _by_ddim(how)
        first, *rest = guidance if isinstance(guidance, (list, tuple)) else [guidance]
        first = 1 + eta * ((self.stages[0].guidance if first is None else first) - 1)
        meant = [Meant(words, z) for words, z in zip(prompts or [None] * len(seeds), latent.image_emb)]
        noise = Begun(path(tuple(latent.noise.shape[1:]), seeds, self.stages[0].stage, self.device), latent.noise)
        how = {"noise": noise, **how}
        yield from super().generate(meant, seeds=seeds, eta=eta, guidance=[first, *rest] if rest else first, **how)

    def edited(
        self,
        image: Tensor,
        prompts: Sequence[Prompt],
        *,
        seeds: Sequence[int],
        towards: Tensor | None = None,
        strength: float | None = None,
        invert: Sequence[Prompt] | None = None,
        components: int | None = None,
        eta: float | None = None,
        mask: Tensor | None = None,
        size: tuple[int, int] | None = None,
        **how: Any,
    ) -> Iterator[Preview]:
        """Pictures of pictures `image` (B or 1, 3, H, W), one a seed, by what lies between words and pixels.

        Without more they are variations. eta: see `decode`; None: 1 for variations, 0 where something is changed
        towards   a picture like image: they lie on the way to it, `strength` of it; None: half
        prompts   words: z_i is turned towards what they say more than `invert`, what the image shows (nothing said:
                  ""), does, `strength` of the way; None: 0.3
        components  z_i is told by its first so many principal components alone
        Raises Problem for a mask, as it changes the whole, for strength and invert without what they are of, for words
        for some of the pictures alone, and for numbers of components that are none.
        """
        turned, how = any(prompts), _by_ddim(how)
        if mask is not None:
            raise Problem("unCLIP makes a whole picture like another: it knows no mask")
        if strength is not None and towards is None and not turned:
            raise Problem("strength is how far unCLIP goes to words or to another picture: give one, or eta")
        if invert is not None and not turned:
            raise Problem("what a picture shows is what unCLIP turns it from: give words to turn it to")
        if len(seeds) != len(prompts) or len(image) not in (1, len(seeds)):
            raise Problem(f"{len(image)} pictures, {len(prompts)} prompts, {len(seeds)} seeds: as many of each")
        steps = how["steps"][0] if isinstance(how.get("steps"), (list, tuple)) else how.get("steps")
        if turned and not all(prompts):
            raise Problem("words for some of the pictures alone: one kind of edit at a time, words for all or for none")
        at = yield from self._latent(image, steps, size)
        at = Bipartite(*(part.expand(len(seeds), *part.shape[1:]) for part in at))
        if towards is not None:
            at = at.towards((yield from self._latent(towards, steps, size)), 0.5 if strength is None else strength)
        if turned:
            diff = self.text_diff(invert or [""] * len(prompts), prompts)
            at = at.turned(diff, 0.3 if strength is None else strength)
        if components is not None:
            at = at._replace(image_emb=self.simplified(at.image_emb, components))
        plain = towards is None and not turned and components is None
        yield from self.decode(at, seeds=seeds, eta=float(plain) if eta is None else eta, size=size, **how)

    def text_diff(self, before: Sequence[str], after: Sequence[str]) -> Tensor:
        """norm(z_t − z_t0), (B, dim): the direction from what is said before to what is said after (§3.3)."""
        with torch.no_grad():
            return F.normalize(self.stages[0].said(after) - self.stages[0].said(before), dim=-1)

    def simplified(self, image_emb: Tensor, k: int) -> Tensor:
        """z_i (B, dim) told by its first k principal components (§3.3). Raises Problem where they were not fitted."""
        if self.components is None:
            raise Problem("this model holds no principal components of CLIP's space")
        return self.components.first(image_emb, k)

    @torch.no_grad()
    def _latent(
        self, pictures: Tensor, steps: int | None, size: tuple[int, int] | None
    ) -> Generator[Preview, None, Bipartite]:
        decoder = self.stages[0]
        emb = decoder.seen(pictures)
        small = F.interpolate(pictures, size=self._inside(decoder, size or (self.size, self.size)), mode="area")
        return Bipartite(emb, (yield from decoder.inverted(small, [Meant(None, z) for z in emb], steps)))


def _by_ddim(how: dict[str, Any]) -> dict[str, Any]:
    """Options by which the first stage steps by DDIM. Raises Problem where they say another sampler."""
    first, *rest = its if isinstance(its := how.get("sampler"), (list, tuple)) and its else [its]
    if first not in (None, "ddim"):
        raise Problem(f"sampler={first!r}: x_T was found by DDIM, and ddim is the way back from it")
    return {**how, "sampler": ["ddim", *rest] if rest else "ddim"}


def joined(prior: System, decoder: UnclipDecoder) -> System:
    """The prior with the decoder's CLIP for its own, of which it is a copy: so that a file holds it once.

    Raises Problem where it is none: what one says the other would not understand.
    """
    ours, its = decoder.clip.state_dict(), prior.clip.state_dict()
    if ours.keys() != its.keys() or not all(torch.equal(ours[k], its[k]) for k in ours):
        raise Problem("prior and decoder were trained with two CLIPs, whose embeddings are not each other's")
    prior.clip = prior.arguments["clip"] = decoder.clip
    return prior


def _way(made: list[Meant], prompt: Any) -> Meant | Between:
    """What is told; on a way the place on it, of z_i along its great circle, and of the words."""
    if len(made) == 1:
        return made[0]
    a, b = (it.image_emb for it in made)
    if a is not None and b is not None:
        a = b = _circle(a[None], b[None].to(a), prompt.share)[0]
    return Between(Meant(made[0], a), Meant(made[1], b), prompt.share)


def _circle(a: Tensor, b: Tensor, share: float | Tensor) -> Tensor:
    """From a to b (B or 1, …), each row along its great circle."""
    a, b = torch.broadcast_tensors(a, b)
    share = torch.as_tensor(share, dtype=a.dtype, device=a.device)
    return between(a, b, share.view(-1, *[1] * (a.ndim - 1)) if share.ndim else share)


def _result(running: Generator[Any, None, Bipartite]) -> Bipartite:
    """What a generator returns, whoever may look at what it yields."""
    while True:
        try:
            next(running)
        except StopIteration as end:
            return end.value
