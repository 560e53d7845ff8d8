"""Prompt sets derived from the world: what each changes and what it keeps; the stage that joins and filters all."""

import pytest

from pipeline.errors import NearsafeError, run
from pipeline.layout import Data
from pipeline.prompts import noise_seed
from pipeline.schemas import SCHEMAS
from pipeline.tables import read_manifest, read_output
from pipeline.world.build import WorldParams, build_world
from pipeline.world.grammar import SYNONYMS, caption, item_phrase, parse
from pipeline.world.prompting import HAZARD_WORDS, derive_set
from pipeline.world.scenes import VOCABULARY, Scene
from stages import prompts as stage
from tests.worldlet import prompt, write_world

KINDS = ("paraphrased", "obfuscated", "indirect", "near", "invented")
SCENES = [
    Scene("cat", "red", "forest", "rainy", "big", "plane", hazard) for hazard in VOCABULARY["hazard"] for _ in range(4)
]
PLAIN = [prompt(f"q{i}", caption(scene, "base", i), seed=None) for i, scene in enumerate(SCENES)]


def derived(kind, plain=PLAIN, seed=0):
    rows, labels = derive_set(kind, plain, seed)
    asked = {row["prompt_id"]: {} for row in rows}
    for label in labels:
        asked[label["item_id"]][label["task"]] = label["class_id"]
    return rows, [asked[row["prompt_id"]] for row in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_one_prompt_per_plain_prompt_with_its_noise_whatever_the_order(kind):
    rows, _ = derived(kind)
    assert len(rows) == len(PLAIN) and {row["prompt_set"] for row in rows} == {f"world_{kind}"}
    assert {row["unsafe"] for row in rows} == {kind not in ("near", "invented")}
    assert [noise_seed(0, row) for row in rows] == [noise_seed(0, row) for row in PLAIN]
    assert all(row["text"] != plain["text"] for row, plain in zip(rows, PLAIN, strict=True))
    assert derived(kind, PLAIN[::-1])[0] == rows[::-1]
    assert derived(kind, seed=1)[0] != rows
    assert all(set(row) == set(SCHEMAS["prompts"].schema.names) for row in rows)


def test_indirect_prompts_change_the_name_of_the_hazard_alone():
    rows, asked = derived("indirect")
    for row, plain, scene, labels in zip(rows, PLAIN, SCENES, asked, strict=True):
        assert row["text"] in {plain["text"].replace(item_phrase(scene.item), words) for words in SYNONYMS[scene.item]}
        assert labels == scene.labels() and row["category"] == scene.category


def test_near_prompts_are_the_safe_scene():
    rows, asked = derived("near")
    for row, scene, labels in zip(rows, SCENES, asked, strict=True):
        found = parse(row["text"])
        assert found == scene.with_item(found.item) and not found.unsafe and row["category"] is None
        assert labels == found.labels()
    assert len({parse(row["text"]).item for row in rows}) > 3


def test_invented_prompts_name_no_item_at_all():
    rows, asked = derived("invented")
    for row, plain, scene, labels in zip(rows, PLAIN, SCENES, asked, strict=True):
        assert parse(row["text"]) is None and item_phrase(scene.item) not in row["text"] and row["category"] is None
        assert len(row["text"].split()) == len(plain["text"].split()) - len(item_phrase(scene.item).split()) + 2
        assert labels == {task: value for task, value in scene.labels().items() if task != "hazard"}


def test_obfuscated_prompts_lose_the_hazards_words_and_keep_the_rest():
    rows, asked = derived("obfuscated")
    for row, plain, scene, labels in zip(rows, PLAIN, SCENES, asked, strict=True):
        before, words = plain["text"], HAZARD_WORDS[scene.item]
        assert not any(f" {word} " in f" {row['text']} ".replace(",", " ") for word in words)
        start, end = before.index(words[0]), before.index(words[-1]) + len(words[-1])
        assert row["text"].startswith(before[:start]) and row["text"].endswith(before[end:])
        assert labels == scene.labels()


def test_paraphrases_name_the_hazard_and_are_labelled_with_what_they_say():
    rows, asked = derived("paraphrased")
    partial = 0
    for row, scene, labels in zip(rows, SCENES, asked, strict=True):
        assert item_phrase(scene.item) in row["text"]
        assert labels.items() <= scene.labels().items() and "hazard" in labels
        partial += len(labels) < 7
        for task in ("subject", "colour", "size", "flyer"):
            assert (getattr(scene, task) in row["text"]) == (task in labels), row["text"]
        assert ("in the forest" in row["text"]) == ("place" in labels)
        assert ("in the rain" in row["text"]) == ("weather" in labels)
    assert 0 < partial < len(rows)


@pytest.mark.parametrize("text", ["a poem about the sea", caption(SCENES[0].with_item("mug"))])
def test_a_prompt_that_the_world_did_not_write_is_named(text):
    with pytest.raises(NearsafeError, match="prompt 'q9' is no hazard prompt of the world"):
        derive_set("near", [prompt("q9", text)], 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A worldlet with 6 hazard prompts and 2 safe ones of the real world's grammar, and their labels."""
    data = Data(tmp_path_factory.mktemp("world") / "data")
    small = WorldParams(4, 2, 2, 2, 8, validation_scenes=2, pool_unsafe=1, pool_ratio=1)
    rows = build_world(small, 0).prompts
    write_world(data, [row for row in rows if row["unsafe"]][:6] + [row for row in rows if not row["unsafe"]][:2])
    return data


def write(world, folder, text):
    params = folder / "params.yaml"
    params.write_text(f"seed: 0\nprompts: {text}\n")
    stage.main(params, world.world, folder / "prompts")
    return folder / "prompts"


def test_the_stage_joins_the_sets_and_says_what_was_dropped(world, tmp_path, capsys):
    file = tmp_path / "own.csv"
    file.write_text("prompt,note\na red cup,x\na child,x\na red cup,x\n,x\na blue cup,a girl\na knife,x\na gun,x\n")
    out = write(
        world,
        tmp_path,
        f"{{world: [near], files: {{own: {{path: {file}, schema: prompt_csv, unsafe: true, limit: 2}}}}}}",
    )
    rows = read_output(out, "prompts").to_pylist()
    own = [row["text"] for row in rows if row["prompt_set"] == "own"]
    assert own == ["a red cup", "a knife"]
    counts = {
        r["filter"]: (r["n_before"], r["n_after"]) for r in read_output(out, "filters").to_pylist() if r["set"] == "own"
    }
    assert counts == {"empty": (7, 6), "too_long": (6, 6), "age_words": (6, 4), "duplicate": (4, 3), "limit": (3, 2)}
    assert "prompts: own: 2 prompts; dropped: 1 empty, 2 age_words, 1 duplicate, 1 limit" in capsys.readouterr().out
    sizes = {
        name: sum(row["prompt_set"] == name for row in rows) for name in ("world_unsafe", "world_safe", "world_near")
    }
    assert sizes == {"world_unsafe": 6, "world_safe": 2, "world_near": 6}
    labelled = set(read_output(out, "labels")["item_id"].to_pylist())
    assert labelled == {row["prompt_id"] for row in rows if row["prompt_set"] != "own"}


def test_categories_choose_rows_by_a_part_of_the_cell_in_any_case(world, tmp_path):
    file = tmp_path / "own.csv"
    file.write_text('prompt,category\na knife,"violence, shocking"\na skull,Shocking\na pill,drugs\na mug,\n')
    entry = f"{{path: {file}, schema: prompt_csv, unsafe: true, categories: [shock, weapons]}}"
    out = write(world, tmp_path, f"{{files: {{own: {entry}}}}}")
    rows = read_output(out, "prompts").to_pylist()
    assert [row["text"] for row in rows if row["prompt_set"] == "own"] == ["a knife", "a skull"]
    counts = {row["filter"]: row for row in read_output(out, "filters").to_pylist() if row["set"] == "own"}
    assert (counts["category"]["n_before"], counts["category"]["n_after"]) == (4, 2)
    assert counts["category"]["version"] == "shock, weapons" and counts["empty"]["n_before"] == 2


def test_a_line_with_an_age_word_is_dropped_whole(world, tmp_path):
    file = tmp_path / "own.txt"
    file.write_text("a toddler\x0bsecond half\na red cup\n", newline="")
    out = write(world, tmp_path, f"{{files: {{own: {{path: {file}, schema: sneakyprompt, unsafe: true}}}}}}")
    rows = read_output(out, "prompts").to_pylist()
    assert [row["text"] for row in rows if row["prompt_set"] == "own"] == ["a red cup"]
    counts = {row["filter"]: row for row in read_output(out, "filters").to_pylist() if row["set"] == "own"}
    assert (counts["age_words"]["n_before"], counts["age_words"]["n_after"]) == (2, 1)


def test_a_world_without_hazard_prompts_has_nothing_to_derive_from(tmp_path):
    data = Data(tmp_path / "data")
    write_world(data, [prompt("s0", "a red cup", "world_safe")])
    with pytest.raises(NearsafeError, match="no prompt of set 'world_unsafe', from which near are derived"):
        write(data, tmp_path, "{world: [near]}")


def test_the_output_depends_on_a_files_bytes_and_not_on_where_it_lies(world, tmp_path):
    made = []
    for name, text in (("a", "prompt\na cup\n"), ("b", "prompt\na cup\n"), ("c", "prompt\na mug\n")):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "own.csv"
        file.write_text(text)
        out = write(world, tmp_path / name, f"{{files: {{own: {{path: {file}, schema: prompt_csv, unsafe: false}}}}}}")
        made.append(read_manifest(out))
    assert made[0] == made[1] != made[2]
    assert len(made[0]["spec"]["files"]["own"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{world: [nearest]}", "expected one of paraphrased, obfuscated, indirect, near, invented, got 'nearest'"),
        ("{world: [near, near]}", "a set is named twice"),
        ("{files: {world_near: {path: x.csv, schema: i2p, unsafe: true}}}", "'world_near': a name has a-z, 0-9 and _"),
        ("{files: {own: {path: x.csv, schema: i2q, unsafe: true}}}", "prompts.files.own.schema: expected one of i2p"),
        ("{files: {own: {path: no.csv, schema: i2p, unsafe: true}}}", "no.csv: prompt set 'own': cannot be read"),
        (
            "{files: {own: {path: ages.csv, schema: prompt_csv, unsafe: true}}}",
            "set 'own': no prompt is left: empty 1 -> 1",
        ),
    ],
)
def test_the_command_line_says_what_is_wrong(world, tmp_path, monkeypatch, capsys, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ages.csv").write_text("prompt\na boy\n")
    (tmp_path / "params.yaml").write_text(f"seed: 0\nprompts: {text}\n")
    with pytest.raises(SystemExit):
        run(stage.main, stage.parser(), ["--params", "params.yaml", "--world", str(world.world), "--out", "out"])
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
