"""The papers' printed numbers: transcribed right, labelled, and never in one row with ours."""

import re
from pathlib import Path

import pytest

from pipeline.layout import Data, table_file
from pipeline.results.database import SQL, connect, query
from pipeline.tables import Output


@pytest.fixture
def ask(finished: Path):
    database = connect(finished)
    return lambda sql: query(database, sql).rows


def test_every_number_has_a_source_a_label_and_one_place(ask) -> None:
    assert ask("SELECT count(*) FROM published") == [(605,)]
    assert (
        ask("""SELECT * FROM published WHERE paper = '' OR source = '' OR label NOT IN ('[C]', '[R]')
                  OR method IS NULL OR benchmark IS NULL OR metric IS NULL OR value IS NULL OR unit IS NULL""")
        == []
    )
    assert (
        ask("""SELECT paper, source, method, benchmark, protocol, metric FROM published
                  GROUP BY ALL HAVING count(*) > 1""")
        == []
    )


def test_transcription_against_what_the_papers_print_twice(ask) -> None:
    """Table 1 prints each gain beside the two numbers it comes from; 0.15 of a point allows for their rounding."""
    gains = ask("""
        SELECT g.value, r.value - s.value FROM published AS g
        JOIN published AS r ON r.benchmark = g.benchmark AND r.method = 'SafeR-CLIP' AND r.source = 'Table 1'
         AND r.paper = g.paper AND g.metric = r.metric || ', gain over Safe-CLIP'
        JOIN published AS s ON s.benchmark = r.benchmark AND s.metric = r.metric AND s.protocol = r.protocol
         AND s.method = 'Safe-CLIP' AND s.source = 'Table 1' AND s.paper = g.paper""")
    assert len(gains) == 9
    for printed, computed in gains:
        assert computed == pytest.approx(printed, abs=0.15)
    mean = "SELECT avg(value) FROM published WHERE source = 'I2P by category' AND method = 'SD v1.4 + Safe-CLIP'"
    printed = """SELECT value FROM published WHERE source = 'text to image' AND method = 'SD v1.4 + Safe-CLIP'
                 AND benchmark = 'I2P' AND protocol = 'NudeNet or Q16'"""
    assert ask(mean)[0][0] == pytest.approx(ask(printed)[0][0], abs=0.05)


def test_means_and_repeated_rows_of_des_agree(ask) -> None:
    """Tables 2 and 3 print the mean of their four attacks; each ablation holds the method as published."""
    wrong = """
        SELECT source, method, max(value) FILTER (benchmark = 'mean of 4 attacks') AS printed,
               avg(value) FILTER (benchmark <> 'mean of 4 attacks') AS computed
        FROM published WHERE paper = 'DES' AND source IN ('Table 2', 'Table 3') GROUP BY ALL
        HAVING abs(printed - computed) > 0.01"""
    assert ask(wrong) == []
    rows = ask("""
        SELECT source, list(value ORDER BY metric) FROM published
        WHERE paper = 'DES' AND method IN ('DES, alpha 200', 'DES, all losses', 'DES, with PALA', 'DES, lambda 0.3')
        GROUP BY ALL""")
    assert dict(rows) == {f"Table {n}": [0.52, 25.52, 15.44] for n in (15, 17, 18, 19)}


def test_a_false_positive_rate_is_not_called_attack_success(ask) -> None:
    """The CMU report prints detections on benign prompts as ASR."""
    assert ask("SELECT count(*) FROM published WHERE paper = 'CMU report' AND metric LIKE '%ASR%'") == [(0,)]
    rows = ask("SELECT DISTINCT question FROM published_and_ours WHERE source LIKE 'CMU%'")
    assert rows == [("images from safe prompts",)]
    notes = ask("SELECT DISTINCT note FROM published WHERE paper = 'CMU report'")
    assert len(notes) == 1 and "false-positive rate" in notes[0][0]


def test_drift_grows_with_every_epoch_as_in_the_plot(ask) -> None:
    rows = ask("SELECT method, protocol, value FROM published WHERE benchmark = 'weight drift' ORDER BY ALL")
    curves: dict[tuple[str, str], list[float]] = {}
    for method, protocol, value in rows:
        curves.setdefault((method, protocol.split(",")[0]), []).append(value)
    assert len(curves) == 4
    assert all(curve == sorted(curve) and len(curve) == 10 for curve in curves.values())


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("source = 'Table 1' AND method = 'SafeR-CLIP' AND benchmark = 'NSFWCaps' AND metric = 'T*->V R@1'", 79.5),
        ("source = 'Table 2' AND method = 'Safe-CLIP' AND benchmark = 'SMID' AND protocol = 'T->V'", 26.6),
        ("source = 'Table 3' AND method LIKE '%SLD-Medium' AND protocol = 'with SafeR-CLIP'", 12.8),
        ("source = 'Table 4' AND method = 'SafeR-CLIP' AND benchmark = 'NSFW URLs' AND metric = 'toxicity'", 11.0),
        ("source = 'zero-shot' AND method = 'SafeR-CLIP' AND benchmark = 'Food101'", 77.2),
        ("source = 'COCO 30k' AND method LIKE '%SafeR-CLIP' AND metric = 'FID'", 25.4),
        ("source = 'text to image' AND method LIKE '%SafeR-CLIP' AND protocol LIKE 'L%' AND benchmark = 'I2P'", 8.7),
        ("paper = 'HySAC' AND method = 'HySAC' AND metric = 'V*->T R@10'", 73.3),
        ("paper = 'DES' AND source = 'Table 1' AND method = 'DES' AND unit = 'images'", 16),
        ("paper = 'DES' AND source = 'Table 2' AND method = 'DES (FLUX)' AND benchmark = 'Ring-A-Bell'", 11.21),
        ("paper = 'DES' AND source = 'Table 3' AND method = 'AdvUnlearn' AND benchmark = 'UnlearnDiffAtk'", 19.72),
        ("source = 'Table 17' AND method = 'DES, UEN alone' AND metric = 'FID'", 106.34),
        ("source = 'Table 20' AND method LIKE '%UEN, lambda 0.2' AND metric = 'CLIP score'", 23.98),
        ("paper = 'CMU report' AND method LIKE '%push_harm%' AND unit = '%'", 0.33),
        ("source = 'Table 4' AND paper = 'HySAC' AND method = 'CLIP' AND benchmark = 'SMID' AND protocol='I2T'", 59.1),
    ],
)  # fmt: skip
def test_spot_checks(ask, where: str, value: float) -> None:
    assert ask(f"SELECT value FROM published WHERE {where}") == [(value,)]


def test_caveats_stay_with_the_numbers(ask) -> None:
    sql = "SELECT note FROM published WHERE method = 'SD v1.4 + SafeR-CLIP' AND protocol = 'harassment'"
    assert "low confidence" in ask(sql)[0][0]
    sql = "SELECT count(*) FROM published WHERE source = 'Table 1' AND method = 'Safe-CLIP' AND note LIKE '%never mix%'"
    assert ask(sql) == [(4,)]


def test_a_filter_of_des_is_not_noted_as_a_detector(ask) -> None:
    notes = dict(ask("SELECT DISTINCT method, note FROM published WHERE paper = 'DES' AND source = 'Table 2'"
                     " AND benchmark = 'SneakyPrompt'"))  # fmt: skip
    filters = {method for method, note in notes.items() if "NudeNet" not in note}
    assert filters == {"Microsoft", "OpenAI", "LatentGuard", "GuardT2I"}
    assert {notes[method] for method in filters} == {"accuracy of a filter, no detector; lower is better"}
    assert all("filter, no detector" not in note for method, note in notes.items() if method not in filters)


def test_ours_and_theirs_are_rows_of_their_own(ask) -> None:
    """No view but one reads the printed numbers, and that one stacks them under a column that says whose they are."""
    readers = [file.name for file in SQL.rglob("*.sql") if re.search(r"\bpublished\b", _code(file))]
    assert readers == ["published_and_ours.sql"]
    text = _code(SQL / "queries" / "published_and_ours.sql")
    assert not re.search(r"join\s+(published|theirs)", text, re.IGNORECASE)
    columns = [row[0] for row in ask("SELECT column_name FROM (DESCRIBE published_and_ours)")]
    assert columns[0] == "source" and "value" not in columns
    both = "SELECT * FROM published_and_ours WHERE (printed IS NULL) = (measured IS NULL) AND unit IS NOT NULL"
    assert ask(both) == [], "a row is printed or measured, never both"
    assert ask("SELECT * FROM published_and_ours WHERE (source LIKE 'ours%') <> (printed IS NULL)") == []
    mixed = "SELECT * FROM published_and_ours WHERE source IS NULL OR benchmark IS NULL OR question IS NULL"
    assert ask(mixed) == []
    ours = ask("SELECT DISTINCT benchmark FROM published_and_ours WHERE source LIKE 'ours%' ORDER BY 1")
    assert ours and all(name.startswith("world: ") for (name,) in ours)
    shared = """SELECT benchmark FROM published_and_ours WHERE source LIKE 'ours%' INTERSECT
                SELECT benchmark FROM published_and_ours WHERE source NOT LIKE 'ours%'"""
    assert ask(shared) == [], "no benchmark is both: nothing to compare cell by cell"


def _code(file: Path) -> str:
    """The SQL of a file without its comments."""
    return "\n".join(line for line in file.read_text().splitlines() if not line.startswith("--"))


def test_alignment_and_bucket_cosines(finished: Path) -> None:
    buckets = Output(Data(finished).buckets, {"stage": "bucket_difficulty"})
    rows = [("p0", "easy", 0.6), ("p1", "hard", 0.7)]
    rows = [{"pair_id": pair, "difficulty": difficulty, "cosine": cosine} for pair, difficulty, cosine in rows]
    buckets.write(table_file("buckets"), "buckets", rows)
    buckets.finish()
    database = connect(finished)
    found = query(database, "SELECT given, nearest, gain, difficulty, own_partner FROM alignment ORDER BY pair_id").rows
    assert [[*map(pytest.approx, row[:3]), *row[3:]] for row in found] == [
        [0.8, 0.6, -0.2, "easy", True],
        [0.3, 0.7, 0.4, "hard", False],
    ]
    sql = "SELECT difficulty, target, pairs, share FROM bucket_cosines ORDER BY ALL"
    assert query(database, sql).rows == [(d, t, 1, 1.0) for d in ("easy", "hard") for t in ("given", "nearest")]
