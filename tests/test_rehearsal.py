"""What a rehearsal makes up is what the loaders of real checkpoints and data read."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import NearsafeError
from pipeline.models.clip import encode_texts, load_clip
from pipeline.models.diffusion import load_diffusion
from pipeline.models.llava import describe, load_llava, with_vision_tower
from pipeline.params import load
from pipeline.prompt_files import PromptFile, read_prompt_file
from pipeline.rehearsal.data import Sizes, make_safer_clip
from pipeline.rehearsal.models import make_models
from pipeline.rehearsal.workspace import prepare
from pipeline.sources.protocol import Drops, ImageRow, LabelRow, PairRow
from pipeline.sources.registry import make_entry

ROOT = Path(__file__).parents[1]
SMALL = Sizes(visu=(4, 1, 2), nsfwcaps=2, classes=1, images=1, pool=1, reply=1, prompts=2, captions=2)


def test_models_load_as_the_real_ones_do(tmp_path: Path) -> None:
    make_models(tmp_path / "clip", tmp_path / "sd", tmp_path / "llava")
    clip = load_clip(tmp_path / "clip")
    ids = clip.tokenizer("a knife")["input_ids"]
    assert (ids[0], ids[-1]) == (49406, 49407)
    assert not encode_texts(clip, ["a knife", "a mug"]).diff(dim=0).eq(0).all()
    assert load_diffusion(tmp_path / "sd").image_size == (64, 64)
    llava = with_vision_tower(load_llava(tmp_path / "llava"), clip)
    picture = np.zeros((240, 240, 3), dtype=np.uint8)
    assert len(describe(llava, [picture], "Describe this image.", [0], temperature=0.0, max_new_tokens=2)) == 1
    before = (tmp_path / "clip/model.safetensors").stat().st_mtime_ns
    make_models(tmp_path / "clip", tmp_path / "sd", None)
    assert (tmp_path / "clip/model.safetensors").stat().st_mtime_ns == before  # kept


def test_data_is_read_by_the_sources_of_the_profile(tmp_path: Path) -> None:
    make_safer_clip(tmp_path, sizes=SMALL)
    entries = load(ROOT / "profiles/paper-safer-clip.yaml")["sources"]["entries"]
    rows = []
    for name, values in entries.items():
        drops = Drops()
        rows += [row for record in make_entry(name, values).source.rows(tmp_path, drops) for row in record.rows]
        assert drops.total() == 0, name
    pairs = [row for row in rows if isinstance(row, PairRow)]
    assert [pair.split for pair in pairs].count("train") == 4
    assert all(pair.safe_image and pair.unsafe_image for pair in pairs)
    assert len({row.task for row in rows if isinstance(row, LabelRow)}) == 11
    assert all(row.path.is_file() for row in rows if isinstance(row, ImageRow) and row.path)
    i2p = PromptFile(tmp_path / "prompts/i2p_benchmark.csv", "i2p", unsafe=True)
    assert [row["guidance"] for row in read_prompt_file("i2p", i2p)[0]] == [7.0, 7.0]


def test_unknown_rehearsal() -> None:
    with pytest.raises(NearsafeError, match="no rehearsal of 'other'; there are: paper-safer-clip, paper-des"):
        prepare(ROOT, "other")
