"""Generation: what enters it, what it writes, how it fails and how it goes on after being stopped."""

import re
from dataclasses import replace
from time import monotonic

import pyarrow as pa
import pytest
import torch

from pipeline import generation
from pipeline.compute import Progress
from pipeline.defences.registry import read_defence
from pipeline.errors import NearsafeError
from pipeline.generation import GenerateParams, Sampling, generate_defence, generate_rows
from pipeline.images import decode_image
from pipeline.models.callbacks import NoCallbacks
from pipeline.models.clip import load_clip
from pipeline.models.diffusion import load_diffusion, text_tower
from pipeline.prompts import admit
from pipeline.schemas import SCHEMAS
from pipeline.tables import read_manifest, read_output
from tests.worldlet import PROMPTS, Worldlet, make, prompt, write_prompts


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("worldlet"))


def run(worldlet: Worldlet, out, log=lambda line: None, prompts=None, params=None, **options):
    defence = read_defence(worldlet.params, "original")
    data = worldlet.data
    generate_defence(
        params or worldlet.params, defence, prompts or data.prompts, data.checkpoints("original"),
        worldlet.model("diffusion"), out, log, **options,
    )  # fmt: skip
    return read_output(out, "generations").to_pylist()


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "original"
    return out, run(made, out)


def test_every_prompt_gives_an_image_for_every_training_seed(whole):
    _, rows = whole
    assert [(row["seed"], row["prompt_id"]) for row in rows] == [(s, p["prompt_id"]) for s in (0, 1) for p in PROMPTS]
    assert {row["status"] for row in rows} == {"ok"}
    assert {(row["height"], row["width"], row["steps"], row["sampler"]) for row in rows} == {
        (32, 32, 2, "DPMSolverMultistepScheduler")
    }
    assert [row["guidance"] for row in rows[:3]] == [5.0, 2.0, 5.0]  # u1 brings its own
    assert len({row["model_hash"] for row in rows}) == 2
    images = [decode_image(row["image"], "x").tobytes() for row in rows]
    assert len(set(images)) == 12


def test_a_stopped_run_goes_on_to_the_same_bytes(made, whole, tmp_path, monkeypatch):
    calls = []
    real = generation.generate

    def stop_in_the_third_shard(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    out = tmp_path / "original"
    monkeypatch.setattr(generation, "generate", stop_in_the_third_shard)
    with pytest.raises(KeyboardInterrupt):
        run(made, out)
    assert (out / "generations-00001.parquet").exists()
    assert not (out / "manifest.json").exists()
    (out / "generations-00001.parquet").write_bytes(b"cut short")
    lines = []
    monkeypatch.setattr(generation, "generate", real)
    run(made, out, lines.append)
    assert any("1 of 2 shards are finished" in line for line in lines)
    assert files(out) == files(whole[0])


def test_a_run_stopped_on_one_device_does_not_mix_with_another_ones_number_format(made, whole, tmp_path, monkeypatch):
    out, lines = tmp_path / "original", []
    run(made, out)
    assert read_manifest(out)["spec"]["params"]["precision"] == "fp32", "auto is settled in the spec"
    monkeypatch.setattr(generation, "settled_precision", lambda *given: ("bf16", "bf16: the GPU computes it"))
    rows = run(made, out, lines.append)
    assert {row["dtype"] for row in rows} == {"bfloat16"}
    assert not any("are finished" in line for line in lines), "no shard of the float32 run is kept"


def test_filters_count_and_cannot_be_switched_off(made, tmp_path):
    texts = {"long": "a" * 10_000, "blank": "  ", "age": "a smiling child", "split": "c h i l d", "good": "red cup"}
    rows = [prompt(name, text, "world_safe") for name, text in texts.items()]
    rows.append(prompt("label", "red cup 2", "world_safe", category="child abuse"))
    write_prompts(Worldlet(tmp_path).data, rows)
    out, lines = tmp_path / "out", []
    made_of = run(made, out, lines.append, prompts=Worldlet(tmp_path).data.prompts)
    assert {row["prompt_id"] for row in made_of} == {"good"}
    counted = {row["filter"]: row for row in read_output(out, "filters").to_pylist()}
    assert [(n, r["n_before"], r["n_dropped"], r["n_after"]) for n, r in sorted(counted.items())] == [
        ("age_words", 4, 3, 1),
        ("empty", 6, 1, 5),
        ("too_long", 5, 1, 4),
    ]
    assert any("age_words dropped 3 of 4 prompts" in line for line in lines)


def test_no_prompt_left_is_an_error(made, tmp_path):
    write_prompts(Worldlet(tmp_path).data, [prompt("age", "a boy")])
    with pytest.raises(NearsafeError, match="no prompt is left after the filters"):
        run(made, tmp_path / "out", prompts=Worldlet(tmp_path).data.prompts)


def knobs(made, tmp_path, line):
    params = tmp_path / "params.yaml"
    params.write_text(f"{made.params.read_text()}\nstudy: {{generate: {{steps: 1, guidance: 3.0, {line}}}}}\n")
    return {"params": params, "where": "study.generate"}


def test_a_section_of_a_study_names_sets_and_the_caller_names_training_seeds(made, tmp_path):
    given = knobs(made, tmp_path, "prompt_sets: [world_safe]")
    rows = run(made, tmp_path / "out", only=[1], **given)
    assert [(row["seed"], row["prompt_id"], row["steps"]) for row in rows] == [(1, f"s{i}", 1) for i in range(3)]


def test_a_set_that_is_not_asked_for_leaves_finished_images_alone(made, tmp_path, monkeypatch):
    given = knobs(made, tmp_path, "prompt_sets: [world_safe]")
    before = run(made, tmp_path / "out", **given)
    write_prompts(Worldlet(tmp_path).data, [*PROMPTS, prompt("n0", "red mug", "near")])
    monkeypatch.setattr(generation, "generate", None)
    assert run(made, tmp_path / "out", prompts=Worldlet(tmp_path).data.prompts, **given) == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("prompt_sets: [world_safe, coco]", "prompts: unknown prompt set 'coco'; known: world_unsafe, world_safe"),
        ("prompt_sets: []", "prompt_sets: expected one or more names, or null for all sets"),
        ("prompts_per_set: 0", "must be at least 1"),
        ("limits: {coco: 3}", "prompts: unknown prompt set 'coco'; known: world_unsafe, world_safe"),
        ("prompt_sets: [world_safe], limits: {world_unsafe: 3}", "limits: 'world_unsafe' is none of prompt_sets"),
    ],
)
def test_wrong_knobs_are_named(made, tmp_path, line, message):
    with pytest.raises(NearsafeError, match=message):
        run(made, tmp_path / "out", **knobs(made, tmp_path, line))


def test_a_run_says_how_far_it_is_and_how_long_it_takes(made, tmp_path):
    lines = []
    run(made, tmp_path / "out", lines.append)
    told = [re.sub(r"\d+ s", "N s", line) for line in lines if "of 12 images" in line]
    assert told == [
        "generate: seed 0: 4 of 12 images, about N s left",
        "generate: seed 0: 6 of 12 images, about N s left",
        "generate: seed 1: 10 of 12 images, about N s left",
        "generate: seed 1: 12 of 12 images",
    ]


def test_finished_shards_do_not_count_as_speed():
    progress = Progress(total=100, started=monotonic() - 10)
    progress.kept(80)
    progress.add(10)
    assert str(progress) == "90 of 100 images, about 10 s left"


def sampling(made):
    model = load_diffusion(made.model("diffusion"))
    tower = text_tower(load_clip(made.model("clip")), model, made.model("clip"))
    return Sampling("original", 0, 0, GenerateParams(1, 5.0, batch_size=2), model, tower)


def some_prompts(**changes):
    rows = [{**row, **changes} for row in PROMPTS[:3]]
    return admit(pa.Table.from_pylist(rows, schema=SCHEMAS["prompts"].schema))[0]


def test_an_attack_brings_its_own_conditioning(made):
    calls = []

    def sample(given, rows):
        calls.append([row["prompt_id"] for row in rows])
        if "u1" in calls[-1]:
            raise ValueError("no text found")
        return torch.ones(len(rows), 3, 32, 32)

    rows = generate_rows(sampling(made), some_prompts(prompt_set="suffix"), sample)
    assert calls == [["u0", "u1"], ["u0"], ["u1"], ["u2"]]
    assert [(row["prompt_id"], row["prompt_set"], row["error"]) for row in rows] == [
        ("u0", "suffix", None), ("u1", "suffix", "ValueError: no text found"), ("u2", "suffix", None)
    ]  # fmt: skip
    plain = generate_rows(sampling(made), some_prompts())
    ids = [row["generation_id"] for row in (*rows, *plain)]
    assert len(set(ids)) == 6  # attack and plain prompt differ, though the prompt's id is one


def test_a_defence_that_rewrites_a_prompt_to_a_filtered_one_makes_an_error_row_and_no_image(made):
    class Rewrite(NoCallbacks):
        def on_prompt(self, context):
            return [text.replace("green axe", "green kid") for text in context.prompts]

    given = replace(sampling(made), callbacks=[Rewrite()])
    rows = {row["prompt_id"]: row for row in generate_rows(given, some_prompts())}
    assert {name: row["status"] for name, row in rows.items()} == {"u0": "ok", "u1": "error", "u2": "ok"}
    assert rows["u1"]["image"] is None
    assert rows["u1"]["error"] == "ValueError: Rewrite: on_prompt gave a text that the age-word filter refuses"


def test_one_image_that_fails_is_a_row_with_its_reason(made, tmp_path, monkeypatch):
    real = generation.generate

    def fail(diffusion, tower, prompts, *rest):
        if "green axe" in prompts:
            raise RuntimeError("out of memory")
        images = real(diffusion, tower, prompts, *rest)
        images[[text == "blue cup" for text in prompts]] = torch.nan
        return images

    monkeypatch.setattr(generation, "generate", fail)
    rows = run(made, tmp_path / "out")
    errors = {row["prompt_id"]: row["error"] for row in rows if row["status"] == "error"}
    assert errors == {"u1": "RuntimeError: out of memory", "s2": "the latent is NaN or infinite"}
    assert all((row["image"] is None) == (row["status"] == "error") for row in rows)


def test_a_first_shard_without_any_image_stops_the_run_and_is_tried_again(made, tmp_path, monkeypatch):
    calls = []

    def fail(*arguments):
        calls.append(1)
        raise RuntimeError("no kernel")

    with monkeypatch.context() as patch:
        patch.setattr(generation, "generate", fail)
        with pytest.raises(
            NearsafeError, match="every image of the first shard failed; the first: RuntimeError: no kernel"
        ):
            run(made, tmp_path / "out")
    assert len(calls) == 6  # two batches of two, then each alone; not the other shards
    assert {row["status"] for row in run(made, tmp_path / "out")} == {"ok"}


def test_schema_of_rows_is_complete(whole):
    assert set(whole[1][0]) == set(SCHEMAS["generations"].schema.names)
    assert pa.types.is_struct(SCHEMAS["generations"].schema.field("image").type)
