"""karlo's pipelines: diffusers' UnCLIPPipeline, made of random numbers, and the Unclip that its folder becomes."""

import numpy as np
import pytest
import torch
from PIL import Image

from phosphene import load
from phosphene.diffusion.cond import Cond
from phosphene.diffusion.noise import Recorded
from phosphene.errors import Problem
from phosphene.systems.prior import DiffusionPrior
from phosphene.systems.unclip import Unclip
from phosphene.text.unclip import Meant
from phosphene.weights import bundle
from weights.recorded import apart
from weights.stable import tokenizer_folder

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::phosphene.weights.load.Assumed")
PROMPTS, DIM = ["a red cube", "the cat"], 20


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    made = pipeline(tmp_path_factory.mktemp("tokenizer"))
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("karlo")
    pipe.save_pretrained(folder)
    return folder


def pipeline(folder):
    """diffusers', tiny and of random numbers."""
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

    torch.manual_seed(0)
    end = "<|endoftext|>"
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tokenizer_folder(folder), pad_token=end, model_max_length=77)
    text = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=DIM, intermediate_size=60, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=DIM, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    prior = diffusers.PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, embedding_dim=DIM, num_embeddings=77
    )
    prior.clip_mean.data.normal_()
    prior.clip_std.data.uniform_(0.5, 2.0)
    decoder = diffusers.UNet2DConditionModel(
        sample_size=16, in_channels=3, out_channels=6, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=24, attention_head_dim=8, class_embed_type="identity",
        resnet_time_scale_shift="scale_shift", norm_num_groups=16,
    )  # fmt: skip
    enlarge = [
        diffusers.UNet2DModel(
            sample_size=32, in_channels=6, out_channels=3, block_out_channels=(32, 64), layers_per_block=1,
            down_block_types=("ResnetDownsampleBlock2D",) * 2, up_block_types=("ResnetUpsampleBlock2D",) * 2,
            add_attention=False, resnet_time_scale_shift="scale_shift", norm_num_groups=16,
        )
        for _ in range(2)
    ]  # fmt: skip
    proj = UnCLIPTextProjModel(
        clip_extra_context_tokens=4, clip_embeddings_dim=DIM, time_embed_dim=128, cross_attention_dim=24
    )
    proj.learned_classifier_free_guidance_embeddings.data.normal_()
    learned, small = (dict(variance_type=kind) for kind in ("learned_range", "fixed_small_log"))
    return diffusers.UnCLIPPipeline(
        prior=prior.eval(),
        decoder=decoder.eval(),
        text_encoder=transformers.CLIPTextModelWithProjection(text).eval(),
        tokenizer=tokenizer,
        text_proj=proj.eval(),
        super_res_first=enlarge[0].eval(),
        super_res_last=enlarge[1].eval(),
        prior_scheduler=diffusers.UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0, **small),
        decoder_scheduler=diffusers.UnCLIPScheduler(**learned),
        super_res_scheduler=diffusers.UnCLIPScheduler(**small),
    )


@pytest.fixture(scope="module")
def ran(pipe):
    """diffusers' run: (what it showed its parts, its pictures, the noise that each stage drew, and started from)."""
    from diffusers.schedulers import scheduling_unclip

    drawn, draw = [], scheduling_unclip.randn_tensor
    start = {"prior": torch.randn(2, DIM), "decoder": torch.randn(2, 3, 16, 16), "super_res": torch.randn(2, 3, 32, 32)}
    scheduling_unclip.randn_tensor = lambda *a, **how: drawn.append(draw(*a, **how)) or drawn[-1]
    seen = {}
    hooks = [
        pipe.text_proj.register_forward_hook(lambda m, given, kw, out: seen.update(kw), with_kwargs=True),
        pipe.super_res_first.register_forward_hook(lambda m, a, kw, out: seen.update(large=kw), with_kwargs=True),
    ]
    try:
        made = pipe(
            PROMPTS, prior_num_inference_steps=4, decoder_num_inference_steps=3, super_res_num_inference_steps=3,
            **{f"{name}_latents": x for name, x in start.items()}, generator=torch.Generator().manual_seed(1),
            prior_guidance_scale=3.0, decoder_guidance_scale=2.0, output_type="np",
        ).images  # fmt: skip
    finally:
        scheduling_unclip.randn_tensor = draw
        for hook in hooks:
            hook.remove()
    noise = {name: [x for x in drawn if x.shape == start[name].shape] for name in start}
    return seen, torch.from_numpy(made).permute(0, 3, 1, 2) * 2 - 1, noise, start


@torch.no_grad()
def test_a_whole_run_agrees(folder, ran):
    """Prior, decoder and upsampler, each on what ours made before it, by the noise that diffusers drew."""
    system, (seen, pictures, noise, start) = load(folder), ran
    assert type(system) is Unclip and type(system.prior) is DiffusionPrior and not system.prior.unit
    recorded = Recorded([x[:, None] for x in noise["prior"]], start["prior"][:, None])
    rows = system.prior.embeddings(PROMPTS, seeds=[0, 0], steps=4, guidance=3.0, noise=recorded)
    net, beta = system.prior.denoiser.net, (system.prior.denoiser.schedule(1e-3).sigma ** 2).float()
    one = beta / (1 - (1 - beta))  # by which their last step multiplies, in float32
    rounded = net.embedding(net.normal(rows) * one)
    assert apart(rounded, seen["image_embeddings"]) <= 3e-4
    decoder, upscaler = system.stages
    how = dict(steps=3, guidance=2.0, noise=Recorded(noise["decoder"], start["decoder"]))
    *_, small = decoder.generate([Meant(p, z) for p, z in zip(PROMPTS, rows)], seeds=[0, 0], **how)
    small = (small.picture() * one).clamp(-1, 1)
    enlarged = upscaler.told(small, (32, 32)).image
    assert apart(enlarged, seen["large"]["sample"][:, 3:]) <= 2e-3
    large = Recorded(noise["super_res"], start["super_res"])
    *_, last = upscaler.generate([None] * 2, seeds=[0, 0], image=small, steps=3, noise=large)
    assert apart((last.picture() * one).clamp(-1, 1), pictures) <= 2e-3


def test_it_is_the_system_that_is_trained_here(folder, tmp_path):
    """Previews of every stage in one call; a file of ours holds it, its CLIP once."""
    system = load(folder)
    how = dict(seeds=[1, 2], steps=[2, 2], prior={"steps": 2})
    previews = list(system.generate(PROMPTS, **how))
    assert [p.stage for p in previews] == ["prior", "base", "base", "upscale", "upscale"]
    made = previews[-1].picture()
    assert made.shape == (2, 3, 32, 32) and made.isfinite().all()
    assert [(stage.steps, stage.guidance) for stage in system.stages] == [(25, 8.0), (7, 1.0)]
    assert (system.prior.steps, system.prior.guidance, system.prior.candidates) == (25, 4.0, 1)
    file = bundle.save(system, tmp_path / "it.safetensors")
    again = bundle.load(file)
    *_, last = again.generate(PROMPTS, **how)
    assert torch.equal(last.picture(), made)
    assert [kind for kind, _ in bundle.describe(file).parts.values()].count("ClipSystem") == 1
    with pytest.raises(Problem, match="sees no pictures"):
        list(system.generate([None], seeds=[1], image=torch.zeros(1, 3, 32, 32)))


@torch.no_grad()
def test_the_last_step_is_another_networks(folder):
    net = load(folder).stages[1].denoiser.net
    x, told = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    both = net(x, torch.tensor([999.0, 0.0]), Cond(image=told))
    for row, (time, which) in enumerate(((999.0, 0), (0.0, 1))):
        cond = Cond(image=told[row : row + 1])
        alone = net.nets[which](x[row : row + 1], torch.tensor(time), cond)
        assert apart(both[row : row + 1], alone) < 1e-5
        assert torch.equal(net(x[row : row + 1], torch.tensor(time), cond), alone)


@torch.no_grad()
def test_the_variation_pipeline_sees_pictures(pipe, tmp_path):
    """UnCLIPImageVariationPipeline: no prior, but CLIP's picture tower, whose embedding the decoder is told."""
    from diffusers import UnCLIPImageVariationPipeline

    torch.manual_seed(3)
    sees = transformers.CLIPVisionConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8,
        projection_dim=DIM,
    )  # fmt: skip
    tower = transformers.CLIPVisionModelWithProjection(sees).eval()
    looks = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    parts = {name: part for name, part in pipe.components.items() if not name.startswith("prior")}
    UnCLIPImageVariationPipeline(**parts, image_encoder=tower, feature_extractor=looks).save_pretrained(tmp_path)
    looks.save_pretrained(tmp_path / "image_encoder")
    system = load(tmp_path)
    picture = Image.effect_noise((16, 16), 90).convert("RGB")
    want = tower(looks(picture, return_tensors="pt").pixel_values).image_embeds
    shown = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    assert system.prior is None and apart(system.stages[0].seen(shown), want) < 1e-3
    *_, last = system.generate([shown[0]], seeds=[1], steps=[2, 2])
    assert last.picture().shape == (1, 3, 32, 32)


def test_what_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "UnCLIPPipeline"}')
    with pytest.raises(Problem, match="text_encoder"):
        load(tmp_path)
