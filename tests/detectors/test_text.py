"""Detectors of replies: what they find, the rows they make, and that the SQL rules agree with Python's."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
import torch

from pipeline.detectors.base import Subject, detection_rows, error_row
from pipeline.detectors.registry import load_text_judges
from pipeline.detectors.text import HazardWords, TextClassifier
from pipeline.errors import NearsafeError
from pipeline.metrics.asr import attack_success
from pipeline.schemas import SCHEMAS
from pipeline.world.grammar import SYNONYMS, item_phrase
from pipeline.world.scenes import CATEGORY, VOCABULARY
from pipeline.world.text_detector import TextHazardDetector, bare_words

RULES = Path(__file__).parents[2] / "pipeline" / "results" / "sql" / "rules"
WEIGHTS = Path(__file__).parents[2] / "pipeline" / "world" / "weights" / "text_detector"
TEXTS = ["a red fox with a mug", "a red fox with a knife", "some bones, and a pistol", "", "GUN", "a begun novel"]


def test_every_wording_of_every_hazard_is_found_and_no_safe_object():
    words = HazardWords()
    for hazard in VOCABULARY["hazard"]:
        for synonym in range(1 + len(SYNONYMS[hazard])):
            phrase = item_phrase(hazard, synonym)
            found = words.detect([f"a small red fox beside {phrase.upper()}, at night", bare_words(phrase)])
            assert [[finding.label for finding in row] for row in found] == [[hazard], [hazard]]
    assert words.detect([item_phrase(name) for name in VOCABULARY["object"]]) == [[]] * len(VOCABULARY["object"])


def test_words_are_whole_and_several_hazards_are_several_findings():
    found = HazardWords().detect(TEXTS)
    assert [[finding.label for finding in row] for row in found] == [[], ["knife"], ["gun", "skull"], [], ["gun"], []]


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    TextHazardDetector(["none", *dict.fromkeys(CATEGORY.values())], buckets=64, width=4).save_pretrained(tmp_path / "t")
    return tmp_path / "t"


def test_one_finding_per_label_each_text_on_its_own(folder):
    detector = TextClassifier(folder, batch_size=2)
    found = detector.detect(TEXTS)
    assert [finding.label for finding in found[0]] == detector.model.labels
    for text, row in zip(TEXTS, found, strict=True):
        assert sum(finding.score for finding in row) == pytest.approx(1, abs=1e-5)
        (alone,) = detector.detect([text])
        assert [f.score for f in alone] == pytest.approx([f.score for f in row], abs=1e-6)
    assert detector.detect([]) == []


def test_unknown_words_and_no_words_are_safe():
    detector = TextClassifier(WEIGHTS)
    for row in detector.detect(["", "quarterly budget meeting", "zzz"]):
        assert max(row, key=lambda finding: finding.score).label == "none"


def test_names_do_not_collide_with_the_image_detectors_rules():
    assert not any(name.startswith(("world", "nudenet")) for name in (TextClassifier.name, HazardWords.name))


def test_sql_rules_flag_what_the_python_rules_flag():
    rows, expected = [], {}
    for judge in load_text_judges(WEIGHTS):
        for i, (text, findings) in enumerate(zip(TEXTS, judge.detector.detect(TEXTS), strict=True)):
            found = detection_rows(judge.detector, Subject(f"r{i}", "d", 0, "world_hazard"), findings)
            rows += found
            (rule,) = judge.rules
            expected[rule.name, f"r{i}"] = rule.flagged(found), text
        failed = error_row(judge.detector, Subject("r9", "d", 0, "world_hazard"), "no reply")
        rows.append(failed)
        assert attack_success([failed], judge.rules[0]).share.value is None
    other = [{**row, "detector": "world", "label": "knife", "score": 1.0} for row in rows[:3]]
    detections = pa.Table.from_pylist(rows + other, SCHEMAS["detections"].schema)
    connection = duckdb.connect()
    connection.register("comparable_detections", detections)
    flagged = {
        (rule, item): flag
        for rule in ("text_hazard", "hazard_words")
        for item, *_, flag in connection.execute((RULES / f"{rule}.sql").read_text()).fetchall()
    }
    assert flagged == {key: flag for key, (flag, _) in expected.items()}
    assert [flagged["hazard_words", f"r{i}"] for i in range(6)] == [False, True, True, False, True, False]
    assert [flagged["text_hazard", f"r{i}"] for i in range(5)] == [False, True, True, False, True]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(NearsafeError, match="nowhere"):
        TextClassifier(tmp_path / "nowhere")
