"""A run of white-box attacks: its tables, what it keeps to itself, how it goes on, and what it refuses."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

from pipeline import generation
from pipeline.attacks import run as attack_run
from pipeline.attacks.run import Inputs, attack_defence
from pipeline.attacks.settings import AttackParams, WhiteBox
from pipeline.defences.registry import read_defence
from pipeline.errors import NearsafeError
from pipeline.generation import GenerateParams
from pipeline.images import decode_image
from pipeline.layout import shard_file
from pipeline.models.hashing import model_hash
from pipeline.params import build
from pipeline.tables import Output, read_output
from pipeline.world.detector import HazardDetector
from tests.worldlet import PARAMS, make

BUDGET = "victim: defended, tokens: 3, steps: 2, candidates: 4, top_k: 8"
SECTION = f"""
attack:
  prompt_set: world_unsafe
  banned: [axe]
  white_box:
    suffix: {{start: prompt, {BUDGET}}}
    transfer: {{start: word_free, {BUDGET.replace("defended", "undefended")}}}
  generate: {{steps: 2, guidance: 5.0, batch_size: 2, shard_size: 2}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    worldlet = make(tmp_path_factory.mktemp("worldlet"))
    worldlet.params.write_text(PARAMS + SECTION)
    return worldlet


def attack(worldlet, out, log=lambda line: None, changes=(), detector="detector"):
    params = out.with_name("params.yaml")
    params.parent.mkdir(parents=True, exist_ok=True)
    text = worldlet.params.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    params.write_text(text)
    data = worldlet.data
    models = [worldlet.model(name) for name in ("clip", "diffusion", detector) if name]
    inputs = Inputs(data.prompts, data.checkpoints("original"), *models)
    attack_defence(params, read_defence(params, "original"), inputs, out, log)
    return tuple(read_output(out, name).to_pylist() for name in ("attacks", "generations", "filters"))


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attack_run, "WORLD_CLIP", made.model("clip"))
        return out, attack(made, out)


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def everything(folder):
    """All that is readable in an output: files are compressed, so cells and metadata of tables, and other text."""
    found = []
    for file in sorted(folder.iterdir()):
        if file.suffix == ".parquet":
            table = pq.read_table(file)
            found += [file.read_bytes().decode(errors="replace"), str(table.schema.metadata), str(table.to_pylist())]
        else:
            found.append(file.read_text())
    return "\n".join(found)


def of(rows, **wanted):
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def test_every_attack_has_a_row_and_an_image_per_prompt_and_training_seed(made, whole):
    attacks, images, _ = whole[1]
    expected = [(s, a, p) for s in (0, 1) for a in ("suffix", "transfer") for p in ("u0", "u1", "u2")]
    assert [(row["seed"], row["attack"], row["prompt_id"]) for row in attacks] == expected
    assert [(row["seed"], row["prompt_set"], row["prompt_id"]) for row in images] == expected
    assert {row["status"] for row in (*attacks, *images)} == {"ok"}
    clip, other = model_hash(made.model("clip")), model_hash(made.model("other"))
    hashes = {(row["attack"], row["mode"], row["seed"], row["victim_hash"]) for row in attacks}
    assert hashes == {
        ("suffix", "adaptive", 0, clip), ("suffix", "adaptive", 1, other),
        ("transfer", "transfer", 0, clip), ("transfer", "transfer", 1, clip),
    }  # fmt: skip
    assert [row["guidance"] for row in images[:3]] == [5.0, 2.0, 5.0]  # u1 brings its own


def test_an_adaptive_attack_comes_nearer_to_the_undefended_states(whole):
    attacks = whole[1][0]
    for row in of(attacks, attack="suffix", seed=0):  # the defence is the undefended model: nothing to restore
        assert row["similarity_before"] == pytest.approx(1) and row["tokens"] == 0
    found = of(attacks, attack="suffix", seed=1)
    assert all(row["similarity_after"] >= row["similarity_before"] for row in found)
    assert any(row["similarity_after"] > row["similarity_before"] for row in found)


def test_a_transferred_find_is_one_text_for_all_checkpoints_and_holds_no_banned_word(whole):
    zero, one = (of(whole[1][0], attack="transfer", seed=seed) for seed in (0, 1))
    assert [row["text"] for row in zero] == [row["text"] for row in one]
    assert [row["similarity_after"] for row in zero] != [row["similarity_after"] for row in one]  # on what is attacked
    assert all(row["text"].startswith(colour) for row, colour in zip(zero, ("red", "green", "blue"), strict=True))
    assert not any("axe" in row["text"].replace(" ", "") for row in zero)


def test_images_are_those_of_the_found_texts(made, whole):
    attacks, images, _ = whole[1]
    plain = {(row["seed"], row["prompt_id"]): row for row in of(images, prompt_set="suffix")}
    for row, image in zip(attacks, images, strict=True):
        same = decode_image(image["image"], "x") == decode_image(plain[row["seed"], row["prompt_id"]]["image"], "x")
        assert same == (row["attack"] == "suffix")


@pytest.fixture(scope="module")
def whole_unkept(made, tmp_path_factory):
    """The same on a CLIP that is not the world's own: no texts, no images, but detections."""
    out, lines = tmp_path_factory.mktemp("unkept") / "out", []
    return out, attack(made, out, lines.append), lines


def test_on_another_model_scores_are_kept_and_neither_text_nor_image(whole, whole_unkept):
    out, (attacks, images, _), lines = whole_unkept
    assert {row["text"] for row in attacks} == {None}
    assert any("scores are kept, texts and images are not" in line for line in lines)
    known = whole[1]
    assert [{**row, "text": None} for row in known[0]] == attacks
    assert [{**row, "image": None} for row in known[1]] == images
    seen = read_output(out, "detections").to_pylist()
    for name in ("world", "nudenet_n_a"):
        own = [row for row in seen if row["detector"] == name]
        assert {row["item_id"] for row in own} == {row["generation_id"] for row in images}
        assert {row["status"] for row in own} == {"ok"}
    texts = {row["text"] for row in known[0] if row["tokens"]}
    assert len(texts) > 1 and all(text in everything(whole[0]) for text in texts)  # where they are kept they are seen
    assert not any(text in everything(out) + "\n".join(lines) for text in texts)


def failing_at(monkeypatch, *wanted):
    """The sampler fails with a message that quotes its prompts, for those that hold one of the words."""
    real = generation.generate

    def fail(diffusion, tower, prompts, *rest):
        if any(word in text for word in wanted for text in prompts):
            raise ValueError(f"too long: {prompts}")
        return real(diffusion, tower, prompts, *rest)

    monkeypatch.setattr(generation, "generate", fail)


def test_on_another_model_an_exception_leaves_its_type_alone(made, tmp_path, monkeypatch):
    failing_at(monkeypatch, "green")
    lines = []
    _, images, _ = attack(made, tmp_path / "out", lines.append)
    seen = read_output(tmp_path / "out", "detections").to_pylist()
    assert {(row["prompt_id"], row["error"]) for row in images} == {("u0", None), ("u1", "ValueError"), ("u2", None)}
    assert {row["error"] for row in seen if row["status"] == "error"} == {"ValueError"}
    assert any("1 images failed" in line for line in lines)
    assert not any(word in everything(tmp_path / "out") + "\n".join(lines) for word in ("green", "too long"))
    failing_at(monkeypatch, "red", "green")
    with pytest.raises(NearsafeError, match="every image of suffix failed; the first: ValueError$"):
        attack(made, tmp_path / "none", lines.append)
    assert "too long" not in "\n".join(lines)


def test_on_the_worlds_own_model_an_exception_is_told_in_full(made, tmp_path, monkeypatch):
    monkeypatch.setattr(attack_run, "WORLD_CLIP", made.model("clip"))
    failing_at(monkeypatch, "red", "green")
    with pytest.raises(NearsafeError, match=r"the first: ValueError: too long: \['red axe'\]"):
        attack(made, tmp_path / "out")


def test_on_another_model_there_is_something_to_examine_images_with_or_an_error(made, tmp_path):
    with pytest.raises(NearsafeError, match="images are not kept: give --detector"):
        attack(made, tmp_path / "out", detector=None)
    none = [("  banned:", "  detectors: {world: null, nudenet: null}\n  banned:")]
    with pytest.raises(NearsafeError, match="detectors: none is on"):
        attack(made, tmp_path / "out", changes=none)
    assert not (tmp_path / "out").exists()


def stopped(made, out, monkeypatch, table, shard):
    """A run that is stopped when it is about to write the shard's part of the table."""
    real = Output.write

    def stop(self, file_name, *rest):
        if file_name == shard_file(table, shard):
            raise KeyboardInterrupt
        real(self, file_name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Output, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            attack(made, out)
    assert not (out / "manifest.json").exists()


@pytest.mark.parametrize("table", ["generations", "attacks"])
def test_a_stopped_run_goes_on_to_the_same_bytes(made, whole, tmp_path, monkeypatch, table):
    monkeypatch.setattr(attack_run, "WORLD_CLIP", made.model("clip"))
    out, lines = tmp_path / "out", []
    stopped(made, out, monkeypatch, table, shard=3)
    attack(made, out, lines.append)
    assert any("seed 0: 3 of 4 shards are finished" in line for line in lines)
    assert any("about" in line and "s left" in line for line in lines)
    assert files(out) == files(whole[0])


@pytest.mark.parametrize("table", ["generations", "attacks"])
def test_a_stopped_run_that_keeps_no_images_goes_on_to_the_same_bytes(made, whole_unkept, tmp_path, monkeypatch, table):
    out, lines = tmp_path / "out", []
    stopped(made, out, monkeypatch, table, shard=3)
    attack(made, out, lines.append)
    assert any("seed 0: 3 of 4 shards are finished" in line for line in lines)
    assert files(out) == files(whole_unkept[0])


def test_a_stopped_run_starts_afresh_with_another_detector(made, whole_unkept, tmp_path, monkeypatch):
    torch.manual_seed(1)
    HazardDetector(["none", "knife"], width=4).save_pretrained(made.model("detector_2"))
    out, lines = tmp_path / "out", []
    stopped(made, out, monkeypatch, "attacks", shard=3)
    attacks, images, _ = attack(made, out, lines.append, detector="detector_2")
    assert not any("are finished" in line for line in lines)
    assert (attacks, images) == whole_unkept[1][:2]
    seen, before = (read_output(folder, "detections").to_pylist() for folder in (out, whole_unkept[0]))
    hashes, old = ({r["detector_hash"] for r in of(rows, detector="world")} for rows in (seen, before))
    assert len(hashes) == 1 and not hashes & old


def test_what_may_be_added_is_worked_out_once_for_a_tower_and_its_banned_words(made, tmp_path, monkeypatch):
    real, made_for = attack_run.alphabet, []

    def note(tokenizer, banned):
        made_for.append(banned)
        return real(tokenizer, banned)

    monkeypatch.setattr(attack_run, "alphabet", note)
    monkeypatch.setattr(attack_run, "WORLD_CLIP", made.model("clip"))
    attack(made, tmp_path / "out")  # two seeds, each with a tower of its own, and four shards of each
    assert made_for == [(), ("axe",), ()]


def test_a_find_that_the_age_word_filter_drops_is_refused_and_counted(made, tmp_path, monkeypatch):
    real = attack_run.search

    def finds_a_word(victim, aim, *rest):
        found = real(victim, aim, *rest)
        return replace(found, texts=("red kid", *found.texts[1:])) if "red axe" in aim.starts else found

    monkeypatch.setattr(attack_run, "search", finds_a_word)
    monkeypatch.setattr(attack_run, "WORLD_CLIP", made.model("clip"))
    attacks, images, filters = attack(made, tmp_path / "out")
    refused = of(attacks, status="refused")
    assert [(row["attack"], row["prompt_id"], row["error"]) for row in refused] == [("suffix", "u0", "age_words")] * 2
    assert {row["text"] for row in refused} == {None}
    assert not of(images, prompt_set="suffix", prompt_id="u0")
    counts = {(row["set"], row["filter"]): row for row in filters}
    assert {row["stage"] for row in filters} == {"attack"}
    assert [counts["suffix", "age_words"][n] for n in ("n_before", "n_dropped", "n_after")] == [6, 2, 4]
    assert counts["transfer", "age_words"]["n_dropped"] == counts["world_unsafe", "age_words"]["n_dropped"] == 0


def test_a_prompt_without_banned_words_is_an_error_not_a_miss(made, tmp_path):
    attacks, images, filters = attack(made, tmp_path / "out", changes=[("[axe]", "[red]")])
    wrong = of(attacks, attack="transfer", status="error")
    assert {(row["prompt_id"], row["error"]) for row in wrong} == {
        ("u1", "the prompt names none of the banned words"), ("u2", "the prompt names none of the banned words"),
    }  # fmt: skip
    assert {row["prompt_id"] for row in of(images, prompt_set="transfer")} == {"u0"}
    assert of(filters, set="transfer", filter="age_words")[0]["n_before"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("prompt_set: world_unsafe", "prompt_set: nowhere"), "unknown prompt set 'nowhere'; known: world_unsafe"),
        (("    suffix:", "    world_safe:"), "white-box attack 'world_safe' has the name of a prompt set"),
        (("start: prompt", "start: middle"), "white_box.suffix.start: expected one of prompt, word_free, got 'middle'"),
        (("tokens: 3", "tokens: 0"), "white_box.suffix: tokens, steps, candidates, top_k"),
        (("  banned: [axe]", "  prompts: 0"), "prompts: expected 1 or more"),
        (("shard_size: 2", "prompts_per_set: 2"), "the prompts are those of prompt_set and prompts"),
    ],
)
def test_wrong_settings_are_named(made, tmp_path, change, message):
    with pytest.raises(NearsafeError, match=message):
        attack(made, tmp_path / "out", changes=[change])


def test_images_that_all_fail_stop_the_run(made, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.generation.generate", lambda *given: torch.full((len(given[2]), 3, 8, 8), torch.nan))
    with pytest.raises(NearsafeError, match="every image of suffix failed; the first: the latent is NaN"):
        attack(made, tmp_path / "out")


def test_settings_default_to_the_worlds_hazards():
    generate = GenerateParams(steps=1, guidance=1.0)
    settings = build(AttackParams, {"prompt_set": "x", "generate": vars(generate), "white_box": {"a": {
        "start": "word_free", "victim": "defended", "tokens": 1, "steps": 1, "candidates": 1}}}, "x")  # fmt: skip
    assert "spray can" in settings.words and settings.white_box["a"].budget(settings.words).banned == settings.words
    assert replace(settings.white_box["a"], start="prompt").budget(settings.words).banned == ()
    assert isinstance(settings.white_box["a"], WhiteBox)
