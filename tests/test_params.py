"""params.yaml: typed sections, and one error that names file, key, expected and given."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from pipeline.errors import NearsafeError
from pipeline.params import build, load, section, to_spec


@dataclass(frozen=True)
class Lora:
    r: int
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Train:
    lr: float
    lora: Lora
    precision: Literal["auto", "fp32"] = "auto"
    max_grad_norm: float | None = None
    cuts: tuple[float, float] = (0.3, 0.6)
    folder: Path = Path("x")
    curriculum: bool = False
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")


GOOD = {"lr": 1, "lora": {"r": 4, "targets": ["q", "v"]}}


def test_a_section_becomes_a_dataclass(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("a:\n  train: {lr: 1e-3, lora: {r: 4, targets: [q, v]}, weights: {x: 1}, folder: w/clip}\n")
    train = section(f"{file}:a.train", Train)
    assert train == Train(0.001, Lora(4, ("q", "v")), weights={"x": 1.0}, folder=Path("w/clip"))
    assert to_spec(train)["lora"] == {"r": 4, "targets": ["q", "v"]}
    assert to_spec(train)["folder"] == "w/clip"


def test_yaml_numbers_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("lr: 1e-3\nname: no\n")
    assert load(tmp_path / "p.yaml") == {"lr": 0.001, "name": "no"}


def test_default_file_is_params_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text("lora: {r: 2, targets: []}\n")
    monkeypatch.chdir(tmp_path)
    assert section("lora", Lora) == Lora(2, ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lrr": 1}, r"p\.yaml: train\.lrr: unknown key; known: lr, lora"),
        ({"lr": "fast"}, r"train\.lr: expected float, got str 'fast'"),
        ({"lr": True}, r"train\.lr: expected float, got bool True"),
        ({"lora": {"r": 4}}, r"train\.lora\.targets: missing; expected tuple\[str"),
        ({"lora": {"r": 4.5, "targets": []}}, r"train\.lora\.r: expected int, got float 4.5"),
        ({"lora": {"r": 4, "targets": ["q", 3]}}, r"train\.lora\.targets\[1\]: expected str, got int 3"),
        ({"precision": "fp8"}, r"train\.precision: expected one of auto, fp32, got 'fp8'"),
        ({"cuts": [1, 2, 3]}, r"train\.cuts: expected 2 values, got 3"),
        ({"lora": 3}, r"train\.lora: expected a mapping, got int"),
        ({"weights": {"a": None}}, r"train\.weights\.a: expected float, got nothing"),
        ({"lr": -1}, r"train: lr must be positive"),
    ],
)
def test_errors_name_the_key(change: dict, message: str) -> None:
    with pytest.raises(NearsafeError, match=message):
        build(Train, {**GOOD, **change}, "p.yaml: train")


def test_missing_key_file_section_and_broken_yaml(tmp_path: Path) -> None:
    with pytest.raises(NearsafeError, match=r"train\.lr: missing; expected float"):
        build(Train, {"lora": GOOD["lora"]}, "p.yaml: train")
    with pytest.raises(NearsafeError, match=r"gone\.yaml: cannot be read"):
        load(tmp_path / "gone.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1\nb: 2")
    with pytest.raises(NearsafeError, match=r"broken\.yaml: not valid YAML"):
        load(broken)
    broken.write_text("train: {}\nscore: {}\n")
    with pytest.raises(NearsafeError, match="no section 'trian': top level has train, score"):
        section(f"{broken}:trian", Lora)


@dataclass(frozen=True)
class Near:
    kind: Literal["near"] = "near"


@dataclass(frozen=True)
class Far:
    folder: Path
    kind: Literal["far"] = "far"


@dataclass(frozen=True)
class Choice:
    source: Near | Far


def test_a_choice_between_dataclasses_goes_by_its_kind(tmp_path: Path) -> None:
    assert build(Choice, {"source": {"kind": "far", "folder": "x"}}, "p") == Choice(Far(Path("x")))
    for value, message in (
        ({"kind": "far"}, r"p\.source\.folder: missing"),
        ({"kind": "nowhere"}, r"p\.source\.kind: expected one of near, far, got 'nowhere'"),
    ):
        with pytest.raises(NearsafeError, match=message):
            build(Choice, {"source": value}, "p")
