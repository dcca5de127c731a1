"""scheduler_config.json: the noise a model was trained with, what it predicts, and how its makers sampled it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..diffusion.schedule import Cosine, Linear, ScaledLinear, Schedule, Sigmoid, Table
from ..errors import Problem, unknown

PREDICTS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
SPACINGS = ("leading", "linspace", "trailing")
NEAREST = "dpmpp_2m"  # for a sampler that we do not have

# class of diffusers -> (sampler, the class's timestep_spacing, whether set_alpha_to_one or final_sigmas_type ends at 0)
CLASSES = {
    "DDIMScheduler": ("ddim", "leading", True),
    "DDPMScheduler": ("ddpm", "leading", True),
    "PNDMScheduler": ("plms", "leading", False),
    "LCMScheduler": ("lcm", "leading", True),
    "EulerDiscreteScheduler": ("euler", "linspace", True),
    "EulerAncestralDiscreteScheduler": ("euler_ancestral", "linspace", True),
    "HeunDiscreteScheduler": ("heun", "linspace", True),
    "LMSDiscreteScheduler": ("lms", "linspace", True),
    "DPMSolverMultistepScheduler": ("dpmpp_2m", "linspace", True),
    "DPMSolverSDEScheduler": ("dpmpp_sde", "linspace", True),
    "UniPCMultistepScheduler": ("unipc", "linspace", True),
    "DEISMultistepScheduler": ("deis", "linspace", False),
}
STEPS = {"dpmpp_2m": 25, "dpmpp_2m_sde": 25, "unipc": 25, "deis": 25, "heun": 25, "dpmpp_sde": 15, "lcm": 4}  # else 50


@dataclass(frozen=True)
class Plan:
    """What a scheduler's configuration says, in our words (diffusion/schedule.py, systems/ddpm.py).

    clip        pictures end at ±clip, None: they have no end. For latents the pipelines turn this off
    threshold   (quantile, at most) of dynamic thresholding, or None
    notes       what is not as there, a line each
    """

    schedule: Schedule
    predicts: str
    sampler: str
    spacing: str
    steps: int
    offset: int = 0
    end: float = 0.0
    clip: float | None = None
    threshold: tuple[float, float] | None = None
    notes: list[str] = field(default_factory=list)


def plan(config: Mapping[str, Any], what: str) -> Plan:
    """Reads a configuration; what it does not name has its class's default. Raises Problem for what has no meaning."""
    kind, notes = str(config.get("_class_name", "")), []
    named, spacing, clean = CLASSES.get(kind, (NEAREST, "leading", True))
    sampler, said = _sampler(kind, named, config)
    if said:
        notes.append(f"{what}: {said} is not among our samplers; {sampler} stands in for it")
    schedule = schedule_of(config, what)
    predicts = config.get("prediction_type", "epsilon")
    if predicts not in PREDICTS:
        raise unknown(f"prediction_type in {what}", predicts, PREDICTS)
    spacing = config.get("timestep_spacing", spacing)
    if spacing not in SPACINGS:
        raise unknown(f"timestep_spacing in {what}", spacing, SPACINGS)
    if config.get("use_karras_sigmas"):
        spacing = "karras"
    elif config.get("use_exponential_sigmas"):
        spacing = "exponential"
    elif config.get("use_beta_sigmas"):
        notes.append(f"{what}: use_beta_sigmas is not among our spacings; {spacing} stands in for it")
    clean = config.get("set_alpha_to_one", clean) if "final_sigmas_type" not in config else _ends_clean(config, clean)
    return Plan(
        schedule,
        PREDICTS[predicts],
        sampler,
        spacing,
        STEPS.get(sampler, 50),
        _offset(config, what) if spacing == "leading" else 0,
        0.0 if clean else 1 / schedule.T,
        float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample", kind == "DDPMScheduler") else None,
        _threshold(config),
        notes,
    )


def schedule_of(config: Mapping[str, Any], what: str) -> Table:
    """The betas: trained_betas as they are, or a named curve. What is not named has diffusers' default."""
    zero = bool(config.get("rescale_betas_zero_snr", False))
    T = config.get("num_train_timesteps", 1000)
    if config.get("trained_betas"):
        return Table([float(b) for b in config["trained_betas"]], zero)
    ends = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    if not all(isinstance(n, (int, float)) for n in (T, *ends)):
        raise Problem(f"{what}: num_train_timesteps, beta_start and beta_end are numbers, not {(T, *ends)}")
    curve = config.get("beta_schedule", "linear")
    curves = {"linear": Linear, "scaled_linear": ScaledLinear, "sigmoid": Sigmoid, "squaredcos_cap_v2": Cosine}
    if curve not in curves:
        raise unknown(f"beta_schedule in {what}", curve, curves)
    return Cosine(T, zero_snr=zero) if curve == "squaredcos_cap_v2" else curves[curve](T, *ends, zero_snr=zero)


def written(schedule: Table, predicts: str, spacing: str | None, offset: int, end: float, what: str) -> dict[str, Any]:
    """The DDIMScheduler's configuration that says the same. Raises Problem where diffusers has no word for it."""
    said = schedule.arguments
    config: dict[str, Any] = {"_class_name": "DDIMScheduler", "num_train_timesteps": schedule.T}
    if isinstance(schedule, Cosine) and said["s"] == 0.008 and said["most"] == 0.999:
        config |= {"beta_schedule": "squaredcos_cap_v2"}
    elif isinstance(schedule, (Linear, ScaledLinear, Sigmoid)):
        names = {Linear: "linear", ScaledLinear: "scaled_linear", Sigmoid: "sigmoid"}
        config |= {"beta_schedule": names[type(schedule)], "beta_start": said["start"], "beta_end": said["end"]}
    elif type(schedule) is Table:
        config |= {"trained_betas": list(said["betas"])}
    else:
        raise Problem(f"{what}: a {type(schedule).__name__} schedule like this has no name in diffusers")
    theirs = {ours: name for name, ours in PREDICTS.items()}
    if predicts not in theirs:
        raise Problem(f"{what}: diffusers' DDIMScheduler does not know a network that predicts {predicts!r}")
    return config | {
        "prediction_type": theirs[predicts],
        "timestep_spacing": spacing if spacing in SPACINGS else "trailing",
        "steps_offset": offset,
        "set_alpha_to_one": end == 0,
        "rescale_betas_zero_snr": said["zero_snr"],
        "clip_sample": False,
    }


def _sampler(kind: str, named: str, config: Mapping[str, Any]) -> tuple[str, str]:
    """(our sampler, what it stands in for, or "")."""
    if kind == "PNDMScheduler":
        return ("plms" if config.get("skip_prk_steps", False) else "pndm"), ""
    if kind == "DPMSolverMultistepScheduler":
        algorithm, order = config.get("algorithm_type", "dpmsolver++"), config.get("solver_order", 2)
        if algorithm in ("dpmsolver++", "sde-dpmsolver++") and order == 2:
            return ("dpmpp_2m" if algorithm == "dpmsolver++" else "dpmpp_2m_sde"), ""
        return named, f"{algorithm} of order {order}"
    return named, "" if kind in CLASSES or not kind else kind


def _ends_clean(config: Mapping[str, Any], clean: bool) -> bool:
    return {"zero": True, "sigma_min": False}.get(config["final_sigmas_type"], clean)


def _offset(config: Mapping[str, Any], what: str) -> int:
    offset = config.get("steps_offset", 0)
    if not isinstance(offset, int) or offset < 0:
        raise Problem(f"{what}: steps_offset={offset!r}, a whole number from 0 was expected")
    return offset


def _threshold(config: Mapping[str, Any]) -> tuple[float, float] | None:
    if not config.get("thresholding"):
        return None
    return float(config.get("dynamic_thresholding_ratio", 0.995)), float(config.get("sample_max_value", 1.0))
