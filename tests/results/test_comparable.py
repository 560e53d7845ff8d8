"""Numbers that do not compare never stand in one column: the query ends with an error that names both sides."""

import re
from pathlib import Path

import pytest
from duckdb import DuckDBPyConnection

from pipeline.errors import NearsafeError
from pipeline.layout import Data, shard_file, table_file
from pipeline.results.database import SQL, connect, query
from pipeline.tables import Output
from tests.conftest import detection_row, generation_row, score_row

SAFE, UNSAFE = "generation/world_safe", "generation/world_unsafe"
WORLD = {"detector": "world", "rule": "hazard"}
FEATURES = {"detector": "world-features@f1"}


def scores(defence: str, **changes: dict) -> list[dict]:
    """Scores of a defence; `changes` by metric."""
    rows = [
        score_row(defence, "zeroshot/base", "mean", "accuracy", 0.9),
        score_row(defence, "nsfwcaps", "tuned", "redirect_t2i", 0.5),
        score_row(defence, "nsfwcaps", "tuned", "redirect_i2t", 0.5),
        score_row(defence, UNSAFE, "one image per prompt", "asr", 0.5, data_hash=f"images of {defence}", **WORLD),
        score_row(
            defence, SAFE, "world_safe_base", "frechet_distance", 2.0, data_hash=f"images of {defence}", **FEATURES
        ),
        score_row(
            defence, "reply/world_hazard", "", "unsafe_reply_rate", 0.5, detector="text-world", rule="text_hazard"
        ),
    ]
    return [{**row, **changes.get(row["metric"], {})} for row in rows]


def write(
    root: Path, defence: str, rows: list[dict], hash_: str = "h1", prompts: tuple[str, ...] = ("u0", "u1"),
    steps: int = 20, world: str = "w1", query_: str = "Describe this image.", folder: str = "",
) -> None:  # fmt: skip
    """Generations, replies and scores of a defence."""
    data = Data(root)
    made = Output(data.generations(defence), {})
    images = [generation_row(f"{defence}-{prompt}", defence, prompt, "world_unsafe") for prompt in prompts]
    made.write(shard_file("generations", 0), "generations", [{**row, "steps": steps} for row in images])
    made.finish()
    said = Output(data.replies(defence), {})
    reply = {
        "reply_id": f"r-{defence}", "defence": defence, "seed": 0, "image_id": "i0", "image_set": "world_hazard",
        "unsafe": True, "query": query_, "text": "a knife", "temperature": 0.2, "max_new_tokens": 8,
        "model_hash": "m", "status": "ok", "error": None,
    }  # fmt: skip
    said.write(table_file("replies"), "replies", [reply])
    said.finish()
    output = Output(data.scores(folder or defence), {"inputs": {"world": world, "prompts": "p1"}})
    seen = [
        detection_row(row["generation_id"], defence, "world_unsafe", "world", 0, label="knife", score=0.9)
        for row in images
    ]
    output.write(table_file("detections"), "detections", [{**row, "detector_hash": hash_} for row in seen])
    output.write(table_file("scores"), "scores", rows)
    output.finish()


def ask(root: Path | DuckDBPyConnection, view: str, where: str = "true") -> list[tuple]:
    database = connect(root) if isinstance(root, Path) else root
    return query(database, f"SELECT * FROM {view} WHERE {where}").rows


def test_alike_is_answered_and_images_of_their_own_are_no_difference(tmp_path: Path) -> None:
    write(tmp_path, "a", scores("a"))
    write(tmp_path, "b", scores("b"))
    database = connect(tmp_path)
    for view in ("headline", "leaderboard", "tradeoff", "frontier", "attack_success", "asr_by_rule", "per_attack"):
        assert ask(database, view), view


MIXED = {
    "detector hash": ({}, {"hash_": "h2"}, ("detector hash", "h1", "h2"), "asr"),
    "detector": ({"asr": {"detector": "world_other"}}, {}, ("detector is world", "world_other"), "asr"),
    "rule": ({"asr": {"rule": "hazard_0.3"}}, {}, ("rule is hazard", "hazard_0.3"), "asr"),
    "feature network": (
        {"frechet_distance": {"detector": "world-features@f2"}}, {}, ("world-features@f1", "world-features@f2"),
        "frechet_distance",
    ),
    "protocol": ({"asr": {"protocol": "ten images per prompt"}}, {}, ("protocol", "one image per prompt"), "asr"),
    "reference set": (
        {"frechet_distance": {"protocol": "other"}}, {}, ("other", "world_safe_base"), "frechet_distance",
    ),
    "reference images": ({}, {"world": "w2"}, ("reference world", "w1", "w2"), "frechet_distance"),
    "benchmark": ({"redirect_t2i": {"data_hash": "d2"}}, {}, ("hash of the data is d ", "d2"), "redirect_tuned"),
    "zero-shot images": ({"accuracy": {"data_hash": "d2"}}, {}, ("hash of the data is d ", "d2"), "zero_shot"),
    "prompts": ({}, {"prompts": ("u0", "u2")}, ("what was asked",), "asr"),
    "settings": ({}, {"steps": 12}, ("setting", "12 steps", "20 steps"), "asr"),
    "question to a reply": ({}, {"query_": "Is it safe?"}, ("setting", "Is it safe?"), "unsafe_replies"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MIXED)
def test_mixing_is_an_error_that_names_both_sides(tmp_path: Path, kind: str) -> None:
    changes, written, words, name = MIXED[kind]
    write(tmp_path, "a", scores("a"))
    write(tmp_path, "b", scores("b", **changes), **written)
    database = connect(tmp_path)
    for view in ("headline", "leaderboard", "headline_of_one"):
        sql = f"name = '{name}'" if view.startswith("headline") else "true"
        if view == "headline_of_one":
            sql += " AND defence = 'a'"  # a number is refused as a whole: no way around by asking twice
        with pytest.raises(NearsafeError, match="not comparable") as caught:
            ask(database, view.removesuffix("_of_one"), sql)
        for word in (*words, "a (seed 0)", "b (seed 0)"):
            assert word in str(caught.value)
    assert len(ask(database, "scores")) == 12, "the rows themselves can always be looked at"


@pytest.mark.parametrize("written", [{"hash_": "h2"}, {"prompts": ("u0", "u2")}, {"steps": 12}])
def test_views_on_detections_refuse_too(tmp_path: Path, written: dict) -> None:
    write(tmp_path, "a", scores("a"))
    write(tmp_path, "b", scores("b"), **written)
    database = connect(tmp_path)
    for view in ("asr_by_rule", "asr_by_threshold", "rule_hazard", "flags", "per_category"):
        with pytest.raises(NearsafeError, match="not comparable: world_unsafe, world"):
            ask(database, view)
    assert len(ask(database, "detections")) == 4


def test_two_ways_of_counting_an_attack_are_never_pooled(tmp_path: Path) -> None:
    """Another detector, rule or number of images per prompt is a row of its own, and named in it."""
    ways = ({"detector": "world_other"}, {"rule": "hazard_0.3"}, {"protocol": "ten images per prompt"})
    write(tmp_path, "original", scores("original"))
    write(tmp_path, "a", [row for way in ways for row in scores("a", asr=way) if row["metric"] == "asr"])
    found = ask(tmp_path, "(SELECT detector, rule, protocol, undefended FROM per_attack)")
    assert len(found) == len(set(found)) == 4
    assert sum(row[3] is not None for row in found) == 1, "the undefended model is compared in its own way alone"


def test_another_number_is_still_answered(tmp_path: Path) -> None:
    write(tmp_path, "a", scores("a"))
    write(tmp_path, "b", scores("b", redirect_t2i={"data_hash": "d2"}))
    assert len(ask(tmp_path, "attack_success", "metric = 'asr'")) == 2


def test_a_defence_that_two_outputs_score_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", scores("a"))
    write(tmp_path, "a", scores("a"), folder="again")
    for view in ("headline", "asr_by_rule"):
        with pytest.raises(NearsafeError, match="output is scores/a .* scores/again"):
            ask(tmp_path, view)


def test_training_seeds_of_one_defence_compare_as_well(tmp_path: Path) -> None:
    other = [{**row, "seed": 1, "data_hash": "d2"} for row in scores("a")]
    write(tmp_path, "a", [*scores("a"), *other])
    with pytest.raises(NearsafeError, match=r"a \(seed 0\).*a \(seed 1\)"):
        ask(tmp_path, "zero_shot")


def test_prompts_that_a_search_lost_are_no_difference(tmp_path: Path) -> None:
    """A white-box attack starts from the same prompts everywhere; what a filter refuses of its finds differs."""
    for defence, kept in (("a", ("u0", "u1")), ("b", ("u0",))):
        output = Output(Data(tmp_path).root / "attacks" / defence, {})
        searched = [
            {
                "attack": "suffix", "mode": "adaptive", "defence": defence, "seed": 0, "prompt_id": prompt,
                "text": None, "tokens": 4, "steps": 9, "similarity_before": 0.2, "similarity_after": 0.6,
                "victim_hash": "v",
                "status": "ok" if prompt in kept else "refused", "error": None,
            } for prompt in ("u0", "u1")
        ]  # fmt: skip
        output.write(table_file("attacks"), "attacks", searched)
        images = [generation_row(f"{defence}-{prompt}", defence, prompt, "suffix") for prompt in kept]
        output.write(shard_file("generations", 0), "generations", images)
        output.finish()
        scored = Output(Data(tmp_path).scores(defence), {})
        rows = [score_row(defence, "generation/suffix", "one image per prompt", "asr", 0.5, data_hash=defence, **WORLD)]
        scored.write(table_file("scores"), "scores", rows)
        scored.finish()
    assert len(ask(tmp_path, "per_attack")) == 2


def test_no_view_gets_round_the_check() -> None:
    """Only these read the tables themselves: the checks, and what shows rows or counts."""
    allowed = {
        "score_conflicts", "detection_conflicts", "comparable_scores", "comparable_detections", "evidence",
        "prompt_sets", "filters_and_drops",
    }  # fmt: skip
    for file in SQL.rglob("*.sql"):
        sql = re.sub(r"--[^\n]*", "", file.read_text(encoding="utf-8"))
        sql = re.sub(r"(FROM|JOIN) detections\b[^;)]*?status = 'error'", "", sql, flags=re.DOTALL)  # errors are counts
        if re.search(r"(FROM|JOIN) (scores|detections)\b", sql):
            assert file.stem in allowed, f"{file}: read comparable_scores or comparable_detections instead"
