import json
import os
import resource

import pytest
import torch

from phosphene.errors import Problem
from phosphene.training import checkpoint

FILES = {
    "weights": {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(3)},
    "optimizer": {"model/a/step": torch.ones(())},
}


def saved(folder, *steps, keep=2):
    return [checkpoint.save(folder, step, FILES, {"images": 8 * step}, keep) for step in steps]


def test_what_is_saved_is_loaded(tmp_path):
    (path,) = saved(tmp_path, 20)
    files, position = checkpoint.load(path)
    assert position["step"] == 20 and position["images"] == 160
    assert files.keys() == FILES.keys()
    for name, tensors in FILES.items():
        for key, value in tensors.items():
            assert torch.equal(files[name][key], value) and files[name][key].dtype == value.dtype


def test_the_newest_are_kept(tmp_path):
    saved(tmp_path, 8, 9, 10, 100)
    assert [p.name for p in checkpoint.found(tmp_path)] == ["step-100", "step-10"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-10", "step-100"]


def test_what_a_kill_left_is_no_checkpoint_and_is_cleared(tmp_path):
    draft = tmp_path / ".step-30.1"
    draft.mkdir()
    (draft / "weights.safetensors").write_bytes(b"half")
    saved(tmp_path, 20)
    assert [p.name for p in tmp_path.iterdir()] == ["step-20"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "name", "says"),
    [
        (cut, "weights.safetensors", "bytes long"),
        (flip, "optimizer.safetensors", "changed since"),
        (os.remove, "weights.safetensors", "is missing"),
        (os.remove, "position.json", "missing or cannot be read"),
        (cut, "position.json", "missing or cannot be read"),
    ],
)
def test_a_damaged_one_is_named_and_the_one_before_is_used(tmp_path, damage, name, says):
    old, new = saved(tmp_path, 20, 40)
    damage(new / name)
    with pytest.raises(checkpoint.Damaged, match=says) as caught:
        checkpoint.load(new)
    assert str(new / name) in str(caught.value)
    _, position, notes = checkpoint.newest(tmp_path)
    assert position["step"] == 20
    assert str(new / name) in notes[0] and str(old) in notes[1]
    assert [p.name for p in checkpoint.found(tmp_path)] == ["step-20"]  # the damaged one does not count as kept
    assert (tmp_path / "step-40.damaged").is_dir()


def test_all_damaged(tmp_path):
    for path in saved(tmp_path, 20, 40):
        cut(path / "weights.safetensors")
    with pytest.raises(Problem, match=r"no checkpoint in .* is whole: .*step-40.*step-20"):
        checkpoint.newest(tmp_path)
    assert len(checkpoint.found(tmp_path)) == 2


def test_none(tmp_path):
    assert checkpoint.newest(tmp_path / "nowhere") is None


def test_a_full_disk_loses_nothing(tmp_path):
    saved(tmp_path, 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(Problem, match=r"cannot write .*step-40"):
            checkpoint.save(tmp_path, 40, {"weights": {"a": torch.zeros(10_000)}}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["step-20"]
    checkpoint.load(tmp_path / "step-20")


def test_an_old_checkpoint_survives_a_failed_rewrite(tmp_path, monkeypatch):
    saved(tmp_path, 20)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Problem, match="No space left on device"):
        saved(tmp_path, 20)
    with pytest.raises(Problem, match="No space left on device"):
        checkpoint.write(tmp_path / "settings.json", b"{}")
    monkeypatch.undo()
    assert checkpoint.load(tmp_path / "step-20")[1]["step"] == 20
    assert [p.name for p in tmp_path.iterdir()] == ["step-20"]


def test_weights_for_another_run(tmp_path):
    folder = tmp_path / "checkpoints"
    checkpoint.save(folder, 5, FILES | {"ema": {"a": torch.full((2, 3), 9.0)}}, {})
    averaged = checkpoint.read_weights(tmp_path)
    assert averaged["a"].eq(9).all() and averaged["n"] == 3
    assert torch.equal(checkpoint.read_weights(folder / "step-5", ema=False)["a"], FILES["weights"]["a"])
    with pytest.raises(Problem, match="holds no checkpoint"):
        checkpoint.read_weights(tmp_path / "elsewhere")


def test_position_says_what_each_file_is(tmp_path):
    (path,) = saved(tmp_path, 1)
    files = json.loads((path / "position.json").read_text())["files"]
    assert {name: size for name, (size, _) in files.items()} == {
        p.name: p.stat().st_size for p in path.iterdir() if p.suffix == ".safetensors"
    }
