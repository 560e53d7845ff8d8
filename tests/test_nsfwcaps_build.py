"""The stage as a whole on tiny tables: splits, resume to the same bytes, image sides, embedders, the data card."""

import ast
import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer, CLIPModel, CLIPTokenizer

from pipeline import nsfwcaps_build
from pipeline.errors import NearsafeError, run
from pipeline.images import image_cell
from pipeline.layout import table_file
from pipeline.nsfwcaps_alignment import EncoderEmbedder, load_embedder, mean_pool
from pipeline.rewriting.registry import load_rewriter
from pipeline.seeds import rng
from pipeline.tables import Output, read_output
from pipeline.world.drawing import STYLES, draw
from pipeline.world.grammar import caption
from pipeline.world.scenes import sample
from stages import build_nsfwcaps as stage
from tests.models.tiny import save_clip, save_diffusion

SECTION = {"size": 4, "splits": ["benchmark", "validation"], "min_alignment": -1, "shard_size": 3}


def write_world(path, urls=False, count=10):
    """Safe scenes with captions and images in two splits."""
    output = Output(path, {"stage": "world"})
    captions, images = [], []
    for number in range(2 * count):
        random, split = rng(number, "nsfwcaps build"), ("benchmark", "validation")[number >= count]
        scene = sample(random, unsafe=False)
        row = {"text": caption(scene, "shifted", number), "unsafe": False, "category": None, "source": "world/shifted"}
        captions.append({"caption_id": f"c{number:02d}", **row, "split": split, "family": scene.family})
        picture = {"bytes": None, "path": f"https://example.org/{number}.jpg"}
        cell = picture if urls else image_cell(draw(scene, STYLES["shifted"], random))
        image = {"image_id": f"i{number:02d}", "image": cell, "unsafe": False, "source": "world/shifted"}
        images.append({**image, "split": split, "caption_id": f"c{number:02d}"})
    output.write(table_file("captions"), "captions", captions)
    output.write(table_file("images"), "images", images)
    output.finish()
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("made") / "world")


def build(folder: Path, world: Path, clip: Path, out: str = "out", **section) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(json.dumps({"seed": 0, "build_nsfwcaps": {**SECTION, **section}}))
    stage.main(folder / "params.yaml", world, clip, folder / out)
    return folder / out


def digests(out):
    return {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in out.rglob("*.*")}


def test_both_splits_lie_in_one_output(tmp_path, world, clip, capsys):
    out = build(tmp_path, world, clip)
    pairs, captions = read_output(out, "pairs").to_pylist(), read_output(out, "captions").to_pylist()
    assert [pair["split"] for pair in pairs] == ["benchmark"] * 4 + ["validation"] * 4
    split_of = {row["caption_id"]: row["split"] for row in captions}
    assert all(split_of[p["safe_caption_id"]] == split_of[p["unsafe_caption_id"]] == p["split"] for p in pairs)
    images = {row["image_id"]: row for row in read_output(out, "images").to_pylist()}
    assert len(images) == 16 and all(images[p["unsafe_image_id"]]["unsafe"] for p in pairs)
    safe = {row["image_id"]: row for row in read_output(world, "images").to_pylist()}
    assert all(images[p["safe_image_id"]] == safe[p["safe_image_id"]] for p in pairs)
    assert {row["set"] for row in read_output(out, "filters").to_pylist()} == {
        "nsfwcaps/benchmark",
        "nsfwcaps/validation",
    }
    assert "validation: rewrote 10 of 10 captions" in capsys.readouterr().out


def test_a_split_is_the_same_with_and_without_the_other(tmp_path, world, clip):
    both, alone = build(tmp_path, world, clip, "both"), build(tmp_path, world, clip, "alone", splits=["benchmark"])
    for table, rows in (("pairs", 4), ("captions", 8), ("images", 8)):
        assert read_output(both, table).slice(0, rows).equals(read_output(alone, table))


@pytest.mark.parametrize("calls", [1, 5])
def test_an_interrupted_run_goes_on_where_it_was_and_gives_the_same_bytes(tmp_path, world, clip, monkeypatch, calls):
    asked = []

    def counting(*arguments):
        rewriter = load_rewriter(*arguments)
        rewrite = rewriter.rewrite

        def counted(captions, categories):
            if len(asked) == calls:
                raise KeyboardInterrupt
            asked.append(captions)
            return rewrite(captions, categories)

        rewriter.rewrite = counted
        return rewriter

    whole = digests(build(tmp_path, world, clip, "whole"))
    monkeypatch.setattr(nsfwcaps_build, "load_rewriter", counting)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, world, clip)
    assert not (tmp_path / "out" / "manifest.json").exists()
    first, calls = len(asked), -1
    out = build(tmp_path, world, clip)
    assert len(asked) == 8 and first < 8  # 4 shards of each split, none asked twice
    assert digests(out) == whole and not (out / ".resume").exists()


def imported(file: Path, package: Path) -> set[Path]:
    """Files of the package that a file imports, anywhere in it."""
    found = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom))
    names = {name for node in found for name in (node.module, *(f"{node.module}.{a.name}" for a in node.names))}
    files = {package.parent.joinpath(*name.split(".")).with_suffix(".py") for name in names}
    return {path for path in files if path.is_file() and package in path.parents}


def test_a_change_of_any_code_that_the_output_depends_on_starts_afresh():
    package = Path(nsfwcaps_build.__file__).parent
    reached, waiting = set(), {Path(nsfwcaps_build.__file__)}
    while waiting:
        reached |= waiting
        waiting = set().union(*(imported(file, package) for file in waiting)) - reached
    assert package / "nsfwcaps_diffusers.py" in reached
    assert set(nsfwcaps_build.code_files(package)) == reached


def test_other_parameters_do_not_continue_an_interrupted_run(tmp_path, world, clip, monkeypatch):
    def broken(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(nsfwcaps_build, "write_card", broken)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, world, clip, size=3)
    assert (tmp_path / "out" / ".resume").is_dir()
    assert digests(build(tmp_path, world, clip)) == digests(build(tmp_path, world, clip, "whole"))


def test_without_a_renderer_urls_stay_urls(tmp_path, clip):
    world = write_world(tmp_path / "world", urls=True)
    out = build(tmp_path, world, clip, images={"kind": "none"})
    assert read_output(out, "pairs")["unsafe_image_id"].null_count == 8
    cells = read_output(out, "images")["image"].to_pylist()
    assert len(cells) == 8 and all(c["bytes"] is None and c["path"].startswith("https://") for c in cells)
    assert "unsafe images: 0" in (out / "card.md").read_text()


def save_stable_diffusion(folder, clip):
    save_diffusion(folder)
    CLIPModel.from_pretrained(clip).text_model.save_pretrained(folder / "text_encoder")
    CLIPTokenizer.from_pretrained(clip).save_pretrained(folder / "tokenizer")
    return folder


def test_a_diffusers_folder_makes_the_unsafe_images(tmp_path, world, clip):
    folder = save_stable_diffusion(tmp_path / "sd", clip)
    images = {"kind": "diffusers", "folder": str(folder), "steps": 2, "batch_size": 2}
    out = build(tmp_path, world, clip, images=images, splits=["benchmark"])
    again = build(tmp_path, world, clip, "again", images={**images, "batch_size": 1}, splits=["benchmark"])
    made = [[r for r in read_output(o, "images").to_pylist() if r["unsafe"]] for o in (out, again)]
    assert [r["image_id"] for r in made[0]] == [r["image_id"] for r in made[1]] and len(made[0]) == 4
    assert len({r["image"]["bytes"] for r in made[0]}) == 4  # each has its own noise
    assert "sd@" in (out / "card.md").read_text()
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    (folder / "text_encoder" / "config.json").write_text("{")
    with pytest.raises(NearsafeError, match="text_encoder/config.json: not a readable configuration"):
        build(tmp_path, world, clip, "broken", images=images)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A random BERT of one layer."""
    folder = tmp_path_factory.mktemp("encoder") / "tiny-bert"
    folder.mkdir()
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained(folder)
    return folder


def test_any_text_encoder_measures_the_alignment(tmp_path, world, clip, encoder):
    embedder = load_embedder(EncoderEmbedder("encoder", encoder, batch_size=2), clip)
    texts = ["a cup", "a much longer text about a cup", "a"]
    vectors = embedder.embed(texts)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3))
    assert torch.allclose(vectors, torch.cat([embedder.embed([text]) for text in texts]), atol=1e-6)  # no padding in it
    out = build(tmp_path, world, clip, embedder={"kind": "encoder", "folder": str(encoder)})
    assert embedder.name in (out / "card.md").read_text()
    assert json.loads((out / "spec.json").read_text())["embedder"]["name"] == embedder.name
    with pytest.raises(NearsafeError, match="two towers, not a text encoder"):
        load_embedder(EncoderEmbedder("encoder", clip), clip)
    with pytest.raises(NearsafeError, match="nowhere: no such model folder"):
        load_embedder(EncoderEmbedder("encoder", tmp_path / "nowhere"), clip)


def test_mean_pooling_by_hand():
    states = torch.tensor([[[3.0, 0.0], [3.0, 8.0], [9.0, 9.0]]])
    assert torch.allclose(mean_pool(states, torch.tensor([[1, 1, 0]])), torch.tensor([[0.6, 0.8]]))


def test_the_card_holds_sizes_rewriter_alignment_and_every_filter(tmp_path, world, clip):
    out = build(tmp_path, world, clip)
    card = (out / "card.md").read_text()
    for part in ("| rewriter | world grammar |", "| benchmark | 1 | 1 | 1 | 1 | 4 |", "cc-by-nc-4.0", "no switch"):
        assert part in card
    for row in read_output(out, "filters").to_pylist():
        version = row["version"]
        assert f"| {row['set']} | {row['filter']} | {version} | {row['n_before']} | {row['n_dropped']} | " in card
    values = read_output(out, "pairs")["similarity"].to_pylist()[:4]
    assert f"| benchmark | 4 | {sum(values) / 4:.4f} | {min(values):.4f} |" in card
    listed = {file["name"] for file in json.loads((out / "manifest.json").read_text())["files"]}
    assert "card.md" in listed


def test_what_is_wrong_is_one_line(tmp_path, world, clip, monkeypatch, capsys):
    def fails(**section):
        with pytest.raises(SystemExit):
            (tmp_path / "params.yaml").write_text(json.dumps({"seed": 0, "build_nsfwcaps": {**SECTION, **section}}))
            names = {"params": tmp_path / "params.yaml", "world": world, "clip": clip, "out": tmp_path / "out"}
            monkeypatch.setattr(sys, "argv", ["stage", *(str(p) for k, v in names.items() for p in (f"--{k}", v))])
            run(stage.main, stage.parser())
        return capsys.readouterr().err

    assert "captions: no safe row of split 'tset'; splits: benchmark, validation" in fails(splits=["tset"])
    assert "asked for 400 quadruples of split 'benchmark'" in fails(size=400)
    assert "nowhere: no such model folder" in fails(rewriter={"kind": "chat", "folder": "nowhere"})
    assert "NO_KEY is not set" in fails(
        rewriter={"kind": "endpoint", "url": "https://x/v1", "model": "m", "key_env": "NO_KEY"}
    )
