"""scheduler_config.json: every class of diffusers' that we know, with its own defaults, to times and betas and back."""

from __future__ import annotations

import pytest
import torch

from phosphene.diffusion.samplers import SAMPLERS
from phosphene.errors import Problem
from phosphene.weights.scheduler import CLASSES, plan, written

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("kind", sorted(CLASSES))
@pytest.mark.parametrize(
    "more",
    [{}, SD, {"beta_schedule": "squaredcos_cap_v2"}, {"trained_betas": [0.01, 0.02, 0.3], "num_train_timesteps": 3}],
)
def test_the_betas_and_defaults_of_every_class(kind, more):
    schedulers = pytest.importorskip("diffusers.schedulers")
    peer = getattr(schedulers, kind)(**more)
    ours = plan({"_class_name": kind, **more}, "x")
    theirs = peer.alphas_cumprod.double()
    levels = ours.schedule(torch.arange(1, ours.schedule.T + 1, dtype=torch.float64) / ours.schedule.T)
    assert torch.allclose(levels.alpha**2, theirs, atol=2e-6)
    full = plan(dict(peer.config) | {"_class_name": kind}, "x")  # with every default written out
    for name in ("predicts", "sampler", "spacing", "offset", "end", "clip"):
        assert getattr(ours, name) == getattr(full, name), name
    assert ours.sampler in SAMPLERS


@pytest.mark.parametrize("kind", ["DDIMScheduler", "PNDMScheduler", "LCMScheduler"])
@pytest.mark.parametrize("to_one", [True, False])
def test_where_the_last_step_goes(kind, to_one):
    schedulers = pytest.importorskip("diffusers.schedulers")
    told = {**SD, "set_alpha_to_one": to_one}
    ours = plan({"_class_name": kind, **told}, "x")
    final = float(getattr(schedulers, kind)(**told).final_alpha_cumprod)
    assert abs(float(ours.schedule(ours.end).alpha ** 2) - final) < 1e-6


@pytest.mark.parametrize("n", [4, 10, 50])
def test_the_times_of_a_stable_diffusion_folder(n):
    schedulers = pytest.importorskip("diffusers.schedulers")
    told = {**SD, "timestep_spacing": "leading", "steps_offset": 1}
    peer = schedulers.DDIMScheduler(**told)
    peer.set_timesteps(n)
    ours = plan({"_class_name": "DDIMScheduler", **told}, "x")
    times = ours.schedule.times(n, ours.spacing, offset=ours.offset)[:-1]
    assert torch.equal((times * 1000).round().long() - 1, peer.timesteps)


def test_zero_snr_v_and_spacings():
    ours = plan(
        {"_class_name": "DDIMScheduler", **SD, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, "x"
    )
    assert ours.predicts == "v" and ours.schedule(1.0).alpha == 0
    for name in ("karras", "exponential"):
        assert plan({"_class_name": "EulerDiscreteScheduler", **SD, f"use_{name}_sigmas": True}, "x").spacing == name
    assert plan({"_class_name": "EulerDiscreteScheduler", **SD, "use_beta_sigmas": True}, "x").notes


@pytest.mark.parametrize(
    ("config", "sampler", "notes"),
    [
        ({"_class_name": "PNDMScheduler"}, "pndm", 0),
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": True}, "plms", 0),
        ({"_class_name": "DPMSolverMultistepScheduler"}, "dpmpp_2m", 0),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}, "dpmpp_2m_sde", 0),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}, "dpmpp_2m", 1),
        ({"_class_name": "KDPM2DiscreteScheduler"}, "dpmpp_2m", 1),
    ],
)
def test_samplers_and_what_stands_in_for_them(config, sampler, notes):
    made = plan(config, "x")
    assert (made.sampler, len(made.notes)) == (sampler, notes)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"prediction_type": "flow_prediction"}, "unknown prediction_type"),
        ({"beta_schedule": "laplace"}, "unknown beta_schedule"),
        ({"timestep_spacing": "log"}, "unknown timestep_spacing"),
        ({"beta_start": "x"}, "beta_start is 'x', a number from 0"),
        ({"steps_offset": -1}, "steps_offset"),
        ({"clip_sample_range": "wide"}, "clip_sample_range is .wide., a number from 0"),
    ],
)
def test_what_has_no_meaning(config, said):
    with pytest.raises(Problem, match=said):
        plan({"_class_name": "DDIMScheduler", **config}, "x")


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_what_is_written_says_the_same(kind):
    said = {"steps_offset": 1, "timestep_spacing": "leading", "prediction_type": "v_prediction", "clip_sample": False}
    first, notes = plan({"_class_name": kind, **SD, **said}, "x"), []
    again = plan(written(first, "x", notes), "x")
    assert notes == []
    for name in ("predicts", "sampler", "spacing", "steps", "offset", "end", "clip"):
        assert getattr(first, name) == getattr(again, name), name
    assert torch.equal(first.schedule.log_ratio, again.schedule.log_ratio)
    schedulers = pytest.importorskip("diffusers.schedulers")
    getattr(schedulers, kind).from_config(written(first, "x", []))
