"""phosphene evaluate: how good are the pictures of a model; and why two numbers differ."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phosphene.cli.making import quiet_threads
from phosphene.cli.options import call
from phosphene.errors import Problem

TELLS = 0.5  # R-precision on real pictures below which a judge of words is doubted


def main(argv: Sequence[str]) -> None:
    quiet_threads()
    call(evaluate, argv, "phosphene evaluate")


def evaluate(
    *model: str,
    data: str | None = None,
    n: int = 256,
    features: str = "clip",
    clip: str | None = None,
    inception: Path | None = None,
    resize: str | None = None,
    guidance: tuple[float, ...] = (),
    steps: int | None = None,
    sampler: str | None = None,
    seed: int = 0,
    reference: int = 10_000,
    held: str | None = None,
    bits: int = 0,
    out: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    explain: bool = False,
):
    """Makes pictures of what a data set says, compares them with the real ones, writes a page and its numbers.

    phosphene evaluate runs/scenes.latent --data scenes -n 256 --guidance 1 2 4
    phosphene evaluate --explain pictures/ other/ --features inception

    model      a shipped model's name, a bundle, a run's folder or a checkpoint; an autoencoder is judged by its copies
    data       a data spec (docs/data.md): the prompts, the reference, and the training set to look for copies in
    n          pictures to make at each guidance
    features   what is compared: clip (the small one that comes along), thumbnails, inception, dinov2, or another CLIP
               as a file, bundle or run (docs/metrics.md)
    clip       a CLIP that judges whether pictures show what was asked; the features' own one if they are a CLIP's
    inception  the file of Inception-v3's weights, which else are taken from the cache or fetched
    resize     another way to bring pictures to the features' size: rounded, torch, tensorflow
    guidance   one or several; the model's own if not given
    steps, sampler, seed   of the sampler, as in generate
    reference  real pictures at most
    held       a data spec of real pictures to compare with, where it is not that of --data
    bits       measure bits per dimension of so many real pictures, where the model has a likelihood
    out        the folder for report.html and scores.json [evaluation-MODEL]
    device     auto, cpu, cuda, mps
    precision  auto, fp32, bf16, fp16
    explain    of two data specs or folders of pictures: the same features under every convention
    """
    if n < 2 or reference < 2:
        raise Problem(f"n={n}, reference={reference}: at least 2 pictures of each are wanted")
    if explain:
        return _explained(model, features, inception, resize, n, seed, out or Path("explanation"))
    if len(model) != 1 or data is None:
        raise Problem("evaluate wants one model and --data SPEC; or --explain and two sets of pictures")
    from phosphene.data.base import open_source
    from phosphene.metrics.features import extractor
    from phosphene.systems.autoencoder import AutoencoderSystem
    from phosphene.weights.load import load

    source, real = open_source(data), open_source(held or data)
    if len(source) < 2 or len(real) < 2:
        raise Problem(f"{data}: at least 2 pictures are wanted, {min(len(source), len(real))} found")
    eyes = extractor(features, inception=inception, resize=resize)
    folder = out or Path(f"evaluation-{_name(model[0])}")
    if isinstance(system := load(model[0]), AutoencoderSystem):
        return _copies(system, model[0], real, held or data, eyes, n, seed, folder)
    judge = judge_of(eyes, clip)
    options = {"steps": steps, "sampler": sampler}
    using = {"device": device, "precision": precision}
    job = Job(model[0], source, data, real, held, eyes, judge, n, seed, reference, options, using)
    of_real = job.bits(bits) if bits else None
    found = job.run(guidance or (None,))
    _write(job, found, of_real, job.words_of_real(), folder)


def judge_of(eyes: Any, clip: str | None) -> Any:
    """The features of the CLIP that judges words: the named one, else the features' own where it reads words, or None.

    Raises Problem for a named one that reads none.
    """
    from phosphene.metrics.features import extractor

    judge = extractor(clip) if clip else eyes
    if getattr(judge.clip, "text", None) is not None:
        return judge
    if clip:
        raise Problem(f"{clip} is not a CLIP that reads words: it cannot judge what was asked for")
    return None


class Job:
    """What `evaluate` does with a model that makes pictures."""

    def __init__(self, model, source, spec, real, held, eyes, judge, n, seed, reference, options, using):
        from phosphene.metrics import evaluation
        from phosphene.metrics import statistics as st
        from phosphene.request import Studio

        self.name, self.spec, self.held, self.eyes, self.judge, self.seed = model, spec, held, eyes, judge, seed
        self.source, self.options, self.studio = source, options, Studio(model, **using)
        system = self.studio.system
        side = getattr(system, "size", 64)
        self.size = (side, side)
        self.rows = st.some_rows(source, n, seed)
        self.prompts = evaluation.prompts_of(source, self.rows, told_by(system), seed)
        while len(self.rows) < n:  # fewer rows than pictures: they take turns, with other seeds
            self.rows, self.prompts = (v + v[: n - len(v)] for v in (self.rows, self.prompts))
        most = reference if reference < len(real) else None
        self.real = st.reference(real, eyes, self.size, most, seed=seed, spec=held or spec)
        self.trained = self.real
        if held:
            some = reference if reference < len(source) else None
            self.trained = st.reference(source, eyes, self.size, some, seed=seed, spec=spec)
        self.receipt: dict[str, Any] = {}

    def run(self, guidances: Sequence[float | None]) -> dict[str, tuple[Any, float]]:
        """{guidance: (what was measured, seconds a picture)}."""
        from phosphene.metrics.evaluation import is_exact, measure

        found, exact = {}, is_exact(self.source, self.prompts, self.size)
        for guidance in guidances:
            own = getattr(self.studio.system, "guidance", None)
            label = "none" if own is None and guidance is None else f"{own if guidance is None else guidance:g}"
            print(f"guidance {label}: {len(self.prompts)} pictures …", file=sys.stderr)
            how = {"judge": self.judge, "trained": self.trained, "exact": exact, "seed": self.seed}
            it = measure(self._images(guidance), self.prompts, self.eyes, self.real, **how)
            found[label] = it, self.seconds / len(self.prompts)
        return found

    def _images(self, guidance: float | None):
        pairs = [(prompt, self.seed + i) for i, prompt in enumerate(self.prompts)]
        options = {**self.options, "guidance": guidance}
        options |= {"grammar": "plain"} if isinstance(self.prompts[0], str) else {}
        self.seconds, going, begun = 0.0, self.studio.make(pairs, options), time.perf_counter()
        for made in going:
            self.receipt = {k: v for k, v in made.receipt.items() if k not in ("prompt", "seed", "guidance")}
            self.seconds += time.perf_counter() - begun
            yield made.image
            begun = time.perf_counter()

    def bits(self, n: int) -> tuple[Any, int]:
        """Bits per dimension of n real pictures, with their prompts, and how many they were."""
        import torch

        from phosphene.metrics import statistics as st
        from phosphene.metrics.interval import mean_of
        from phosphene.metrics.likelihood import bits

        shown = torch.cat(list(st.pictures(self.source, self.rows[:n], self.size)))
        x0 = shown.permute(0, 3, 1, 2).float() / 127.5 - 1
        return mean_of(bits(self.studio.system, x0, self.prompts[: len(x0)], seed=self.seed)), len(x0)

    def words_of_real(self) -> dict[str, Any]:
        """What the judge makes of the real pictures that the prompts were taken from; {} where there is no judge."""
        from phosphene.metrics import statistics as st
        from phosphene.metrics.evaluation import words_of

        rows = list(dict.fromkeys(self.rows))
        shown = st.pictures(self.source, rows, self.size)
        return {} if self.judge is None else words_of(self.judge, shown, self.prompts[: len(rows)], self.seed)

    def pair(self, image, row: int):
        """A made picture beside a training picture."""
        from PIL import Image

        from phosphene.metrics.statistics import pictures

        [theirs] = pictures(self.source, [row], self.size)
        both = Image.new("RGB", (2 * self.size[1] + 4, self.size[0]), "white")
        both.paste(image.convert("RGB"), (0, 0))
        both.paste(Image.fromarray(theirs[0].numpy()), (self.size[1] + 4, 0))
        return both


def told_by(system: Any) -> str:
    """What a system is told: "caption", "label" or "none"."""
    from phosphene.text.encoders import ClassEncoder, NoEncoder

    encoder = getattr(system, "encoder", None)
    return "none" if encoder is None or isinstance(encoder, NoEncoder) else (
        "label" if isinstance(encoder, ClassEncoder) else "caption"
    )  # fmt: skip


# Writing --------------------------------------------------------------------------------------------------------------


def _write(
    job: Job, found: dict[str, tuple[Any, float]], bits: tuple[Any, int] | None, real: dict[str, Any], folder: Path
) -> None:
    from phosphene.data.sheet import contact_sheet
    from phosphene.metrics.report import Page

    page = Page(f"{_name(job.name)} on {job.spec}")
    against = f"{job.real.n} real ones of {job.held or job.spec}"
    size, eyes = f"{job.size[1]}x{job.size[0]}", job.eyes
    page.text(f"{len(job.prompts)} pictures at each guidance, {size}, against {against}.")
    page.text(f"Features: {eyes.name}, {eyes.dim} numbers, weights {eyes.checksum}; resized: {eyes.resize}.")
    page.table(*table_of(job, found))
    about = "In brackets: where 95 of 100 repetitions with other pictures would lie; for the kernel distance ± its"
    about += " deviation over subsets. Of distances lower is better. docs/metrics.md says what each is."
    page.text(about, note=True)
    words, doubts = of_judge(job, real)
    page.text(words) if words else None
    notes = list(dict.fromkeys(note for it, _ in found.values() for note in it.scores.notes)) + doubts
    page.notes(notes)
    if bits:
        page.text(f"Bits per dimension: {bits[0]}, of {bits[1]} real pictures.")
    _curve(page, found, job.eyes.title)
    for label, (it, _) in found.items():
        page.heading(f"Made at guidance {label}")
        shown = it.shown[:32]
        captions = ["" if p is None else str(p) for p in job.prompts[: len(shown)]]
        page.picture(contact_sheet(shown, captions, columns=8), "made pictures, under each what was asked for")
        if it.nearest:
            pairs = [job.pair(it.shown[i], row) for i, row, _ in it.nearest]
            sheet = contact_sheet(pairs, [f"d1/d2 {ratio:.2f}, row {row}" for _, row, ratio in it.nearest], columns=4)
            page.picture(sheet, "nearest to a copy, of those shown: made, and the training picture nearest to it")
            page.text(
                f"Copies (nearest training picture three times nearer than the next): {it.copies[0]} of {it.copies[1]}."
            )
    print("\n".join(line for line in (_said(job, found), words, *(f"Note: {note}." for note in notes)) if line))
    plain = {
        "model": job.name, **job.receipt, "data": job.spec, "held": job.held, "n": len(job.prompts), "seed": job.seed,
        "real": job.real.about, "features": job.eyes.about,
        "title": job.eyes.title,
        "judge": None if job.judge is None else job.judge.about,
        "words_of_real_pictures": {name: it._asdict() for name, it in real.items()},
        "bits_per_dimension": None if bits is None else {**bits[0]._asdict(), "n": bits[1]},
        "guidance": {label: {**it.plain(), "seconds_a_picture": seconds} for label, (it, seconds) in found.items()},
    }  # fmt: skip
    _end(page, plain, folder)


def table_of(job: Job, found: dict[str, tuple[Any, float]]) -> tuple[list[str], list[list[Any]]]:
    """(head, rows) of the table: a column a guidance, a row a score."""
    rows: dict[str, list[Any]] = {}

    def put(what: str, column: int, value: Any) -> None:
        rows.setdefault(what, [None] * len(found))[column] = value

    for k, (it, seconds) in enumerate(found.values()):
        put(job.eyes.title, k, it.scores.frechet)
        put("kernel distance" if job.eyes.name != "Inception" else "KID", k, it.scores.kernel)
        if it.scores.inception_score:
            put("inception score", k, it.scores.inception_score)
        for name, value in it.scores.manifold.items():
            put(name, k, value)
        for name, value in it.words.items():
            put({"clip_score": "CLIP score", "r_precision": "R-precision"}[name], k, value)
        for name, (value, n) in it.accuracy.items():
            put(f"right: {name}", k, f"{value} of {n}")
        put("copies of training pictures", k, f"{it.copies[0]} of {it.copies[1]}")
        put("seconds a picture", k, seconds)
    return ["guidance", *found], [[what, *values] for what, values in rows.items()]


def of_judge(job: Job, real: dict[str, Any]) -> tuple[str, list[str]]:
    """(a line that says what the judge of words makes of real pictures, doubts about it)."""
    if not real:
        return "", []
    score, found = real["clip_score"], real["r_precision"]
    line = f"Words are judged by {job.judge.name}. Of the real pictures: CLIP score {score}, R-precision {found}."
    doubt = f"{job.judge.name} finds only {found.value:.0%} of the real pictures by their own words: what it says of "
    return line, [f"{doubt}made ones is of little worth (--clip names another)"] if found.value < TELLS else []


def _curve(page: Any, found: dict[str, tuple[Any, float]], title: str) -> None:
    """The distance over the CLIP score, over the exact accuracy, or over guidance itself."""
    if len(found) < 2:
        return
    its = [it for it, _ in found.values()]
    if all("clip_score" in it.words for it in its):
        across, xs = "CLIP score", [it.words["clip_score"].value for it in its]
    elif all(it.accuracy for it in its):
        across, xs = "share of pictures that are right", [it.accuracy["all"][0].value for it in its]
    else:
        across, xs = "guidance", [float(label) for label in found]
    page.heading(f"{title} over guidance")
    points = [(x, it.scores.frechet.value) for x, it in zip(xs, its)]
    page.curves({"made": points}, across, title, labels=list(found))
    page.text("Beside each point its guidance.", note=True)


def _said(job: Job, found: dict[str, tuple[Any, float]]) -> str:
    head, rows = table_of(job, found)
    from phosphene.metrics.report import said

    cells = [head, *[[said(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in cells)


def _copies(system, name: str, real, spec: str, eyes, n: int, seed: int, folder: Path) -> None:
    """The page of an autoencoder."""
    from phosphene.data.sheet import contact_sheet, to_image
    from phosphene.metrics import statistics as st
    from phosphene.metrics.evaluation import copied
    from phosphene.metrics.report import Page

    side = _side(real, system)
    it = copied(system.autoencoder, st.pictures(real, st.some_rows(real, n, seed), side), eyes, seed)
    page = Page(f"{_name(name)}: copies of {spec}")
    page.text(f"{it.n} pictures of {side[1]}x{side[0]}, copied, and compared with themselves.")
    rows = [["PSNR in dB", it.psnr], ["SSIM", it.ssim], [f"reconstruction {eyes.title}", it.frechet]]
    page.table(["of copies", ""], rows)
    page.notes(it.notes)
    sheet = [to_image(picture.numpy()) for pair in it.pairs for picture in pair]
    page.picture(contact_sheet(sheet, ["picture", "copy"] * len(it.pairs), columns=8), "pictures and their copies")
    print("\n".join(f"{what:32s} {value}" for what, value in rows))
    _end(page, {"model": name, "data": spec, "features": eyes.about, "title": eyes.title, **it.plain()}, folder)


def _side(source, system) -> tuple[int, int]:
    """The size of the first picture, cut down to what the autoencoder takes."""
    from phosphene.metrics.statistics import pictures

    first = next(pictures(source, range(len(source)), None), None)
    if first is None:
        raise Problem(f"{source.name}: none of its pictures can be read")
    f = system.autoencoder.f
    side = min(first.shape[1:3]) // f * f
    return side, side


def _explained(model, features, inception, resize, n: int, seed: int, folder: Path) -> None:
    from phosphene.data.base import open_source
    from phosphene.metrics.explain import explain, shares
    from phosphene.metrics.features import extractor
    from phosphene.metrics.report import Page

    if len(model) != 2:
        raise Problem(f"--explain wants two folders or data specs, the second being the reference, not {len(model)}")
    eyes = extractor(features, inception=inception, resize=resize)
    changes = explain(open_source(model[0]), open_source(model[1]), eyes, n, seed)
    page = Page(f"{eyes.title} of {model[0]} against {model[1]}")
    page.text("The same features of the same pictures, with one convention changed at a time.")
    rows = [[c.kind, c.what, c.distance, f"{c.moved:+.4g}"] for c in changes]
    page.table(["what is changed", "how", eyes.title, "moved by"], rows)
    page.heading("The most that each is worth")
    most = shares(changes)
    base = max(changes[0].distance, 1e-12)
    rows = [[kind, f"{by:+.4g}", f"{by / base:+.0%}"] for kind, by in most.items()]
    page.table(["what", "moves the distance by", "of it"], rows)
    for kind, what, distance, moved in changes:
        print(f"{distance:10.4g} {moved:+10.4g}  {kind}: {what}")
    plain = {"title": eyes.title, "features": eyes.about, "changes": [c._asdict() for c in changes], "most": most}
    _end(page, plain, folder)


def _end(page, plain: dict[str, Any], folder: Path) -> None:
    """Writes both files and prints where."""
    import torch

    from phosphene import __version__
    from phosphene.metrics.report import written

    plain = {**plain, "phosphene": __version__, "torch": torch.__version__}
    print(written(folder / "scores.json", json.dumps(plain, indent=1, default=str) + "\n"))
    print(page.write(folder / "report.html"))


def _name(model: str) -> str:
    path = Path(model)
    stem = path.parent.name if path.name == "model.safetensors" else path.name.removesuffix(".safetensors")
    return re.sub(r"[^\w.]+", "-", stem).strip("-") or "model"
