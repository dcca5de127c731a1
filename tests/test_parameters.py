"""The web UI's text in pictures: written, read, and the same settings afterwards."""

import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import phosphene
from phosphene import parameters, receipt
from phosphene.diffusion.samplers import SAMPLERS
from phosphene.diffusion.schedule import SPACINGS
from phosphene.errors import Problem

RECEIPT = {
    "prompt": "a (red:1.3) fox,\nsitting",
    "negative": "blurry, low: quality",
    "seed": 7,
    "steps": 20,
    "sampler": "dpmpp_2m",
    "spacing": "karras",
    "guidance": 7.5,
    "clip_skip": 2,
    "strength": 0.6,
    "variation_seed": 9,
    "variation_strength": 0.25,
    "model": "my, model",
    "weights": "0123456789ab",
    "size": {"width": 512, "height": 768},
}
TEXT = f"""a (red:1.3) fox,
sitting
Negative prompt: blurry, low: quality
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 7, Size: 512x768, Model hash: 0123456789, \
Model: "my, model", Variation seed: 9, Variation seed strength: 0.25, Denoising strength: 0.6, Clip skip: 2, \
Version: Phosphene {phosphene.__version__}"""


def test_writes_and_reads():
    assert parameters.text(RECEIPT) == TEXT
    found = parameters.told(parameters.parse(TEXT))
    assert found.pop("parameters")["Version"] == f"Phosphene {phosphene.__version__}"
    assert found == {key: value for key, value in RECEIPT.items() if key != "weights"}


def test_a_second_pass():
    found = parameters.told(
        parameters.parse(parameters.text({**RECEIPT, "strength": None, "hires": 2.0, "hires_strength": 0.4}))
    )
    assert (found["hires"], found["hires_strength"], found.get("strength")) == (2.0, 0.4, None)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_sampler_and_spacing_comes_back(sampler, spacing):
    found = parameters.told(
        parameters.parse(parameters.text({"sampler": sampler, "spacing": spacing, "steps": 3, "seed": 1}))
    )
    assert (found["sampler"], found["spacing"]) == (sampler, spacing)


@pytest.mark.parametrize(
    "name, sampler, spacing",
    [
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("DPM++ 2M SDE Exponential", "dpmpp_2m_sde", "exponential"),
        ("Euler a", "euler_ancestral", None),
        ("DPM adaptive", None, None),
        ("DPM2 a Karras", None, "karras"),
    ],
)
def test_older_names_and_unknown_ones(name, sampler, spacing):
    found = parameters.told(parameters.parse(f"x\nSteps: 2, Sampler: {name}, Seed: 1, Schedule type: Automatic"))
    assert (found.get("sampler"), found.get("spacing")) == (sampler, spacing)


def test_other_schedules_names():
    for name, spacing in (("SGM Uniform", "trailing"), ("Normal", "linspace"), ("DDIM", "leading"), ("Beta", None)):
        found = parameters.told(parameters.parse(f"x\nSteps: 2, Sampler: Euler, Schedule type: {name}"))
        assert found.get("spacing") == spacing


def test_two_settings_are_words_of_the_prompt():
    assert parameters.parse("a\nSteps: 20, Seed: 3")["Prompt"] == "a\nSteps: 20, Seed: 3"
    assert parameters.parse("a\nSteps: 20, Seed: 3, Size: 8x9")["Prompt"] == "a"
    assert parameters.parse("a\nb\nNegative prompt: c\nd")["Negative prompt"] == "c\nd"


def test_what_is_no_number_is_left_out():
    found = parameters.told(parameters.parse("x\nSteps: many, Seed: , CFG scale: nan, Size: 64, Clip skip: 1"))
    assert set(found) == {"prompt", "parameters"} and found["parameters"]["Steps"] == "many"
    assert parameters.text({"prompt": None, "negative": ["a"], "seed": 1}).startswith("Seed: 1, Version")


def test_quotes():
    for value in ('say "hi", ok', "x\ny", "é: ü", "\\,"):
        assert (
            parameters.parse(f"p\nA: {parameters.quote(value)}, Bb: 1, Cc: 2, Dd: {parameters.quote(value)}")["Dd"]
            == value
        )
    assert parameters.quote("plain words") == "plain words" and parameters.quote(5) == 5


def test_a_broken_text_takes_no_time():
    for text in (
        "a" * 300_000,
        "a b" * 100_000 + ":",
        '"' * 200_000,
        'Aa: "\\' * 50_000,
        " " * 300_000 + "x",
        "Aa:" * 100_000,
    ):
        assert "Prompt" in parameters.parse(text)


def unicode_comment(text, order):
    exif = Image.Exif()
    exif.get_ifd(parameters.EXIF)[parameters.USER_COMMENT] = b"UNICODE\0" + text.encode(order)
    return exif


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
@pytest.mark.parametrize("text", [TEXT, "狐狸 🦊\nSteps: 2, Seed: 1, Sampler: Euler"])
def test_jpeg_and_webp(tmp_path, suffix, order, text):
    Image.new("RGB", (8, 8)).save(tmp_path / f"x.{suffix}", exif=unicode_comment(text, order))
    assert phosphene.read_parameters(tmp_path / f"x.{suffix}") == parameters.told(parameters.parse(text))


def test_other_comments(tmp_path):
    for comment, want in (
        (b"ASCII\0\0\0a fox", "a fox"),
        (b"a fox and more", "a fox and more"),
        (bytes(8) + b"x", "x"),
    ):
        exif = Image.Exif()
        exif.get_ifd(parameters.EXIF)[parameters.USER_COMMENT] = comment
        Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", exif=exif)
        assert phosphene.read_parameters(tmp_path / "x.jpg")["prompt"] == want


def test_our_pictures_carry_both(tmp_path):
    path = receipt.write(tmp_path / "x.png", Image.new("RGB", (4, 4)), RECEIPT)
    with Image.open(path) as image:
        assert image.text["parameters"] == TEXT
    assert receipt.read(path) == RECEIPT
    assert phosphene.read_parameters(path)["sampler"] == "dpmpp_2m"
    sheet = receipt.write(tmp_path / "y.png", Image.new("RGB", (4, 4)), [RECEIPT, {"prompt": "b"}])
    assert phosphene.read_parameters(sheet)["seed"] == 7
    named = receipt.write(tmp_path / "z.png", Image.new("RGB", (4, 4)), {**RECEIPT, "prompt": "狐狸 🦊"})
    assert phosphene.read_parameters(named)["prompt"] == "狐狸 🦊"


def test_the_receipt_of_others(tmp_path):
    info = PngInfo()
    info.add_text("parameters", TEXT)
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png", pnginfo=info)
    found = receipt.read(tmp_path / "x.png")
    assert found["prompt"] == RECEIPT["prompt"] and found["parameters"]["CFG scale"] == "7.5"


def test_what_carries_none(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, says in [("plain.png", "no parameters"), ("text.png", "not a picture"), ("absent.png", "No such file")]:
        with pytest.raises(Problem, match=says):
            phosphene.read_parameters(tmp_path / name)


@pytest.fixture(scope="module")
def vectors(shared):
    return json.loads((shared / "fixtures/a1111_vectors.json").read_text(encoding="utf-8"))


def test_recorded_texts(vectors):
    for case in vectors["infotext"]:
        assert parameters.parse(case["text"]) == case["parsed"], case["text"]
    for case in vectors["quote"]:
        assert parameters.quote(case["value"]) == case["quoted"]


def test_recorded_pictures(shared, vectors):
    for path in (shared / "fixtures/a1111_png").glob("*.png"):
        assert phosphene.read_parameters(path)["parameters"] == vectors["infotext"][int(path.stem)]["parsed"]
