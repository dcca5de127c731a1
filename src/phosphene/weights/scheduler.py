"""scheduler_config.json: the noise a model was trained with, what it predicts, and how its makers sampled it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..diffusion.schedule import Cosine, Linear, ScaledLinear, Schedule, Sigmoid, Table
from ..errors import Problem, unknown
from .settings import listed, number, read_from, text, whole

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
LDM: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012}
BETAS: dict[str, dict[str, Any]] = {  # where a class's defaults are not 0.0001, 0.02 and linear
    "HeunDiscreteScheduler": LDM,
    "DPMSolverSDEScheduler": LDM,
    "LCMScheduler": {**LDM, "beta_schedule": "scaled_linear"},
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
    predicts = text(config, "prediction_type", "epsilon", what)
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
        _clip(config, kind, what),
        _threshold(config),
        notes,
    )


def schedule_of(config: Mapping[str, Any], what: str) -> Table:
    """The betas: trained_betas as they are, or a named curve. What is not named has diffusers' default."""
    config = {**BETAS.get(str(config.get("_class_name")), {}), **config}
    zero = bool(config.get("rescale_betas_zero_snr", False))
    if betas := listed(config, "trained_betas", what):
        with read_from(what):
            return Table([number({"trained_betas": beta}, "trained_betas", 0, what) for beta in betas], zero)
    T = whole(config, "num_train_timesteps", 1000, what, least=2)
    ends = number(config, "beta_start", 1e-4, what, least=0), number(config, "beta_end", 0.02, what, least=0)
    curve = text(config, "beta_schedule", "linear", what)
    curves = {"linear": Linear, "scaled_linear": ScaledLinear, "sigmoid": Sigmoid, "squaredcos_cap_v2": Cosine}
    if curve not in curves:
        raise unknown(f"beta_schedule in {what}", curve, curves)
    with read_from(what):
        return Cosine(T, zero_snr=zero) if curve == "squaredcos_cap_v2" else curves[curve](T, *ends, zero_snr=zero)


def class_of(sampler: str) -> str:
    """The class of diffusers that samples like this; DDIMScheduler where none does."""
    others = {"pndm": "PNDMScheduler", "dpmpp_2m_sde": "DPMSolverMultistepScheduler"}
    return others.get(
        sampler, next((kind for kind, (name, _, _) in CLASSES.items() if name == sampler), "DDIMScheduler")
    )


def written(plan: Plan, what: str, notes: list[str]) -> dict[str, Any]:
    """The configuration that says the same; `notes` gains a line for what its class has no word for.

    Raises Problem where diffusers has no word for the schedule or the prediction.
    """
    kind, names = class_of(plan.sampler), {ours: name for name, ours in PREDICTS.items()}
    if plan.predicts not in names:
        raise Problem(f"{what}: diffusers' {kind} does not know a network that predicts {plan.predicts!r}")
    config = {"_class_name": kind, **_curve(plan.schedule, what), "prediction_type": names[plan.predicts]}
    if kind == "DDIMScheduler" and plan.sampler not in ("ddim", "euler"):
        notes.append(f"the sampler {plan.sampler}: a DDIMScheduler stands in for it")
    _, default, clean = CLASSES[kind]
    spaced = kind not in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LCMScheduler")
    if plan.spacing in SPACINGS:
        config["timestep_spacing"] = plan.spacing
    elif spaced:
        config |= {"timestep_spacing": default, f"use_{plan.spacing}_sigmas": True}
    else:
        config["timestep_spacing"] = "trailing"
        notes.append(f"the spacing {plan.spacing}: a {kind} does not know it, trailing stands in for it")
    config["steps_offset"] = plan.offset
    if kind in ("DDIMScheduler", "PNDMScheduler", "LCMScheduler"):
        config["set_alpha_to_one"] = plan.end == 0
    elif kind in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        config["final_sigmas_type"] = "zero" if plan.end == 0 else "sigma_min"
    elif (plan.end == 0) != clean:
        notes.append(f"that sampling ends at t={plan.end:g}: a {kind} does not know it")
    if kind == "PNDMScheduler":
        config["skip_prk_steps"] = plan.sampler == "plms"
    if kind == "DPMSolverMultistepScheduler":
        config["algorithm_type"] = "dpmsolver++" if plan.sampler == "dpmpp_2m" else "sde-dpmsolver++"
    if kind in ("DDIMScheduler", "DDPMScheduler", "LCMScheduler"):
        config["clip_sample"] = False
    if config.get("rescale_betas_zero_snr") and kind in (
        "PNDMScheduler",
        "HeunDiscreteScheduler",
        "LMSDiscreteScheduler",
    ):
        raise Problem(f"{what}: a {kind} knows no zero terminal SNR: set another sampler, such as ddim")
    return config


def _curve(schedule: Schedule, what: str) -> dict[str, Any]:
    said = schedule.arguments
    names = {Linear: "linear", ScaledLinear: "scaled_linear", Sigmoid: "sigmoid"}
    if type(schedule) in names:
        curve = {"beta_schedule": names[type(schedule)], "beta_start": said["start"], "beta_end": said["end"]}
    elif isinstance(schedule, Cosine) and (said["s"], said["most"]) == (0.008, 0.999):
        curve = {"beta_schedule": "squaredcos_cap_v2"}
    elif type(schedule) is Table:
        curve = {"trained_betas": list(said["betas"])}
    else:
        raise Problem(f"{what}: diffusers has no name for a {type(schedule).__name__} schedule like this")
    zero = {"rescale_betas_zero_snr": True} if said["zero_snr"] else {}
    return {"num_train_timesteps": schedule.T, **curve, **zero}


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
    return {"zero": True, "sigma_min": False}.get(str(config["final_sigmas_type"]), clean)


def _offset(config: Mapping[str, Any], what: str) -> int:
    return whole(config, "steps_offset", 0, what, least=0)


def _clip(config: Mapping[str, Any], kind: str, what: str) -> float | None:
    clips = config.get("clip_sample", kind in ("DDPMScheduler", "DDIMScheduler"))  # unless they say otherwise
    return number(config, "clip_sample_range", 1.0, what, least=0) if clips else None


def _threshold(config: Mapping[str, Any]) -> tuple[float, float] | None:
    if not config.get("thresholding"):
        return None
    ratio = number(config, "dynamic_thresholding_ratio", 0.995, "scheduler_config.json", least=0)
    return ratio, number(config, "sample_max_value", 1.0, "scheduler_config.json", least=0)
