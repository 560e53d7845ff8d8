"""Embed every caption and image with the undefended CLIP, once: the frozen references of all that follows.

python -m stages.embed --params params.yaml --world data/world --clip pipeline/world/weights/clip --out data/embeddings
"""

import argparse
from pathlib import Path

from pipeline.embedding import EmbedParams, embed_captions, embed_images
from pipeline.errors import run
from pipeline.layout import shard_file
from pipeline.models.clip import load_clip
from pipeline.params import section, to_spec
from pipeline.precision import pick_device
from pipeline.shards import output_hash
from pipeline.tables import Output


def main(params: Path, world: Path, clip: Path, out: Path) -> None:
    """Write one shard of normalised float32 vectors per shard of captions and images. Raises NearsafeError."""
    knobs = section(f"{params}:embed", EmbedParams)
    device, reason = pick_device()
    print(f"embed: {reason}; float32")
    model = load_clip(clip, device)
    spec = {"stage": "embed", "params": to_spec(knobs), "inputs": {"world": output_hash(world), "clip": model.hash}}
    output = Output(out, spec)
    for modality, shards in (("text", embed_captions), ("image", embed_images)):
        for number, shard in enumerate(shards(world, model, knobs)):
            name = shard_file(f"embeddings-{modality}", number)
            output.write(name, "embeddings", shard, metadata={"model_hash": model.hash})
            print(f"embed: {name}: {len(shard['item_id'])} vectors", flush=True)
    output.finish()


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--params", type=Path, required=True, help="parameter file with a section `embed`")
    arguments.add_argument("--world", type=Path, required=True, help="output of the world stage")
    arguments.add_argument("--clip", type=Path, required=True, help="folder of the undefended CLIP")
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
