"""The two studies, from tables on disk to docs/findings.md."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main as cli
from pipeline.errors import NearsafeError, run
from pipeline.layout import Data, table_file
from pipeline.metrics.intervals import wilson
from pipeline.metrics.seeds import Measured, pool
from pipeline.results.findings import KNOWN
from pipeline.tables import Output
from stages.findings import main, parser
from tests.conftest import score_row

ROOT = Path(__file__).resolve().parents[2]
PARAMS = """
seed: 0
score: {bootstrap: 100}
ablations: {original: {method: original}, nearsafe: {method: nearsafe}, later: {method: safer_clip}}
frontier: {run: {seeds: [0]}, defences: [safer_clip, nearsafe], settings: [redirection=0.5, redirection=2]}
"""
SEEDS = (0, 1, 2)


def outcomes(defence: str, benchmark: str, protocol: str, metric: str, hits: int, n: int, seed: int = 0) -> list[dict]:
    """`hits` of `n` items answered right, the first ones."""
    key = {"defence": defence, "seed": seed, "benchmark": benchmark, "protocol": protocol, "metric": metric}
    return [{**key, "item_id": f"{benchmark}-{i:03}", "value": float(i < hits)} for i in range(n)]


def write_scores(folder: Path, scores: list[dict], observed: list[dict]) -> None:
    output = Output(folder, {"scores": folder.name})
    output.write(table_file("scores"), "scores", scores)
    if observed:
        output.write(table_file("outcomes"), "outcomes", observed)
    output.finish()


def ablation(data: Data, defence: str, shares: tuple[float, ...]) -> None:
    """One redirected share per seed, 100 pairs; the adversary halves it; a tenth of zero-shot is lost for all."""
    scores, observed, moved = [], [], []
    for seed, share in zip(SEEDS, shares, strict=True):
        scores += [score_row(defence, "zeroshot/base", "mean", "accuracy", 0.9, seed=seed, ci_method="bootstrap")]
        for gallery in ("tuned", "frozen"):
            for way in ("t2i", "i2t"):
                scores += [
                    score_row(defence, "nsfwcaps", gallery, f"safe_{way}_r@1", 0.95, seed=seed),
                    score_row(defence, "nsfwcaps", gallery, f"redirect_{way}", share, seed=seed),
                    score_row(defence, "nsfwcaps", gallery, f"unsafe_{way}_r@1", share / 2, seed=seed),
                    score_row(defence, "real_pool_1to10", gallery, f"unsafe_retrieved_{way}", 1 - share, seed=seed),
                ]
            scores += [score_row(defence, "nsfwcaps_paraphrased", gallery, "redirect_t2i", share / 2, seed=seed)]
            hits = round(100 * share)
            for name, count in (("nsfwcaps_reworded", hits), ("nsfwcaps_paraphrased", hits // 2)):
                rows = outcomes(defence, name, gallery, "redirect_t2i", count, 100, seed)
                observed += [{**row, "item_id": row["item_id"][-3:]} for row in rows]
        for epoch in range(3):
            for tower in ("text", "vision"):
                row = {"defence": defence, "seed": seed, "epoch": epoch, "tower": tower, "l2": epoch * share}
                moved.append({**row, "rms": epoch * share / 100, "parameters": 10_000})
    write_scores(data.scores(defence), scores, observed)
    trained = Output(data.checkpoints(defence), {"defence": defence})
    trained.write(table_file("drift"), "drift", moved)
    trained.finish()


def frontier(data: Data, label: str, accuracy: int, scene: int) -> None:
    """`accuracy` of 100 images right, `scene` of 100 unsafe queries find the matching scene, in every gallery."""
    observed = outcomes(label, "zeroshot/validation", "subject", "accuracy", accuracy, 100)
    for gallery in ("tuned", "frozen"):
        for way in ("t2i", "i2t"):
            observed += outcomes(label, "validation", gallery, f"unsafe_{way}_r@1", scene, 100)
            observed += outcomes(label, "validation", gallery, f"redirect_{way}", scene, 100)
    write_scores(data.scores(label), [score_row(label, "zeroshot/base", "mean", "accuracy", 0.9)], observed)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/findings.md").write_text((ROOT / "docs/findings.md").read_text())
    return tmp_path


def findings(root: Path, study: str) -> str:
    """Run the stage; return the page."""
    command = ["--params", f"{root}/params.yaml", "--study", study, "--data", f"{root}/data/studies/{study}"]
    run(main, parser(), [*command, "--page", f"{root}/docs/findings.md", "--out", f"{root}/results/{study}"])
    return (root / "docs/findings.md").read_text()


def block(page: str, name: str) -> str:
    return page.split(f"<!-- table: {name} -->")[1].split("<!-- end -->")[0]


def rows(page: str, name: str) -> dict[str, list[str]]:
    """First cell -> other cells, of a table in the page."""
    lines = [line.split("|")[1:-1] for line in block(page, name).splitlines() if line.startswith("|")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_the_page_of_this_repository_has_a_place_for_every_table() -> None:
    page = (ROOT / "docs/findings.md").read_text()
    assert all(page.count(f"<!-- table: {name} -->") == 1 for name in KNOWN)


def test_ablation_tables(root: Path) -> None:
    data = Data(root / "data/studies/ablation")
    ablation(data, "original", (0.0, 0.0, 0.0))
    ablation(data, "nearsafe", (0.8, 0.9, 0.7))
    before = (root / "docs/findings.md").read_text()
    page = findings(root, "ablation")
    table = rows(page, "ablation")
    assert list(table)[2:] == ["original", "nearsafe", "later"], "the order of params.yaml"
    assert set(table["later"]) == {"-"}, "not scored is no zero"
    seeds = [Measured(v, 100, *wilson(round(100 * v), 100)) for v in (0.8, 0.9, 0.7)]
    expected = pool(seeds, (0, 1))
    assert table["nearsafe"][2] == f"{expected.value:.3f} [{expected.low:.3f}, {expected.high:.3f}]"
    assert table["defence"][2] == "tuned: safe (n=100)"
    assert "3 training seeds" in block(page, "ablation") and "quadrature" in block(page, "ablation")
    assert rows(page, "drift")["nearsafe"][0].startswith("1.60 ["), "mean L2 of the last epoch"
    assert rows(page, "pools")["nearsafe"][0].startswith("20.0 ["), "per cent unsafe"
    fall = rows(page, "robustness")["nearsafe"][3]
    assert fall.startswith("0.400 ["), "mean of 0.40, 0.45 and 0.35"
    assert block(page, "frontier") == block(before, "frontier"), "the other study's block"
    assert page.split("<!-- table")[0] == before.split("<!-- table")[0]
    with Image.open(root / "docs/images/drift.png") as figure:
        assert figure.width > 1.5 * figure.height, "two panels"
    numbers = list(csv.DictReader((root / "results/ablation/ablation.csv").open()))
    assert {"defence": "nearsafe", "name": "redirect_tuned", "seeds": "3"}.items() <= numbers[-4].items()
    assert findings(root, "ablation") == page, "twice is once"


def test_frontier_tables_and_picture(root: Path, capsys: pytest.CaptureFixture) -> None:
    data = Data(root / "data/studies/frontier")
    frontier(data, "original", 97, 10)
    frontier(data, "safer_clip+redirection=0.5", 95, 50)
    frontier(data, "safer_clip+redirection=2", 91, 80)
    frontier(data, "nearsafe+redirection=2", 97, 60)
    page = findings(root, "frontier")
    assert "4 of 5 scored; missing: nearsafe+redirection=0.5" in capsys.readouterr().out
    table = rows(page, "frontier")
    assert [cell.split(" ")[0] for cell in table["safer_clip"]] == ["2", "0.540", "0.100", "0.500", "0.500", "0.800"]
    assert table["nearsafe"][1].startswith("0.600 [")
    assert table["original"][1].startswith("0.100 [")
    assert rows(page, "frontier_measures")["safer_clip"][4].startswith("0.540")
    assert "100 images and 100 pairs" in block(page, "frontier")
    points = list(csv.DictReader((root / "results/frontier/points.csv").open()))
    losses = {row["setting"]: float(row["loss"]) for row in points if row["defence"] == "safer_clip"}
    assert losses == {"undefended": 0, "redirection=0.5": 2, "redirection=2": 6}
    picture = np.asarray(Image.open(root / "docs/images/frontier.png"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 5


def test_a_study_can_be_queried_by_its_own_labels(root: Path, capsys: pytest.CaptureFixture) -> None:
    """Its labels are no entries of `defences`, which hide what other runs left in `data`."""
    data = Data(root / "data/studies/frontier")
    frontier(data, "nearsafe+redirection=2", 97, 60)
    (root / "params.yaml").write_text("defences: {original: {method: original}}")
    cli(["query", "SELECT DISTINCT defence FROM scores", "--data", str(data.root), "--params", f"{root}/params.yaml"])
    assert "nearsafe+redirection=2" in capsys.readouterr().out


def test_a_study_that_has_not_run_leaves_the_page_and_says_so(root: Path, capsys: pytest.CaptureFixture) -> None:
    before = (root / "docs/findings.md").read_text()
    assert findings(root, "ablation") == before
    assert "nothing scored" in capsys.readouterr().out
    assert not (root / "results").exists()


def test_a_frontier_needs_its_origin_and_the_same_items(root: Path) -> None:
    data = Data(root / "data/studies/frontier")
    arguments = (root / "params.yaml", "frontier", data.root, root / "docs/findings.md", root / "results/frontier")
    frontier(data, "nearsafe+redirection=2", 97, 60)
    with pytest.raises(NearsafeError, match="undefended"):
        main(*arguments)
    write_scores(
        data.scores("original"),
        [score_row("original", "zeroshot/base", "mean", "accuracy", 0.9)],
        outcomes("original", "zeroshot/validation", "subject", "accuracy", 9, 10),
    )
    with pytest.raises(NearsafeError, match="nearsafe.redirection=2.* other validation items"):
        main(*arguments)


def test_a_broken_page_is_an_error_before_anything_is_written(root: Path) -> None:
    (root / "docs/findings.md").write_text("<!-- table: ablation -->")
    ablation(Data(root / "data/studies/ablation"), "original", (0.0, 0.0, 0.0))
    with pytest.raises(SystemExit):
        findings(root, "ablation")
    assert (root / "docs/findings.md").read_text() == "<!-- table: ablation -->"
    assert not (root / "results").exists()
