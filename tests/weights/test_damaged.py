"""Files of other families with a tensor missing, another shape or one too many: a Problem, whichever tensor it is."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from phosphene import load
from phosphene.errors import Problem
from weights.recorded import state_dicts

GOLDEN = Path(__file__).parent.parent / "golden"
pytestmark = pytest.mark.filterwarnings("ignore::phosphene.weights.load.Assumed")
FILES = ["guided_diffusion/narrow", "guided_diffusion/upsampler", "guided_diffusion/attention"]
FILES += ["guided_diffusion/spatial", "karlo/prior", "karlo/decoder", "deepfloyd/second"]
FOLDERS = ["ddpm/unet", "unclip_prior", "unclip_decoder_unet", "unclip_text_proj", "if_stage1", "if_stage2"]


def damaged(tensors: dict[str, torch.Tensor]):
    """(what was done, the rest): every fifth key left out or given another shape in turn, then one more."""
    for i, key in enumerate(sorted(tensors)[::5]):
        t = tensors[key]
        if i % 2:
            yield f"without {key}", {k: v for k, v in tensors.items() if k != key}
        else:
            kind = 2 if key == "label_emb.weight" else i // 2 % 3  # there may be any number of classes
            other = [t.new_zeros(*t.shape, 2), t.new_zeros(t.shape[0] + 1, *t.shape[1:]), t.new_zeros(5, 5)][kind]
            yield f"{key} of {tuple(other.shape)}", {**tensors, key: other}
    yield "with one more", {**tensors, "time_embed.7.weight": torch.zeros(2)}


def refused(load_it, tensors: dict[str, torch.Tensor], file: Path) -> None:
    for what, rest in damaged(tensors):
        save_file(rest, file)
        try:
            load_it()
        except Problem as problem:
            assert "\n" not in str(problem)
            continue
        pytest.fail(f"{what}: it was loaded")


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path, name):
    golden, _, which = name.partition("/")
    tensors, file = state_dicts(GOLDEN / f"{golden}.npz")[which], tmp_path / "model.safetensors"
    told = {} if which == "prior" else {"head_dim": 16} | ({"pool_heads": 2} if golden == "deepfloyd" else {})
    save_file(tensors, file)
    load(file, **told)

    def both():
        load(file, **told)
        if which == "decoder":
            load(file, part="head")

    refused(both, tensors, file)


def test_glide(shared, tmp_path):
    tensors, file = load_file(shared / "fixtures" / "glide" / "base.safetensors"), tmp_path / "model.safetensors"
    refused(lambda: load(file, head_dim=16, text_heads=2), tensors, file)


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(shared, tmp_path, name):
    folder, file = shared / "fixtures" / name, tmp_path / "diffusion_pytorch_model.safetensors"
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    refused(lambda: load(tmp_path), load_file(folder / file.name), file)


@pytest.mark.parametrize("name", FOLDERS)
def test_settings_of_another_kind(shared, tmp_path, name):
    """Each setting of a configuration replaced by what it never is."""
    import json

    folder = shared / "fixtures" / name
    weights = "diffusion_pytorch_model.safetensors"
    (tmp_path / weights).symlink_to(folder / weights)
    config = json.loads((folder / "config.json").read_text())
    for key in config:
        for wrong in ("nonsense", -3, {"a": 1}, [[]]):
            (tmp_path / "config.json").write_text(json.dumps({**config, key: wrong}))
            try:
                load(tmp_path)
            except Problem as problem:
                assert "\n" not in str(problem)
