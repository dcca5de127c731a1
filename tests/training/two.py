"""What test_processes starts twice: `accelerate launch … two.py OUT`."""

import os
import sys
from pathlib import Path

from toys import Data, Gan, Toy, run

from phosphene.errors import Problem

assert os.environ["WORLD_SIZE"] == "2"
for system in (Toy, Gan):
    seed = 0 if os.environ["RANK"] == "0" else 5  # the first process's weights are everybody's
    begun = system(seed) if system is Toy else system()
    run(begun, Data(slots=4), out=Path(sys.argv[1]) / system.__name__, steps=12, precision="fp32")
try:
    run(Toy(), Data(slots=3), steps=1)
except Problem as problem:
    assert "3 slots cannot be shared by 2" in str(problem)
else:
    raise AssertionError("three slots were shared by two")
