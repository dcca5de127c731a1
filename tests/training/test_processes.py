"""Two processes with two slots each train as one process with four does, to rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toys import Toy
from two import RUNS, STEPS, all_runs

pytest.importorskip("accelerate")
SCRIPT = Path(__file__).with_name("two.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """one/NAME and two/NAME: every run, by one process and by two."""
    folder = tmp_path_factory.mktemp("processes")
    # what `accelerate launch --multi_gpu` runs too; on CPUs alone it would want MPI
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder / "two")], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    all_runs(folder / "one", 0)
    return folder


def both(folder: Path, name: str, step: int, file: str) -> list[dict[str, torch.Tensor]]:
    return [load_file(folder / n / name / f"checkpoints/step-{step}/{file}.safetensors") for n in ("one", "two")]


@pytest.mark.parametrize("name", RUNS)
def test_the_same_rows(name, folder):
    """Every slot has its own, whoever computes it."""
    one = json.loads((folder / "one" / name / "rows-0.json").read_text())
    shares = [json.loads((folder / "two" / name / f"rows-{rank}.json").read_text()) for rank in (0, 1)]
    assert [sorted({key.split()[1] for key in share}) for share in shares] == [["0", "1"], ["2", "3"]]
    for step in range(STEPS):
        for slot in range(4):
            assert shares[slot // 2][f"{step} {slot}"] == one[f"{step} {slot}"]


@pytest.mark.parametrize("name", RUNS)
def test_the_same_gradient(name, folder):
    """Of the first step, as AdamW's mean of it holds it, and of the last: Adam makes a little more of rounding."""
    for step, most in ((1, 1e-6), (STEPS, 1e-4)):
        one, two = both(folder, name, step, "optimizer")
        assert one.keys() == two.keys()
        for turn in {key.split("/")[0] for key in one}:
            means = [
                torch.cat([v.flatten() for k, v in sorted(o.items()) if k.startswith(turn) and k.endswith("exp_avg")])
                for o in (one, two)
            ]
            apart = float((means[0] - means[1]).norm() / means[0].norm())
            print(f"{name}, {turn}, step {step}: two processes differ by {apart:.1e} of the gradient")
            assert apart <= most, f"{turn}, step {step}"


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("file", ["weights", "ema"])
def test_the_same_weights(name, file, folder):
    one, two = both(folder, name, STEPS, file)
    assert one.keys() == two.keys()
    keys = one.keys() - {"seen"}  # counts what its own process has seen
    apart = max(float((one[key] - two[key]).abs().max()) for key in keys)
    print(f"{name}, {file}: two processes differ by at most {apart:.1e}")
    assert apart <= 2e-6


@pytest.mark.parametrize("name", RUNS)
def test_the_same_log(name, folder):
    rows = [(folder / n / name / "metrics.jsonl").read_text().splitlines() for n in ("one", "two")]
    assert len(rows[0]) == len(rows[1]) == STEPS
    for one, two in (map(json.loads, pair) for pair in zip(*rows)):
        assert one["images"] == two["images"]
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("run", "rank"), [("one", 0), ("two", 0), ("two", 1)])
def test_the_average_is_the_documented_one(run, rank, folder):
    """ema ← d·ema + (1−d)·weights with d = min(0.97, k/(9+k)), beyond k = 64 every fourth with d⁴; here in float64."""
    kept = load_file(folder / run / f"averaged-{rank}.safetensors")
    ema = torch.cat([p.detach().flatten() for p in Toy().turns["model"]]).double()
    for k, (weights, average) in enumerate(zip(kept["weights"], kept["averages"], strict=True), start=1):
        if k <= 64 or k % 4 == 0:
            d = min(0.97, k / (9 + k)) ** (1 if k <= 64 else 4)
            ema = d * ema + (1 - d) * weights.double()
        torch.testing.assert_close(average.double(), ema, rtol=1e-5, atol=1e-6, msg=lambda text, k=k: f"{k}: {text}")
    assert k == 90
    torch.testing.assert_close(kept["end"].double(), ema, rtol=1e-5, atol=1e-6)  # the 91st is not taken in
