"""Whole flows over a small repository: they do what a serial `dvc repro` does, and say what became of each stage."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import NearsafeError
from pipeline.flows import lock
from pipeline.flows.run import run_flow
from pipeline.runs import read_runs
from tests.flows import repository
from tests.flows.driver import Driver

STAGES = ["base", "train@a", "train@b", "score@a", "score@b", "results"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """One Prefect, on its temporary server, without a network."""
    driver = Driver(tmp_path_factory.mktemp("driver"), dict(os.environ))
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def finished(driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that a flow has run from nothing, on two pretend devices, and committed."""
    root = repository.make(tmp_path_factory.mktemp("flow") / "clone")
    outcome = driver.run(root, devices="GPU-one,GPU-two", env={"MEET": "60"})
    assert outcome["state"] == "completed", driver.log.read_text()[-3000:]
    assert outcome["stages"] == dict.fromkeys(outcome["stages"], "ran")
    repository.run(root, "git", "add", "-A")
    repository.run(root, "git", "commit", "-q", "-m", "run")
    return root


def test_a_flow_leaves_what_a_serial_run_leaves(finished: Path, tmp_path: Path) -> None:
    serial = repository.make(tmp_path / "serial")
    repository.dvc(serial, "repro", "-q")
    assert repository.locked(finished) == repository.locked(serial)
    assert repository.dvc(finished, "status").strip() == "Data and pipelines are up to date."
    assert (finished / ".gitignore").read_text() == (serial / ".gitignore").read_text()

    outcome = run_flow(serial)  # in this process: nothing is stale, so Prefect is not even started
    assert outcome.message == "Data and pipelines are up to date." and outcome.run_id is None
    assert set(outcome.stages) == set(STAGES) and not (serial / ".nearsafe/prefect").exists()


def test_independent_stages_ran_at_once_each_on_its_device(finished: Path) -> None:
    """Both pairs had to meet (MEET); the devices tell that neither took the other's."""
    trained = [repository.devices(finished, f"train@{key}")[0] for key in "ab"]
    assert sorted(trained) == ["GPU-one", "GPU-two"]
    assert [repository.devices(finished, f"score@{key}")[0] for key in "ab"] == ["", ""]


def test_one_changed_leaf_runs_its_descendants_and_nothing_else(driver: Driver, finished: Path) -> None:
    before = {stage: len(repository.devices(finished, stage)) for stage in STAGES}
    repository.change(finished, "methods.b.score", "z")
    try:
        outcome = driver.run(finished, targets=["results"])
        wanted = {**dict.fromkeys(STAGES, "up_to_date"), "score@b": "ran", "results": "ran"}
        assert outcome["stages"] == wanted and outcome["message"] == "2 ran, 4 up to date."
        after = {stage: len(repository.devices(finished, stage)) for stage in STAGES}
        assert {stage for stage in STAGES if after[stage] > before[stage]} == {"score@b", "results"}
    finally:
        repository.run(finished, "git", "checkout", "params.yaml")
    assert driver.run(finished)["stages"] == {**wanted, "score@b": "cached", "results": "cached"}
    newest = read_runs(finished / "data")[0]
    assert newest["kind"] == "flow" and newest["state"] == "completed" and newest["flow_run_id"]


def test_a_failed_stage_stops_only_its_descendants(driver: Driver, tmp_path: Path) -> None:
    root = repository.make(tmp_path / "clone")
    repository.change(root, "methods.a.lr", "fail")
    outcome = driver.run(root)
    assert outcome["state"] == "failed"
    below = {"train@a": "failed", "score@a": "not_run", "results": "not_run"}
    assert outcome["stages"] == {**dict.fromkeys(STAGES, "ran"), **below}
    assert outcome["message"] == "3 ran, 1 failed, 2 not run. Failed: train@a. Not run: score@a, results."


def test_overrides_run_as_an_experiment_and_leave_the_clone_alone(driver: Driver, finished: Path) -> None:
    params = (finished / "params.yaml").read_text()
    (finished / "stage.py").write_text((finished / "stage.py").read_text() + "\n# not committed\n")
    try:
        outcome = driver.run(finished, overrides=["methods.a.score=long", "base=b"], targets=["score@a"], force=False)
    finally:
        repository.run(finished, "git", "checkout", "stage.py")
    name = outcome["experiment"]
    assert outcome["state"] == "completed" and name in outcome["message"]
    assert "\n# not committed\n" in (Path(outcome["workspace"]) / "stage.py").read_text()
    assert (finished / "params.yaml").read_text() == params
    assert repository.run(finished, "git", "status", "--short") == ""
    assert name in repository.dvc(finished, "exp", "list", "--name-only").split()
    shown = json.loads(repository.dvc(finished, "exp", "show", "--json"))
    found = [exp for exp in shown[1]["experiments"] if exp["name"] == name]
    assert found[0]["revs"][0]["data"]["params"]["params.yaml"]["data"]["methods"]["a"]["score"] == "long"


def test_only_what_the_overrides_concern_runs(driver: Driver, finished: Path) -> None:
    outcome = driver.run(finished, overrides=["+methods.a.note=1", "methods.b.score=w"])
    wanted = {**dict.fromkeys(STAGES, "up_to_date"), "score@b": "ran", "results": "ran"}
    assert outcome["stages"] == wanted
    assert read_runs(finished / "data")[0]["experiment"] == outcome["experiment"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["methods.a.rate=1"], "no parameter 'methods.a.rate'; near it: methods.a"),
        (["methods.a.lr=1,2"], "several values at once"),
        (["methods.a.lr"], "expected NAME=VALUE"),
        (["other.yaml:a=1"], "other.yaml: no such file"),
    ],
)
def test_wrong_overrides_are_refused_before_any_work(tmp_path: Path, overrides: list[str], message: str) -> None:
    for name, text in (("params.yaml", repository.PARAMS), ("dvc.yaml", repository.PIPELINE)):
        (tmp_path / name).write_text(text)
    with pytest.raises(NearsafeError, match=message):
        run_flow(tmp_path, overrides=overrides)
    assert not (tmp_path / ".nearsafe").exists()


def test_an_experiment_that_would_change_nothing_leaves_nothing(finished: Path) -> None:
    workspaces = set((finished / ".nearsafe/workspaces").iterdir())
    outcome = run_flow(finished, overrides=["base=b"])
    assert outcome.experiment is None and "no experiment was made" in outcome.message
    with pytest.raises(NearsafeError, match="near it: train"):
        run_flow(finished, targets=["trian"], overrides=["base=c"])
    assert len(workspaces) == 2, "keep_workspaces"
    assert set((finished / ".nearsafe/workspaces").iterdir()) < workspaces


def test_a_second_flow_is_refused_by_the_first_ones_name(finished: Path) -> None:
    with lock.hold(finished, "train@a"), pytest.raises(NearsafeError, match=f"process {os.getpid()}.*train@a"):
        run_flow(finished)
    assert lock.holder(finished) is None


def test_no_flow_called_another_machine(driver: Driver, finished: Path) -> None:
    assert not driver.calls.exists(), driver.calls.read_text()
