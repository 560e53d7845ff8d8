"""The stages after `world` on users' data: embed, mine_pairs, bucket_difficulty, train."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML
from transformers import CLIPModel

from pipeline.errors import TableError
from pipeline.layout import Data, seed_folder
from pipeline.tables import read_output
from stages import bucket_difficulty, embed, mine_pairs, train, world
from tests.learning import DES, PARAMS, save_clip
from tests.sources.files import copro, put, visu_hub

VISU = {
    "kind": "visu", "texts": "visu", "safe_images": "coco", "unsafe_images": "unsafe", "splits": {"train": "train"}
}  # fmt: skip
COPRO = {"kind": "copro", "file": "copro.json"}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder of the stages, with a small CLIP; the paths of images count from it."""
    monkeypatch.chdir(tmp_path)
    save_clip(tmp_path / "clip")
    visu_hub(tmp_path / "files", 12)
    put(tmp_path / "files/copro.json", copro())
    return tmp_path


def chain(folder: Path, defence: str, copy: bool = False, **entries: dict) -> Data:
    """Run the stages up to a checkpoint."""
    values = YAML(typ="safe").load(PARAMS.format(seeds="[0]"))
    values["sources"] = {"root": "files", "entries": {name: {**e, "copy": copy} for name, e in entries.items()}}
    values["defences"]["des"] = DES
    params, data, clip = folder / "params.yaml", Data(Path("data")), Path("clip")
    with params.open("w") as file:
        YAML().dump(values, file)
    world.main(params, data.world)
    embed.main(params, data.world, clip, data.embeddings)
    mine_pairs.main(params, data.world, data.embeddings, data.targets)
    bucket_difficulty.main(params, data.world, data.embeddings, data.targets, data.buckets)
    inputs = {"world": data.world, "embeddings": data.embeddings, "targets": data.targets, "buckets": data.buckets}
    train.main(params, defence, **inputs, clip=clip, out=data.checkpoints(defence))
    return data


@pytest.mark.parametrize("copy", [False, True])
def test_training_on_quadruples_whose_images_are_paths_or_bytes(folder, copy):
    data = chain(folder, "safe_clip", copy, visu=VISU)
    cells = read_output(data.world, "images").column("image").to_pylist()
    assert all((cell["bytes"] is not None) == copy and (cell["path"] is not None) != copy for cell in cells)
    CLIPModel.from_pretrained(data.checkpoints("safe_clip") / seed_folder(0))
    assert set(read_output(data.targets, "targets")["pair_id"].to_pylist()) == set(
        read_output(data.world, "pairs")["pair_id"].to_pylist()
    )


def test_text_pairs_train_a_text_defence_without_any_image(folder):
    data = chain(folder, "des", copro=COPRO)
    CLIPModel.from_pretrained(data.checkpoints("des") / seed_folder(0))
    assert read_output(data.buckets, "buckets").num_rows == 10


def test_a_defence_that_needs_images_says_which_pair_has_none(folder):
    with pytest.raises(TableError, match=r"pair 'p\w+' has none, training needs it"):
        chain(folder, "safe_clip", visu=VISU, copro=COPRO)
