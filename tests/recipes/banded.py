"""Logs of runs that were never run, and the bands of them."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

from phosphene.training import band

RECORD = {
    "training": {"steps": 600, "lr": 1e-3, "precision": "fp32", "seed": 0, "log_every": 10},
    "data": {"batch": 8, "rows": 100, "seed": 0, "source": "/some/where/pictures.npz"},
    "system": {"kind": "Toy", "shapes": "1"},
    "recipe": {"steps": 600, "lr": 1e-3, "width": 8, "seed": 0, "data": "pictures.npz", "start": None},
    "name": "toy.toy",
}


def log(seed: int, spread: float = 0.03, steps: int = 600, factor: float = 1.0, noise: float = 0.05) -> list[dict]:
    """A falling loss times what wanders in the logarithm of the step, as wide as `spread`, times noise a line."""
    rng, rows, away, last = random.Random(f"log {seed}"), [], 0.0, 0
    for step in [1, *range(10, steps + 1, 10)]:
        keep = math.exp(-math.log(step / last) / 0.7) if last else 0.0
        away, last = keep * away + math.sqrt(1 - keep * keep) * rng.gauss(0, 1), step
        loss = factor * math.exp(-0.3 * math.log(1 + step / 30) + spread * away + noise * rng.gauss(0, 1))
        rows.append({"step": step, "loss": loss, "loss/model": loss, "grad_norm/model": 2 * loss, "seconds": step / 10})
        if step % 100 == 0:
            rows[-1]["score/right"] = min(1.0, step / 800 + 0.01 * rng.gauss(0, 1))
    return rows


def curves(runs: list[list[dict]]) -> dict[str, band.Curve]:
    return {name: band.Curve(name, **found) for name, found in band.measured(runs).items()}


def about(record: dict = RECORD, seeds: int = 3) -> dict:
    """All but the values of a band's file."""
    knobs = {k: v for k, v in record["recipe"].items() if k not in (*band.BESIDE, "start")}
    groups = {group: band.comparable(group, record[group]) for group in ("training", "data")}
    return {
        "format": 1, "recipe": record["name"], "knobs": knobs, **groups, "system": record["system"], "until": 600,
        "seeds": list(range(seeds)), "seconds": [60.0] * seeds, "hardware": "a test", "date": "2026-01-01",
    }  # fmt: skip


def write(folder: Path, seeds: int = 3) -> Path:
    """The file of a band, of logs of as many seeds."""
    found = about(seeds=seeds) | {"values": band.measured([log(seed) for seed in range(seeds)])}
    file = folder / "toy.toy.json"
    file.write_text(json.dumps(found))
    return file


def run(folder: Path, rows: list[dict], **record) -> Path:
    """A run's folder, as far as a band looks at it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(RECORD | record))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
