"""A disk that is full or read-only, under every stage of dvc.yaml: one line, nothing half-written, and it goes on."""

import importlib
import json
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import errors
from pipeline.errors import TableError
from pipeline.layout import MANIFEST
from pipeline.tables import read_manifest
from tests.faults import kills, workspace
from tests.faults.record import record
from tests.sources import files

pytestmark = pytest.mark.faults
STAGES = YAML(typ="safe").load((workspace.ROOT / "dvc.yaml").read_text())["stages"]
ROOMS = (0.0, 0.3, 0.7)  # of what the stage writes in all
PAGE = 4096
PLAIN = ("results", "report")  # write single files, each whole or not at all; the others a directory with a manifest


@dataclass
class Disk:
    """A file system of our own in memory, of a size that changes."""

    path: Path

    def mount(self) -> bool:
        """False where that is not allowed."""
        self.path.mkdir()
        return self._mount("-t", "tmpfs", "-o", "size=64m", "tmpfs")

    def used(self) -> int:
        """Bytes on it, in whole pages."""
        return sum(-(-file.stat().st_size // PAGE) * PAGE for _, file in workspace.files(self.path))

    def resize(self, size: int) -> None:
        """So large in all, and a page more."""
        assert self._mount("-o", f"remount,size={size + PAGE}")

    def protect(self, on: bool) -> None:
        """Read-only, or writable again."""
        assert self._mount("-o", f"remount,{'ro' if on else 'rw'}")

    def unmount(self) -> None:
        """Gone, with all that is on it."""
        subprocess.run(["umount", "--lazy", self.path], check=True)

    def _mount(self, *words: str) -> bool:
        command = [shutil.which("mount") or "mount", *words, self.path]
        try:
            return subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            return False


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which every stage has run."""
    return workspace.copy(kills.upstream(tmp_path_factory), tmp_path_factory.mktemp("disk") / "clone")


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    if not made.mount():
        pytest.skip("mounting a small disk needs root: tests/test_files.py covers what can be had without")
    monkeypatch.setattr(tempfile, "tempdir", str(made.path))
    try:
        yield made
    finally:
        made.unmount()


def line_of(whole: Path, name: str) -> tuple[str, list[str]]:
    """(module, arguments) of a stage's command, as dvc.lock has it."""
    lock = YAML(typ="safe").load((whole / "dvc.lock").read_text())["stages"]
    command = lock[name if name in lock else f"{name}@{workspace.DEFENCE}"]["cmd"]
    python, option, module, *words = shlex.split(command)
    assert (python, option) == ("python", "-m")
    return module, words


def call(module: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> str | None:
    """Run a stage in this process as its command line would; None, or what it said when it gave up."""
    stage = importlib.import_module(module)
    capsys.readouterr()
    try:
        errors.run(stage.main, stage.parser(), words)
    except SystemExit as end:
        assert end.code == 2
        return capsys.readouterr().err
    return None


@pytest.mark.parametrize("name", STAGES)
def test_a_disk_that_does_not_take_the_output_of_a_stage(
    whole: Path, disk: Disk, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(whole)
    module, words = line_of(whole, name)
    if name == "score":
        words += ["--cache", str(disk.path / "cache")]
    check(disk, module, words, Path(words[words.index("--out") + 1]), name in PLAIN, capsys)


def test_a_disk_that_does_not_take_an_import(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files.visu_hub(tmp_path / "inputs", 60)
    entry = {
        "kind": "visu", "texts": "visu", "safe_images": "coco", "unsafe_images": "unsafe", "splits": {"train": "train"}
    }  # fmt: skip
    knobs = {"root": str(tmp_path / "inputs"), "entries": {"visu": entry}, "max_broken": 0.05, "shard_rows": 10}
    (tmp_path / "params.yaml").write_text(json.dumps({"seed": 0, "sources": knobs}))
    words = ["--params", "params.yaml", "--out", str(tmp_path / "imported")]
    assert call("stages.world", words, capsys) is None
    shutil.copytree(tmp_path / "imported", tmp_path / "data/targets")
    check(disk, "stages.world", words, tmp_path / "imported", False, capsys)


def check(
    disk: Disk, module: str, words: list[str], made: Path, plain: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stage that made `made`, again, onto the disk: without room, with too little, with enough, read-only."""
    out = disk.path / "new" / made.name
    words = [str(out) if word == str(made) and before == "--out" else word for before, word in pairwise(["", *words])]
    wanted = kills.results(made)
    size = sum((made / file).stat().st_size for file in wanted)
    before = workspace.tree(shutil.copytree("data/targets", disk.path / "before"))
    used, tried, survived = disk.used(), 0, 0
    try:
        for room in ROOMS:
            tried += 1
            disk.resize(used + int(size * room))
            check_refusal(call(module, words, capsys), disk, "the disk is full")
            check_parts(plain, out, wanted)
            assert workspace.tree(disk.path / "before") == before
            survived += 1
        tried += 1
        disk.resize(64 << 20)
        assert call(module, words, capsys) is None
        assert kills.results(out) == wanted, "after room was made, other bytes"
        survived += 1
        tried += 1
        disk.protect(True)
        check_refusal(call(module, words, capsys), disk, "the file system is read-only")
        assert kills.results(out) == wanted and workspace.tree(disk.path / "before") == before
        survived += 1
    finally:
        record("full and read-only disk", tried, survived, "every stage: 0, 30, 70 % of the room, enough, read-only")


def check_refusal(said: str | None, disk: Disk, reason: str) -> None:
    """One line, which names a place on the disk and the reason."""
    assert said is not None, "it went through"
    lines = [line for line in said.splitlines() if line.startswith("error: ")]  # diffusers warns of its own
    assert len(lines) == 1 and lines[0].startswith(f"error: {disk.path}/") and "Traceback" not in said, said
    assert f"cannot be written: {reason}" in lines[0], said


def check_parts(plain: bool, out: Path, wanted: dict[str, str]) -> None:
    """Nothing half-written is to be had."""
    if plain:
        found = {} if not out.exists() else kills.results(out)
        assert all(wanted.get(file) == digest for file, digest in found.items()), f"half-written: {found.keys()}"
        return
    assert not (out / MANIFEST).exists()
    with pytest.raises(TableError, match="did not finish"):
        read_manifest(out)


def test_an_export_and_an_answer(
    whole: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.cli import main

    monkeypatch.chdir(whole)
    out, answer = disk.path / "export", disk.path / "rows.csv"
    answer.write_text("old")
    commands = [
        ["export", workspace.DEFENCE, "--to", str(out), "--no-diffusion"],
        ["query", "SELECT * FROM scores", "--out", str(answer)],
    ]
    tried = survived = 0
    for words in commands:
        for protect, reason in ((False, "the disk is full"), (True, "read-only")):
            tried += 1
            disk.resize(disk.used())
            disk.protect(protect)
            with pytest.raises(SystemExit) as end:
                main(words)
            said = capsys.readouterr().err
            disk.protect(False)
            assert end.value.code == 2 and reason in said.lower(), said
            assert said.count("\n") == 1 and str(disk.path) in said
            assert answer.read_text() == "old" and not out.exists() and len(list(disk.path.iterdir())) == 1
            survived += 1
        disk.resize(64 << 20)
        main(words)
        out.exists() and shutil.rmtree(out)
    assert answer.read_text() != "old"
    record("full and read-only disk", tried, survived, "nearsafe export, nearsafe query --out")


def test_decoded_images_of_a_training_in_a_mapped_file(
    whole: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page of a mapped file for which there is no room would end the process by a signal."""
    monkeypatch.chdir(whole)
    module, words = line_of(whole, "train")
    yaml = YAML()
    params = yaml.load(Path("params.yaml"))
    params["train"]["image_memory_mib"] = 0
    other = whole.parent / "params.yaml"
    yaml.dump(params, other)
    words[words.index("--params") + 1] = str(other)
    out = disk.path / "new"
    words[words.index("--out") + 1] = str(out)
    disk.resize(4 * PAGE)
    said = call(module, words, capsys)
    check_refusal(said, disk, "the disk is full")
    assert "images-" in said
    record("full and read-only disk", 1, 1, "decoded images in a mapped file")
