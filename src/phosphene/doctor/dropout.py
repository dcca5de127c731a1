"""Classifier-free guidance needs prompts that are dropped now and then: never, and always, are both wrong."""

from __future__ import annotations

from .finding import Finding
from .patient import Patient

NAME = "prompts dropped for guidance"


def applies(patient: Patient) -> bool:
    """To systems that sample with guidance, and are told something."""
    worded = patient.data is not None and getattr(patient.data, "prompts", "caption") != "none"
    listening = any(True for _ in getattr(getattr(patient.system, "encoder", None), "parameters", list)())
    return worded and listening and hasattr(patient.system, "guidance")


def check(patient: Patient) -> Finding | None:
    prompts = [p for batch in patient.drawn for p in batch.prompts]
    dropped = sum(p is None for p in prompts) / len(prompts)
    guidance = patient.system.guidance
    numbers = {"dropped": dropped, "prompts": len(prompts), "guidance": guidance}
    if dropped > 0.9:
        return Finding(
            f"{dropped:.0%} of {len(prompts)} prompts drawn for training are dropped.",
            "The model hardly ever sees a prompt, and cannot learn what it means.",
            "Set drop to 0.1 (and look whether the rows have captions at all).",
            numbers,
        )
    if dropped == 0 and not getattr(patient.data, "drop", 0) and guidance != 1:
        return Finding(
            f"None of {len(prompts)} prompts drawn for training is dropped, and the model samples with guidance "
            f"{guidance:g}.",
            "Guidance moves away from what the model makes of the null prompt, which it has never been trained on.",
            "Set drop to 0.1, or sample with guidance 1.",
            numbers,
        )
    return None
