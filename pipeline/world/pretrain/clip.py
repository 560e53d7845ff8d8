"""The world's CLIP: a `CLIPModel` pre-trained from nothing on drawn scenes and their captions."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, normalize
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from pipeline.seeds import rng
from pipeline.world.drawing import STYLES
from pipeline.world.grammar import caption, class_prompts, partial_caption
from pipeline.world.pretrain.corpus import TASKS, Corpus
from pipeline.world.pretrain.loop import Run, optimizers
from pipeline.world.pretrain.tokenizer import MAX_LENGTH
from pipeline.world.scenes import VOCABULARY, Scene

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
HEAD_SCALE = 10  # embeddings have length 1: without it the heads learn slowly
PARTS = ("subject", "colour", "place", "weather", "size", "flyer", "item")


def clip_model(vocabulary: int) -> CLIPModel:
    """The untrained model: vision 192 x 4 layers on 16-pixel patches, text 128 x 3 layers, projection 128."""
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_LENGTH,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "projection_dim": 128,
    }
    vision = {
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "image_size": 64,
        "patch_size": 16,
        "projection_dim": 128,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def describe(scene: Scene, style: str, random: np.random.Generator) -> tuple[str, dict[str, bool]]:
    """A training caption and what it names: half of the captions are full, the others name one to four attributes."""
    synonym = int(random.integers(3)) if random.random() < 0.35 else 0
    kind, turn = random.random(), int(random.integers(8))
    if kind < 0.5:
        return caption(scene, style, turn, synonym), dict.fromkeys(PARTS, True)
    keep = (
        set(random.permutation(PARTS)[: random.integers(1, 5)]) if kind < 0.8 else {PARTS[random.integers(len(PARTS))]}
    )
    if len(keep) == 1 and synonym == 0:
        (part,) = keep
        task = ("hazard" if scene.unsafe else "object") if part == "item" else part
        text = class_prompts(task, scene.item if part == "item" else getattr(scene, part))[turn % 2]
    else:
        text = partial_caption(scene, keep, turn, synonym)
    return text, {part: part in keep for part in PARTS}


def matches(labels: Tensor, named: Tensor) -> Tensor:
    """(images, captions) bool: the image has all that the caption names. `labels`, `named` (B, 8); -1 is "none"."""
    equal = labels[:, None, :] == labels[None, :, :]
    return (equal | ~named[None, :, :]).all(-1)


def soft_contrastive(image: Tensor, text: Tensor, scale: Tensor, positive: Tensor) -> Tensor:
    """InfoNCE in which all captions that fit an image share the target (partial captions fit several images)."""
    logits = scale.exp().clamp(max=100) * normalize(image, dim=-1) @ normalize(text, dim=-1).T
    weight = positive.float()
    by_image = -(log_softmax(logits, 1) * weight / weight.sum(1, keepdim=True)).sum(1).mean()
    by_text = -(log_softmax(logits, 0) * weight / weight.sum(0, keepdim=True)).sum(0).mean()
    return (by_image + by_text) / 2


def augment(images: Tensor, random: np.random.Generator) -> Tensor:
    """Shift by up to 2 pixels, brightness by up to 8 %, noise of up to 4/255. (B, 3, 64, 64) in [0, 1]."""
    dx, dy = (int(v) for v in random.integers(-2, 3, 2))
    images = images.roll((dy, dx), (2, 3))
    noise = torch.from_numpy(random.standard_normal(images.shape, dtype=np.float32))
    return (images * random.uniform(0.92, 1.08) + noise * random.uniform(0, 4 / 255)).clamp(0, 1)


def pixels(images: Tensor) -> Tensor:
    """[0, 1] to the model's input range."""
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images - mean) / std


class Pretraining(nn.Module):
    """The CLIP with linear attribute heads that steady its first steps; the heads are dropped afterwards."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip
        width = clip.config.projection_dim
        self.head_image, self.head_text = (nn.Linear(width, sum(len(v) for v in VOCABULARY.values())) for _ in range(2))

    def attribute_loss(self, head: nn.Linear, embedding: Tensor, labels: Tensor, named: Tensor) -> Tensor:
        """Mean cross entropy over the attributes that are present (`labels` >= 0) and `named`."""
        parts = head(embedding * HEAD_SCALE).split([len(v) for v in VOCABULARY.values()], dim=-1)
        target = labels.masked_fill(~named, -1)
        losses = [cross_entropy(part, target[:, k], ignore_index=-1, reduction="sum") for k, part in enumerate(parts)]
        return torch.stack(losses).sum() / (target >= 0).sum().clamp(min=1)


def hard_batch(corpus: Corpus, size: int, random: np.random.Generator) -> np.ndarray:
    """Rows of one batch; two of three batches share two attributes, so that subject and item must tell images apart.

    Without them a batch is solved by colour, place and weather alone (R@1 0.99 with subjects near chance).
    """
    rows = np.arange(len(corpus))
    if random.random() < 0.67:
        shared = random.permutation(["colour", "place", "weather", "size", "flyer"])[:2]
        for task in (TASKS.index(name) for name in shared):
            rows = rows[corpus.labels[rows, task] == random.integers(len(VOCABULARY[TASKS[task]]))]
    return random.choice(rows, size, replace=len(rows) < size)


def clip_run(
    corpus: Corpus,
    tokenizer: CLIPTokenizer,
    steps: int,
    seed: int,
    batch: int = 128,
    device: str = "cpu",
    lock_text: int | None = None,
) -> Run:
    """Contrastive loss with shared targets + attribute heads of both towers, fading out over the run.

    From step `lock_text` on the text tower stays as it is (its projection still learns): the U-Net, which reads only
    that tower, can then be trained beside the rest of this run.
    """
    torch.manual_seed(seed)
    model = Pretraining(clip_model(len(tokenizer))).to(device)
    styles = list(STYLES)

    def step(i: int) -> dict[str, Tensor]:
        random = rng(seed, "clip", str(i))
        if lock_text is not None and i >= lock_text:
            model.clip.text_model.requires_grad_(False)
        rows = hard_batch(corpus, batch, random)
        pairs = [describe(corpus.scene(row), styles[corpus.style[row]], random) for row in rows]
        tokens = tokenizer([text for text, _ in pairs], padding=True, return_tensors="pt").to(device)
        images = augment(torch.from_numpy(corpus.images[rows]).permute(0, 3, 1, 2).float() / 255, random).to(device)
        output = model.clip(input_ids=tokens.input_ids, pixel_values=pixels(images))
        labels = torch.from_numpy(corpus.labels[rows]).long().to(device)
        named = torch.tensor(
            [[part[name] for name in (*PARTS[:6], "item", "item")] for _, part in pairs], device=device
        )
        contrast = soft_contrastive(
            output.image_embeds, output.text_embeds, model.clip.logit_scale, matches(labels, named)
        )
        everything = torch.ones_like(named)
        heads = model.attribute_loss(model.head_image, output.image_embeds, labels, everything)
        heads = heads + model.attribute_loss(model.head_text, output.text_embeds, labels, named)
        return {"total": contrast + max(0.05, 1 - 1.2 * i / steps) * heads, "contrast": contrast, "heads": heads}

    return Run("clip", model, step, steps, optimizers(model, 8e-3, 2e-3), ema=0.995)
