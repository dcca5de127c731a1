"""Disks that are full or read-only, data that breaks: told in one line, nothing lost, and the same run after."""

import io
import shutil
import tarfile

import pytest
import torch
from killing import forked, left, said
from toys import OPTIONS, Toy, no_bundle, run

from phosphene.data.batches import Batches
from phosphene.data.scenes import Scenes
from phosphene.errors import Problem
from phosphene.training import checkpoint, train

# Disks: every process of tests/training/disks.py has one of its own ---------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    pipe = forked("disks", "undisturbed", folder=str(tmp_path_factory.mktemp("undisturbed")))
    said(pipe)
    return said(pipe)


@pytest.mark.parametrize("disk", ["tmpfs", "limit"])
def test_a_full_disk(disk, tmp_path, undisturbed):
    """It fills up at every write there is, one after the other; each time there is a little more of it."""
    pipe = forked("disks", "filling", folder=str(tmp_path), disk=disk)
    said(pipe)
    told, hashes = said(pipe)
    if told is None:
        pytest.skip(hashes)
    assert hashes == undisturbed
    reason = "No space left on device" if disk == "tmpfs" else "File too large"
    for line, before, after in told:
        assert "\n" not in line and line.startswith("cannot write ") and reason in line, line
        assert after >= before, f"{line}: it had {before} before and {after} after"  # nothing is lost
    first = "metrics.jsonl" if disk == "tmpfs" else "settings.json"  # a page holds the settings; a line is never long
    for name in (first, "samples/", "checkpoints/step-", "loss.png", "model.safetensors"):
        assert any(f"/{name}" in line for line, *_ in told), name


def test_a_disk_that_becomes_read_only(tmp_path, undisturbed):
    pipe = forked("disks", "read_only", folder=str(tmp_path))
    said(pipe)
    told, hashes = said(pipe)
    if told is None:
        pytest.skip(hashes)
    assert "\n" not in told and told.startswith("cannot write ") and "Read-only file system" in told
    assert hashes == undisturbed


# Data -----------------------------------------------------------------------------------------------------------------


def parquet(folder, rows):
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    table = pa.table({"image": [png for png, _ in rows], "caption": [caption for _, caption in rows]})
    write_table(table, folder / "table.parquet", row_group_size=10)
    return folder / "table.parquet"


def tar(folder, rows):
    for shard in range(6):
        with tarfile.open(folder / f"{shard}.tar", "w") as file:
            for i in range(10 * shard, 10 * shard + 10):
                for ending, content in (("png", rows[i][0]), ("txt", rows[i][1].encode())):
                    info = tarfile.TarInfo(f"{i:03d}.{ending}")
                    info.size = len(content)
                    file.addfile(info, io.BytesIO(content))
    return folder / "3.tar"


@pytest.fixture(params=[parquet, tar])
def shards(request, tmp_path):
    """(what opens sixty pictures anew, the file that is to break)"""
    folder, rows = tmp_path / "data", []
    folder.mkdir()
    for scene in (Scenes(n=60)[i] for i in range(60)):
        png = io.BytesIO()
        scene.image.save(png, "PNG")
        rows.append((png.getvalue(), scene.captions[0]))
    file = request.param(folder, rows)
    return lambda: Batches(str(folder), size=8, batch=4, slots=2), file


def scratched(file):
    """Noise in the middle: of a table a third of it, of a shard nearly all."""
    content = file.read_bytes()
    n = len(content)
    noise = torch.randint(256, (n // 3,), generator=torch.Generator().manual_seed(0)).byte().numpy().tobytes()
    file.write_bytes(content[: n // 3] + noise + content[n // 3 + len(noise) :])


def trained(data, out, until=None, then=lambda: None, **options):
    """Goes on with a run of 16 steps; at step `until` it is left, or `then` happens."""
    steps, notes = train(Toy(), data, out=out, steps=16, resume=True, save=no_bundle, **(OPTIONS | options)), []
    for progress in steps:
        notes += progress.notes
        if progress.step == until:
            then()
    return notes


def test_a_shard_that_breaks_is_told_and_the_run_goes_on(shards, tmp_path):
    anew, file = shards
    data = anew()

    def breaks():
        scratched(file)
        getattr(data.source, "_tables", {}).clear()  # a large table is not kept in memory

    notes = trained(data, tmp_path / "run", until=5, then=breaks)
    told = [note for note in notes if note.startswith("Broken rows met so far")]
    assert told and all(str(file) in note and "\n" not in note for note in told)
    assert checkpoint.found(tmp_path / "run/checkpoints")[0].name == "step-16"


def test_a_run_on_a_broken_shard_is_resumed_as_itself(shards, tmp_path):
    anew, file = shards
    scratched(file)
    assert trained(anew(), tmp_path / "whole")
    steps = train(Toy(), anew(), out=tmp_path / "parts", steps=16, resume=True, save=no_bundle, **OPTIONS)
    for progress in steps:
        if progress.step == 7:
            steps.close()
    trained(anew(), tmp_path / "parts")
    assert left(tmp_path / "parts") == left(tmp_path / "whole")


def test_data_that_is_gone_for_a_while(shards, tmp_path):
    """The run stops at once, with a checkpoint, and goes on as if nothing had been once the data is back."""
    anew, file = shards
    trained(anew(), tmp_path / "whole")
    data = anew()

    def gone():
        shutil.move(file.parent, tmp_path / "away")
        getattr(data.source, "_tables", {}).clear()

    with pytest.raises(Problem, match=r"broken pictures and no good one in 100 tries; the first: ") as caught:
        trained(data, tmp_path / "run", until=6, then=gone)
    assert "\n" not in str(caught.value) and str(file.parent) in str(caught.value)
    assert checkpoint.found(tmp_path / "run/checkpoints")[0].name == "step-6"
    shutil.move(tmp_path / "away", file.parent)
    notes = trained(anew(), tmp_path / "run")
    assert "after step 6" in notes[0]
    assert left(tmp_path / "run") == left(tmp_path / "whole")


def test_weights_in_the_middle_of_a_step_are_not_kept(tmp_path):
    """Only the data's Problem finds the weights between two steps; a system's own does not."""

    class Refuses(Toy):
        def loss(self, batch, turn="model"):
            if self.seen >= 8 * 6 + 4:  # the second slot of the seventh step
                raise Problem("class 11 is not one of 0 … 9")
            return super().loss(batch, turn)

    with pytest.raises(Problem, match="class 11"):
        run(Refuses(), out=tmp_path, steps=16, checkpoint_every=4)
    assert checkpoint.found(tmp_path / "checkpoints")[0].name == "step-4"


def test_a_checkpoint_that_cannot_be_read_is_left_as_it_is(tmp_path, monkeypatch):
    run(Toy(), out=tmp_path, steps=4)

    def fails(file):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(checkpoint, "_digest", fails)
    with pytest.raises(Problem, match=r"cannot read .*safetensors: Permission denied; it is left as it is"):
        run(Toy(), out=tmp_path, steps=4, resume=True)
    monkeypatch.undo()
    assert run(Toy(), out=tmp_path, steps=4, resume=True)[0].step == 4
