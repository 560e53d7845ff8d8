"""The studies of images, from tables on disk to the page: DES ablation and attack grid."""

import csv
import re
from pathlib import Path

import pytest

from pipeline.errors import run
from pipeline.layout import Data, table_file
from pipeline.metrics.intervals import wilson
from pipeline.metrics.seeds import Measured, pool
from pipeline.results.findings import KNOWN
from pipeline.tables import Output
from stages.findings import main, parser
from tests.conftest import detection_row, generation_row, score_row

PARAMS = """
des_ablations: {original: {method: original}, des: {method: des}, later: {method: des}}
attack: {grid: {original: {method: original}, des: {method: des}, des_mmd: {method: des}}}
"""
SEEDS = (0, 1, 2)
JUDGE = {"detector": "world", "rule": "hazard"}
SAFE = ("world_near", "world_invented")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "page.md").write_text("\n".join(f"<!-- table: {name} -->\n<!-- end -->" for name in KNOWN) + "\n")
    return tmp_path


def findings(root: Path, study: str) -> str:
    command = ["--params", f"{root}/params.yaml", "--study", study, "--data", f"{root}/data/studies/{study}"]
    run(main, parser(), [*command, "--page", f"{root}/page.md", "--out", f"{root}/results/{study}"])
    return (root / "page.md").read_text()


def block(page: str, name: str) -> str:
    return page.split(f"<!-- table: {name} -->")[1].split("<!-- end -->")[0]


def table(page: str, name: str) -> dict[str, dict[str, str]]:
    """First cell -> header (without n) -> cell."""
    lines = [line.split("|")[1:-1] for line in block(page, name).splitlines() if line.startswith("|")]
    lines = [[cell.strip() for cell in line] for line in lines if not line[0].strip().startswith("-")]
    header = [re.sub(r" \(n=\d+\)", "", cell) for cell in lines[0]]
    return {line[0]: dict(zip(header, line, strict=True)) for line in lines[1:]}


def write(folder: Path, **tables: list[dict]) -> None:
    output = Output(folder, {"folder": folder.as_posix()})
    for name, rows in tables.items():
        output.write(table_file(name), name, rows)
    output.finish()


def share_row(defence: str, name: str, hits: int, seed: int, metric: str = "asr", n: int = 40) -> dict:
    low, high = wilson(hits, n)
    facts = {"seed": seed, "n": n, "ci_low": low, "ci_high": high, **JUDGE}
    return score_row(defence, f"generation/{name}", "one image per prompt", metric, hits / n, **facts)


def ablated(data: Data, defence: str, hits: tuple[int, int, int], quality: float) -> None:
    rows = []
    for seed, count in zip(SEEDS, hits, strict=True):
        rows += [
            share_row(defence, "world_unsafe", count, seed),
            share_row(defence, "world_safe", 2, seed, "false_positive_rate"),
            score_row(defence, "generation/world_safe", "", "clip_score", quality + seed, seed=seed, ci_high=60.0),
            score_row(defence, "generation/world_safe", "ref", "frechet_distance", 5.0, seed=seed, ci_high=6.0),
            score_row(defence, "separation", "unsafe", "nearest_is_safe", 0.25, seed=seed),
            score_row(defence, "separation", "safe", "cosine_to_itself", 0.75, seed=seed),
        ]
    write(data.scores(defence), scores=rows)


def test_des_ablation_has_every_number_over_seeds_and_the_published_ones_apart(root: Path) -> None:
    data = Data(root / "data/studies/des_ablation")
    ablated(data, "original", (40, 39, 40), 52.0)
    ablated(data, "des", (0, 4, 2), 47.0)
    page = findings(root, "des_ablation")
    found = table(page, "des_ablation")
    assert list(found) == ["original", "des", "later"], "the order of params.yaml"
    expected = pool([Measured(hits / 40, 40, *wilson(hits, 40)) for hits in (0, 4, 2)], (0, 1))
    assert found["des"]["ASR"] == f"{expected.value:.3f} [{expected.low:.3f}, {expected.high:.3f}]"
    assert found["des"]["false positives"].startswith("0.050 [")
    assert found["original"]["CLIP score"].startswith("53.00 ["), "the undefended row stands beside it"
    assert found["des"]["Frechet distance"].startswith("5.00 [")
    assert found["later"]["ASR"] == "-", "not scored is no zero"
    assert table(page, "des_separation")["des"]["unsafe: nearest is safe"].startswith("0.250 [")
    assert "3 training seeds" in block(page, "des_ablation")
    assert block(page, "attack_grid").strip() == "", "the other study's block"
    numbers = list(csv.DictReader((root / "results/des_ablation/des_ablation.csv").open()))
    assert {row["name"] for row in numbers} == {"asr", "false_positive_rate", "clip_score", "frechet_distance"}


def test_published_numbers_are_in_tables_of_their_own(root: Path) -> None:
    ablated(Data(root / "data/studies/des_ablation"), "des", (0, 0, 0), 47.0)
    page = findings(root, "des_ablation")
    printed = block(page, "des_published")
    assert "Table 17: DES, UEN alone" in printed and "106.34" in printed
    des, cmu = (part for part in printed.split("\n\n") if part.startswith("| printed in"))
    assert "(CMU)" not in des and "Table 17" not in cmu, "no column holds two stacks"
    assert "any box" in cmu.splitlines()[0] and "ASR" not in cmu.splitlines()[0]
    assert "106.34" not in block(page, "des_ablation")
    alphas = re.findall(r"DES, alpha (\d+)", des)
    assert alphas == [str(alpha) for alpha in range(50, 351, 50)], "by number, as the paper prints them"
    assert re.findall(r"\+ UEN\) .* lambda (0\.\d)", des) == ["0.1", "0.2", "0.3", "0.4", "0.5"]


def attacked(data: Data, defence: str, flagged: dict[str, tuple[int, ...]], seeds: tuple[int, ...] = SEEDS) -> None:
    """`flagged` images of 10 per set and seed, the first ones; SAFE sets are safe; "suffix" was searched."""
    scores, detections, images, searches = [], [], {"generations": [], "attacks": []}, []
    for name, counts in flagged.items():
        metric = "false_positive_rate" if name in SAFE else "asr"
        for seed, hits in zip(seeds, counts, strict=True):
            scores.append(share_row(defence, name, hits, seed, metric, 10))
            if metric == "asr":
                scores.append(share_row(defence, name, hits // 2, seed, "asr_as_asked", 10))
            for number in range(10):
                item = f"{defence}-{seed}-{name}-{number}"
                row = {**generation_row(item, defence, f"u{number}", name), "seed": seed}
                images["attacks" if name == "suffix" else "generations"].append(row)
                labels = (("none", float(number >= hits)), ("knife", float(number < hits)))
                for index, (label, score) in enumerate(labels):
                    facts = {"label": label, "score": score, "seed": seed}
                    detections.append(detection_row(item, defence, name, "world", index, **facts))
    for seed in seeds:
        for number in range(10):
            row = {"attack": "suffix", "mode": "adaptive", "defence": defence, "seed": seed, "prompt_id": f"u{number}"}
            row |= {"text": None, "tokens": 4, "steps": 9, "victim_hash": "v", "error": None, "status": "ok"}
            searches.append({**row, "similarity_before": 0.5, "similarity_after": 0.75})
    searches[0] |= {"status": "refused", "similarity_after": 0.0}
    write(data.scores(defence), scores=scores, detections=detections)
    write(data.generations(defence), generations=images["generations"])
    write(data.root / "attacks" / defence, attacks=searches, generations=images["attacks"])


def test_attack_tables(root: Path, capsys: pytest.CaptureFixture) -> None:
    data = Data(root / "data/studies/attack")
    none = {"world_near": (1, 0, 1), "world_obfuscated": (2, 2, 2)}
    attacked(data, "original", {"world_unsafe": (10, 10, 10), "suffix": (10, 10, 10), **none})
    attacked(data, "des", {"world_unsafe": (0, 0, 0), "suffix": (8, 8, 8), **none})
    attacked(data, "des_mmd", {"world_unsafe": (0, 0, 0), "suffix": (2, 4, 3), **none})
    page = findings(root, "attack")
    grid = table(page, "attack_grid")
    columns = list(grid["des"])[1:]
    assert columns == ["world_unsafe", "world_obfuscated", "suffix", "false positives, world_near"]
    assert grid["des_mmd"]["suffix"].startswith("0.300 [") and grid["des"]["suffix"].startswith("0.800 [0.")
    named = table(page, "attack_as_asked")
    assert list(named["des"])[1:] == columns[:3] and named["des"]["suffix"].startswith("0.400 [")
    gain = table(page, "attack_gain")
    assert gain["des"]["suffix"] == "-", "what the others are compared with"
    assert gain["des_mmd"]["suffix"].startswith("-0.500 [-0.")
    same = re.fullmatch(r"0.000 \[(-0.\d+), (0.\d+)\]", gain["des_mmd"]["world_unsafe"])
    assert same and float(same[2]) == -float(same[1]) > 0.1, "10 images without a difference do not show equality"
    assert gain["original"]["world_unsafe"].startswith("1.000 [")
    search = table(page, "attack_search")
    assert search["des"]["suffix: before"].startswith("0.500 [")
    assert search["des"]["suffix: after"].startswith("0.750 ["), "what was refused is in no mean"
    assert "n: prompts per seed" in block(page, "attack_search")
    assert "Wilson" not in block(page, "attack_gain") and "Agresti and Min" in block(page, "attack_gain")
    assert "3 of 90 searched prompts that a prompt filter refused, 0 that" in block(page, "attack_grid")
    assert "invented" not in block(page, "attack_grid"), "not asked, not explained"
    assert "3 of 3 scored" in capsys.readouterr().out
    assert findings(root, "attack") == page, "twice is once"


def test_hazards_drawn_for_an_invented_word_are_no_false_positives(root: Path) -> None:
    counts = {"suffix": (0,), "world_near": (0,), "world_invented": (6,)}
    for defence in ("des", "des_mmd"):
        attacked(Data(root / "data/studies/attack"), defence, counts, seeds=(0,))
    page = findings(root, "attack")
    for name in ("attack_grid", "attack_gain"):
        columns = list(table(page, name)["des_mmd"])[1:]
        assert columns == ["suffix", "false positives, world_near", "hazard drawn for an invented word"]
    assert "no mistakes of the detector" in block(page, "attack_grid")


def test_gain_of_one_seed_by_hand(root: Path) -> None:
    """Ten prompts, one failed image. Of nine pairs: both flagged 1, baseline alone 4, the extension alone 1, neither 3.

    (1 - 4) / 9; centre -3 / 11; half 1.959964 * sqrt(5 + 1 - 9 / 11) / 11 = 1.959964 * 2.276361 / 11 = 0.405599.
    """
    data = Data(root / "data/studies/attack")
    flagged = {"des": (0, 1, 2, 3, 4), "des_mmd": (4, 5, 9)}
    for defence, hits in flagged.items():
        images = [generation_row(f"{defence}-{i}", defence, f"u{i}", "world_unsafe") for i in range(10)]
        seen = [
            detection_row(f"{defence}-{i}", defence, "world_unsafe", "world", 0, label="knife", score=float(i in hits))
            for i in range(10)
        ]
        if defence == "des":
            seen[9] |= {"label": None, "score": None, "status": "error", "error": "unreadable"}
        write(data.generations(defence), generations=images)
        write(data.scores(defence), detections=seen, scores=[share_row(defence, "world_unsafe", len(hits), 0, n=10)])
    page = findings(root, "attack")
    assert "| world_unsafe (n=9) |" in re.sub(" +", " ", block(page, "attack_gain"))
    assert table(page, "attack_gain")["des_mmd"]["world_unsafe"] == "-0.333 [-0.678, 0.133]"
    assert "and 1 of 20 images that failed" in block(page, "attack_grid")


def test_a_failed_image_in_one_seed_does_not_stop_the_table(root: Path) -> None:
    rows = [share_row("des", "world_unsafe", 1, seed, n=40 - (seed == 1)) for seed in SEEDS]
    write(Data(root / "data/studies/attack").scores("des"), scores=rows)
    page = findings(root, "attack")
    assert "world_unsafe (n=39)" in block(page, "attack_grid")


def test_a_study_that_has_not_run_names_its_target(root: Path, capsys: pytest.CaptureFixture) -> None:
    findings(root, "des_ablation")
    assert "`make des-ablation` runs the study" in capsys.readouterr().out
    (root / "params.yaml").write_text("attack: {grid: {}}")
    with pytest.raises(SystemExit):
        findings(root, "attack")
    assert "no entries in section 'attack.grid'" in capsys.readouterr().err
