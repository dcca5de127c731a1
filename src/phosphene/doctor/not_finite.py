"""Weights that are no numbers any more."""

from __future__ import annotations

from .finding import Finding
from .patient import Patient

NAME = "weights that are numbers"


def applies(patient: Patient) -> bool:
    return patient.kind == "run"


def check(patient: Patient) -> Finding | None:
    held = [("model.safetensors", patient.system.state_dict())] if patient.system is not None else []
    held += [(f"the checkpoint's {name}", tensors) for name, tensors in patient.files.items()]
    bad = {}
    for where, tensors in held:
        names = [name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
        if names:
            bad[where] = names
    if not bad:
        return None
    where, names = next(iter(bad.items()))
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return Finding(
        f"NaN or infinity in {where}: {names[0]}{more}"
        + (f"; also in {', '.join(list(bad)[1:])}." if len(bad) > 1 else "."),
        "One of them reaches every pixel; nothing can be learned or made from here on.",
        "Go back to an older checkpoint; train on with a lower lr, more warmup, a smaller clip or precision='fp32'.",
        {"tensors": sum(map(len, bad.values()))},
    )
