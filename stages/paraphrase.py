"""Word the benchmark's unsafe captions so that proximal redirection aims far from the true scene; measures defences.

python -m stages.paraphrase --params params.yaml --world data/world --embeddings data/embeddings \\
    --nsfwcaps data/nsfwcaps --clip pipeline/world/weights/clip --out data/paraphrases
"""

import argparse
from pathlib import Path

from torch import Tensor

from pipeline.attacks.paraphrase import ParaphraseParams, candidates, choose
from pipeline.errors import NearsafeError, run
from pipeline.ids import content_id
from pipeline.layout import shard_file, table_file
from pipeline.models.clip import Clip, encode_texts, load_clip
from pipeline.params import lookup, section, to_spec
from pipeline.precision import pick_device
from pipeline.seeds import derive
from pipeline.shards import output_hash
from pipeline.tables import Output, read_output
from pipeline.targets import TRAIN_SPLIT, mining_pool, pairs_of
from pipeline.vectors import Vectors, read_vectors
from pipeline.world.paraphrasing import GrammarParaphraser


def main(params: Path, world: Path, embeddings: Path, nsfwcaps: Path, clip: Path, out: Path) -> None:
    """Write two paraphrases per unsafe caption of the split, and the counts of the age-word filter.

    None, and a line that says why, where the benchmark has no such split, no words are left to choose from, or the
    world has no safe training caption to aim at. Raises NearsafeError for embeddings of another model.
    """
    knobs, root = section(f"{params}:paraphrase", ParaphraseParams), int(lookup(params, "seed"))
    paraphraser, unsafe, safe = GrammarParaphraser(), *benchmark_captions(nsfwcaps, knobs.split)
    folders = {"world": world, "embeddings": embeddings, "nsfwcaps": nsfwcaps}
    spec = {"stage": "paraphrase", "params": to_spec(knobs), "seed": root, "paraphraser": paraphraser.name}
    inputs = {name: output_hash(path) for name, path in folders.items()}
    wordings, filters = candidates(list(unsafe.values()), paraphraser)
    aims = safe_captions(world)
    if reason := why_nothing(unsafe, wordings, aims, knobs.split, paraphraser.name):
        return write_nothing(Output(out, {**spec, "inputs": inputs}), filters, reason)
    device, reason = pick_device()
    print(f"paraphrase: {reason}; float32")
    model = load_clip(clip, device)
    pool = safe_pool(aims, embeddings, model)
    flat = encode_texts(model, [text for own in wordings for text in own], knobs.batch_size)
    counts = [len(own) for own in wordings]
    draws = [derive(root, "paraphrase", caption) for caption in unsafe]
    choices = choose(flat, counts, pool, encode_texts(model, safe, knobs.batch_size), draws)
    table = [
        {
            "caption_id": caption,
            "kind": kind,
            "paraphrase_id": content_id("paraphrase", own[index], prefix="c"),
            "text": own[index],
            "candidates": len(own),
            "cosine_before": before,
            "cosine_after": after,
        }
        for kind, choice in choices.items()
        for caption, own, index, before, after in zip(
            unsafe, wordings, *(values.tolist() for values in choice), strict=True
        )
    ]
    output = Output(out, {**spec, "inputs": {**inputs, "clip": model.hash}})
    output.write(table_file("paraphrases"), "paraphrases", table, metadata={"model_hash": model.hash})
    output.write(table_file("filters"), "filters", filters)
    output.finish()
    aim, drawn = choices["adversarial"], choices["random"]
    print(
        f"paraphrase: {len(unsafe)} captions, {sum(counts)} wordings, {filters[0]['n_dropped']} dropped for age words; "
        f"median cosine of target and true scene: {aim.before.median():.3f} as written, "
        f"{drawn.after.median():.3f} reworded at random, {aim.after.median():.3f} by the adversary"
    )


def why_nothing(
    unsafe: dict[str, str], wordings: list[list[str]], aims: list[str], split: str, paraphraser: str
) -> str | None:
    """Why there can be no paraphrase; None where there can be some."""
    if not unsafe:
        return f"the benchmark has no pair of split {split!r}"
    if all(len(own) < 2 for own in wordings):
        return f"the {paraphraser} knows no other words for {len(unsafe)} captions"
    return None if aims else f"no pair of split {TRAIN_SPLIT!r}, so no safe caption to aim at"


def write_nothing(output: Output, filters: list[dict[str, object]], reason: str) -> None:
    """A finished output without paraphrases."""
    output.write(shard_file("paraphrases", 0), "paraphrases", [])
    output.write(table_file("filters"), "filters", filters)
    output.finish()
    print(f"paraphrase: no paraphrase: {reason}; the attack by paraphrase is left out")


def safe_captions(world: Path) -> list[str]:
    """Ids of the mining pool's captions; none in a world without training pairs."""
    pairs = pairs_of(read_output(world, "pairs", allow_empty=True), TRAIN_SPLIT)
    return list(mining_pool(zip(pairs["pair_id"].to_pylist(), pairs["safe_caption_id"].to_pylist(), strict=True)))


def safe_pool(captions: list[str], embeddings: Path, model: Clip) -> Tensor:
    """Frozen text embeddings (M, D) of the pool's M captions. Raises NearsafeError."""
    text: Vectors = read_vectors(embeddings)[0]
    if text.model_hash != model.hash:
        raise NearsafeError(f"{embeddings}: made by another model ({text.model_hash}) than --clip ({model.hash})")
    return text.of(captions)


def benchmark_captions(nsfwcaps: Path, split: str) -> tuple[dict[str, str], list[str]]:
    """Unsafe captions by id, and the text of each one's safe partner (of its first pair); none without such a split.

    Raises TableError.
    """
    captions, pairs = (read_output(nsfwcaps, table, allow_empty=True) for table in ("captions", "pairs"))
    texts = dict(zip(captions["caption_id"].to_pylist(), captions["text"].to_pylist(), strict=True))
    pairs = pairs_of(pairs, split)
    partner: dict[str, str] = {}
    for unsafe, safe in zip(pairs["unsafe_caption_id"].to_pylist(), pairs["safe_caption_id"].to_pylist(), strict=True):
        partner.setdefault(unsafe, safe)
    return {item: texts[item] for item in partner}, [texts[item] for item in partner.values()]


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--params", type=Path, required=True, help="parameter file with a section `paraphrase`")
    arguments.add_argument("--world", type=Path, required=True, help="output of the world stage")
    arguments.add_argument("--embeddings", type=Path, required=True, help="output of the embed stage")
    arguments.add_argument("--nsfwcaps", type=Path, required=True, help="output of the build_nsfwcaps stage")
    arguments.add_argument("--clip", type=Path, required=True, help="folder of the undefended CLIP")
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
