"""Two processes with one slot each train as one process with two slots does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from toys import Data, Gan, Toy, run

pytest.importorskip("accelerate")
SCRIPT = Path(__file__).with_name("two.py")


def test_two_processes_are_one(tmp_path):
    # what `accelerate launch --multi_gpu` runs too; on CPUs alone it would want MPI
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    done = subprocess.run(
        [*command, str(SCRIPT), str(tmp_path / "two")], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for system in (Toy, Gan):
        name = system.__name__
        shown = run(system(), Data(slots=4), out=tmp_path / "one" / name, steps=12, precision="fp32")
        for file in ("weights", "ema", "optimizer"):
            folders = (tmp_path / n / name / "checkpoints/step-12" for n in ("one", "two"))
            one, two = (load_file(folder / f"{file}.safetensors") for folder in folders)
            assert one.keys() == two.keys()
            for key, value in one.items():
                if key != "seen":  # counts what its own process has seen
                    assert (value - two[key]).abs().max() <= 2e-5 * (1 + value.abs().max()), f"{name}: {key}"
        rows = [(tmp_path / n / name / "metrics.jsonl").read_text().splitlines() for n in ("one", "two")]
        assert len(rows[0]) == len(rows[1]) == 4
        first, last = (json.loads(r[-1]) for r in rows)
        assert first["images"] == last["images"] == shown[-1].images == 12 * 16
        assert abs(first["loss"] - last["loss"]) < 1e-4
