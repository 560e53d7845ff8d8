"""What the last stage writes: metrics.json, plots, the table."""

import csv
import json
from pathlib import Path

import duckdb
import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from pipeline.cli import main as cli
from pipeline.errors import run
from pipeline.layout import Data, table_file
from pipeline.results.figures import COLOURS, write_separation
from pipeline.results.picture import NO_VERDICT, verdicts
from pipeline.results.picture import main as picture_main
from pipeline.results.picture import parser as picture_parser
from pipeline.results.report import markdown, render
from pipeline.tables import Output, read_output
from stages.results import main
from tests.conftest import DEFENCES, generation_row

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def results(finished: Path) -> Path:
    params = finished.parent / "params.yaml"
    params.write_text("defences:\n  safer_clip: {method: safer_clip}\n  original: {method: original}\n")
    main(params, finished, finished.parent / "results")
    return finished.parent / "results"


def test_metrics_are_nested_per_defence_with_interval_and_n(results: Path) -> None:
    metrics = json.loads((results / "metrics.json").read_text())
    assert list(metrics) == ["safer_clip", "original"], "the order of params.yaml"
    number = metrics["original"]["seed_0"]["redirect_tuned"]
    assert number == {"value": 0.05, "ci_low": 0.0215, "ci_high": 0.1118, "n": 100}


def test_outputs_are_the_same_twice(results: Path, finished: Path) -> None:
    main(finished.parent / "params.yaml", finished, finished.parent / "again")
    for file in ["metrics.json", "table.md", "plots/tradeoff.csv", "plots/zero_shot.csv", "plots/loss.csv"]:
        assert (finished.parent / "again" / file).read_bytes() == (results / file).read_bytes()


def test_dvc_plots_name_columns_that_exist(results: Path) -> None:
    plots = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["plots"]
    for plot in plots:
        ((_, definition),) = plot.items()
        axes = [definition["y"]] + ([definition["x"]] if isinstance(definition["x"], dict) else [])
        for axis in axes:
            for file, columns in axis.items():
                with (results.parent / file).open() as opened:
                    header = next(csv.reader(opened))
                wanted = columns if isinstance(columns, list) else [columns]
                wanted += [] if isinstance(definition["x"], dict) else [definition["x"]]
                assert set(wanted) <= set(header), f"{plot}: {file} has {header}"


def test_table_shows_value_interval_n_and_provenance(results: Path, capsys: pytest.CaptureFixture) -> None:
    cli(["table", "--results", str(results)])
    table = capsys.readouterr().out
    lines = [line for line in table.splitlines() if line.startswith("| original")]
    assert any("0.970 [0.920, 1.000]" in line for line in lines)
    assert "zero-shot (n=100)" in table
    assert "- zero shot: zeroshot/base; interval: bootstrap" in table
    assert table.index("| safer_clip") < table.index("| original"), "the order of params.yaml"


def test_table_before_any_run_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        cli(["table", "--results", str(tmp_path)])
    assert "`make repro` makes them" in capsys.readouterr().err


def number(**changes: object) -> dict:
    row = {"defence": "original", "seed": 0, "name": "asr", "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 10,
           "ci_method": "wilson", "benchmark": "generation/world_unsafe",
           "detector": "world", "rule": "hazard"}  # fmt: skip
    return {**row, **changes}


def test_different_n_stands_in_each_cell_and_a_missing_value_is_no_zero() -> None:
    rows = [number(), number(defence="safer_clip", n=9), number(defence="safer_clip", name="clip_score", value=None)]
    table = render(rows, DEFENCES)
    assert "0.500 [0.400, 0.600] n=10" in table
    assert "0.500 [0.400, 0.600] n=9" in table
    assert "ASR |" in table
    row = [line for line in table.splitlines() if line.startswith("| safer_clip")][-1]
    assert row.split("|")[2].strip() == "-"


def test_several_seeds_are_named() -> None:
    assert "original, seed 1" in render([number(), number(seed=1)], DEFENCES)


def test_markdown_is_aligned_and_escaped() -> None:
    lines = markdown(["a", "n"], [["x|y", "1"], ["z", "100"]])
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| ---- | --: |"
    assert "x\\|y" in lines[2]


def test_the_picture_hides_what_a_rule_flags_unless_asked(results: Path, finished: Path, tmp_path: Path) -> None:
    params = finished.parent / "params.yaml"
    picture = ["--data", str(finished), "--params", str(params), "--columns", "2"]
    run(picture_main, picture_parser(), [*picture, "--out", str(tmp_path / "hidden.png")])
    run(picture_main, picture_parser(), [*picture, "--out", str(tmp_path / "shown.png"), "--show-flagged"])
    hidden, shown = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("hidden", "shown"))
    assert hidden.shape == shown.shape and (hidden != shown).any()
    assert (results / "generations.png").is_file()


def test_the_picture_shows_an_unsafe_and_a_safe_set_unless_asked(results: Path, finished: Path, tmp_path: Path) -> None:
    """A third set, which sorts first, changes nothing; asked for, it is the only one."""
    folder = Data(finished).generations("original")
    rows = read_output(folder, "generations").to_pylist()
    params = str(finished.parent / "params.yaml")
    picture = ["--data", str(finished), "--params", params, "--columns", "12", "--out"]
    output = Output(folder, {"stage": "generate"})
    prompts = read_output(Data(finished).world, "prompts").to_pylist()
    output.write(table_file("generations"), "generations", [*rows, generation_row("x", "original", "o0", "an_odd_set")])
    output.finish()
    world = Output(Data(finished).prompts, {"stage": "prompts"})
    odd = {**prompts[0], "prompt_id": "o0", "prompt_set": "an_odd_set", "unsafe": True}
    world.write(table_file("prompts"), "prompts", [*prompts, odd])
    world.finish()
    run(picture_main, picture_parser(), [*picture, str(tmp_path / "after.png")])
    assert (tmp_path / "after.png").read_bytes() == (results / "generations.png").read_bytes()
    run(picture_main, picture_parser(), [*picture, str(tmp_path / "odd.png"), "--sets", "an_odd_set"])
    with Image.open(tmp_path / "odd.png") as odd_picture, Image.open(results / "generations.png") as before:
        assert odd_picture.height * 2 == before.height
    with pytest.raises(SystemExit):
        run(picture_main, picture_parser(), [*picture, str(tmp_path / "no.png"), "--sets", "no_such_set"])
    assert not (tmp_path / "no.png").exists()


def projection(defence: str, prompt: str, model: str, x: float, seed: int = 0) -> dict:
    row = {"defence": defence, "seed": seed, "prompt_id": prompt, "prompt_set": "s", "unsafe": prompt.startswith("u")}
    return {**row, "model": model, "x": x, "y": 1.0}


def shown(picture: Path) -> tuple[int, int]:
    """Pixels in the full colours of safe and of unsafe prompts."""
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    wanted = ([int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS[:2])
    return tuple(int((pixels == colour).all(-1).sum()) for colour in wanted)


def test_separation_shows_safe_and_unsafe_before_and_after(tmp_path: Path) -> None:
    rows = [
        projection(defence, prompt, model, x)
        for defence in DEFENCES
        for prompt, x in (("u0", 0.0), ("s0", 5.0))
        for model in ("undefended", "defended")
    ]
    write_separation(rows, tmp_path / "both.png")
    write_separation([row for row in rows if row["defence"] == "original"], tmp_path / "one.png")
    write_separation(rows, tmp_path / "again.png")
    assert (tmp_path / "both.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    with Image.open(tmp_path / "both.png") as both, Image.open(tmp_path / "one.png") as one:
        assert both.width > 1.5 * one.width, "a panel per defence"
    write_separation([row for row in rows if row["model"] == "undefended"], tmp_path / "before.png")
    assert all(a > b for a, b in zip(shown(tmp_path / "both.png"), shown(tmp_path / "before.png"), strict=True)), (
        "solid after, pale before"
    )


def test_the_results_hold_the_separation_picture(results: Path, finished: Path) -> None:
    empty = (results / "separation.png").read_bytes()
    scores = Output(Data(finished).scores("original"), {"defence": "original"})
    rows = [projection("original", prompt, "defended", 1.0) for prompt in ("u0", "s0")]
    scores.write(table_file("projections"), "projections", rows)
    scores.finish()
    main(finished.parent / "params.yaml", finished, finished.parent / "again")
    assert (finished.parent / "again" / "separation.png").read_bytes() != empty


def test_an_unsafe_prompts_image_that_only_nudity_was_looked_for_in_is_hidden() -> None:
    """Without a detector of hazards (`score.detectors.world: null`) NudeNet's silence clears no image of violence."""
    database = duckdb.connect()
    database.execute(
        "CREATE TABLE prompt_sets AS SELECT * FROM (VALUES ('i2p', true), ('coco', false)) t(prompt_set, unsafe)"
    )
    database.execute(
        "CREATE TABLE generations AS SELECT * FROM (VALUES ('a', 'i2p'), ('b', 'coco')) t(generation_id, prompt_set)"
    )
    judged = (
        "CREATE TABLE flags AS SELECT 'n_a_9' AS rule, unnest(['a', 'b']) AS item_id, 'n' AS detector, false AS flagged"
    )
    database.execute(judged)
    assert verdicts(database) == {"a": f"{NO_VERDICT} by rule hazard", "b": ""}
    database.execute("INSERT INTO flags VALUES ('hazard', 'a', 'world', false), ('hazard', 'b', 'world', false)")
    assert verdicts(database) == {"a": "", "b": ""}
