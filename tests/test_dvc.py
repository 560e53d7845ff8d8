"""dvc.yaml and studies/dvc.yaml: a stage depends on its own code, and DVC runs exactly what a change concerns."""

import contextlib
import hashlib
import importlib
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.code import DEFENCE_MAY_IMPORT, LOADER, OWN, PACKAGES, Code, programs, renewed
from pipeline.results.findings import STUDIES
from stages.code import main as write_lists
from tests.dvc_folder import initialise

ROOT = Path(__file__).parents[1]
# The pipeline, and the studies, which plain `dvc repro` does not run.
GRAPHS = ("dvc.yaml", "studies/dvc.yaml")
PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
GRAPH = {graph: YAML(typ="safe").load((ROOT / graph).read_text())["stages"] for graph in GRAPHS}
STAGES = GRAPH["dvc.yaml"]
CODE = Code(ROOT)
ALL = [pytest.param(graph, name, id=f"{graph}:{name}") for graph, stages in GRAPH.items() for name in stages]


def module(stage: dict[str, Any]) -> str:
    """X of a stage's `python -m stages.X`."""
    return re.search(r"python -m stages\.(\w+)", stage.get("do", stage)["cmd"])[1]


@pytest.mark.parametrize(("graph", "name"), ALL)
def test_a_stage_depends_on_its_own_code_and_its_own_method(graph: str, name: str) -> None:
    """Methods are loaded by name: the list of a program that loads one leaves it to the stage."""
    stage = GRAPH[graph][name]
    if name == OWN:
        assert stage["deps"] == list(PACKAGES)
        return
    loads = LOADER in CODE.closure(ROOT / f"stages/{module(stage)}.py")
    one = re.search(r"--defence (\w+) ", stage.get("do", stage)["cmd"])
    method = one[1] if one else "${item.defence}" if "matrix" in stage else "${item.method}"
    wanted = [f"data/code/{module(stage)}.txt", *([f"pipeline/defences/{method}.py"] if loads else [])]
    assert [dep for dep in stage.get("do", stage)["deps"] if dep.endswith((".py", ".txt"))] == wanted


@pytest.mark.parametrize(("graph", "name"), ALL)
def test_stage_is_described_and_other_deps_exist(graph: str, name: str) -> None:
    stage = GRAPH[graph][name].get("do", GRAPH[graph][name])
    assert stage["desc"]
    for dep in map(str, stage["deps"]):
        if not dep.startswith("data/") and "${" not in dep:
            assert (ROOT / dep).exists(), dep
    assert (ROOT / f"stages/{module(stage)}.py").is_file()
    if graph == "dvc.yaml":
        assert f"stages.{name} " in stage["cmd"], "a stage is named as its module"
    else:
        assert stage["wdir"] == "..", "paths are those of the repository"
        assert re.fullmatch(rf"({'|'.join(STUDIES)})_{module(stage)}(_original)?", name), "study and module"


def test_a_swept_defence_is_named_as_its_module() -> None:
    """In a matrix DVC cannot look up the entry behind a name, so the dep is made of the name."""
    assert [PARAMS["defences"][name]["method"] for name in PARAMS["frontier"]["defences"]] == list(
        PARAMS["frontier"]["defences"]
    )


def test_package_inits_are_empty() -> None:
    for package in PACKAGES:
        for file in (ROOT / package).rglob("__init__.py"):
            assert not file.read_text().strip(), f"{file}: every stage would depend on everything"


def test_a_defence_imports_only_the_protocol() -> None:
    shared = {"protocol.py", "losses.py", "registry.py", "__init__.py"}
    for file in (ROOT / "pipeline/defences").glob("*.py"):
        if file.name not in shared:
            own = {path.relative_to(ROOT).as_posix() for path in CODE.imported(file)}
            assert own <= DEFENCE_MAY_IMPORT, f"{file}: imports {own - DEFENCE_MAY_IMPORT}, no stage would depend on it"


def test_science_never_imports_the_orchestration() -> None:
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            if "flows" not in file.parts:
                lines = file.read_text().splitlines()
                assert not [x for x in lines if x.strip().startswith(("import dvc", "from dvc", "import prefect"))], (
                    file
                )


def test_closure_sees_imports_inside_functions_and_relative_ones(tmp_path: Path) -> None:
    files = {
        "stages/s.py": "import numpy\nfrom pipeline import a\ndef f():\n    from pipeline.b import g\n",
        "pipeline/a.py": "from .deep.c import x\n",
        "pipeline/b.py": "import json\n",
        "pipeline/deep/c.py": "from ..b import g\nimport pipeline.a\n",
        "pipeline/unused.py": "",
        "pipeline/__init__.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    wanted = {"stages/s.py", "pipeline/a.py", "pipeline/b.py", "pipeline/deep/c.py"}
    assert Code(tmp_path).closure(tmp_path / "stages/s.py") == wanted
    found = programs(tmp_path)
    assert set(found) == {"s.txt"} and {line[66:] for line in found["s.txt"].splitlines()} == wanted
    empty = hashlib.sha256(b"").hexdigest()
    (tmp_path / "pipeline/b.py").write_text("")
    assert f"{empty}  pipeline/b.py\n" in programs(tmp_path)["s.txt"] != found["s.txt"]


def test_lists_that_would_change_are_known_without_writing_them(tmp_path: Path) -> None:
    for name in ("stages/one.py", "stages/two.py", "pipeline/a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("from pipeline import a\n" if name == "stages/one.py" else "")
    out = tmp_path / "out"
    assert renewed(tmp_path, out) == {"one.txt", "two.txt"}
    out.mkdir()
    for name, text in programs(tmp_path).items():
        (out / name).write_text(text)
    assert renewed(tmp_path, out) == set()
    (tmp_path / "pipeline/a.py").write_text("x = 1\n")
    assert renewed(tmp_path, out) == {"one.txt"}
    (tmp_path / "stages/two.py").unlink()
    assert renewed(tmp_path, out) == {"one.txt", "two.txt"}


def test_a_half_edited_file_concerns_those_alone_that_import_it(tmp_path: Path, monkeypatch) -> None:
    for name, text in (("stages/one.py", "from pipeline import a\n"), ("stages/two.py", ""), ("pipeline/a.py", "")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    write_lists(Path("out"))
    for broken in (b"y = = 2\n", b"\0", b"\xff"):
        (tmp_path / "pipeline/a.py").write_bytes(broken)
        assert renewed(tmp_path, Path("out")) == {"one.txt"}
    (tmp_path / "stages/two.py").unlink()
    write_lists(Path("out"))
    assert [file.name for file in Path("out").iterdir()] == ["one.txt"]
    assert f"{hashlib.sha256(broken).hexdigest()}  pipeline/a.py\n" in Path("out/one.txt").read_text()


FAKE = """
import sys, uuid
from pathlib import Path
command, out = sys.argv[1:], Path(sys.argv[sys.argv.index("--out") + 1])
with open("ran.log", "a") as log:
    key = command[command.index("--defence") + 1] if "--defence" in command else ""
    name = command[0].removeprefix("stages.") + (f"@{key}" if key else "")
    log.write((out.as_posix() if "studies" in out.parts or "findings" in out.parts else name) + "\\n")
last = ["metrics.json", "table.md", "generations.png", "separation.png", "plots/x.csv"]
for name in last if out.name == "results" else ["table.parquet"]:
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text('"' + uuid.uuid4().hex + '"')
figures = {"results/findings/frontier": "frontier", "results/findings/ablation": "drift"}
if out.as_posix() in figures:
    Path("docs/images").mkdir(parents=True, exist_ok=True)
    Path(f"docs/images/{figures[out.as_posix()]}.png").write_text(uuid.uuid4().hex)
"""
VARIANTS, SETTINGS = 2, 1  # of the studies (and one defence of the sweep), so that the test is quick
ATTACKED = ("original", "des")  # one of each ablation


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real graphs in a directory of their own; every command writes a new random output in a moment.

    Every program is one line, those that train import `pipeline/shared.py`; their lists are made as they are.
    """
    root = tmp_path_factory.mktemp("graph")
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text())
    for section in ("ablations", "des_ablations"):
        params[section] = dict(list(PARAMS[section].items())[:VARIANTS])
    params["attack"]["grid"] = {name: PARAMS["attack"]["grid"][name] for name in ATTACKED}
    params["frontier"]["settings"] = PARAMS["frontier"]["settings"][:SETTINGS]
    params["frontier"]["defences"] = PARAMS["frontier"]["defences"][:1]
    with (root / "params.yaml").open("w") as file:
        yaml.dump(params, file)
    (root / "fake.py").write_text(FAKE)
    for package in PACKAGES:
        (root / package).mkdir()
    (root / "pipeline/shared.py").touch()
    (root / PARAMS["sources"]["root"]).mkdir(parents=True)
    models = {f"${{models.{name}}}": folder for name, folder in PARAMS["models"].items()}
    entries = [entry for section in ("defences", "ablations", "des_ablations") for entry in PARAMS[section].values()]
    methods = sorted({entry["method"] for entry in entries})
    for graph in GRAPHS:
        whole = yaml.load((ROOT / graph).read_text())
        for entry in whole["stages"].values():
            stage = entry.get("do", entry)
            (root / f"stages/{module(entry)}.py").write_text("import pipeline.shared\n" * (module(entry) == "train"))
            lists = f"env PYTHONPATH={ROOT} {sys.executable} -P {ROOT / 'stages/code.py'}"  # not of this folder's code
            stage["cmd"] = stage["cmd"].replace("python -m stages.code", lists)
            stage["cmd"] = stage["cmd"].replace("python -m stages.", f"{sys.executable} fake.py stages.")
            stage["deps"] = [d for d in stage["deps"] if "${" in d or not str(d).startswith("pipeline/")]
            for dep in map(str, stage["deps"]):
                for path in {re.sub(r"\$\{item\.(method|defence)\}", method, dep) for method in methods}:
                    file = root / models.get(path, path)
                    if not path.startswith(("data/", "${item.")) and path not in PACKAGES:
                        file.parent.mkdir(parents=True, exist_ok=True)
                        file.touch()
        (root / graph).parent.mkdir(exist_ok=True)
        with (root / graph).open("w") as file:
            yaml.dump(whole, file)
    initialise(root)
    return root


def ran(root: Path, *targets: str) -> set[str]:
    """Reproduce, and return the stages whose command really ran (of a study: what they wrote)."""
    (root / "ran.log").write_text("")
    from dvc.cli import main

    with contextlib.chdir(root):
        assert main(["repro", *targets]) == 0
    return set((root / "ran.log").read_text().split())


def change(root: Path, *path: str, value: object) -> None:
    """Set one leaf of params.yaml."""
    yaml = YAML()
    params = yaml.load((root / "params.yaml").read_text())
    section = params
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    with (root / "params.yaml").open("w") as file:
        yaml.dump(params, file)


def of(defences: list[str], *stages: str) -> set[str]:
    return {f"{stage}@{defence}" for stage in stages for defence in defences}


def test_repro_runs_everything_then_nothing_then_what_a_change_concerns(repository: Path) -> None:
    defences = list(PARAMS["defences"])
    fanned, last = [name for name in STAGES if "foreach" in STAGES[name]], ("results", "report")
    everything = (set(STAGES) - {OWN, *fanned}) | of(defences, *fanned)  # that of the lists is the real one
    assert ran(repository) == everything
    assert ran(repository) == set()
    change(repository, "defences", "safer_clip", "probe", value=1)
    assert ran(repository) == {*of(["safer_clip"], *fanned), *last}
    (repository / "pipeline/unused.py").touch()
    assert ran(repository) == set(), "no stage imports it"
    (repository / "pipeline/shared.py").write_text("x = 1")
    assert ran(repository) == {*of(defences, *fanned), *last}, "those that train, and what comes after"
    change(repository, "generate", "probe", value=1)
    assert ran(repository) == {*of(defences, "generate", "score"), *last}
    change(repository, "defences", "mine", value={"method": "safer_clip"})
    assert ran(repository) == {*of(["mine"], *fanned), *last}, "a new defence is one entry"


def test_studies_run_only_when_asked_and_only_what_a_change_concerns(repository: Path) -> None:
    assert not any("/" in name for name in ran(repository)), "plain `dvc repro` runs no study"
    variants = list(PARAMS["ablations"])[:VARIANTS]
    folders = {f"data/studies/ablation/{kind}/{name}" for name in variants for kind in ("checkpoints", "scores")}
    page = {"results/findings/ablation"}
    assert ran(repository, "studies/dvc.yaml:ablation_findings") == folders | page
    assert ran(repository, "studies/dvc.yaml:ablation_findings") == page, "cheap, and mends an edited page"
    change(repository, "ablations", variants[-1], "probe", value=1)
    own = {f"data/studies/ablation/{kind}/{variants[-1]}" for kind in ("checkpoints", "scores")}
    assert ran(repository, "studies/dvc.yaml:ablation_findings") == own | page
    labels = [f"{PARAMS['frontier']['defences'][0]}+{setting}" for setting in PARAMS["frontier"]["settings"][:SETTINGS]]
    swept = {f"data/studies/frontier/{kind}/{label}" for label in labels for kind in ("checkpoints", "scores")}
    swept |= {f"data/studies/frontier/{kind}/original" for kind in ("checkpoints", "scores")}
    swept |= {"results/findings/frontier"}
    assert ran(repository, "studies/dvc.yaml:frontier_findings") == swept
    assert ran(repository) == set()


def test_studies_of_images_share_checkpoints_and_run_only_what_a_change_concerns(repository: Path) -> None:
    """The attack study trains nothing: its defences are those of the two ablations, `des` among them."""
    ran(repository)
    names = list(PARAMS["des_ablations"])[:VARIANTS]
    kinds = ("checkpoints", "generations", "scores")
    made = {f"data/studies/des_ablation/{kind}/{name}" for kind in kinds for name in names}
    assert ran(repository, "studies/dvc.yaml:des_ablation_findings") >= made | {"results/findings/des_ablation"}
    asked = {f"data/studies/attack/{kind}/{name}" for kind in ("generations", "attacks", "scores") for name in ATTACKED}
    first = ran(repository, "studies/dvc.yaml:attack_findings")
    trained = {path for path in first if "/checkpoints/" in path}
    assert first - trained == asked | {"results/findings/attack"}
    assert trained <= {f"data/studies/ablation/checkpoints/{name}" for name in ATTACKED}
    assert ran(repository, "studies/dvc.yaml:attack_findings") == {"results/findings/attack"}
    change(repository, "attack", "score", "bootstrap", value=7)
    again = {f"data/studies/attack/scores/{name}" for name in ATTACKED} | {"results/findings/attack"}
    assert ran(repository, "studies/dvc.yaml:attack_findings") == again
    change(repository, "des_ablations", "des", "probe", value=1)
    after = ran(repository, "studies/dvc.yaml:attack_findings")
    assert "data/studies/des_ablation/checkpoints/des" in after and "data/studies/attack/attacks/des" in after
    assert not any(path.endswith("/original") for path in after)


def test_every_attacked_defence_is_an_entry_of_the_study_that_trains_it() -> None:
    where = {"ablations": "ablation", "des_ablations": "des_ablation"}
    for name, item in PARAMS["attack"]["grid"].items():
        assert item["method"] == PARAMS[item["entries"]][name]["method"]
        assert item["checkpoints"] == f"data/studies/{where[item['entries']]}/checkpoints/{name}"


@pytest.mark.parametrize(("graph", "name"), ALL)
def test_command_lines_are_what_the_stages_take(graph: str, name: str) -> None:
    """Every option of `cmd` exists, every required one is given, and paths read are deps, the path written an out."""
    stage = GRAPH[graph][name].get("do", GRAPH[graph][name])
    parser = importlib.import_module(f"stages.{module(stage)}").parser()
    # DVC writes a mapping as options: `${study}` becomes `--seeds 0 1 2`.
    command = re.sub(r"\$\{(study|frontier\.run)\}", "--seeds 0 1", stage["cmd"])
    given = vars(parser.parse_args(shlex.split(command)[3:]))
    unread = ("params", "out", "page", "cache")  # the cache is no input: what it has is known by hashes
    values = [v for key, value in given.items() if key not in unread for v in _each(value)]
    paths = {path.as_posix() for path in values if isinstance(path, Path)}
    if name == OWN:
        return
    read_by_name = (".py", ".txt", "/sql", "/templates", "/zeroshot", "${sources.root}")  # code, what parameters name
    inputs = {str(dep) for dep in stage["deps"] if not str(dep).endswith(read_by_name)}
    known = {path for path in inputs if any(path == given_ or path.startswith(f"{given_}/") for given_ in paths)}
    assert known == inputs, f"{inputs - known} is a dep that the command does not name"
    assert all(any(dep == path or dep.startswith(f"{path}/") for dep in inputs) for path in paths)
    assert given["params"] == Path("params.yaml")
    outs = [
        next(iter(out)) if isinstance(out, dict) else str(out) for out in [*stage["outs"], *stage.get("metrics", [])]
    ]
    assert any(out == given["out"].as_posix() or out.startswith(f"{given['out']}/") for out in outs)


def _each(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
