"""All eleven sets from files to scores: one row for each beside their mean."""

import pytest

from pipeline.metrics.rows import Scores
from pipeline.models.clip import load_clip
from pipeline.scoring_items import Encoder
from pipeline.scoring_zeroshot import classifiers, read_tasks, score_zero_shot
from pipeline.sources.ingest import ingest
from pipeline.sources.registry import SourcesParams, make_entry
from pipeline.sources.zeroshot.classes import read_classes, shipped
from tests.models.tiny import save_clip
from tests.sources.pictures_of import write_picture


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three images of each set, in folders called as the classes are in prompts."""
    root = tmp_path_factory.mktemp("eleven")
    for name in shipped():
        names = read_classes(name, root).names
        for place, number in enumerate((0, 1, len(names) - 1)):
            folder = names[number].replace("/", "_")
            write_picture(root / "files" / name / folder / f"{number}.jpg", place)
    entries = [make_entry(name, {"kind": "zero_shot", "set": name, "images": name}) for name in shipped()]
    ingest(SourcesParams(root / "files"), entries, root / "world", lambda line: None)
    return root / "world"


def test_eleven_values_and_their_mean(world, tmp_path):
    save_clip(tmp_path / "clip")
    clip = load_clip(tmp_path / "clip")
    tasks = read_tasks(world)
    scores = Scores("original", 0, clip.hash)
    images = Encoder(clip, 8).images(world, tasks.images())
    score_zero_shot(scores, tasks, images, classifiers(clip, tasks, 256), "d", 20, 0)
    rows = {row["protocol"]: row for row in scores.rows}
    assert set(rows) == {*shipped(), "mean"} and {row["benchmark"] for row in rows.values()} == {"zeroshot/base"}
    assert all(rows[name]["n"] == 3 for name in shipped()) and rows["mean"]["n"] == 33
    assert rows["mean"]["value"] == pytest.approx(sum(rows[name]["value"] for name in shipped()) / 11)
    assert rows["imagenet"]["ci_method"] == "wilson" and rows["mean"]["ci_low"] is not None
