"""Rewriting by a `transformers` chat model folder: safetensors, no remote code, its tokenizer's template, greedy."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from pipeline.errors import NearsafeError
from pipeline.models.hashing import model_hash
from pipeline.models.loading import check_whole, loading
from pipeline.precision import pick_device, pick_precision
from pipeline.rewriting.instruction import INSTRUCTION_VERSION, instruct
from pipeline.rewriting.registry import Chat


class ChatRewriter:
    """Answers of one chat model. The model is loaded at the first request, not before."""

    def __init__(self, params: Chat, hazards: Mapping[str, Sequence[str]]) -> None:
        self.params, self.hazards = params, hazards
        self.facts = {"model": model_hash(params.folder), "instruction": INSTRUCTION_VERSION}
        self.name = f"chat model {params.folder.name}@{self.facts['model']}, instruction {INSTRUCTION_VERSION}"

    def rewrite(self, captions: Sequence[str], categories: Sequence[str]) -> list[str | None]:
        """See `Rewriter`. Raises NearsafeError for a folder that is not a loadable chat model."""
        asked = [
            instruct(caption, category, self.hazards[category])
            for caption, category in zip(captions, categories, strict=True)
        ]
        size = self.params.batch_size
        return [answer for start in range(0, len(asked), size) for answer in self._answer(asked[start : start + size])]

    @torch.inference_mode()
    def _answer(self, requests: list[str]) -> list[str | None]:
        tokenizer, model = self._loaded
        try:
            inputs = tokenizer.apply_chat_template(
                [[{"role": "user", "content": request}] for request in requests],
                add_generation_prompt=True,
                padding=True,
                return_tensors="pt",
                return_dict=True,
                **self.params.template,
            ).to(model.device)
        except (TemplateError, ValueError, TypeError) as error:
            raise NearsafeError(f"{self.params.folder}: the chat template fails: {error}") from error
        found = model.generate(
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, generation_config=self._greedy
        )
        texts = tokenizer.batch_decode(found[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        return [text.strip() or None for text in texts]

    @property
    def _greedy(self) -> GenerationConfig:
        """Greedy decoding up to the longest answer; tokens come from the loaded model's settings."""
        return GenerationConfig(do_sample=False, num_beams=1, max_new_tokens=self.params.max_new_tokens)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        folder = self.params.folder
        device, _ = pick_device()
        dtype, _ = pick_precision(self.params.precision, device)
        local = {"local_files_only": True, "trust_remote_code": False}
        placed = {"device_map": "auto"} if device.type == "cuda" else {}  # a large model may need several GPUs
        with loading(folder, "chat model folder"):
            tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", **local)
            model, report = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **placed, **local
            )
        check_whole(folder, type(model).__name__, model, report)
        if not tokenizer.chat_template:
            raise NearsafeError(f"{folder}: the tokenizer has no chat template: not a chat model")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.generation_config = _tokens(tokenizer, model.generation_config)
        return tokenizer, model.eval()


def _tokens(tokenizer: Any, own: GenerationConfig) -> GenerationConfig:
    """Of a folder's own settings only the tokens: `generate` fills with the others what a request leaves unset."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id if own.bos_token_id is None else own.bos_token_id,
        eos_token_id=tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
