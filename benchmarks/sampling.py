"""How fast is sampling, beside diffusers?

    python benchmarks/sampling.py                     # all tables
    python benchmarks/sampling.py --quick             # three rounds, a picture of 4 steps
    python benchmarks/sampling.py --only step64 --profile
    python benchmarks/sampling.py --compile           # diffusers compiled with freezing, too: minutes more

A Stable Diffusion 1.5 with random weights is made by diffusers and transformers and written as a folder once; every
side loads that folder, so that all calculate the same. A side is a process of its own, with its own memory; they take
turns, a call each a round, so that whatever slows the machine slows all of them. Medians over the rounds.

step64, step32   one guided step of the U-Net: latents of 64×64 and 32×32, two rows, 77 tokens
decode           the autoencoder's decoding, to 512×512
picture          prompt to picture, 512×512, 20 DDIM steps at guidance 7.5

On a GPU, where there is one, the same (times by torch.cuda.Event); that has not been tried yet. Memory: about 13 GB,
two thirds of it for the sides in fp32; --precision bf16 leaves these out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from numpy.linalg import norm
from peers import diffusers, machine, why_not
from torch import Tensor, multiprocessing

SIZES = {  # of the U-Net, the autoencoder and the text encoder
    "sd15": dict(unet=(320, 640, 1280, 1280), vae=(128, 256, 512, 512), width=768, layers=12, side=64),
    "tiny": dict(unet=(32, 64), vae=(32, 32, 32, 32), width=32, layers=1, side=8),
}
TASKS = ("step64", "step32", "decode", "picture")
Tasks = dict[str, Callable[[], Tensor]]


class Side(NamedTuple):
    """A row of the tables. make(folder, arguments) is called in the side's own process."""

    name: str
    make: Callable[..., Tasks]
    arguments: dict


class Aim(NamedTuple):
    """Side `ours` is to be `times` faster than `theirs` in a task."""

    task: str
    ours: str
    theirs: str
    times: float


OURS, THEIRS = "phosphene", "diffusers"
LAST, COMPILED = f"{THEIRS} bf16 channels-last", f"{THEIRS} bf16 compiled, freezing"
THEIR_DEFAULT = f"{THEIRS} fp32 (default)"
AIMS = [  # "ours" is our default here: what "auto" is for a large network
    Aim("step64", f"{OURS} fp32", THEIR_DEFAULT, 1.6),
    Aim("step32", f"{OURS} fp32", THEIR_DEFAULT, 2.2),
    Aim("step64", f"{OURS} bf16", LAST, 1.6),
    Aim("step32", f"{OURS} bf16", LAST, 1.4),
    Aim("step64", f"{OURS} bf16", COMPILED, 1.3),
    Aim("step32", f"{OURS} bf16", COMPILED, 1.0),
    Aim("decode", OURS, THEIR_DEFAULT, 2.2),
    Aim("picture", OURS, THEIR_DEFAULT, 3.0),
]


# The checkpoint -----------------------------------------------------------------------------------------------------


def checkpoint(folder: Path, size: str) -> None:
    """Writes a Stable Diffusion of random weights, as diffusers does."""
    d, s = diffusers(), SIZES[size]
    import transformers

    torch.manual_seed(0)
    n = len(s["unet"])
    down = ["CrossAttnDownBlock2D"] * (n - 1) + ["DownBlock2D"]
    up = ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (n - 1)
    d.UNet2DConditionModel(
        sample_size=s["side"], block_out_channels=s["unet"], down_block_types=down, up_block_types=up,
        cross_attention_dim=s["width"], attention_head_dim=8,
    ).save_pretrained(folder / "unet")  # fmt: skip
    blocks = len(s["vae"])
    d.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * blocks, up_block_types=["UpDecoderBlock2D"] * blocks,
        block_out_channels=s["vae"], layers_per_block=2, sample_size=8 * s["side"],
    ).save_pretrained(folder / "vae")  # fmt: skip
    config = transformers.CLIPTextConfig(
        hidden_size=s["width"], intermediate_size=4 * s["width"], num_hidden_layers=s["layers"],
        num_attention_heads=max(1, s["width"] // 64),
    )  # fmt: skip
    transformers.CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    scheduler(d).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))


def scheduler(d):
    return d.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip


# The sides, each in its own process ---------------------------------------------------------------------------------


def inputs(unet_width: int, side: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    made = {name: torch.randn(2, 4, n, n, generator=g) for name, n in (("step64", side), ("step32", side // 2))}
    return made | {
        "tokens": torch.randn(2, 77, unet_width, generator=g),
        "latents": torch.randn(1, 4, side, side, generator=g),
    }


def our_tasks(folder: Path, size: str, steps: int, precision: str) -> Tasks:
    from phosphene.diffusion.cond import Cond
    from phosphene.runtime import PRECISIONS, prepare_for_sampling
    from phosphene.weights.load import load

    system = prepare_for_sampling(load(folder, PRECISIONS.get(precision)), "auto", precision)
    parameter = next(system.denoiser.net.parameters())
    x = {name: t.to(system.device) for name, t in inputs(SIZES[size]["width"], SIZES[size]["side"]).items()}
    cond = Cond(tokens=x["tokens"].to(parameter.dtype))
    t = torch.tensor(500.0, device=system.device)

    def picture() -> Tensor:
        *_, last = system.generate(["a red fox"], seeds=[0], steps=steps, guidance=7.5, sampler="ddim")
        return last.picture()

    return {
        "step64": lambda: system.denoiser.net(x["step64"].to(parameter.dtype), t, cond),
        "step32": lambda: system.denoiser.net(x["step32"].to(parameter.dtype), t, cond),
        "decode": lambda: system.autoencoder.decode(0.18215 * x["latents"]),
        "picture": picture,
    }


def their_tasks(folder: Path, size: str, steps: int, dtype: str, channels_last: bool, compiled: bool) -> Tasks:
    d = diffusers()
    import transformers

    from phosphene.text.clip import ClipTokenizer

    place, dtype = torch.device("cuda" if torch.cuda.is_available() else "cpu"), getattr(torch, dtype)
    parts = {
        "unet": d.UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype).to(place),
        "vae": d.AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=dtype).to(place),
        "text_encoder": transformers.CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype).to(place),
    }
    pipe = d.StableDiffusionPipeline(
        **parts, tokenizer=None, scheduler=scheduler(d), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    if channels_last:
        pipe.unet.to(memory_format=torch.channels_last), pipe.vae.to(memory_format=torch.channels_last)
    if compiled:
        torch._inductor.config.freezing = True
        pipe.unet = torch.compile(pipe.unet, dynamic=False)
        pipe.vae.decoder = torch.compile(pipe.vae.decoder, dynamic=False)
    x = {name: t.to(place, dtype) for name, t in inputs(SIZES[size]["width"], SIZES[size]["side"]).items()}
    ids = ClipTokenizer.shipped()(["a red fox", ""], pad=49407)[0].to(place)
    t = torch.tensor(500, device=place)

    def picture() -> Tensor:
        prompt, nothing = pipe.text_encoder(ids)[0].split(1)
        made = pipe(
            prompt_embeds=prompt, negative_prompt_embeds=nothing, num_inference_steps=steps, guidance_scale=7.5,
            height=8 * SIZES[size]["side"], width=8 * SIZES[size]["side"], output_type="pt",
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        return made.images

    def last(t: Tensor) -> Tensor:
        return t.contiguous(memory_format=torch.channels_last) if channels_last else t

    return {
        "step64": lambda: pipe.unet(last(x["step64"]), t, x["tokens"]).sample,
        "step32": lambda: pipe.unet(last(x["step32"]), t, x["tokens"]).sample,
        "decode": lambda: pipe.vae.decode(last(x["latents"])).sample,
        "picture": picture,
    }


def work(pipe, side: Side, folder: Path, threads: int, **options) -> None:
    """What a side's process does: one task after the other, as it is asked; (seconds, output or profile)."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    try:
        with torch.inference_mode() if side.arguments.get("compiled") else torch.no_grad():
            tasks = side.make(folder, **side.arguments, **options)
            pipe.send(None)
            while request := pipe.recv():
                task, profiled = request
                pipe.send((None, profile(tasks[task])) if profiled else timed(tasks[task]))
    except BaseException:
        pipe.send(traceback.format_exc())


def timed(task: Callable[[], Tensor]) -> tuple[float, object]:
    if not torch.cuda.is_available():
        begun = time.perf_counter()
        made = task()
        return time.perf_counter() - begun, made.float().numpy()
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    made = task()
    ended.record()
    torch.cuda.synchronize()
    return begun.elapsed_time(ended) / 1e3, made.float().cpu().numpy()


def profile(task: Callable[[], Tensor], rows: int = 12) -> str:
    """Where the time goes: the largest operators, their share and seconds."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as recorded:
        task()
    name = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    found = sorted(((getattr(e, name), e.count, e.key) for e in recorded.key_averages()), reverse=True)
    total = sum(spent for spent, _, _ in found)
    return "\n".join(f"  {t / total:6.1%} {t / 1e6:8.3f} s {n:5d}× {key}" for t, n, key in found[:rows])


class Process:
    """A side at work."""

    def __init__(self, side: Side, folder: Path, threads: int, **options):
        self.side = side
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=work, args=(theirs, side, folder, threads), kwargs=options, daemon=True)
        self.process.start()
        self.answer()

    def answer(self):
        said = self.pipe.recv()
        if isinstance(said, str):
            raise RuntimeError(f"{self.side.name}: {said}")
        return said

    def ask(self, task: str, profiled: bool = False):
        self.pipe.send((task, profiled))
        return self.answer()

    def end(self) -> None:
        self.pipe.send(None)
        self.process.join()


# The tables ---------------------------------------------------------------------------------------------------------


def our_name(precision: str) -> str:
    """Our side's name, which says of one that it is the default."""
    from phosphene.runtime import LARGE, best_precision, choose_device

    default = " (default)" if best_precision(choose_device(), LARGE) == precision else ""
    return f"{OURS} {precision}{default}"


def sides(precisions: list[str], compiled: bool) -> list[Side]:
    ours = [Side(our_name(p), our_tasks, dict(precision=p)) for p in precisions]
    if why := why_not(diffusers):
        print(why)
        return ours
    plain = dict(dtype="float32", channels_last=False, compiled=False)
    narrow = dict(dtype="bfloat16", channels_last=True, compiled=False)
    theirs = [Side(THEIR_DEFAULT, their_tasks, plain)] if "fp32" in precisions else []
    theirs += [Side(LAST, their_tasks, narrow)] if "bf16" in precisions else []
    theirs += [Side(COMPILED, their_tasks, narrow | dict(compiled=True))] if compiled else []
    return ours + theirs


def measured(processes: list[Process], task: str, rounds: int) -> tuple[dict[str, float], dict[str, object]]:
    """Median seconds and the output of every side; the first call of each is not counted."""
    took: dict[str, list[float]] = {p.side.name: [] for p in processes}
    made = {p.side.name: p.ask(task)[1] for p in processes}
    for r in range(rounds):
        for process in processes if r % 2 else reversed(processes):
            took[process.side.name].append(process.ask(task)[0])
    return {name: statistics.median(t) for name, t in took.items()}, made


def table(task: str, seconds: dict[str, float], made: dict[str, object]) -> dict[Aim, float]:
    """Prints it; returns what was reached of the aims."""
    exact = made.get(THEIR_DEFAULT)
    print(f"\n{task}\n{'':40s} {'s':>9s} {'difference':>11s}")
    for name, s in seconds.items():
        comparable = exact is not None and task != "picture"  # pictures begin from other noise
        apart = f"{norm(made[name] - exact) / norm(exact):.1e}" if comparable else ""
        print(f"{name:40s} {s:9.3f} {apart:>11s}")
    reached = {}
    for aim in (aim for aim in AIMS if aim.task == task and aim.theirs in seconds):
        for name in (n for n in seconds if n.startswith(aim.ours) and (aim.ours != OURS or n.endswith("(default)"))):
            reached[aim] = seconds[aim.theirs] / seconds[name]
    for aim, times in reached.items():
        verdict = "reached" if times >= aim.times else "MISSED"
        ours = f"{OURS}'s default" if aim.ours == OURS else aim.ours
        print(f"{ours} against {aim.theirs}: {times:.2f}×; the aim is ≥ {aim.times}×: {verdict}", flush=True)
    return reached


def main(
    only: list[str] | None = None, rounds: int = 5, threads: int = 0, quick: bool = False, compile: bool = False,
    profile: bool = False, precision: list[str] | None = None, size: str = "sd15",
) -> dict[Aim, float]:  # fmt: skip
    """Prints the tables; returns {aim: times faster}."""
    threads = threads or torch.get_num_threads()
    rounds, steps = (min(rounds, 3), 4) if quick else (rounds, 20)
    print(f"{machine(threads)}; medians of {rounds} rounds, a picture of {steps} steps")
    print("difference: ‖Δ‖ / ‖reference‖, the reference being diffusers in fp32", flush=True)
    reached = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint(Path(folder), size)
        processes = [
            Process(side, Path(folder), threads, size=size, steps=steps)
            for side in sides(precision or ["fp32", "bf16"], compile)
        ]
        for task in only or TASKS:
            reached |= table(task, *measured(processes, task, 1 if task == "picture" else rounds))
            for process in processes if profile else ():
                print(f"{process.side.name}, {task}:\n{process.ask(task, profiled=True)[1]}", flush=True)
        for process in processes:
            process.end()
    return reached


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TASKS, help="which tables")
    parser.add_argument("--rounds", type=int, default=5, help="a picture is made once, after a first")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--quick", action="store_true", help="three rounds, a picture of four steps")
    parser.add_argument("--compile", action="store_true", help="diffusers compiled, too")
    parser.add_argument("--profile", action="store_true", help="where the time goes, by operator")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], help="leave the others out")
    parser.add_argument("--size", choices=list(SIZES), default="sd15", help="tiny only tries the script")
    main(**vars(parser.parse_args()))
