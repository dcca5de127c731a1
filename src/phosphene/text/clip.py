"""CLIP's words: OpenAI's tokenizer, and the encoder of Stable Diffusion, for prompts of any length, with weights.

Chunks of 75 tokens, the comma rule and the weights are the web UI's (docs/prompts.md).
"""

from __future__ import annotations

import gzip
import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import ftfy
import torch
from tokenizers import AddedToken, Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Bpe
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..diffusion.cond import Cond
from ..errors import Problem, regular
from ..nets.transformer import TextTransformer
from ..parts import part
from .encoders import Spans, resized, words
from .prompt import Emphasised, Fragment
from .tokenizer import bpe_of

SHIPPED = Path(__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 49152 - 256 - 2  # those that CLIP uses, of the file's 262,144
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
REACH = 20  # tokens: a comma at most so far from a chunk's end moves what follows it into the next chunk

# The tokenizer -------------------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """OpenAI's cleaning: broken encodings mended, HTML entities read twice, blanks made single, all in lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip().lower()


@part
class ClipTokenizer:
    """CLIP's byte-pair encoding. `table` is the JSON of `tokenizers`, or "openai" for what is shipped.

    `mark` is the token of padding in a Hugging Face folder. transformers reads it as that token wherever a text has it,
    and Stable Diffusion 2's is "!"; so a folder's "cat!" has other ids than OpenAI's, and than the original file's.
    """

    def __init__(self, table: str = "openai", mark: str = END):
        self.bpe = _bpe(*_openai()) if table == "openai" else bpe_of(table)
        self.start, self.end, self.pad, self.comma = (self.bpe.token_to_id(t) for t in (START, END, mark, ",</w>"))
        if None in (self.start, self.end, self.pad):
            raise Problem(f"tokenizer table lacks one of {START}, {END} and {mark}, so it is not CLIP's")
        self.bpe.add_special_tokens([AddedToken(t, normalized=False) for t in {START, END, mark}])

    @classmethod
    def shipped(cls) -> ClipTokenizer:
        """That of OpenAI's CLIP, of Stable Diffusion 1 and 2 and of nearly all others."""
        return cls()

    @classmethod
    def from_folder(cls, folder: str | Path) -> ClipTokenizer:
        """Of a Hugging Face folder: vocab.json and merges.txt, or tokenizer.json. Problem where there is neither."""
        folder = Path(folder)
        told = [_json(p) for n in ("special_tokens_map", "tokenizer_config") if (p := folder / f"{n}.json").is_file()]
        mark = next((t["pad_token"] for t in told if t.get("pad_token")), END)
        mark = mark.get("content", END) if isinstance(mark, dict) else mark
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocabulary, lines = _json(folder / "vocab.json"), _text(folder / "merges.txt").splitlines()
            return cls._of(
                vocabulary, [line for line in lines if line and not line.startswith("#version")], folder, mark
            )
        if not (folder / "tokenizer.json").is_file():
            raise Problem(f"{folder}: a tokenizer's vocab.json and merges.txt, or tokenizer.json, were expected")
        model = _json(folder / "tokenizer.json").get("model") or {}
        merges = [" ".join(m) if isinstance(m, list) else m for m in model.get("merges", [])]
        return cls._of(model.get("vocab", {}), merges, folder, mark)

    @classmethod
    def from_merges(cls, path: str | Path) -> ClipTokenizer:
        """Of OpenAI's file of merges, bpe_simple_vocab_16e6.txt.gz or another. Raises Problem where it is none."""
        merges = _merges(Path(path))
        return cls._of(_vocabulary(merges), merges, path)

    @classmethod
    def _of(cls, vocabulary: dict[str, int], merges: list[str], origin: object, mark: str = END) -> ClipTokenizer:
        if (vocabulary, merges) == _openai():
            return cls(mark=mark)
        if not isinstance(vocabulary, dict) or not all(isinstance(i, int) and i >= 0 for i in vocabulary.values()):
            raise Problem(f"{origin} does not hold a CLIP tokenizer: what a vocabulary's words have are numbers")
        if wrong := [m for m in merges if len(m.split()) != 2 or "".join(m.split()) not in vocabulary]:
            raise Problem(f"{origin} does not hold a CLIP tokenizer: {wrong[0]!r} does not merge into a known token")
        try:
            return cls(_bpe(vocabulary, merges).to_str(), mark)
        except Exception as error:  # tokenizers raises bare Exception
            raise Problem(f"{origin} does not hold a CLIP tokenizer: {error}") from None

    def __len__(self) -> int:
        return self.bpe.get_vocab_size()

    def ids(self, text: str) -> list[int]:
        """All tokens of a text, without <|startoftext|> and <|endoftext|>."""
        return self.bpe.encode(clean(text), add_special_tokens=False).ids

    def __call__(self, texts: Sequence[str], length: int = 77, pad: int | None = None) -> tuple[Tensor, Tensor]:
        """Texts → ids (B, length), and mask (B, length), which is true up to <|endoftext|>.

        <|startoftext|>, the first length − 2 tokens, <|endoftext|>, then `pad` (None: the tokenizer's own).
        """
        ids = torch.full((len(texts), length), self.pad if pad is None else pad)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for i, text in enumerate(texts):
            row = [self.start, *self.ids(text)[: length - 2], self.end]
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), True
        return ids, mask


@lru_cache(1)
def _openai() -> tuple[dict[str, int], list[str]]:
    """The vocabulary and the merges that are shipped."""
    merges = _merges(SHIPPED)
    return _vocabulary(merges), merges


def _merges(path: Path) -> list[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [line.rstrip("\n") for _, line in zip(range(MERGES + 1), file)][1:]
    except FileNotFoundError:
        raise Problem(f"{path} is not there") from None
    except (OSError, EOFError, UnicodeDecodeError):
        raise Problem(f"{path} is not a gzip file of CLIP's merges") from None


def _vocabulary(merges: Iterable[str]) -> dict[str, int]:
    """{token: id}: the bytes as letters, the same at a word's end, what is merged, the two special ones."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [*map(chr, printable), *(chr(256 + i) for i in range(256 - len(printable)))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(m.split()) for m in merges), START, END]
    return {token: i for i, token in enumerate(tokens)}


def _bpe(vocabulary: dict[str, int], merges: Iterable[str]) -> Bpe:
    pairs = [tuple(merge.split()) for merge in merges]
    bpe = Bpe(models.BPE(vocabulary, pairs, end_of_word_suffix="</w>", unk_token=END))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return bpe


def _text(path: Path) -> str:
    regular(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{path} cannot be read: {error}") from None


def _json(path: Path) -> dict:
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise Problem(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Problem(f"{path}: a JSON object was expected, not a {type(found).__name__}")
    return found


# The encoder ---------------------------------------------------------------------------------------------------------


class Token(NamedTuple):
    """One place in a chunk: a token, or a vector (D,) in the place of a token's embedding."""

    id: int
    weight: float = 1.0
    vector: Tensor | None = None


@part
class ClipTextEncoder(nn.Module):
    """CLIP's words: tokens (B, 77·k, width), k chunks of 75 tokens, each with its own start and end.

    pad     the token after a chunk's end: None is the tokenizer's, <|endoftext|> unless a folder says otherwise
            (Stable Diffusion 1); 0 in Stable Diffusion 2 and CLIP
    skip    blocks left out before the last norm: 1 in Stable Diffusion 2
    pooled  gives the `vector` too: the state at the first chunk's <|endoftext|>, or with "largest", as OpenAI's code
            has it, at its largest id; these are the same place but in odd vocabularies
    long    False cuts a prompt after 75 tokens, as CLIP itself does
    masked  the mask leaves out what follows a chunk's <|endoftext|> (unCLIP); else such padding counts as read

    Tokens are multiplied by the weights of an Emphasised prompt, and all of a chunk then brought back to the mean that
    they had (the web UI's "Original", but of one picture). A prompt of fewer chunks than others of the batch is masked.

    `words` are textual inversions, {trigger: (n, width)}: where a prompt's tokens are the trigger's, the longest first,
    the n vectors stand in the place of token embeddings. They are not saved with the model.
    """

    weighs = True  # takes Emphasised

    def __init__(
        self,
        tokenizer: ClipTokenizer,
        transformer: TextTransformer,
        pad: int | None = None,
        skip: int = 0,
        pooled: bool | str = False,
        long: bool = True,
        masked: bool = False,
    ):
        super().__init__()
        self.tokenizer, self.transformer = tokenizer, transformer
        self.pad, self.skip, self.pooled, self.long = tokenizer.pad if pad is None else pad, skip, pooled, long
        self.masked = masked
        self.words: dict[str, Tensor] = {}

    @property
    def width(self) -> int:
        return self.transformer.width

    def forward(self, prompts: Sequence[str | Emphasised | None], skip: int = 0) -> Cond:
        """skip leaves out so many blocks more. Raises Problem where none would be left."""
        skip, blocks = self.skip + skip, len(self.transformer.blocks)
        if not 0 <= skip < blocks:
            most = blocks - self.skip
            raise Problem(f"clip_skip={skip - self.skip + 1}: from 1 to {most} here, which has {blocks} blocks")
        rows = [self._chunks(p) for p in prompts]
        chunks = [chunk for row in rows for chunk in row]
        ids = self._ids(chunks)
        states = self.transformer(ids, skip=skip, words=self._embeddings(ids, chunks))  # (chunks, 77, D)
        counts = [len(row) for row in rows]
        vector = self._pooled(states, ids, counts) if self.pooled else None
        if any(token.weight != 1 for chunk in chunks for token in chunk):
            weights = states.new_ones(states.shape[:2])
            for row, chunk in zip(weights, chunks):
                row[1 : len(chunk) + 1] = torch.tensor([token.weight for token in chunk])
            states = resized(states, states * weights[..., None], mean)
        if len(set(counts)) == 1 and not self.masked:
            return Cond(vector, states.reshape(len(rows), -1, self.width))
        tokens = pad_sequence([row.flatten(0, 1) for row in states.split(counts)], batch_first=True)
        size = states.shape[1]
        ends = torch.tensor([len(chunk) + 2 if self.masked else size for chunk in chunks], device=tokens.device)
        real = (torch.arange(size, device=tokens.device) < ends[:, None]).split(counts)
        return Cond(vector, tokens, pad_sequence([row.flatten() for row in real], batch_first=True))

    def spelled(self, text: str) -> tuple[str, Spans]:
        """The text as it is read, and for each token where its characters begin and end there: nowhere for some.

        Raises Problem for a text with a word of textual inversion, whose vectors are no tokens.
        """
        text = clean(text)
        spans = iter(self.tokenizer.bpe.encode(text, add_special_tokens=False).offsets)
        chunks, size = self._chunks(text), self.transformer.length
        if any(token.vector is not None for chunk in chunks for token in chunk):
            raise Problem(f"{text!r} holds a word of textual inversion, whose parts stand nowhere in the text")
        rows = [[(0, 0), *(span for _, span in zip(chunk, spans))] for chunk in chunks]
        return text, [span for row in rows for span in row + [(0, 0)] * (size - len(row))]

    def _chunks(self, prompt: str | Emphasised | None) -> list[list[Token]]:
        """The prompt in chunks of at most 75 tokens, without start and end; at least one."""
        said = prompt if isinstance(prompt, Emphasised) else Emphasised(((Fragment(words(prompt)),),))
        size = self.transformer.length - 2
        if not self.long:
            return [[token for chunk in said.chunks for unit in self._units(chunk) for token in unit][:size]]
        chunks = [c for chunk in said.chunks for c in packed(self._units(chunk), size, self.tokenizer.comma)]
        return chunks if chunks[-1] or len(chunks) == 1 else chunks[:-1]  # a BREAK at the end begins nothing

    def _units(self, fragments: Sequence[Fragment]) -> Iterator[list[Token]]:
        """The tokens of some fragments, those that belong together as one list."""
        known = sorted(((self.tokenizer.ids(t), v) for t, v in self.words.items()), key=lambda k: -len(k[0]))
        for text, weight in fragments:
            ids, i = self.tokenizer.ids(text), 0
            while i < len(ids):
                trigger, vectors = next((k for k in known if k[0] and ids[i : i + len(k[0])] == k[0]), ([], None))
                yield [Token(ids[i], weight)] if vectors is None else [Token(0, weight, v) for v in vectors]
                i += len(trigger) or 1

    def _ids(self, chunks: Sequence[list[Token]]) -> Tensor:
        ids = torch.full((len(chunks), self.transformer.length), self.pad)
        for row, chunk in zip(ids, chunks):
            row[: len(chunk) + 2] = torch.tensor([self.tokenizer.start, *(t.id for t in chunk), self.tokenizer.end])
        return ids.to(self.transformer.position.device)

    def _embeddings(self, ids: Tensor, chunks: Sequence[list[Token]]) -> Tensor | None:
        """The tokens' embeddings (chunks, 77, D) with vectors among them; None where there are no vectors."""
        places = [(i, j + 1, t.vector) for i, c in enumerate(chunks) for j, t in enumerate(c) if t.vector is not None]
        if not places:
            return None
        embeddings = self.transformer.token(ids)
        rows, columns, vectors = zip(*places)
        return embeddings.index_put((torch.tensor(rows), torch.tensor(columns)), torch.stack(vectors).to(embeddings))

    def _pooled(self, states: Tensor, ids: Tensor, counts: Sequence[int]) -> Tensor:
        first = torch.tensor([sum(counts[:i]) for i in range(len(counts))], device=ids.device)
        ids = ids[first]
        end = ids.amax(1, keepdim=True) if self.pooled == "largest" else self.tokenizer.end
        ends = (ids == end).int().argmax(1)  # the first of them
        return states[first, ends]


def mean(chunks: Tensor) -> Tensor:
    """The mean of each chunk (B, L, D), as (B, 1, 1); NaN, which is none, where it is no more than rounding."""
    found, size = chunks.mean((1, 2), keepdim=True), chunks.square().mean((1, 2), keepdim=True).sqrt()
    return torch.where(found.abs() > 1e-4 * size, found, torch.nan)


def packed(units: Iterable[list[Token]], size: int, comma: int | None) -> list[list[Token]]:
    """Tokens in chunks of at most `size`, at least one chunk; a unit's tokens stay together.

    Where a chunk is full, what follows its last comma goes into the next one, if that are fewer than 20 tokens.
    Raises Problem for a unit longer than a chunk.
    """
    chunks: list[list[Token]] = [[]]
    last = None  # the place of the chunk's last comma
    for unit in units:
        if len(unit) > size:
            raise Problem(f"a word of {len(unit)} vectors: at most {size} fit into a prompt's chunk")
        while len(chunks[-1]) + len(unit) > size:
            full = chunks[-1]
            near = last is not None and len(full) == size and size - last <= REACH and unit[0].id != comma
            cut = last + 1 if near else size
            chunks[-1:] = [full[:cut], full[cut:]]
            last = None
        if unit[0].id == comma:
            last = len(chunks[-1])
        chunks[-1] += unit
    return chunks
