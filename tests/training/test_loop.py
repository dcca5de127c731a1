import json
import math

import pytest
import torch
from torch import nn
from toys import OPTIONS, Data, Gan, Toy, no_bundle, run, weights

from phosphene.errors import Problem
from phosphene.systems.base import Loss
from phosphene.training import ema_weights, train
from phosphene.training.loop import seed


def plain_loop(system, data: Data, steps: int, lr: float, clip: float) -> None:
    """The same training without a trainer: torch's own AdamW and clipping, one turn, fp32."""
    optimizer = torch.optim.AdamW(system.turns["model"], lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(steps):
        optimizer.zero_grad()
        for slot in range(data.slots):
            batch = data.at(step, slot)
            seed(0, step, slot, "prepare")
            with torch.no_grad():
                batch = system.prepare(batch)
            seed(0, step, slot, "model")
            (system(batch, "model").total / data.slots).backward()
        nn.utils.clip_grad_norm_(system.turns["model"], clip)
        optimizer.step()


@pytest.mark.parametrize("clip", [0.05, 100.0])
def test_same_as_a_plain_loop(clip):
    ours, theirs = Toy(), Toy()
    run(ours, steps=20, warmup=0, decay=0, ema=0, clip=clip, precision="fp32")
    plain_loop(theirs, Data(), 20, OPTIONS["lr"], clip)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert not torch.equal(ours.net[0].weight, Toy().net[0].weight)


@pytest.mark.parametrize(("system", "precision"), [(Toy, "fp32"), (Toy, "bf16"), (Gan, "fp32")])
def test_resumed_is_the_same_run(tmp_path, system, precision):
    whole, parts = system(), system()
    options = OPTIONS | {"steps": 23, "precision": precision, "checkpoint_every": 7, "save": no_bundle}
    shown = run(whole, out=tmp_path / "whole", **options)
    for stop in (3, 16):
        for progress in train(parts, Data(), out=tmp_path / "parts", resume=True, **options):
            if progress.step == stop:
                break
        assert (tmp_path / f"parts/checkpoints/step-{stop}").is_dir()  # left early, nothing lost
        torch.randn(stop)  # whatever a caller draws
        parts = system()
    again = run(parts, out=tmp_path / "parts", resume=True, **options)
    assert again[0].step == 17 and "after step 16" in again[0].notes[0]
    assert weights(parts) == weights(whole)
    last = [run / "checkpoints/step-23" for run in (tmp_path / "whole", tmp_path / "parts")]
    for name in ("weights", "ema", "optimizer"):
        a, b = (folder / f"{name}.safetensors" for folder in last)
        assert a.read_bytes() == b.read_bytes()
    assert again[-1].numbers.keys() == shown[-1].numbers.keys() and again[-1].images == shown[-1].images == 23 * 8
    # resumed at its end there is nothing to do, and the result is the same
    done = system()
    (only,) = run(done, out=tmp_path / "parts", resume=True, **options)
    assert only.step == 23 and weights(done) == weights(whole)


def test_slots_are_one_batch():
    """The gradient is the mean over slots, whoever computes them; each slot's noise is its own."""
    seen = []

    class Seen(Toy):
        def loss(self, batch, turn="model"):
            seen.append(torch.randn(1).item())
            return super().loss(batch, turn)

    run(Seen(), Data(slots=3), steps=2, precision="fp32")
    assert len(set(seen)) == 6
    again, seen[:] = list(seen), []
    run(Seen(), Data(slots=3), steps=2, precision="fp32")
    assert seen == again
    run(Seen(), Data(slots=3), steps=2, precision="fp32", seed=1)
    assert not set(seen[6:]) & set(again)


def test_each_turn_trains_its_own():
    system, order = Gan(), []

    class Watched(Gan):
        def loss(self, batch, turn="model"):
            listening = {name.split(".")[0] for name, p in self.named_parameters() if p.requires_grad}
            order.append((turn, listening))
            return super().loss(batch, turn)

    before = {name: p.detach().clone() for name, p in system.named_parameters()}
    run(system, steps=1, ema=0, lr={"generator": 1e-2, "discriminator": 1e-12}, warmup=0, decay=0)
    moved = {name.split(".")[0] for name, p in system.named_parameters() if (p - before[name]).abs().max() > 1e-4}
    assert moved == {"generator"}
    watched = Watched()
    run(watched, steps=2)
    turn = [("discriminator", {"discriminator"})] * 2 + [("generator", {"generator"})] * 2
    assert order == turn * 2
    assert all(p.requires_grad for p in watched.parameters())


def test_only_matrices_decay():
    system = Toy()
    with torch.no_grad():
        system.net[0].bias.fill_(1.0)

    class Still(Toy):
        def loss(self, batch, turn="model"):
            return Loss(0.0 * sum(p.sum() for p in self.turns["model"]))

    still = Still()
    still.load_state_dict(system.state_dict())
    run(still, steps=1, lr=0.1, warmup=0, decay=0, weight_decay=0.5, ema=0, precision="fp32")
    torch.testing.assert_close(still.net[0].weight, system.net[0].weight * 0.95)
    assert torch.equal(still.net[0].bias, system.net[0].bias)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run(tmp_path, where):
    class Breaks(Toy):
        def loss(self, batch, turn="model"):
            loss = super().loss(batch, turn)
            if self.seen <= 8 * 6:  # the seventh step
                return loss
            if where == "loss":
                return Loss(loss.total * math.nan)
            return Loss(loss.total + (self.null.sum() * 0).sqrt())  # its value is 0, its slope is not a number

    system, sound = Breaks(), Toy()
    with pytest.raises(Problem, match=r"not finite at step 7; try a lower lr.*step-6"):
        run(system, steps=20, out=tmp_path, ema=0.9)
    for a, b in zip(run_to(sound, 6, steps=20, ema=0.9), system.turns["model"], strict=True):
        assert torch.equal(a, b)  # the weights before the bad step are whole, in memory and on the disk
    assert (tmp_path / "checkpoints/step-6").is_dir()


def run_to(system, step, **options):
    for progress in train(system, Data(), save=no_bundle, **(OPTIONS | options)):
        if progress.step == step:
            return system.turns["model"]


def test_modes_and_devices(tmp_path):
    """Train mode in steps, eval in samples and afterwards; frozen parts are never trained, averaged or written."""
    system, modes = Toy(), []
    before = system.encoder.weight.detach().clone()

    def sample(shown):
        average = shown.net[0].weight.detach().clone()
        modes.append((shown.training, shown.encoder.training, torch.is_grad_enabled(), average))
        return torch.zeros(5, 3, 4, 4)

    for progress in train(
        system, Data(), out=tmp_path, steps=7, sample=sample, sample_every=3, save=no_bundle, **OPTIONS
    ):
        if progress.step < 7:
            assert system.training and not system.encoder.training
            if progress.step in (3, 6):
                with ema_weights(system):
                    assert torch.equal(modes[-1][3], system.net[0].weight)
    assert [m[:3] for m in modes] == [(False, False, False)] * 3
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["step-3.png", "step-6.png", "step-7.png"]
    assert not system.training and torch.equal(before, system.encoder.weight)
    written = (tmp_path / "checkpoints/step-7/weights.safetensors").read_bytes()
    assert b"encoder" not in written and b"seen" in written


def test_progress_and_log(tmp_path):
    every = list(train(Toy(), Data(), out=tmp_path, steps=12, save=no_bundle, **OPTIONS))
    assert [p.step for p in every] == list(range(1, 13))
    assert [p.step for p in every if p.logged] == [1, 5, 10, 12]
    assert [p.step for p in every if p.checkpoint] == [12]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 5, 10, 12]
    assert rows[1]["loss"] == every[4].loss == every[5].loss == every[4].numbers["model/mse"]
    assert rows[2]["grad_norm/model"] == every[9].grad_norm > 0
    assert rows[3]["images"] == 96 and rows[3]["lr"] == every[11].lr
    assert every[11].eta == 0 and every[5].eta > 0 and every[11].seconds > every[0].seconds > 0
    assert (tmp_path / "loss.png").stat().st_size > 1000 and (tmp_path / "model.safetensors").exists()


def test_log_is_cut_back_to_the_checkpoint(tmp_path):
    steps = train(Toy(), Data(), out=tmp_path, steps=40, checkpoint_every=10, save=no_bundle, **OPTIONS)
    for progress in steps:
        if progress.step == 17:
            break
    with open(tmp_path / "metrics.jsonl", "a") as log:
        log.write('{"step": 999, "loss": 1}\n{"step": 18, "lo')  # as a kill leaves it
    steps.close()
    run(Toy(), out=tmp_path, steps=40, checkpoint_every=10, resume=True)
    seen = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert seen == sorted(set(seen)) and seen[-1] == 40 and {5, 10, 15, 20} < set(seen)


def test_beginning_from_another_runs_weights(tmp_path):
    first = Toy()
    run(first, out=tmp_path / "first", steps=5)
    second = Toy(seed=1)
    run(second, steps=1, lr=1e-12, start=tmp_path / "first", ema=0)
    torch.testing.assert_close(second.net[0].weight, first.net[0].weight)
    with pytest.raises(Problem, match=r"has nothing for discriminator.0.weight, .* of another system"):
        run(Gan(), steps=1, start=tmp_path / "first")
    # once begun, a run does not need what it began from
    stopped = train(Toy(), Data(), out=tmp_path / "third", steps=4, start=tmp_path / "first", save=no_bundle, **OPTIONS)
    next(stopped)
    stopped.close()
    (tmp_path / "first").rename(tmp_path / "away")
    assert len(run(Toy(), out=tmp_path / "third", steps=4, start=tmp_path / "first", resume=True)) == 3


def test_compile_is_put_on_the_blocks_and_taken_off():
    class Blocks(Toy):
        @property
        def blocks(self):
            return [self.net]

    calls = []
    system = Blocks()
    system.net.compile = lambda: calls.append("compiled")
    run(system, steps=2, compile=True)
    assert calls == ["compiled"] and system.net._compiled_call_impl is None


# What a user can do wrong ---------------------------------------------------------------------------------------------


def test_a_folder_that_holds_a_run(tmp_path):
    run(Toy(), out=tmp_path, steps=5)
    with pytest.raises(Problem, match="holds a run already"):
        run(Toy(), out=tmp_path, steps=5)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"lr": 1e-4}, "lr = 0.003, not 0.0001"),
        ({"steps": 9}, "steps = 5, not 9"),
        ({"precision": "fp32"}, "precision = 'bf16', not 'fp32'"),
        ({"ema": 0.5}, "ema = 0.999, not 0.5"),
        ({"knobs": {"width": 96}}, "width = 64, not 96"),
        ({"data": Data(slots=3)}, "slots = 2, not 3"),
        ({"seed": 3}, "seed = 0, not 3"),
    ],
)
def test_resuming_with_another_setting_names_it(tmp_path, changed, says):
    options = {"out": tmp_path, "steps": 5, "precision": "bf16", "knobs": {"width": 64}}
    run(Toy(), **options)
    with pytest.raises(Problem) as caught:
        run(Toy(), resume=True, **(options | changed))
    assert says in str(caught.value)


def test_resuming_with_other_frozen_weights_or_another_system(tmp_path):
    run(Toy(), out=tmp_path, steps=5)
    other = Toy()
    other.encoder.weight.data += 1
    with pytest.raises(Problem, match="frozen part 'encoder'"):
        run(other, out=tmp_path, steps=5, resume=True)
    with pytest.raises(Problem, match="another system"):
        wide = Toy()
        wide.null = nn.Parameter(torch.zeros(4))
        run(wide, out=tmp_path, steps=5, resume=True)


def test_what_does_not_change_the_weights_may_change(tmp_path):
    run(Toy(), out=tmp_path, steps=5, decay=0)
    longer = Toy()
    shown = run(longer, out=tmp_path, steps=9, decay=0, resume=True, log_every=1, checkpoint_every=2, keep=5)
    assert [p.step for p in shown] == [6, 7, 8, 9]
    whole = Toy()
    run(whole, steps=9, decay=0)
    assert weights(longer) == weights(whole)
    with pytest.raises(Problem, match="beyond steps=7"):
        run(Toy(), out=tmp_path, steps=7, decay=0, resume=True)


def test_damage_is_told_and_made_good(tmp_path):
    run(Toy(), out=tmp_path, steps=12, checkpoint_every=5)
    whole = (tmp_path / "checkpoints/step-12/weights.safetensors").read_bytes()
    (tmp_path / "checkpoints/step-12/weights.safetensors").write_bytes(whole[:-8])
    shown = run(Toy(), out=tmp_path, steps=12, checkpoint_every=5, resume=True)
    assert shown[0].step == 11 and "step-12" in shown[0].notes[0] and "step-10" in shown[0].notes[1]
    assert (tmp_path / "checkpoints/step-12/weights.safetensors").read_bytes() == whole


def test_nothing_to_resume_is_told(tmp_path):
    assert "from the beginning" in run(Toy(), out=tmp_path, steps=2, resume=True)[0].notes[0]


def test_folders_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match=r"cannot write .*file/run/settings.json: Not a directory"):
        train(Toy(), Data(), out=tmp_path / "file/run", steps=5)  # before the first step is asked for
    run(Toy(), out=tmp_path, steps=5)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(Problem, match=r"settings.json is missing or not JSON"):
        train(Toy(), Data(), out=tmp_path, steps=5, resume=True)


def test_a_run_that_came_to_nothing_may_be_begun_again(tmp_path):
    class Broken(Data):
        def at(self, step, slot):
            raise Problem("pictures/3.png cannot be read")

    with pytest.raises(Problem, match="cannot be read"):
        run(Toy(), Broken(), out=tmp_path, steps=5)
    run(Toy(), out=tmp_path, steps=6)


def test_nothing_to_train():
    system = Toy().requires_grad_(False)
    with pytest.raises(Problem, match="nothing to train"):
        run(system, steps=1)
    with pytest.raises(Problem, match=r"null is torch.bfloat16"):
        run(Toy().bfloat16(), steps=1)


def test_tensorboard(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    run(Toy(), out=tmp_path, steps=5, tensorboard=True)
    assert list(tmp_path.glob("events.*"))
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    shown = run(Toy(), out=tmp_path, steps=5, resume=True, tensorboard=True)
    assert any("pip install 'phosphene[train]'" in note for note in shown[0].notes)
