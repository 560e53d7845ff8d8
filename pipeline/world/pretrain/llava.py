"""The world's LLaVA: a small Llama that reads the CLIP's image patches and says what a scene shows.

LLaVA 1.5's layout and conventions (Liu et al. 2024): the patches of the vision tower's penultimate layer, without the
class token, through two linear layers into the language model. The tower is the world's CLIP and stays frozen, so that
its features are computed once and any tower tuned from that CLIP can take its place.
"""

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, processors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from pipeline.seeds import rng
from pipeline.world.grammar import caption
from pipeline.world.pretrain.clip import pixels
from pipeline.world.pretrain.corpus import Corpus
from pipeline.world.pretrain.loop import Run, optimizers
from pipeline.world.pretrain.tokenizer import END, START

QUERY = "Describe this image."
IMAGE_TOKEN = "<image>"
FEATURE_LAYER = -2  # of the vision tower, as in LLaVA 1.5
# Whole tokens for the words of the dialogue, which the captions' byte pairs would spell letter by letter.
DIALOGUE = ("user", "assistant", "describe", "this", "image")
STYLES = ("base", "shifted")
SYNONYM_SHARE = 0.35
# As in llava-hf/llava-1.5-7b-hf: "USER: <image>\nDescribe this image. ASSISTANT:".
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def reply_tokenizer(clip: CLIPTokenizer) -> PreTrainedTokenizerFast:
    """The captions' byte pairs as a language model's tokenizer: a begin token only, the image token, dialogue words."""
    state = json.loads(clip.backend_tokenizer.to_str())
    state["post_processor"] = None
    backend = Tokenizer.from_str(json.dumps(state))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A $B", special_tokens=[(START, backend.token_to_id(START))]
    )
    backend.decoder = decoders.Sequence(
        [decoders.ByteLevel(), *(decoders.Replace(a, b) for a, b in (("</w>", " "), (" ,", ","), (" .", ".")))]
    )
    backend.add_special_tokens([AddedToken(IMAGE_TOKEN, normalized=False)])
    backend.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in DIALOGUE])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": IMAGE_TOKEN},
    )


def llava_processor(clip: CLIPTokenizer, images: CLIPImageProcessor, patch_size: int) -> LlavaProcessor:
    """Tokenizer, image processor and chat template in one."""
    return LlavaProcessor(
        image_processor=images,
        tokenizer=reply_tokenizer(clip),
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )


def llava_model(clip: CLIPModel, processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    """An untrained language model (Llama 128 x 4) on the CLIP's own vision tower."""
    tokenizer, vision = processor.tokenizer, clip.config.vision_config
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        **ids,
    )
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=FEATURE_LAYER,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        **ids,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower_state(clip))
    return model


def tower_state(clip: CLIPModel) -> dict[str, Tensor]:
    """The vision tower's tensors under the names that `LlavaModel.vision_tower` gives them."""
    return {name: value.float() for name, value in clip.vision_model.state_dict().items()}


class Speaker(nn.Module):
    """The trained part of a LLaVA: projector, language model and its output layer."""

    def __init__(self, llava: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.projector = llava.model.multi_modal_projector
        self.language_model, self.lm_head = llava.model.language_model, llava.lm_head
        self.image_token = llava.config.image_token_index

    def forward(self, features: Tensor, ids: Tensor, reply: int) -> Tensor:
        """Logits (B, reply, vocabulary) of the last `reply` tokens of `ids` (B, L); features (B, patches, width)."""
        embedded = self.language_model.embed_tokens(ids)
        seen = self.projector(features).flatten(0, 1)
        embedded = embedded.masked_scatter((ids == self.image_token).unsqueeze(-1), seen)
        states = self.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return self.lm_head(states[:, -reply - 1 : -1])


@torch.no_grad()
def patch_features(corpus: Corpus, llava: LlavaForConditionalGeneration, path: Path) -> np.ndarray:
    """Penultimate patches (N, patches, width) float16 of every image, computed once and kept in `path`."""
    if not path.exists():
        tower, layer = llava.model.vision_tower, llava.config.vision_feature_layer
        parts = []
        for at in range(0, len(corpus), 250):
            images = torch.from_numpy(corpus.images[at : at + 250]).permute(0, 3, 1, 2).float() / 255
            states = tower(pixels(images.to(tower.device)), output_hidden_states=True).hidden_states[layer]
            parts.append(states[:, 1:].half().cpu().numpy())
        part = path.with_suffix(".part.npy")
        np.save(part, np.concatenate(parts))
        part.rename(path)
    return np.load(path, mmap_mode="r")


def chat_prompt(processor: LlavaProcessor, query: str = QUERY) -> str:
    """The dialogue up to the reply."""
    content = [{"type": "image"}, {"type": "text", "text": query}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def llava_run(
    corpus: Corpus,
    features: np.ndarray,
    llava: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    steps: int,
    seed: int,
    batch: int = 96,
    device: str = "cpu",
) -> Run:
    """Next-token loss on full captions of both styles' wordings, hazards by their name or a synonym."""
    torch.manual_seed(seed)
    model = Speaker(llava).to(device)
    tokenizer, end = processor.tokenizer, processor.tokenizer.eos_token_id
    pictured = IMAGE_TOKEN * llava.config.image_seq_length
    prompt = tokenizer(chat_prompt(processor).replace(IMAGE_TOKEN, pictured))["input_ids"]

    def step(i: int) -> dict[str, Tensor]:
        random = rng(seed, "llava", str(i))
        rows = np.sort(random.choice(len(corpus), batch, replace=False))
        texts = [
            caption(
                corpus.scene(row),
                STYLES[corpus.style[row]],
                int(random.integers(8)),
                int(random.integers(3)) if random.random() < SYNONYM_SHARE else 0,
            )
            for row in rows
        ]
        replies = [[*ids, end] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
        longest = max(map(len, replies))
        ids = torch.tensor([[*prompt, *reply, *[end] * (longest - len(reply))] for reply in replies], device=device)
        target = torch.tensor([[*reply, *[-100] * (longest - len(reply))] for reply in replies], device=device)
        logits = model(torch.from_numpy(features[rows]).float().to(device), ids, longest)
        loss = cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100)
        right = (logits.argmax(-1) == target)[target != -100].float().mean()
        return {"total": loss, "token_accuracy": right}

    return Run("llava", model, step, steps, optimizers(model, 1e-2, 3e-3), ema=0.99)
