"""The studies of Imagen, on networks that have learned nothing: what they count, and which runs they want."""

import pytest
import torch

from phosphene.metrics.interval import Interval
from phosphene.studies import Job, Need, Study, levels, pictures, sizes, threshold
from phosphene.systems.cascade import Cascade
from systems.small import awake, imagen, imagen_upscaler


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(pictures, "SEEN", 16)
    for module, name, value in (
        (sizes, "GUIDANCE", (1.0, 4.0)), (sizes, "STEPS", 2), (sizes, "SHOWN", 2),
        (levels, "LEVELS", (0.0, 0.6)), (levels, "SHOWN", 2),
        (threshold, "GUIDANCE", (1.0, 40.0)), (threshold, "SHOWN", 2),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    torch.manual_seed(0)


def base(side=16):
    made = awake(imagen())
    made.size, made.steps = side, 2
    torch.nn.init.normal_(made.denoiser.net.conv_out.weight, std=0.3)
    return made


def test_sizes():
    """A row for each base and guidance, with both sizes; the answer names what differs in one size alone."""
    *lines, found = sizes.measured(Job(dict.fromkeys(sizes.STUDY.needs, base()), 6, 0))
    assert len(lines) == len(found.rows) == 8
    text, unet = (sizes.parameters(part) for part in (base().encoder.text, base().denoiser.net))
    assert all(row[2:4] == (text, unet) and all(isinstance(it, Interval) for it in row[5:]) for row in found.rows)
    assert {row[:2] for row in found.rows} == {(t, u) for t in ("small", "large") for u in ("small", "large")}
    assert found.answer.count("no different") == 12 and "large text, small U-Net against small text" in found.answer
    assert found.rows[0][5] != found.rows[1][5]  # guidance shows


def test_levels():
    """The base's pictures are made once, and every level enlarges the same."""
    cascade = Cascade([base(), imagen_upscaler(32, 16)])
    cascade.stages[1].steps = 1
    *lines, found = levels.measured(Job({"imagen": awake(cascade)}, 6, 0))
    assert len(lines) == 3 and [row[0] for row in found.rows] == [0.0, 0.6]
    assert found.rows[0][1].value != found.rows[1][1].value and "Fréchet is best at level" in found.answer


def test_threshold():
    """Clamping saturates, dividing does not, and the base is afterwards what it was."""
    system = base()
    *_, found = threshold.measured(Job({"imagen": system}, 6, 0))
    full = {row[:2]: row[-1].value for row in found.rows}
    assert full["static", 40.0] > 2 * full["dynamic", 40.0]
    assert list(system.threshold) == [0.995] and system.bound == 1.0
    assert "at guidance 40" in found.answer


def test_a_need_may_need_another(tmp_path):
    """It is trained before, once, in a folder that says how, and given as a bundle."""
    first = Need("scenes.clip", {"width": 32})
    one, two = (Need("scenes.imagen", {"clip": first, "width": width}) for width in (16, 32))
    it = Study("What?", {"one": one, "two": two}, lambda job: iter(()))
    assert it.missing(tmp_path) == [first, one, two]
    assert one.folder == "scenes.imagen-clip=scenes.clip-width=32-width=16"
    assert one.made(tmp_path).knobs == {"clip": tmp_path / "scenes.clip-width=32", "width": 16}
