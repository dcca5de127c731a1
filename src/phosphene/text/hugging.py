"""Any text encoder of Hugging Face's `transformers`, frozen: T5 for Imagen's descendants, BERT, XLM-R and others.

An extra: `pip install 'phosphene[encoders]'`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..diffusion.cond import Cond
from ..errors import Problem
from ..parts import part
from .encoders import Spans, resized, root_mean_square, token_weights, words
from .prompt import Emphasised

TOKENIZERS = ("tokenizer", "spiece", "sentencepiece", "vocab")  # how their files' names begin


@part
class HuggingEncoder(nn.Module):
    """Words by the encoder in a folder, or of a name in the Hub's cache: tokens (B, L, width), and their mask.

    tokenizer  its folder or name, where it is another than the encoder's
    length     tokens at most; longer prompts are cut
    fixed      every prompt is padded to `length`, and the network sees the padding too (DeepFloyd IF); there is no mask
    local      False fetches what is not there from the Hub

    A bundle holds the name and not the weights, which are gigabytes: they are read, in float32, when the first prompt
    comes. They are no parameters of this module, so nothing trains, averages or saves them. Emphasis is that of
    TextEncoder.
    """

    weighs = True  # takes Emphasised

    def __init__(
        self, name: str, tokenizer: str | None = None, length: int = 77, fixed: bool = False, local: bool = True
    ):
        super().__init__()
        self.name, self.length, self.fixed, self.local = str(name), length, fixed, local
        self.tokenizer_name = str(tokenizer or name)
        self.place = torch.device("cpu")

    @property
    def width(self) -> int:
        return self.config.hidden_size

    def forward(self, prompts: Sequence[str | Emphasised | None]) -> Cond:
        """Raises Problem where the encoder or its tokenizer is not there, and for what is not words."""
        given = self.tokenizer(
            [words(p) for p in prompts],
            padding="max_length" if self.fixed else True,
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        ).to(self.place)
        with torch.no_grad():
            tokens = self.model(input_ids=given.input_ids, attention_mask=given.attention_mask).last_hidden_state
        mask = given.attention_mask.bool()
        if any(isinstance(p, Emphasised) and p.weighted for p in prompts):
            weights = token_weights(prompts, self._spans, tokens.shape[1])
            tokens = resized(
                tokens, tokens * weights.to(tokens)[..., None], root_mean_square(mask[..., None].to(tokens))
            )
        return Cond(tokens=tokens, mask=None if self.fixed else mask)

    def _apply(self, fn, recurse: bool = True):
        """What moves a module: moves the model too, or says where it will be."""
        super()._apply(fn, recurse)
        self.place = fn(torch.empty(0)).device
        if "model" in self.__dict__:
            self.model._apply(fn)
        return self

    @cached_property
    def config(self) -> Any:
        from transformers import AutoConfig

        return self._read(AutoConfig, self.name)

    @cached_property
    def model(self) -> nn.Module:
        from transformers import AutoModelForTextEncoding

        model = self._read(AutoModelForTextEncoding, self.name, config=self.config, dtype=torch.float32)
        return model.to(self.place).eval().requires_grad_(False)

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        config, folder = self.config, Path(self.tokenizer_name)
        if folder.is_dir() and not any(file.name.startswith(TOKENIZERS) for file in folder.iterdir()):
            raise Problem(f"{folder} holds no tokenizer; name its folder")  # transformers would make an empty one
        tokenizer = self._read(AutoTokenizer, self.tokenizer_name, config=config)
        tokenizer.padding_side = "right"
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return tokenizer

    def _read(self, kind: Any, name: str, **how: Any) -> Any:
        try:
            return kind.from_pretrained(name, local_files_only=self.local, **how)
        except ImportError as error:
            raise ModuleNotFoundError(str(error), name=getattr(error, "name", None) or "sentencepiece") from None
        except (OSError, ValueError, KeyError) as error:
            line = str(error).strip().split("\n")[0]
            hint = " (local=False would ask the Hub for it)" if self.local else ""
            raise Problem(f"{name}: transformers reads no text encoder there{hint}: {line}") from None

    def spelled(self, text: str) -> tuple[str, Spans]:
        """The text, and for each token where its characters begin and end there: nowhere for some."""
        return text, self._spans(text)

    def _spans(self, text: str) -> Spans:
        if not self.tokenizer.is_fast:
            raise Problem(
                f"{self.tokenizer_name}: a tokenizer that does not say where its tokens stand takes no weights"
            )
        how = {"truncation": True, "max_length": self.length, "return_offsets_mapping": True}
        return self.tokenizer(text, **how)["offset_mapping"]
