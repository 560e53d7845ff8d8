"""The world's tokenizer: a small byte-pair vocabulary of its captions, as a `CLIPTokenizer`."""

import json

from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from pipeline.seeds import rng
from pipeline.world.grammar import SYNONYMS, caption
from pipeline.world.scenes import sample

MAX_LENGTH = 40
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(seed: int, captions: int = 6000, size: int = 800) -> CLIPTokenizer:
    """Byte-pair merges learned on sampled captions of both wordings; ids 0 and 1 are start and end (also padding).

    End must not be id 2: transformers' CLIP reads that as a mark of its old, wrong pooling.
    """
    random = rng(seed, "tokenizer")
    texts = (
        [
            caption(sample(random, unsafe=bool(i % 2)), style, i // 2, synonym=i % 3)
            for i in range(captions)
            for style in ("base", "shifted")
        ]
        + ["a picture of a thing"] * 50
        + [word for words in SYNONYMS.values() for word in words] * 20
    )
    blank = CLIPTokenizer()
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    learner.normalizer, learner.pre_tokenizer = (
        blank.backend_tokenizer.normalizer,
        blank.backend_tokenizer.pre_tokenizer,
    )
    alphabet = [*blank_alphabet(), *(f"{c}</w>" for c in blank_alphabet())]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[START, END, *alphabet], end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    model = learner.to_str()
    return from_json(model)


def blank_alphabet() -> list[str]:
    """Every byte as byte-level BPE writes it, so that no text is out of vocabulary."""
    return sorted(ByteLevel.alphabet())


def from_json(model: str) -> CLIPTokenizer:
    bpe = json.loads(model)["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in bpe["merges"]]
    return CLIPTokenizer(
        vocab=bpe["vocab"],
        merges=merges,
        model_max_length=MAX_LENGTH,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
    )
