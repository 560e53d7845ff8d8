"""A two-layer random CLIP and a world of a dozen drawn pairs: what the tests of training and its stages stand on."""

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from pipeline.images import image_cell
from pipeline.layout import shard_file, table_file
from pipeline.params import load
from pipeline.tables import Output
from stages import bucket_difficulty, embed, mine_pairs

SIDE, LENGTH, WIDTH = 16, 16, 24
PLACES = ("a field", "the old harbour", "a wide and empty market square", "a bridge")
SAFE = ("cup", "ball", "book")
UNSAFE = ("knife", "bomb", "axe")

PARAMS = """
seed: 5
seeds: {seeds}
embed: {{batch_size: 5}}
mine_pairs: {{k: 2, chunk: 4}}
bucket_difficulty: {{measure: nearest, cuts: quantile, values: [0.333, 0.667]}}
train:
  batch_size: 4
  epochs: 3
  lr: 0.01
  max_grad_norm: null
  precision: fp32
  curriculum: false
  lora: {{r: 2, alpha: 2, dropout: 0.1, targets: [q_proj, v_proj, patch_embedding]}}
  checkpoint_seconds: 0
  log_every: 2
defences:
  original: {{method: original}}
  safe_clip:
    method: safe_clip
    weights: {{text_preserve_uni: 0.1, text_redirect_uni: 0.1, image_preserve_uni: 0.1, image_redirect_uni: 0.2,
              text_preserve_cross: 0.25, text_redirect_cross: 0.25, image_preserve_cross: 0.25,
              image_redirect_cross: 0.5}}
  safer_clip:
    method: safer_clip
    weights: {{text_preserve_uni: 1, text_redirect_uni: 1, image_preserve_uni: 1, image_redirect_uni: 1,
              text_preserve_cross: 1, text_redirect_cross: 1, image_preserve_cross: 1, image_redirect_cross: 1}}
    train: {{curriculum: true, lora: {{r: 3}}}}
"""

DES = {
    "method": "des",
    "concept": "a knife, a bomb",
    "alpha": 10.0,
    "lam": 0.3,
    "train": {"lora": None, "optimizer": "adamw", "weight_decay": 0.01, "lr": 0.003},
}


def captions() -> list[tuple[str, bool]]:
    """Every caption of the tiny world and whether it is unsafe."""
    words = [(word, False) for word in SAFE] + [(word, True) for word in UNSAFE]
    return [(f"a {word} in {place}", unsafe) for place in PLACES for word, unsafe in words]


def save_clip(folder: Path, seed: int = 0) -> Path:
    """A plain transformers folder: two layers a tower, projection 12, a BPE tokenizer of the world's words."""
    tokenizer = _tokenizer()
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    shape = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, "pad_token_id": tokenizer.pad_token_id}
    config = CLIPConfig(
        text_config={**shape, **text, **special, "projection_dim": 12},
        vision_config={**shape, "image_size": SIDE, "patch_size": 8, "projection_dim": 12},
        projection_dim=12,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = {"image_processor_type": "CLIPImageProcessor", "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2] * 3}
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, **sizes}))
    return folder


def save_world(folder: Path, places: int = 4) -> Path:
    """Twelve training pairs and a test pair, one image a caption (a random 20x16 texture), images in two shards."""
    rng = np.random.default_rng(0)
    texts = captions()[: 6 * places]
    ids = {text: f"c{i:02d}" for i, (text, _) in enumerate(texts)}
    output = Output(folder, {"stage": "world"})
    shared = {"source": "test", "split": "train"}
    rows = [{"caption_id": ids[t], "text": t, "unsafe": u, "category": None, "family": t, **shared} for t, u in texts]
    output.write(table_file("captions"), "captions", rows)
    images = [
        {"image_id": ids[t].replace("c", "i"), "image": image_cell(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)),
         "unsafe": u, "caption_id": ids[t], **shared} for t, u in texts
    ]  # fmt: skip
    for number, part in enumerate((images[:10], images[10:])):
        output.write(shard_file("images", number), "images", part)
    output.write(table_file("pairs"), "pairs", _pairs(ids, places))
    output.finish()
    return folder


def before_training(root: Path) -> Path:
    """The directory with clip, params.yaml, world and the outputs of every stage before train, in folders so named."""
    params, clip, world = save_params(root / "params.yaml"), save_clip(root / "clip"), save_world(root / "world")
    embed.main(params, world, clip, root / "embeddings")
    mine_pairs.main(params, world, root / "embeddings", root / "targets")
    bucket_difficulty.main(params, world, root / "embeddings", root / "targets", root / "buckets")
    return root


def save_prompt_pairs(folder: Path, places: int = 4) -> Path:
    """The same pairs as prompts alone, of two categories: no images, no image ids."""
    texts = captions()[: 6 * places]
    ids = {text: f"c{i:02d}" for i, (text, _) in enumerate(texts)}
    output = Output(folder, {"stage": "world"})
    rows = [
        {"caption_id": ids[t], "text": t, "unsafe": u, "category": None, "source": "test", "split": "train",
         "family": t} for t, u in texts
    ]  # fmt: skip
    output.write(table_file("captions"), "captions", rows)
    bare = {"safe_image_id": None, "unsafe_image_id": None}
    pairs = [
        {**row, **bare, "category": "explosives" if row["pair_id"].endswith("ball") else "weapons"}
        for row in _pairs(ids, places)
    ]
    output.write(table_file("pairs"), "pairs", pairs)
    output.finish()
    return folder


def save_params(path: Path, seeds: str = "[0]", **sections: object) -> Path:
    """The parameter file above; `sections` replace whole sections, as YAML-compatible values."""
    path.write_text(PARAMS.format(seeds=seeds))
    path.write_text(json.dumps({**load(path), **sections}))
    return path


def _pairs(ids: dict[str, str], places: int) -> list[dict]:
    rows = []
    for number, place in enumerate(PLACES[:places]):
        for safe, unsafe in zip(SAFE, UNSAFE, strict=True):
            s, u = ids[f"a {safe} in {place}"], ids[f"a {unsafe} in {place}"]
            rows.append({
                "pair_id": f"p-{number}-{safe}", "safe_caption_id": s, "safe_image_id": s.replace("c", "i"),
                "unsafe_caption_id": u, "unsafe_image_id": u.replace("c", "i"), "category": "weapons",
                "split": "train", "tightness": None, "similarity": None,
            })  # fmt: skip
    return [*rows, {**rows[0], "pair_id": "test-pair", "split": "test"}]


def _tokenizer() -> CLIPTokenizer:
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+"), behavior="removed", invert=True)
    special = ["<|startoftext|>", "<|endoftext|>", "<|pad|>"]
    # The ids of begin, end and padding must not be 2: transformers then switches CLIP to its old pooling.
    alphabet = [chr(code) for code in range(97, 123)]
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, end_of_word_suffix="</w>")
    trained.train_from_iterator([text for text, _ in captions()], trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary = {**model["vocab"], **{token: len(model["vocab"]) + i for i, token in enumerate(special)}}
    merges = [tuple(merge) for merge in model["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token="<|pad|>", model_max_length=LENGTH)
