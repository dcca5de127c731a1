"""karlo, the published unCLIP (Ramesh et al. 2022), in diffusers' folders or as published.

A pipeline's folder is an Unclip. Its parts, each for itself: the prior is a Denoiser of CLIP embeddings, the decoder
one of 64×64 pictures, and the projections to the decoder's inputs are an UnclipHead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from ..diffusion.schedule import Cosine
from ..errors import Problem, unknown
from ..nets.experts import Experts
from ..nets.joint import JointAttention2d
from ..nets.layers import Conventions
from ..nets.prior import Prior
from ..nets.unet import UNet
from ..parts import again
from ..systems.clip import ClipSystem
from ..systems.prior import DiffusionPrior
from ..systems.unclip import Unclip, UnclipDecoder
from ..systems.upscale import Upscaler
from ..text.unclip import ClipWords, UnclipEncoder, UnclipHead
from . import added, clip, ddpm, files, scheduler
from .guided import Said, attention, shapes, transformer
from .guided import network as guided_network
from .load import Found
from .tables import Entry, Shape, empty, entry, fill, layer, understood
from .unets import known, ldm

OPTIONS = {
    "heads": "attention heads of the prior",
    "head_dim": "channels a head of the decoder",
    "stats": "the file with the mean and the deviation of CLIP's embeddings, beside a prior as published",
    "part": '"network" or "head": which of the two that a decoder as published holds',
}
PRIOR: dict[str, tuple[Any, ...]] = {
    "added_emb_type": ("prd",),
    "additional_embeddings": (4,),
    "clip_embed_dim": (None,),
    "embedding_proj_dim": (None,),
    "embedding_proj_norm_type": (None,),
    "encoder_hid_proj_type": ("linear",),
    "norm_in_type": (None,),
    "time_embed_act_fn": ("silu",),
    "time_embed_dim": (None,),
}
DECODER: dict[str, tuple[Any, ...]] = {
    "class_embed_type": ("identity",),
    "addition_embed_type": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "num_class_embeds": (None,),
}
SCHEDULER = {  # what an UnCLIPScheduler is: a DDPMScheduler with these for its defaults
    "beta_schedule": "squaredcos_cap_v2",
    "timestep_spacing": "linspace",
    "variance_type": "fixed_small_log",
}
TEXT = ("text_seq_proj.", "text_feat_proj.", "clip_tok_proj.", "clip_emb.", "cf_param")


def claims(found: Found) -> bool:
    if found.kind in ("UnCLIPPipeline", "UnCLIPImageVariationPipeline", "PriorTransformer", "UnCLIPTextProjModel"):
        return True
    if added.is_added(found):
        return found.config.get("class_embed_type") == "identity"
    return any(found.has(prefix + key) for prefix in ("", "model.") for key in ("clip_img_proj.weight", "cf_param"))


def read(found: Found, dtype: torch.dtype, told: dict[str, Any]) -> Unclip | Denoiser | UnclipHead:
    """The Unclip of a pipeline's folder; a Denoiser of the prior or of the decoder, or the decoder's UnclipHead."""
    with understood(str(found.path)):
        return _read(found, dtype, told)


def _read(found: Found, dtype: torch.dtype, told: dict[str, Any]) -> Unclip | Denoiser | UnclipHead:
    what = str(found.path)
    if found.kind.startswith("UnCLIP") and found.kind.endswith("Pipeline"):
        return whole(found, dtype)
    if found.kind == "PriorTransformer":
        return _prior(prior(found, dtype))
    if found.kind == "UnCLIPTextProjModel":
        return head(found.weights(), found.config.get("clip_extra_context_tokens", 4), HEAD, what)
    if added.is_added(found):
        known({"class_embed_type": "identity", **found.config}, DECODER, what)
        return _decoder(added.network(found, dtype))
    tensors = found.weights()
    tensors = tensors.under("model.") if any(key.startswith("model.") for key in tensors) else tensors
    if "clip_img_proj.weight" in tensors:
        return _prior(published_prior(tensors, found, dtype))
    part = told.get("part", "network")
    if part not in ("network", "head"):
        raise unknown("part", part, ("network", "head"))
    if part == "head":
        return head(tensors, None, PUBLISHED_HEAD, what)
    return _decoder(published_decoder(tensors, found, dtype))


def _prior(net: Prior) -> Denoiser:
    return Denoiser(net, Cosine(), "x0")


def _decoder(net: UNet) -> Denoiser:
    return Denoiser(net, Cosine(), learned_variance=net.arguments["out_channels"] == 6)


@dataclass(frozen=True)
class Row:
    """The same numbers, with `ones` sides of 1 in front there."""

    ones: int = 1

    def read(self, theirs: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        [shape] = shapes
        if tuple(theirs.shape) != (1,) * self.ones + tuple(shape):
            raise ValueError(f"is {list(theirs.shape)}, {[1] * self.ones + list(shape)} was expected")
        return [theirs.reshape(shape)]

    def write(self, ours: Sequence[Tensor]) -> Tensor:
        return ours[0].reshape(*[1] * self.ones, *ours[0].shape)


# The whole ----------------------------------------------------------------------------------------------------------


def whole(found: Found, dtype: torch.dtype) -> Unclip:
    """UnCLIPPipeline, from words, or UnCLIPImageVariationPipeline, which has no prior but CLIP's picture tower."""
    towers, folders = _towers(found), (found.path / name for name in ("prior", "super_res_first"))
    said, enlarged = (folder.is_dir() for folder in folders)
    if not enlarged:
        raise Problem(f"{found.path} lacks super_res_first: an unCLIP pipeline was expected to enlarge what it makes")
    prior = None
    if said:
        plan, _ = _plan(found, "prior_scheduler")
        denoiser = Denoiser(_net(found.part("prior"), dtype), plan.schedule, plan.predicts)
        how = {"sampler": plan.sampler, "spacing": plan.spacing, "bound": plan.clip}
        prior = DiffusionPrior(towers, denoiser, 1, 25, 4.0, **how, unit=False)
    return Unclip([_small(found, towers, dtype), _large(found, dtype)], prior)


def _net(found: Found, dtype: torch.dtype) -> Prior:
    if found.kind != "PriorTransformer":
        raise Problem(f"{found.path} is a {found.kind or 'folder of nothing known'}: a PriorTransformer was expected")
    return prior(found, dtype)


def _small(found: Found, towers: ClipSystem, dtype: torch.dtype) -> UnclipDecoder:
    """The decoder: 25 steps and guidance 8, as the pipelines have it."""
    inside, projections = found.part("decoder"), found.part("text_proj")
    known({"class_embed_type": "identity", **inside.config}, DECODER, str(inside.path))
    extra = projections.config.get("clip_extra_context_tokens", 4)
    told = head(projections.weights(), extra, HEAD, str(projections.path))
    plan, options = _plan(found, "decoder_scheduler")
    net = added.network(inside, dtype)
    denoiser = Denoiser(net, plan.schedule, plan.predicts, learned_variance=net.arguments["out_channels"] == 6)
    encoder = UnclipEncoder(ClipWords(towers), told, unit=False)
    size = inside.config.get("sample_size") or 64
    return UnclipDecoder(towers, denoiser, encoder, size, plan.sampler, plan.spacing, 25, 8.0, options)


def _large(found: Found, dtype: torch.dtype) -> Upscaler:
    """The upsampler: 7 steps, the last of them, at the cleanest time, by a network of its own."""
    first, last = (found.part(f"super_res_{name}") for name in ("first", "last"))
    plan, options = _plan(found, "super_res_scheduler")
    net = Experts([ddpm.network(part, dtype) for part in (first, last)], [0.5])
    small = found.part("decoder").config.get("sample_size") or 64
    how = {"sampler": plan.sampler, "spacing": plan.spacing, "steps": 7, "options": options, "filter": "bicubic"}
    size = first.config.get("sample_size") or 256
    return Upscaler(Denoiser(net, plan.schedule, plan.predicts), None, size, small, **how)


def _plan(found: Found, name: str) -> tuple[scheduler.Plan, dict[str, str]]:
    """What a scheduler's folder says, and the options of the sampler."""
    path = found.path / name / "scheduler_config.json"
    said = files.read_json(path)
    if said.get("_class_name") == "UnCLIPScheduler":
        said = {**SCHEDULER, **said, "_class_name": "DDPMScheduler"}
    plan = scheduler.plan(said, str(path))
    found.notes += plan.notes
    return plan, ddpm.variance(said, str(path))


def _towers(found: Found) -> ClipSystem:
    """CLIP's text tower, which leaves out padding, and where the folder has it its picture tower, as one."""
    towers = clip.read(found.part("text_encoder"), torch.float32, {})
    told: dict[str, Any] = {"text": again(towers.text, masked=True)}
    projections = [(towers, "text_projection")]
    if (found.path / "image_encoder").is_dir():
        sees = clip.read(found.part("image_encoder"), torch.float32, {})
        told |= {"image": sees.image, "look": sees.look}
        projections.append((sees, "image_projection"))
    made = again(towers, **told)
    for tower, name in projections:
        getattr(made, name).load_state_dict(getattr(tower, name).state_dict())
    return made


# The prior ----------------------------------------------------------------------------------------------------------


def prior(found: Found, dtype: torch.dtype) -> Prior:
    """diffusers' PriorTransformer. Raises Problem for settings that are not known here."""
    config, what = found.config, str(found.path)
    known(config, PRIOR, what)
    heads, layers = config.get("num_attention_heads", 32), config.get("num_layers", 20)
    width = heads * config.get("attention_head_dim", 64)
    dim, length = config.get("embedding_dim", 768), config.get("num_embeddings", 77)
    net = empty(lambda: Prior(dim, width, layers, heads, length))
    made = [entry(name, f"clip_{name}", Row()) for name in ("mean", "std")]
    made += [entry("last", "prd_embedding", Row(2)), entry("position", "positional_embedding", Row())]
    made += _layers(
        {
            "time.mlp.0": "time_embedding.linear_1",
            "time.mlp.2": "time_embedding.linear_2",
            "states": "encoder_hidden_states_proj",
            "text": "embedding_proj",
            "image": "proj_in",
            "norm": "norm_out",
            "out": "proj_to_clip_embeddings",
        }
    )
    inside = {"norm1": "norm1", "norm2": "norm3", "mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2"}
    inside |= {f"attn.to_{c}": f"attn1.to_{c}" for c in "qkv"} | {"attn.to_out": "attn1.to_out.0"}
    for i in range(layers):
        made += _layers(inside, f"blocks.{i}.", f"transformer_blocks.{i}.")
    return fill(net, made, found.weights(), what=what, dtype=dtype)


def published_prior(tensors: Mapping[str, Tensor], found: Found, dtype: torch.dtype) -> Prior:
    """The prior under karlo's own names; its mean and deviation are another file's."""
    shape = shapes(tensors)
    width, dim = shape["clip_img_proj.weight"]
    layers = 1 + max(int(key.split(".")[2]) for key in shape if key.startswith("transformer.resblocks."))
    heads = found.told.get("heads") or found.assume("heads", max(1, width // 64))
    if width % heads:
        raise Problem(f"heads={heads}: a width of {width} does not divide into so many heads")
    net = empty(lambda: Prior(dim, width, layers, heads, shape["positional_embedding"][1] - 4))
    made = [entry("last", "prd_emb", Row(2)), entry("position", "positional_embedding", Row())]
    made += _layers(
        {
            "time.mlp.0": "time_embed.0",
            "time.mlp.2": "time_embed.2",
            "states": "text_enc_proj",
            "text": "text_emb_proj",
            "image": "clip_img_proj",
            "norm": "final_ln",
            "out": "out_proj",
        }
    )
    made += transformer("blocks", layers, heads)
    return fill(net, made, tensors, what=found.path.name, dtype=dtype, own=_stats(found, dim))


def _stats(found: Found, dim: int) -> dict[str, Tensor]:
    """{"mean", "std"} of the file that is told; without one, embeddings are left in the prior's own numbers, aloud."""
    if "stats" not in found.told:
        found.assume("stats", None)
        return {"mean": torch.zeros(dim), "std": torch.ones(dim)}
    pair = files.read_pickle(found.told["stats"])
    if not isinstance(pair, list | tuple) or [getattr(t, "numel", int)() for t in pair] != [dim, dim]:
        raise Problem(f"{found.told['stats']}: the mean and the deviation of {dim} numbers were expected")
    return {name: t.reshape(dim).float() for name, t in zip(("mean", "std"), pair)}


# The decoder --------------------------------------------------------------------------------------------------------

HEAD = {
    "null": "learned_classifier_free_guidance_embeddings",
    "text": "embedding_proj",
    "image": "clip_image_embeddings_project_to_time_embeddings",
    "tokens": "clip_extra_context_tokens_proj",
    "states": "encoder_hidden_states_proj",
    "norm": "text_encoder_hidden_states_norm",
}
PUBLISHED_HEAD = {
    "null": "cf_param",
    "text": "text_feat_proj",
    "image": "clip_emb",
    "tokens": "clip_tok_proj",
    "states": "text_seq_proj.0",
    "norm": "text_seq_proj.1",
}


def head(tensors: Mapping[str, Tensor], extra: int | None, names: dict[str, str], what: str) -> UnclipHead:
    """The projections to the decoder's inputs, under these names; `extra` tokens, None: what the shapes say."""
    shape = shapes(tensors)
    (emb_dim, dim), context_dim = shape[f"{names['text']}.weight"], shape[f"{names['norm']}.weight"][0]
    extra = extra or shape[f"{names['tokens']}.weight"][0] // context_dim
    net = empty(lambda: UnclipHead(dim, emb_dim, context_dim, extra))
    rest = {name: theirs for name, theirs in names.items() if name != "null"}
    mine = tuple(names.values())
    table = [entry("null", names["null"]), *_layers(rest)]
    return fill(net, table, tensors, what=what, ignore=lambda key: not key.startswith(mine) and names is PUBLISHED_HEAD)


def published_decoder(tensors: Mapping[str, Tensor], found: Found, dtype: torch.dtype) -> UNet:
    """The decoder's U-Net under karlo's own names, which are guided-diffusion's."""
    shape = shapes(tensors)
    arguments = guided_network(shape, Said(found)) | {
        "attend": JointAttention2d,
        "context_dim": shape["middle_block.1.encoder_kv.weight"][1],
        "vector_dim": shape["time_embed.0.weight"][0],
    }
    net = empty(lambda: UNet(**arguments, how=Conventions(groups=32)))
    table = ldm(net, attention())
    return fill(net, table, tensors, what=found.path.name, dtype=dtype, ignore=lambda key: key.startswith(TEXT))


def _layers(names: dict[str, str], ours: str = "", theirs: str = "") -> list[Entry]:
    return [e for name, other in names.items() for e in layer(ours + name, theirs + other)]
