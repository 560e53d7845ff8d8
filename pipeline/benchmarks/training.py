"""A training step as the stage takes it, against a plain loop in the manner of Safe-CLIP's released code.

The plain loop is ours, written after safe_clip.md section 5: six forwards a step with two live frozen encoders, safe
and unsafe items encoded apart, text padded to 77 tokens, float32, images decoded and processed one by one by CLIP's
processor in a loader without workers, LoRA on the same layers, Adam. Both ways have the same weights and batches:
captions of COCO's length, JPEG files of COCO's size. The last line compares the ways to compute attention that
`train.attention` has.
"""

import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from pipeline.bench import Comparison
from pipeline.defences.protocol import Batch
from pipeline.defences.registry import Defence, make_defence
from pipeline.models.adapters import Lora, attach, features, trainable
from pipeline.models.clip import Clip, to_uint8, tokenize
from pipeline.parallel import ahead
from pipeline.params import DEFAULT_FILE, lookup
from pipeline.precision import pick_attention, pick_compile, pick_device, pick_precision
from pipeline.seeds import generator, rng
from pipeline.steps import Learner
from pipeline.training import Job, TrainParams, make_optimizer
from pipeline.training_set import TrainingSet

LAMBDAS = (0.1, 0.1, 0.1, 0.2, 0.25, 0.25, 0.25, 0.5)  # safe_clip.md section 1, in the order of `Weights`
TARGETS = ("k_proj", "v_proj", "out_proj", "fc1", "fc2", "patch_embedding")  # section 2
LORA = Lora(r=16, alpha=1, dropout=0.1, targets=TARGETS)
_WORDS = (7, 14)  # words of a caption: about COCO's 12 tokens with begin and end
_POOL = 4  # batches' worth of pairs
_MANY = 10**6  # steps of a training that compiling pays for


@dataclass(frozen=True)
class Shape:
    """Sizes of a CLIP: layers and width of text and vision tower, patch, projection."""

    name: str
    text: tuple[int, int]
    vision: tuple[int, int]
    patch: int
    projection: int

    def config(self, tokenizer: CLIPTokenizer, depth: int | None) -> CLIPConfig:
        """With at most `depth` layers a tower, 224 pixels and 77 tokens, and the words of `tokenizer`."""
        special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}

        def tower(size: tuple[int, int]) -> dict[str, int]:
            layers, width = size
            return {
                "hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64,
                "num_hidden_layers": min(layers, depth or layers), "projection_dim": self.projection,
            }  # fmt: skip

        return CLIPConfig(
            text_config={**tower(self.text), **special, "vocab_size": 49408, "max_position_embeddings": 77},
            vision_config={**tower(self.vision), "image_size": 224, "patch_size": self.patch},
            projection_dim=self.projection,
        )


B32 = Shape("ViT-B/32", (12, 512), (12, 768), 32, 512)
L14 = Shape("ViT-L/14", (12, 768), (24, 1024), 14, 768)


def comparisons(params: Path = DEFAULT_FILE, depth: int | None = None) -> Iterator[Comparison]:
    """ViT-B/32 at batch 48 on a CPU; ViT-L/14 at 48 and 128 on CUDA. `depth` cuts the layers of each tower."""
    device = pick_device()[0]
    shape, sizes = (L14, (48, 128)) if device.type == "cuda" else (B32, (48,))
    folder = Path(lookup(params, "models.clip"))
    for size in sizes:
        yield step_comparison(folder, shape, size, depth, device)
    yield attention_comparison(folder, shape, sizes[0], depth, device)


def step_comparison(folder: Path, shape: Shape, size: int, depth: int | None, device: torch.device) -> Comparison:
    """One optimizer step of `size` pairs, loading included."""
    task = Task.make(folder, shape, size, depth, device)
    dtype = pick_precision("auto", device)[0]
    attention = pick_attention("auto", device, dtype)[0]
    kind = str(dtype).removeprefix("torch.")
    title = f"training step, {task.name}, {device.type}, batch {size}: plain loop, float32 / stage, {kind}, {attention}"
    step, flops = built_in(task, dtype, attention)
    return Comparison(title, plain(task), step, count=size, unit="pairs", flops=flops, dtype=dtype, turns=5)


def attention_comparison(folder: Path, shape: Shape, size: int, depth: int | None, device: torch.device) -> Comparison:
    """The same step with either attention."""
    task = Task.make(folder, shape, size, depth, device)
    dtype = pick_precision("auto", device)[0]
    (eager, _), (sdpa, flops) = (built_in(task, dtype, attention) for attention in ("eager", "sdpa"))
    title = f"attention, {task.name}, {device.type}, batch {size}: eager / sdpa"
    return Comparison(title, eager, sdpa, count=size, unit="pairs", flops=flops, dtype=dtype, turns=5)


@dataclass(frozen=True)
class Task:
    """A random CLIP's configuration and the files of some pairs: captions, and images as JPEG bytes."""

    name: str
    size: int
    config: CLIPConfig
    tokenizer: CLIPTokenizer
    device: torch.device
    captions: tuple[list[str], list[str]]
    images: tuple[list[bytes], list[bytes]]

    @classmethod
    def make(cls, folder: Path, shape: Shape, size: int, depth: int | None, device: torch.device) -> "Task":
        """`folder`: the CLIP whose tokenizer is taken."""
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        config, draw, count = shape.config(tokenizer, depth), rng(0, "bench", "training"), _POOL * size
        captions = [random_captions(tokenizer, draw, count) for _ in ("safe", "unsafe")]
        images = [[_jpeg(draw) for _ in range(count)] for _ in ("safe", "unsafe")]
        name = shape.name if depth is None else f"{shape.name} cut to {depth} layers"
        return cls(name, size, config, tokenizer, device, tuple(captions), tuple(images))

    def model(self) -> CLIPModel:
        """The same random weights every time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return CLIPModel(self.config).to(self.device).eval()


def random_captions(tokenizer: CLIPTokenizer, draw: np.random.Generator, count: int) -> list[str]:
    """Of COCO's length, every word one token."""
    ends = sorted(token.removesuffix("</w>") for token in tokenizer.get_vocab() if token.endswith("</w>"))
    words = [word for word in ends if len(tokenizer(word)["input_ids"]) == 3]  # one token, between begin and end
    return [" ".join(draw.choice(words, draw.integers(*_WORDS))) for _ in range(count)]


class _Items(Dataset):
    """Pairs one by one: tokenised, decoded and processed when they are asked for."""

    def __init__(self, task: Task) -> None:
        self.task, self.processor = task, CLIPImageProcessorPil()

    def __len__(self) -> int:
        return len(self.task.captions[0])

    def __getitem__(self, row: int) -> tuple[Tensor, ...]:
        padded = {"padding": "max_length", "max_length": 77, "truncation": True, "return_tensors": "pt"}
        ids = [self.task.tokenizer(side[row], **padded)["input_ids"][0] for side in self.task.captions]
        images = [Image.open(io.BytesIO(side[row])) for side in self.task.images]
        return *ids, *(self.processor(image, return_tensors="pt")["pixel_values"][0] for image in images)


def plain(task: Task) -> Callable[[], None]:
    """A step of the plain loop, with the next batch of its loader."""
    model = attach(task.model(), LORA, generator(0, "bench", "lora"), ("text", "vision")).train()
    frozen = task.model().requires_grad_(False)
    optimizer = torch.optim.Adam(trainable(model).values(), lr=1e-4)
    defence = safe_clip()
    loader = DataLoader(_Items(task), batch_size=task.size, num_workers=0)
    batches = itertools.chain.from_iterable(loader for _ in itertools.count())

    def step() -> None:
        safe, unsafe, image, unsafe_image = (part.to(task.device) for part in next(batches))
        with torch.no_grad():
            text_reference = features(frozen, ids=safe)
            image_reference = features(frozen, pixel_values=image)
        batch = Batch(
            text_safe=features(model, ids=safe),
            text_unsafe=features(model, ids=unsafe),
            image_safe=features(model, pixel_values=image),
            image_unsafe=features(model, pixel_values=unsafe_image),
            ref_text_safe=text_reference, ref_text_unsafe=text_reference,
            ref_image_safe=image_reference, ref_image_unsafe=image_reference,
            prox_text=text_reference, prox_image=image_reference, own={}, frozen=None,
        )  # fmt: skip
        loss = sum(weight * value for weight, value in defence.terms(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # as a loop that prints its loss does

    return step


def built_in(task: Task, dtype: torch.dtype, attention: str) -> tuple[Callable[[], None], float]:
    """A step as `pipeline.training.train` takes it, and its floating-point operations."""
    model = task.model()
    model.set_attn_implementation(attention)
    processor = CLIPImageProcessorPil()
    clip = Clip(model, task.tokenizer, 224, tuple(processor.image_mean), tuple(processor.image_std), 3, "random")
    data = training_set(task, clip)
    knobs = TrainParams(
        batch_size=task.size, epochs=1, lr=1e-4, max_grad_norm=None, precision="auto", curriculum=False, lora=LORA,
        checkpoint_seconds=1e9, log_every=1,
    )  # fmt: skip
    job = Job(safe_clip(), data, knobs, 0, 0, dtype)
    feed = data.feed(job.defence, clip)
    tuned = attach(model, LORA, generator(0, "bench", "lora"), ("text", "vision")).train()
    parameters = trainable(tuned)
    learner = Learner(job, feed, tuned, parameters, make_optimizer(job, parameters, task.device), None)
    batches = itertools.cycle(torch.arange(_POOL * task.size).split(task.size))
    works = ahead(learner.load(step, 1, rows) for step, rows in enumerate(batches, 1))
    with FlopCounterMode(display=False) as counted:
        learner.step(next(works))
    if pick_compile("auto", task.device, _MANY)[0]:
        model.text_model.compile()
        model.vision_model.compile()
    return lambda: learner.step(next(works)), counted.get_total_flops()


def training_set(task: Task, clip: Clip) -> TrainingSet:
    """The task's pairs as the stage holds them: tokens, decoded images, references (random: any are as fast)."""
    count, width = len(task.captions[0]), task.config.projection_dim
    decoded = [Image.open(io.BytesIO(data)) for side in task.images for data in side]
    draw = generator(0, "bench", "references")
    rows = torch.arange(count)
    return TrainingSet(
        pair_ids=tuple(map(str, range(count))), levels=np.full(count, "easy"),
        captions=tokenize(clip, [*task.captions[0], *task.captions[1]]), images=to_uint8(decoded, 224),
        text_refs=F.normalize(torch.randn(2 * count, width, generator=draw), dim=1),
        image_refs=F.normalize(torch.randn(2 * count, width, generator=draw), dim=1),
        text_safe=rows, text_unsafe=rows + count, image_safe=rows, image_unsafe=rows + count,
        nearest=rows[:, None], category=torch.zeros(count, dtype=torch.int64), categories=("any",),
    )  # fmt: skip


def safe_clip() -> Defence:
    """Safe-CLIP with the paper's lambdas."""
    names = [f"{tower}_{purpose}_{form}" for form in ("uni", "cross") for tower in ("text", "image")
             for purpose in ("preserve", "redirect")]  # fmt: skip
    return make_defence("safe_clip", "safe_clip", {"weights": dict(zip(names, LAMBDAS, strict=True))})


def _jpeg(draw: np.random.Generator) -> bytes:
    """A smooth random picture of COCO's size, 640 x 480."""
    small = Image.fromarray(draw.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((640, 480), Image.Resampling.BICUBIC).save(buffer, format="JPEG")
    return buffer.getvalue()
