"""Train the world's models from nothing and write their weights.   make world

python -m pipeline.world.pretrain                      # everything, a few hours on 2 CPU cores, minutes on a GPU
python -m pipeline.world.pretrain --only clip detector # some of them; the others must exist
python -m pipeline.world.pretrain --build build/world  # where checkpoints lie; run again to go on after a stop
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from pipeline.world.pretrain.clip import MEAN, STD, clip_run
from pipeline.world.pretrain.corpus import Corpus, load_corpus
from pipeline.world.pretrain.detector import detector_run
from pipeline.world.pretrain.diffusion import assemble, diffusion_run, latents_of
from pipeline.world.pretrain.llava import FEATURE_LAYER, llava_model, llava_processor, llava_run, patch_features
from pipeline.world.pretrain.loop import fit
from pipeline.world.pretrain.text_detector import text_detector_run
from pipeline.world.pretrain.tokenizer import build_tokenizer
from pipeline.world.pretrain.vae import vae_run

WEIGHTS = Path(__file__).parent.parent / "weights"
PARTS = ("clip", "detector", "vae", "unet", "llava", "text_detector")


@dataclass(frozen=True)
class Recipe:
    """Optimiser steps per model and drawn images per style; the shipped weights were made with these numbers."""

    clip: int = 1900
    detector: int = 500
    vae: int = 450
    unet: int = 1480
    llava: int = 500
    text_detector: int = 600
    corpus: dict[str, int] = field(default_factory=lambda: {"base": 26000, "shifted": 14000})


def pretrain(
    build: Path, out: Path, seed: int, device: str, only: tuple[str, ...] = PARTS, recipe: Recipe | None = None
) -> None:
    """Train the models named in `only` and write them to `out`; stops and resumes at checkpoints in `build`."""
    recipe = recipe or Recipe()
    corpus = load_corpus(build, seed, recipe.corpus)
    if "clip" in only:
        train_clip(corpus, build, out, seed, device, recipe.clip)
    if "detector" in only:
        fit(detector_run(corpus, recipe.detector, seed, device=device), build).cpu().save_pretrained(out / "detector")
    if "vae" in only:
        train_vae(corpus, build, out, seed, device, recipe.vae)
    if "unet" in only:
        train_unet(corpus, build, out, seed, device, recipe.unet)
    if "llava" in only:
        train_llava(corpus, build, out, seed, device, recipe.llava)
    if "text_detector" in only:
        detector = fit(text_detector_run(recipe.text_detector, seed, device=device), build)
        detector.cpu().save_pretrained(out / "text_detector")


def train_clip(corpus: Corpus, build: Path, out: Path, seed: int, device: str, steps: int) -> None:
    tokenizer = build_tokenizer(seed)
    model = fit(clip_run(corpus, tokenizer, steps, seed, device=device), build).clip.cpu()
    folder = out / "clip"
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 64, "width": 64}
    CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size=size, image_mean=list(MEAN), image_std=list(STD)
    ).save_pretrained(folder)


def train_vae(corpus: Corpus, build: Path, out: Path, seed: int, device: str, steps: int) -> None:
    vae = fit(vae_run(corpus, steps, seed, device=device), build).cpu()
    _, latents = latents_of(corpus, vae, build / "latents.npy")
    vae.register_to_config(scaling_factor=float(1 / latents[:2000].astype("float32").std()))
    vae.half().save_pretrained(out / "diffusion" / "vae")


def train_unet(corpus: Corpus, build: Path, out: Path, seed: int, device: str, steps: int) -> None:
    clip = CLIPModel.from_pretrained(out / "clip", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(out / "clip")
    vae = AutoencoderTiny.from_pretrained(out / "diffusion" / "vae", torch_dtype=torch.float32)
    rows, latents = latents_of(corpus, vae, build / "latents.npy")
    run = diffusion_run(corpus, rows, latents, clip, tokenizer, steps, seed, device=device)
    unet: UNet2DConditionModel = fit(run, build).cpu()
    pipeline = assemble(clip.cpu(), tokenizer, vae, unet)
    pipeline.to(dtype=torch.float16).save_pretrained(out / "diffusion", safe_serialization=True)


def train_llava(corpus: Corpus, build: Path, out: Path, seed: int, device: str, steps: int) -> None:
    clip = CLIPModel.from_pretrained(out / "clip", dtype=torch.float32)
    processor = llava_processor(
        CLIPTokenizer.from_pretrained(out / "clip"),
        CLIPImageProcessor.from_pretrained(out / "clip"),
        clip.config.vision_config.patch_size,
    )
    torch.manual_seed(seed)
    model = llava_model(clip, processor).to(device)
    features = patch_features(corpus, model, build / f"llava-features{FEATURE_LAYER}.npy")
    fit(llava_run(corpus, features, model, processor, steps, seed, device=device), build)
    model.cpu().half().save_pretrained(out / "llava")
    processor.save_pretrained(out / "llava")


def main(build: Path, out: Path, seed: int, device: str, only: list[str]) -> None:
    """Train, then say how to measure the result."""
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    print(f"world: training {', '.join(only)} on {chosen}; checkpoints in {build}", flush=True)
    pretrain(build, out, seed, chosen, tuple(only))
    print("world: measure the gates with: python -m pipeline.world.gates")


def parser() -> argparse.ArgumentParser:
    """Command line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--build", type=Path, default=Path("build/world"), help="checkpoints and drawn corpus")
    arguments.add_argument("--out", type=Path, default=WEIGHTS)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--device", default="auto", help="auto, cpu or cuda")
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    return arguments


if __name__ == "__main__":
    main(**vars(parser().parse_args()))
