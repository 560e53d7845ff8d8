"""The embed stage: images decoded and resized over the cores while the model runs, captions trimmed to their length.

The plain way is that of most released code: CLIP's own processor on one image after the other, then the model on the
batch, and nothing at the same time; captions padded to 77 tokens. Weights are random in the shape of ViT-B/32 (speed
does not depend on them). On a CPU the model takes nearly all the time, so that little is left to overlap.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from pipeline.bench import Comparison
from pipeline.bench_growth import Growth
from pipeline.benchmarks.detection import photographs
from pipeline.benchmarks.training import B32, random_captions
from pipeline.embedding import EmbedParams, embed_part
from pipeline.images import decode_image
from pipeline.models.clip import Clip, encode_texts, to_uint8
from pipeline.params import DEFAULT_FILE, lookup
from pipeline.precision import pick_device
from pipeline.schemas import SCHEMAS
from pipeline.seeds import rng
from pipeline.shards import Part
from pipeline.vectors import normalise

_BATCH = 32
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's


def comparisons(
    params: Path = DEFAULT_FILE, depth: int | None = None, images: int = 128, texts: int = 512
) -> Iterator[Comparison]:
    """A shard from JPEG bytes to vectors, what of it is pixels alone, and captions. `depth` cuts the towers' layers."""
    clip = random_clip(depth)
    with tempfile.TemporaryDirectory() as folder:
        cells = jpegs(Path(folder), images)
    yield shard(clip, cells)
    yield fitting(cells, clip)
    yield captioning(Path(lookup(params, "models.clip")), depth, texts)


def growths() -> Iterator[Growth]:
    """A shard of N images, and N captions."""
    yield Growth("embed images (ViT-B/32's shape)", "images", 32, growing)
    yield Growth("embed captions (ViT-B/32's shape)", "captions", 256, growing_captions)


def growing(images: int, folder: Path) -> Callable[[], object]:
    """N images from JPEG bytes to vectors."""
    return shard(random_clip(None), jpegs(folder, images)).built_in


def growing_captions(texts: int, folder: Path) -> Callable[[], object]:
    """N captions; `folder` is not used."""
    return captioning(Path(lookup(DEFAULT_FILE, "models.clip")), None, texts).built_in


def jpegs(folder: Path, images: int) -> list[dict]:
    """Image cells with the bytes of photographs that are written to `folder`."""
    return [{"bytes": file.read_bytes(), "path": None} for file in photographs(folder, images)]


def shard(clip: Clip, cells: list[dict]) -> Comparison:
    """Images of COCO's size."""
    processor = CLIPImageProcessorPil(image_mean=_MEAN, image_std=_STD)
    ids = [f"{number:05d}" for number in range(len(cells))]
    same = {"unsafe": False, "source": "bench", "split": "bench", "caption_id": None}
    rows = [{"image_id": item, "image": cell, **same} for item, cell in zip(ids, cells, strict=True)]
    table = pa.Table.from_pylist(rows, schema=SCHEMAS["images"].schema)
    part = Part(Path("images.parquet"), "images", len(ids), "")

    @torch.inference_mode()
    def plain() -> Tensor:
        found = []
        for start in range(0, len(cells), _BATCH):
            decoded = [decode_image(cell, "bench") for cell in cells[start : start + _BATCH]]
            pixels = [processor(image, return_tensors="pt")["pixel_values"] for image in decoded]
            encoded = clip.model.get_image_features(pixel_values=torch.cat(pixels).to(clip.model.device))
            found.append(encoded.pooler_output.float().cpu())
        return normalise(torch.cat(found), ids, "bench")

    title = "embed images (ViT-B/32's shape): item by item / decoded ahead over the cores"
    built_in = lambda: embed_part(EmbedParams(_BATCH), clip, (part, table))  # noqa: E731
    return Comparison(title, plain, built_in, len(cells), "images")


def fitting(cells: list[dict], clip: Clip) -> Comparison:
    """Decoded pictures to the model's size: CLIP's processor one by one, or `to_uint8`."""
    processor = CLIPImageProcessorPil(do_rescale=False, do_normalize=False)
    pictures = [decode_image(cell, "bench") for cell in cells]
    title = "resize and crop: CLIP's processor, one by one / over the cores"
    plain = lambda: [processor(image)["pixel_values"] for image in pictures]  # noqa: E731
    return Comparison(title, plain, lambda: to_uint8(pictures, clip.image_size), len(cells), "images")


def captioning(tokens_of: Path, depth: int | None, texts: int) -> Comparison:
    """Captions of COCO's length; `tokens_of`: the CLIP whose tokenizer is taken."""
    tokenizer = CLIPTokenizer.from_pretrained(tokens_of, local_files_only=True)
    model = CLIPModel(B32.config(tokenizer, depth)).eval().to(pick_device()[0])
    clip = Clip(model, tokenizer, 224, _MEAN, _STD, 3, "bench")
    captions = random_captions(tokenizer, rng(0, "bench", "captions"), texts)
    padded = {"padding": "max_length", "max_length": 77, "truncation": True, "return_tensors": "pt"}

    @torch.inference_mode()
    def plain() -> Tensor:
        found = []
        for start in range(0, len(captions), _BATCH):
            inputs = tokenizer(captions[start : start + _BATCH], **padded).to(model.device)
            found.append(model.get_text_features(**inputs).pooler_output.float().cpu())
        return torch.nn.functional.normalize(torch.cat(found), dim=1)

    title = "embed captions (ViT-B/32's shape): padded to 77 tokens / trimmed"
    return Comparison(title, plain, lambda: encode_texts(clip, captions, _BATCH), len(captions), "captions")


def random_clip(depth: int | None) -> Clip:
    """Random weights in the shape of ViT-B/32's image tower, the text tower as small as it may be."""
    layers = min(12, depth or 12)
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": layers}
    text = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1, "num_hidden_layers": 1}
    config = CLIPConfig(
        text_config={**text, "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
        vision_config={**vision, "patch_size": 32},
        projection_dim=512,
    )
    model = CLIPModel(config).eval().to(pick_device()[0])
    return Clip(model, None, 224, _MEAN, _STD, 3, "bench")
