"""CLIP as the pipeline uses it: a `CLIPModel` folder, its tokenizer, its pixels, and projected embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer
from transformers.image_processing_base import ImageProcessingMixin

from pipeline.memory import in_batches
from pipeline.models.activation import warn_once
from pipeline.models.clip_files import check_processor, check_tokens, load_tokenizer, read_config
from pipeline.models.hashing import model_hash
from pipeline.models.loading import load_whole, loading
from pipeline.parallel import parallel

Images = Sequence[Image.Image] | Tensor


@dataclass(frozen=True)
class Clip:
    """A loaded CLIP: model in evaluation mode (fp32), tokenizer, and what its image processor does to pixels."""

    model: CLIPModel
    tokenizer: CLIPTokenizer
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: int
    hash: str


@dataclass(frozen=True)
class Tokens:
    """Captions as token ids (N, L) int64, padded to the longest; `lengths` (N,) int64 count begin and end tokens."""

    ids: Tensor
    lengths: Tensor

    def rows(self, index: Tensor) -> Tensor:
        """Token ids of some captions, trimmed to the longest of them: exact, because CLIP's text tower is causal."""
        return self.ids[index][:, : int(self.lengths[index].max())]


def load_clip(folder: Path, device: torch.device | str = "cpu") -> Clip:
    """Load a plain transformers CLIP folder from disk: weights in safetensors, tokenizer, image processor.

    Nothing is downloaded. Raises NearsafeError naming the folder when it is missing, incomplete or broken.
    """
    folder = Path(folder)
    digest = model_hash(folder)
    config = read_config(folder)
    tokenizer = load_tokenizer(folder)
    model = load_whole(CLIPModel, folder, "CLIP folder", torch.float32)
    with loading(folder, "CLIP folder"):
        processor, _ = ImageProcessingMixin.get_image_processor_dict(folder, local_files_only=True)
    size = model.config.vision_config.image_size
    check_tokens(folder, tokenizer, model.config.text_config)
    check_processor(folder, processor, size)
    warn_once(folder, config)
    with loading(folder, "CLIP folder"):
        model = model.to(device).eval()
    mean, std = tuple(processor["image_mean"]), tuple(processor["image_std"])
    return Clip(model, tokenizer, size, mean, std, processor.get("resample", 3), digest)


def tokenize(clip: Clip, texts: Sequence[str]) -> Tokens:
    """Token ids of captions, each cut to the model's longest text (with its end token), padded to the longest."""
    longest = clip.model.config.text_config.max_position_embeddings
    rows = clip.tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"] if len(texts) else []
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    ids = torch.full((len(rows), max(map(len, rows), default=0)), clip.tokenizer.pad_token_id, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return Tokens(ids, lengths)


def to_uint8(images: Sequence[Image.Image], size: int, resample: int = 3) -> Tensor:
    """Images as one tensor (N, 3, size, size) uint8: RGB, shortest side resized to `size`, centre crop."""

    def fitted(image: Image.Image) -> np.ndarray:
        return np.asarray(_fit(image.convert("RGB"), size, resample))

    # Resizing is worth threads, a mere copy is not; the pixels are the same.
    resizing = any(image.size != (size, size) for image in images)
    arrays = parallel(fitted, images) if resizing else [fitted(image) for image in images]
    stacked = np.stack(arrays) if arrays else np.zeros((0, size, size, 3), np.uint8)
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def pixels(images: Images, clip: Clip) -> Tensor:
    """Model input (N, 3, S, S) float32 on the model's device, from PIL images or a uint8 tensor (N, 3, H, W)."""
    if not isinstance(images, Tensor):
        images = to_uint8(images, clip.image_size, clip.resample)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"expected images (N, 3, H, W) uint8, got {tuple(images.shape)} {images.dtype}")
    if images.shape[2:] != (clip.image_size, clip.image_size):
        whole = [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).cpu().numpy()]
        images = to_uint8(whole, clip.image_size, clip.resample)
    images = images.to(clip.model.device).float() / 255
    mean, std = images.new_tensor(clip.mean), images.new_tensor(clip.std)
    return (images - mean[:, None, None]) / std[:, None, None]


@torch.inference_mode()
def encode_texts(clip: Clip, texts: Sequence[str], batch_size: int = 256) -> Tensor:
    """Projected text embeddings (N, D) float32 on the CPU, not normalised. Texts of like length share a batch."""
    tokens = tokenize(clip, texts)
    found = torch.zeros(len(texts), clip.model.config.projection_dim)
    order = torch.argsort(tokens.lengths, stable=True)

    def encode(batch: slice) -> None:
        ids = tokens.rows(order[batch]).to(clip.model.device)
        found[order[batch]] = clip.model.get_text_features(input_ids=ids).pooler_output.float().cpu()

    in_batches(len(texts), batch_size, encode)
    return found


@torch.inference_mode()
def encode_images(clip: Clip, images: Images, batch_size: int = 256) -> Tensor:
    """Projected image embeddings (N, D) float32 on the CPU, not normalised. See `pixels` for what an image may be."""
    found = torch.zeros(len(images), clip.model.config.projection_dim)

    def encode(batch: slice) -> None:
        encoded = clip.model.get_image_features(pixel_values=pixels(images[batch], clip)).pooler_output
        found[batch] = encoded.float().cpu()

    in_batches(len(images), batch_size, encode)
    return found


def _fit(image: Image.Image, size: int, resample: int) -> Image.Image:
    width, height = image.size
    if (width, height) == (size, size):
        return image
    short = min(width, height)
    width, height = int(size * width / short), int(size * height / short)
    resized = image.resize((width, height), resample)
    left, top = (width - size) // 2, (height - size) // 2
    return resized.crop((left, top, left + size, top + size))
