"""What is to run: targets, groups, force, the stages that need a GPU."""

import sys
from pathlib import Path

import pytest

from pipeline.errors import NearsafeError
from pipeline.flows.graph import make_plan
from tests.dvc_folder import initialise
from tests.flows import repository

MORE = """
stages:
  findings:
    wdir: ..
    cmd: python stage.py --name findings --value f --deps data/score-a --out data/findings
    deps: [stage.py, data/score-a]
    outs: [data/findings]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which `base` has run, with a second file of stages."""
    root = repository.make(tmp_path_factory.mktemp("graph") / "clone")
    (root / "studies").mkdir()
    (root / "studies/dvc.yaml").write_text(MORE)
    repository.dvc(root, "repro", "-q", "base")
    return root


def test_no_target_is_the_root_file_and_only_what_is_stale(root: Path) -> None:
    plan = make_plan(root)
    assert set(plan.stages) == {"base", "train@a", "train@b", "score@a", "score@b", "results"}
    assert set(plan.steps) == set(plan.stages) - {"base"}
    assert plan.steps["train@a"].gpu and not plan.steps["score@a"].gpu
    assert plan.steps["train@a"].upstream == () and plan.steps["results"].upstream == ("score@a", "score@b")
    assert list(plan.steps).index("train@a") < list(plan.steps).index("score@a") < list(plan.steps).index("results")


def test_a_target_brings_what_it_needs(root: Path) -> None:
    assert set(make_plan(root, ["train"]).stages) == {"base", "train@a", "train@b"}
    study = make_plan(root, ["studies/dvc.yaml:findings"])
    assert set(study.stages) == {"base", "train@a", "score@a", "studies/dvc.yaml:findings"}
    assert study.steps["studies/dvc.yaml:findings"].upstream == ("score@a",)
    assert make_plan(root, ["studies/dvc.yaml"]) == study
    assert set(make_plan(root, ["dvc.yaml:train@a"], force=True).steps) == {"base", "train@a"}
    assert make_plan(root, ["base"]).steps == {}


@pytest.mark.parametrize(("target", "near"), [("trian", "train"), ("findings", "studies/dvc.yaml:findings")])
def test_an_unknown_target_names_its_neighbours(root: Path, target: str, near: str) -> None:
    with pytest.raises(NearsafeError, match=f"{target}.*near it: .*{near}"):
        make_plan(root, [target])


CODE = """
stages:
  code:
    cmd: env PYTHONPATH={root} {python} -P {root}/stages/code.py --out data/code
    deps: [pipeline, stages]
    outs: [data/code]
  one:
    cmd: echo $(cat params.yaml) > data/one
    deps: [data/code/one.txt]
    params: [a]
    outs: [data/one]
  two:
    cmd: cp data/one data/two
    deps: [data/code/two.txt, data/one]
    outs: [data/two]
"""


def test_a_change_of_code_plans_those_alone_whose_files_it_is(tmp_path: Path) -> None:
    """A planned stage waits for the lists all the same: DVC lets nobody read them while they are written."""
    root = tmp_path / "clone"
    initialise(root)
    for name, text in (
        ("dvc.yaml", CODE.format(root=Path(__file__).parents[2], python=sys.executable)),
        ("params.yaml", "a: 1\n"), ("stages/one.py", "from pipeline import used\n"), ("stages/two.py", ""),
        ("pipeline/used.py", ""), ("pipeline/unused.py", ""),
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "data").mkdir()
    assert list(make_plan(root).steps) == ["code", "one", "two"]
    repository.dvc(root, "repro", "-q")
    assert not make_plan(root).steps

    def planned() -> dict[str, tuple[str, ...]]:
        return {name: step.upstream for name, step in make_plan(root).steps.items()}

    (root / "pipeline/unused.py").write_text("x = 1\n")
    assert planned() == {"code": ()}
    (root / "params.yaml").write_text("a: 2\n")
    assert planned() == {"code": (), "one": ("code",), "two": ("code", "one")}
    repository.dvc(root, "repro", "-q")
    (root / "stages/two.py").write_text("x = 1\n")
    assert planned() == {"code": (), "two": ("code",)}
    assert set(make_plan(root, force=True).steps) == {"code", "one", "two"}


def test_dvcs_reason_reaches_the_user(tmp_path: Path) -> None:
    with pytest.raises(NearsafeError, match=r"no dvc\.yaml here"):
        make_plan(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: [")
    with pytest.raises(NearsafeError, match="not inside of a DVC repository"):
        make_plan(tmp_path)
