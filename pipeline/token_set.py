"""Prompt pairs in memory for defences that work on token states: tokens, the undefended states of safe captions."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn

from pipeline.curriculum import LEVELS
from pipeline.defences.protocol import FrozenTokens, States, TokenBatch
from pipeline.defences.registry import Defence
from pipeline.errors import NearsafeError
from pipeline.models.clip import Clip, Tokens, tokenize
from pipeline.targets import training_pairs
from pipeline.training_set import bucket_levels, caption_texts, category_numbers, distinct_ids, sent

_BATCH = 128  # prompts in one forward of the undefended tower
_STREAM = 1024  # unsafe prompts whose states are held at a time: 240 MB at 77 x 768


@dataclass(frozen=True)
class TokenSet:
    """P prompt pairs; images, where pairs have them, are not read. `safe` and `unsafe` (P,) point into `captions`.

    `category` (P,) numbers `categories`, which are in alphabetical order. `texts` are the C captions.
    """

    pair_ids: tuple[str, ...]
    levels: np.ndarray
    texts: tuple[str, ...]
    captions: Tokens
    safe: Tensor
    unsafe: Tensor
    category: Tensor
    categories: tuple[str, ...]

    def feed(self, defence: Defence, clip: Clip) -> "TokenFeed":
        """What a training reads, made with `clip` while it is still undefended: call it before tuning `clip`.

        Raises NearsafeError for a text of the defence that is longer than the tower reads.
        """
        _check_lengths(defence, clip)
        tower = copy.deepcopy(clip.model.text_model).eval().requires_grad_(False)
        frozen = _frozen(self, defence, clip, tower)
        live = padded(clip, tokenize(clip, defence.live_texts))
        return TokenFeed(self, tower, frozen, live, defence.targets(frozen), defence.fixed(frozen))

    def describe(self) -> str:
        """One line on size."""
        return f"{len(self.pair_ids)} training prompt pairs, {len(self.texts)} captions; images are not needed"


@dataclass(frozen=True)
class TokenIndex:
    """Which pairs a batch holds: rows (B,) and ends (B,) on the device, rows of the unsafe captions on the CPU."""

    rows: Tensor
    unsafe: Tensor
    safe_ends: Tensor
    unsafe_ends: Tensor


@dataclass(frozen=True)
class TokenFeed:
    """Batches for one training, and what does not change in it: the undefended tower, the method's own tensors."""

    data: TokenSet
    tower: nn.Module
    frozen: FrozenTokens
    live: Tokens
    own: dict[str, Tensor]
    fixed: dict[str, Tensor]
    shared: tuple[str, ...] = ("live",)
    """Names in what `encode` gives that are not of one pair each."""

    def index(self, rows: Tensor) -> "TokenIndex":
        """Where the pairs `rows` lie in the tables, and where their prompts end."""
        device, captions = next(self.tower.parameters()).device, self.data.captions
        safe, unsafe = self.data.safe[rows], self.data.unsafe[rows]
        ends = (sent(captions.lengths[index] - 1, device) for index in (safe, unsafe))
        return TokenIndex(sent(rows, device), unsafe, *ends)

    def load(self, rows: Tensor, first: bool = True) -> tuple[Tensor, list[int]]:
        """Token ids of safe, unsafe and, with the `first` part of a batch, live texts; and how many of each."""
        live = self.live.ids if first else self.live.ids[:0]
        ids = torch.cat(
            [self.data.captions.ids[self.data.safe[rows]], self.data.captions.ids[self.data.unsafe[rows]], live]
        )
        return sent(ids, next(self.tower.parameters()).device), [len(rows), len(rows), len(live)]

    def encode(self, model: nn.Module, inputs: tuple[Tensor, list[int]]) -> dict[str, Tensor]:
        """States (B, L, D) of safe and unsafe prompts, (K, L, D) of live texts, in one forward of the model."""
        ids, parts = inputs
        states = text_model(model)(input_ids=ids).last_hidden_state.float()
        return dict(zip(("safe", "unsafe", "live"), states.split(parts), strict=True))

    def assemble(self, index: "TokenIndex", encoded: Mapping[str, Tensor]) -> TokenBatch:
        """The batch: what was encoded, and what the undefended tower has."""
        device = index.rows.device
        return TokenBatch(
            safe=States(encoded["safe"], index.safe_ends),
            unsafe=States(encoded["unsafe"], index.unsafe_ends),
            live=States(encoded["live"], (self.live.lengths - 1).to(device)),
            ref_safe=self.frozen.codebook.rows(self.frozen.safe[index.rows]),
            ref_unsafe=partial(self._undefended, index.unsafe),
            own={name: table[index.rows.to(table.device)] for name, table in self.own.items()},
            fixed=self.fixed,
            frozen=self.frozen,
        )

    def batch(self, model: nn.Module, rows: Tensor) -> TokenBatch:
        """States of the pairs `rows`: safe, unsafe and live texts in one forward of the model in training."""
        return self.assemble(self.index(rows), self.encode(model, self.load(rows)))

    @torch.no_grad()
    def _undefended(self, index: Tensor) -> States:
        return encode(self.tower, _rows(self.data.captions, index), next(self.tower.parameters()).device)


def read_token_set(world: Path, clip: Clip, buckets: Path | None = None) -> TokenSet:
    """Every training pair of a `world` output, in order of pair ids; it need have neither images nor embeddings.

    `buckets` is read for a curriculum alone: without it every pair counts as easy. Raises NearsafeError when there is
    no training pair, TableError for a caption or a difficulty that is missing.
    """
    pairs = training_pairs(world)
    ids = pairs.column("pair_id").to_pylist()
    captions, (safe, unsafe) = distinct_ids(pairs, "caption_id", world)
    texts = caption_texts(captions, world)
    names, numbers = category_numbers(pairs)
    return TokenSet(
        pair_ids=tuple(ids),
        levels=np.full(len(ids), LEVELS[0]) if buckets is None else bucket_levels(ids, buckets),
        texts=tuple(texts),
        captions=padded(clip, tokenize(clip, texts)),
        safe=safe,
        unsafe=unsafe,
        category=numbers,
        categories=names,
    )


def padded(clip: Clip, tokens: Tokens) -> Tokens:
    """The same padded to the tower's longest text L, as a diffusion model is conditioned: ids (N, L)."""
    longest = clip.model.config.text_config.max_position_embeddings
    ids = torch.full((len(tokens.lengths), longest), clip.tokenizer.pad_token_id, dtype=torch.int64)
    ids[:, : tokens.ids.shape[1]] = tokens.ids
    return Tokens(ids, tokens.lengths)


def text_model(model: nn.Module) -> nn.Module:
    """The text tower of a CLIP, its adapters included where it has some."""
    return (model.get_base_model() if isinstance(model, PeftModel) else model).text_model


def encode(tower: nn.Module, tokens: Tokens, device: torch.device) -> States:
    """Last hidden states (N, L, D) float32 of tokens padded to L, without a mask: des.md section 1."""
    states = tower(input_ids=tokens.ids.to(device, non_blocking=True)).last_hidden_state
    return States(states.float(), (tokens.lengths - 1).to(device))


def _frozen(data: TokenSet, defence: Defence, clip: Clip, tower: nn.Module) -> FrozenTokens:
    device = clip.model.device
    distinct, safe = torch.unique(data.safe, return_inverse=True)
    vocabulary = tuple(dict.fromkeys([*defence.live_texts, *defence.frozen_texts]))
    words = padded(clip, tokenize(clip, vocabulary))
    return FrozenTokens(
        codebook=_encode_all(tower, _rows(data.captions, distinct), device),
        safe=safe.to(device),
        unsafe=partial(_stream, tower, data, device),
        prompts=frozenset(data.texts),
        vocabulary=vocabulary,
        words=_encode_all(tower, words, device),
    )


def _check_lengths(defence: Defence, clip: Clip) -> None:
    """A list of concepts that is cut would silently defend against the first few of them."""
    longest = clip.model.config.text_config.max_position_embeddings
    for text in (*defence.live_texts, *defence.frozen_texts):
        length = len(clip.tokenizer(text, verbose=False)["input_ids"])
        if length > longest:
            raise NearsafeError(f"{defence.name}: {text[:60]!r} has {length} tokens, the text tower reads {longest}")


def _stream(tower: nn.Module, data: TokenSet, device: torch.device) -> Iterator[States]:
    for index in data.unsafe.split(_STREAM):
        yield _encode_all(tower, _rows(data.captions, index), device)


@torch.no_grad()
def _encode_all(tower: nn.Module, tokens: Tokens, device: torch.device) -> States:
    """States of N prompts, encoded in batches into one tensor that is allocated once."""
    config = tower.config
    shape = (len(tokens.lengths), config.max_position_embeddings, config.hidden_size)
    states = torch.empty(shape, device=device)
    for start in range(0, len(states), _BATCH):
        part = slice(start, start + _BATCH)
        states[part] = encode(tower, Tokens(tokens.ids[part], tokens.lengths[part]), device).states
    return States(states, (tokens.lengths - 1).to(device))


def _rows(tokens: Tokens, index: Tensor) -> Tokens:
    return Tokens(tokens.ids[index], tokens.lengths[index])
