"""Two runs side by side, and the command that writes the page."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from playwright.sync_api import Page
from typer.testing import CliRunner

from pipeline.commands.report import report
from pipeline.errors import NearsafeError
from pipeline.layout import Report, Results
from pipeline.report.compare import Revision, section
from pipeline.report.page import render, write_report
from pipeline.report.run import open_run
from pipeline.report.sections.frontier import picture
from pipeline.results.database import connect
from pipeline.results.picture import write_picture
from pipeline.results.summary import write_metrics, write_plots
from tests.conftest import DEFENCES


def _git(root: Path, *command: str) -> None:
    names = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    subprocess.run(["git", *names, *command], cwd=root, check=True, capture_output=True)


def _results(data: Path) -> Results:
    results = Results(data.parent / "results")
    database = connect(data, DEFENCES)
    write_metrics(database, results.metrics, DEFENCES)
    write_plots(database, results.plots)
    write_picture(database, data, DEFENCES, results.picture)
    return results


@pytest.fixture
def versioned(full: Path) -> Path:
    """`full` with its results in git under tag `then`; today one number is far from then, and one model is new."""
    results, root = _results(full), full.parent
    now = results.metrics.read_text(encoding="utf-8")
    then = json.loads(now)
    then["original"]["seed_0"]["zero_shot"] |= {"value": 0.1, "ci_low": 0.05, "ci_high": 0.15}
    then["retired"] = {"seed_0": {"asr": {"value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 100}}}
    del then["safer_clip"]
    _git(root, "init", "-q")
    (root / "empty").write_text("", encoding="utf-8")
    _git(root, "add", "empty")
    _git(root, "commit", "-q", "-m", "nothing yet")
    _git(root, "tag", "before")
    results.metrics.write_text(json.dumps(then), encoding="utf-8")
    _git(root, "add", "results")
    _git(root, "commit", "-q", "-m", "results")
    _git(root, "tag", "then")
    results.metrics.write_text(now, encoding="utf-8")
    return full


def test_two_runs_stand_side_by_side(versioned: Path, opened: Callable[..., Page]) -> None:
    results = versioned.parent / "results"
    run = open_run(versioned, results, DEFENCES)
    page = opened(render(run, [section(Revision("then", results))]))
    compare = page.locator("#compare")
    rows = compare.locator("tbody tr")
    moved = rows.filter(has_text="zero shot").filter(has_text="original").first.inner_text()
    assert "0.100" in moved
    assert "apart" in moved
    assert "only then" in rows.filter(has_text="retired").first.inner_text()
    assert "only now" in rows.filter(has_text="safer_clip").first.inner_text()
    assert compare.locator('path[aria-label$="(then)"]').count() >= 2
    assert compare.locator('path[aria-label$="(now)"]').count() >= 2
    assert compare.locator(".panel use").count() == 2  # the pictures of both runs
    assert page.complaints == []


def test_a_revision_that_cannot_be_compared_is_refused(versioned: Path) -> None:
    results = versioned.parent / "results"
    with pytest.raises(NearsafeError, match="no such revision"):
        Revision("nowhere", results)
    with pytest.raises(NearsafeError, match="no such revision"):
        Revision("--output=x", results)
    with pytest.raises(NearsafeError, match=r"no results/metrics\.json"):
        Revision("before", results)


def test_a_revision_without_plots_and_pictures_says_so(versioned: Path) -> None:
    root = versioned.parent
    _git(root, "rm", "-q", "-r", "--cached", "results/plots", "results/generations.png")
    _git(root, "commit", "-q", "-m", "numbers alone")
    run = open_run(versioned, root / "results", DEFENCES)
    text = render(run, [section(Revision("HEAD", root / "results"))])
    assert "has no plot of safety against utility" in text


def test_the_stage_writes_the_page_and_the_picture(full: Path, text: str, tmp_path: Path) -> None:
    out = Report(tmp_path / "report")
    run = open_run(full, tmp_path / "results", DEFENCES)
    write_report(run, out)
    assert out.page.read_text(encoding="utf-8") == text
    assert out.frontier.read_bytes().startswith(b"\x89PNG")
    assert picture(run) == out.frontier.read_bytes()
    assert sorted(path.name for path in out.root.iterdir()) == ["frontier.png", "index.html"]


def test_the_command_writes_a_page_with_the_studies(full: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report)
    params = tmp_path / "params.yaml"
    models = "{original: {method: original}}"
    params.write_text(
        "defences: {original: {}, safer_clip: {}}\n"
        f"ablations: {models}\ndes_ablations: {models}\nattack: {{grid: {models}}}\n",
        encoding="utf-8",
    )
    options = ["--data", str(full), "--params", str(params), "--out", str(tmp_path / "page")]
    done = CliRunner().invoke(app, [*options, "--results", str(tmp_path / "results"), "--studies"])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "make attack" in text  # nothing of it has been run here
    assert "MB)" in done.output
