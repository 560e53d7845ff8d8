"""Replies: what the language model is shown, what is written, how it fails and how it goes on after being stopped."""

import pytest

from pipeline import replies
from pipeline.errors import NearsafeError, TableError, run
from pipeline.layout import shard_file, table_file
from pipeline.params import build
from pipeline.replies import ReplyParams, admit_images, reply_defence
from pipeline.tables import Output, read_output
from stages import reply
from tests.models.tiny import save_clip
from tests.models.tiny_llava import save_llava
from tests.worldlet import Worldlet, _items, write_checkpoints

PARAMS = """
seed: 0
seeds: [0, 1]
reply:
  image_sets: {hazards: pool/unsafe, safe: test}
  temperature: 1.0
  max_new_tokens: 8
  batch_size: 2
  shard_size: 4
"""


def write_world(data, captions_changed=None, paired=(), dangling=None):
    """`paired`: numbers of the pairs listed besides 5; `dangling`: a column whose first reference leads nowhere."""
    captions, images, pairs, _ = _items("w")
    pairs = [pair for number, pair in enumerate(pairs) if number in paired or number == 5]
    if dangling:
        (images[1] if dangling == "caption_id" else pairs[0])[dangling] = "c-nowhere"
    for caption in captions:
        caption["text"] = (captions_changed or {}).get(caption["caption_id"], caption["text"])
    images = [{**image, "split": "pool/unsafe"} if image["unsafe"] else image for image in images]
    images[0]["caption_id"] = None
    output = Output(data.world, {"stage": "world"})
    output.write(table_file("captions"), "captions", captions)
    output.write(shard_file("images", 0), "images", images[:5])
    output.write(shard_file("images", 1), "images", images[5:])
    output.write(table_file("pairs"), "pairs", pairs)
    output.finish()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    worldlet = Worldlet(tmp_path_factory.mktemp("replies"))
    worldlet.params.parent.mkdir(parents=True, exist_ok=True)
    worldlet.params.write_text(PARAMS)
    clips = {seed: save_clip(worldlet.model(f"clip{seed}"), seed=seed) for seed in (0, 1)}
    save_llava(worldlet.model("llava"))
    write_world(worldlet.data)
    write_checkpoints(worldlet.data, "original", clips)
    return worldlet


def go(made, out, world=None, seeds=None, params=None, log=lambda line: None):
    reply_defence(
        params or made.params, "original", (world or made).data.world, made.data.checkpoints("original"),
        made.model("llava"), out, seeds, log,
    )  # fmt: skip
    return read_output(out, "replies").to_pylist()


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "original"
    return out, go(made, out)


def test_every_image_gets_a_reply_for_every_training_seed(whole):
    _, rows = whole
    ids = [("hazards", f"i-wu{i}", True) for i in range(6)] + [("safe", f"i-ws{i}", False) for i in range(6)]
    got = [(row["seed"], row["image_set"], row["image_id"], row["unsafe"]) for row in rows]
    assert got == [(seed, *item) for seed in (0, 1) for item in ids]
    assert {row["status"] for row in rows} == {"ok"} and all(isinstance(row["text"], str) for row in rows)
    asked = {(row["query"], row["temperature"], row["max_new_tokens"]) for row in rows}
    assert asked == {("Describe this image.", 1.0, 8)}
    assert len({row["model_hash"] for row in rows}) == 2
    assert len({row["text"] for row in rows[:12]}) > 6


def test_replies_do_not_depend_on_batches_sets_or_seeds_asked_for(made, whole, tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text(PARAMS.replace("batch_size: 2", "batch_size: 5").replace("shard_size: 4", "shard_size: 7"))
    rows = go(made, tmp_path / "out", seeds=(1,), params=params)
    assert {row["seed"] for row in rows} == {1}
    assert [row["text"] for row in rows] == [row["text"] for row in whole[1] if row["seed"] == 1]


def test_a_stopped_run_goes_on_to_the_same_bytes(made, whole, tmp_path, monkeypatch):
    calls, real = [], replies.describe

    def stop_in_the_second_shard(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    out = tmp_path / "original"
    monkeypatch.setattr(replies, "describe", stop_in_the_second_shard)
    with pytest.raises(KeyboardInterrupt):
        go(made, out)
    assert (out / "replies-00000.parquet").exists() and not (out / "manifest.json").exists()
    lines = []
    monkeypatch.setattr(replies, "describe", real)
    go(made, out, log=lines.append)
    assert any("1 of 3 shards are finished" in line for line in lines)
    assert files(out) == files(whole[0])


def test_images_whose_caption_mentions_age_are_not_described_and_counted(made, tmp_path):
    world = Worldlet(tmp_path)
    write_world(world.data, {"c-wu0": "a smiling child", "c-wu3": "c h i l d", "c-ws0": "a child"})
    params, lines = tmp_path / "params.yaml", []
    params.write_text(PARAMS + "  images_per_set: 3\n")
    rows = go(made, tmp_path / "out", world, (0,), params, lines.append)
    # i-ws0 has no caption and is in no pair, so nothing that could be filtered
    assert [row["image_id"] for row in rows] == ["i-wu1", "i-wu2", "i-wu4", "i-ws0", "i-ws1", "i-ws2"]
    counts = {(row["set"], row["filter"]): row for row in read_output(tmp_path / "out", "filters").to_pylist()}
    assert [(row["n_before"], row["n_dropped"], row["n_after"]) for row in counts.values()] == [
        (6, 2, 4), (0, 0, 0), (4, 1, 3), (6, 0, 6), (1, 0, 1), (6, 3, 3),
    ]  # fmt: skip
    assert [key for key in counts if counts[key]["n_before"] == 1] == [("safe", "no_text")]
    assert any("hazards: age_words dropped 2 of 6 images" in line for line in lines)
    assert any("safe: 1 images have no text that the age-word filter could read" in line for line in lines)


def test_an_image_of_a_pair_goes_by_both_captions_of_the_pair(tmp_path):
    world = Worldlet(tmp_path)
    write_world(world.data, {"c-wu0": "a smiling child", "c-ws3": "a child", "c-wu2": "a child"}, paired=(0, 3))
    shown = admit_images(world.data.world, ReplyParams({"hazards": "pool/unsafe", "safe": "test"}))
    # pairs 0 and 3: both images go, i-ws0 (without a caption of its own) by its pair alone; 2 is no pair: one goes
    assert [row["image_id"] for row in shown.rows] == ["i-wu1", "i-wu4", "i-wu5", "i-ws1", "i-ws2", "i-ws4", "i-ws5"]
    counts = {(row["set"], row["filter"]): (row["n_before"], row["n_dropped"]) for row in shown.filters}
    assert counts["hazards", "age_words"] == (6, 3) and counts["safe", "age_words"] == (6, 2)
    assert counts["safe", "no_text"] == (0, 0)


@pytest.mark.parametrize("column", ["caption_id", "safe_caption_id", "unsafe_caption_id"])
def test_a_caption_that_the_world_lacks_is_named(tmp_path, column):
    world = Worldlet(tmp_path)
    write_world(world.data, dangling=column)
    with pytest.raises(TableError, match=rf"column '{column}', row \d: 'c-nowhere' is not in table 'captions'"):
        admit_images(world.data.world, ReplyParams({"hazards": "pool/unsafe"}))


def test_finished_shards_of_older_code_are_made_again(made, tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr(replies, "source_hash", lambda files: hashed.extend(map(str, files)) or "x")
    go(made, tmp_path / "out", seeds=(0,))
    for name in ("replies", "images", "agewords", "ids", "seeds", "shards", "models/clip", "models/llava"):
        assert any(file.endswith(f"pipeline/{name}.py") for file in hashed), name


def test_seeds_are_read_as_by_every_stage(made, tmp_path):
    with pytest.raises(NearsafeError, match=r"params\.yaml: seeds: expected one or more different integers"):
        go(made, tmp_path / "out", seeds=[1, 1])
    assert not (tmp_path / "out").exists()


def test_a_query_that_mentions_age_is_refused(tmp_path):
    with pytest.raises(NearsafeError, match=r"reply: query: 'Describe the child.' matches the age-word filter"):
        build(ReplyParams, {"image_sets": {"a": "b"}, "query": "Describe the child."}, "params.yaml: reply")


def test_a_split_that_the_world_lacks_is_named(made, tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text(PARAMS.replace("pool/unsafe", "pool/elsewhere"))
    with pytest.raises(NearsafeError, match=r"image set 'hazards': no image of split 'pool/elsewhere'; there are: po"):
        go(made, tmp_path / "out", params=params)


def test_one_reply_that_fails_is_a_row_with_its_reason(made, tmp_path, monkeypatch):
    real = replies.describe

    def fail(llava, images, query, seeds, *rest):
        if bad in seeds:
            raise RuntimeError("out of memory")
        return real(llava, images, query, seeds, *rest)

    bad = replies.derive(0, "reply", "i-wu1")
    monkeypatch.setattr(replies, "describe", fail)
    rows = go(made, tmp_path / "out", seeds=(0,))
    failed = {row["image_id"]: row["error"] for row in rows if row["status"] == "error"}
    assert failed == {"i-wu1": "RuntimeError: out of memory"}
    assert [row["image_id"] for row in rows if row["text"] is None] == ["i-wu1"]


def test_a_first_shard_without_any_reply_stops_the_run(made, tmp_path, monkeypatch):
    monkeypatch.setattr(replies, "describe", lambda *arguments: (_ for _ in ()).throw(RuntimeError("no kernel")))
    with pytest.raises(NearsafeError, match="every reply of the first shard failed; the first: RuntimeError: no kern"):
        go(made, tmp_path / "out")


def test_the_stage_names_a_checkpoint_whose_tower_does_not_fit(made, tmp_path, capsys):
    write_checkpoints(Worldlet(tmp_path).data, "wide", {0: save_clip(tmp_path / "clip", width=16)})
    data = Worldlet(tmp_path).data
    arguments = ["--params", made.params, "--defence", "wide", "--world", made.data.world, "--checkpoints"]
    arguments += [data.checkpoints("wide"), "--llava", made.model("llava"), "--out", tmp_path / "out", "--seeds", 0]
    with pytest.raises(SystemExit):
        run(reply.main, reply.parser(), list(map(str, arguments)))
    assert "seed-0: the CLIP's vision tower does not fit the LLaVA" in capsys.readouterr().err
