"""What a text is to a diffusion model: token states and, in the later families, a pooled embedding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerBase,
    T5EncoderModel,
)

T5_TOKENS = 256  # the longest text that StableDiffusion3Pipeline gives T5 by default


@dataclass(frozen=True)
class Conditioning:
    """Of B texts: token `states` (B, L, D), and `pooled` (B, P) where the family has one; float32."""

    states: Tensor
    pooled: Tensor | None = None


class Conditioner(Protocol):
    """The text encoders of a diffusion model, a defended one among them. `hash` names those that are not the folder's.

    `pipeline.models.families` has one for each family.
    """

    hash: str

    def condition(self, texts: Sequence[str]) -> Conditioning:
        """Of the prompts, one row each."""

    def unconditional(self) -> Conditioning:
        """One row: what guidance steers away from where there is no negative prompt, as the plain pipeline has it."""


@dataclass(frozen=True)
class TextTower:
    """The one text encoder of Stable Diffusion 1.x and 2.x: token states (B, L, D), L the tower's longest text."""

    model: CLIPTextModel
    tokenizer: CLIPTokenizer
    hash: str

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Token ids (B, L) int64 on the model's device, begin and end included, of texts cut and padded to L."""
        return _padded(self.tokenizer, texts, self.model.config.max_position_embeddings).to(self.model.device)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Last hidden states (B, L, D) float32 of texts cut and padded to L, without a mask, as in Stable Diffusion."""
        return self.model(input_ids=self.tokens(texts)).last_hidden_state

    def condition(self, texts: Sequence[str]) -> Conditioning:
        """See `Conditioner`."""
        return Conditioning(self.encode(texts))

    def unconditional(self) -> Conditioning:
        """The empty prompt's."""
        return Conditioning(self.encode([""]))


@dataclass(frozen=True)
class Encoder:
    """What one slot of several holds: a text encoder, its tokenizer, and a hash where it is not the folder's own."""

    model: CLIPTextModel | CLIPTextModelWithProjection | T5EncoderModel
    tokenizer: PreTrainedTokenizerBase
    hash: str | None = None

    @torch.no_grad()
    def penultimate(self, texts: Sequence[str]) -> Conditioning:
        """Of a CLIP: states before its last layer, without the final norm; pooled and projected where it projects."""
        ids = _padded(self.tokenizer, texts, self.model.config.max_position_embeddings).to(self.model.device)
        found = self.model(input_ids=ids, output_hidden_states=True)
        projects = isinstance(self.model, CLIPTextModelWithProjection)
        return Conditioning(found.hidden_states[-2], found.text_embeds if projects else None)

    @torch.no_grad()
    def t5_states(self, texts: Sequence[str]) -> Tensor:
        """Of a T5: last hidden states (B, T5_TOKENS, D) float32, without a mask."""
        ids = _padded(self.tokenizer, texts, T5_TOKENS).to(self.model.device)
        return self.model(input_ids=ids).last_hidden_state.float()


def _padded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int) -> Tensor:
    """Token ids (B, length) int64 of texts cut and padded to it."""
    found = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return found.input_ids
