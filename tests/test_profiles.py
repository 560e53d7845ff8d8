"""Profiles: they say what the stages can read, and change params.yaml no more than they must."""

import difflib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import NearsafeError
from pipeline.overlay import lay_over
from pipeline.params import load, lookup
from pipeline.profiles import check, leaves, names, overlay, read_profile, write_profile

ROOT = Path(__file__).parents[1]


@pytest.fixture
def params(tmp_path: Path) -> Path:
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    return file


def profile(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "own.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("name", names(ROOT / "profiles"))
def test_profile_is_what_the_stages_read(name: str, params: Path) -> None:
    assert write_profile(params, read_profile(name, ROOT / "profiles"))
    check(params)  # every section and defence by its dataclass
    assert not write_profile(params, read_profile(name, ROOT / "profiles"))  # again: nothing to do


# What the papers say or their code has (safer_clip.md sections 5 and 10, safe_clip.md sections 1, 2 and 9, des.md
# sections 3 to 6, evaluation.md sections 2 and 3), by hand: a profile is only worth what these lines are.
LAMBDAS = dict(zip(
    [f"{tower}_{purpose}_{form}" for form in ("uni", "cross") for tower in ("text", "image")
     for purpose in ("preserve", "redirect")],
    (0.1, 0.1, 0.1, 0.2, 0.25, 0.25, 0.25, 0.5), strict=True,
))  # fmt: skip
BASIC = {"method": "des", "concept": "nudity", "alpha": 200, "lam": 0.3}
HARM = {"weight": 0.1, "concepts": ["violence", "hate speech"]}
PUBLISHED = {
    "paper-safer-clip": {
        "train.batch_size": 48, "train.epochs": 9, "train.lr": 1e-4, "train.optimizer": "adam", "train.weight_decay": 0,
        "train.max_grad_norm": None, "train.lora.r": 16, "train.lora.alpha": 1, "train.lora.dropout": 0.1,
        "train.lora.targets": ["k_proj", "v_proj", "out_proj", "fc1", "fc2", "patch_embedding"],
        "defences.safe_clip.weights": LAMBDAS, "defences.safe_clip_aliased.weights": LAMBDAS,
        "defences.safe_clip_aliased.variant": "aliased", "defences.safer_clip.weights": LAMBDAS,
        "defences.safer_clip.rel_scale": 1, "defences.safer_clip.train": {"curriculum": True},
        "generate.steps": 50, "generate.guidance": 7.5, "reply.query": "Describe this image.",
        "reply.temperature": 0.2, "reply.max_new_tokens": 128, "score.k": [1, 10, 20],
        "score.detectors.nudenet.threshold": 0.5, "score.detectors.world": None,
    },
    "paper-des": {
        "train.batch_size": 128, "train.epochs": 2, "train.lr": 1e-5, "train.optimizer": "adamw",
        "train.weight_decay": 0.01, "train.max_grad_norm": None, "train.precision": "fp32", "train.lora": None,
        "defences.des": {**BASIC, "embedding": "tokens"},
        "defences.des_mcn": {**BASIC, "mcn": {"concepts": HARM["concepts"], "weights": [1.0, 1.2]}},
        "defences.des_ortho.orthogonality.weight": 0.1, "defences.des_push_origin": {**BASIC, "push_origin": 0.1},
        "defences.des_push_harm": {**BASIC, "push_harm": HARM},
        "defences.des_margin": {**BASIC, "margin": {"safe": 0.9}},
        "defences.des_mmd": {**BASIC, "mmd": {"weight": 0.1}},
        "defences.des_mmd_push": {**BASIC, "mmd": {"weight": 0.1}, "push_harm": HARM},
        "generate.steps": 50, "generate.guidance": 7.5, "generate.scheduler": "ddim", "generate.precision": "fp32",
        "score.detectors.nudenet.threshold": 0.5, "score.detectors.world": None,
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, values in PUBLISHED.items() for key in values])
def test_published_values(params: Path, name: str, key: str) -> None:
    write_profile(params, read_profile(name, ROOT / "profiles"))
    assert lookup(params, key) == PUBLISHED[name][key]


def test_the_rows_of_the_papers_are_there(params: Path) -> None:
    rows = ["original", "safe_clip", "safe_clip_aliased", "safer_clip", "clip_safe_data", "nearsafe"]
    write_profile(params, read_profile("paper-safer-clip", ROOT / "profiles"))
    assert list(load(params)["defences"]) == rows
    write_profile(params, read_profile("paper-des", ROOT / "profiles"))
    found = [key.split(".")[1] for key in PUBLISHED["paper-des"] if key.startswith("defences.")]
    assert list(load(params)["defences"]) == ["original", *found]


def test_one_profile_after_the_other_is_the_other(params: Path, tmp_path: Path) -> None:
    """So that a switch needs no way back."""
    clean = tmp_path / "clean.yaml"
    clean.write_text(params.read_text())
    first, second = (read_profile(name, ROOT / "profiles") for name in names(ROOT / "profiles"))
    for one, other in ((first, second), (second, first)):
        params.write_text(clean.read_text())
        write_profile(params, one)
        write_profile(params, other)
        alone = tmp_path / "alone.yaml"
        alone.write_text(clean.read_text())
        write_profile(alone, other)
        changed = set(leaves(load(params))) ^ set(leaves(load(alone)))
        assert not changed, f"{other.path.name} must set these too: {sorted(changed)}"
        assert load(params) == load(alone)


def test_only_lines_of_changed_keys_change(params: Path, tmp_path: Path) -> None:
    before = params.read_text().splitlines()
    own = profile(tmp_path, "train:\n  epochs: 2   # ours\nscore:\n  examples: {k: 2}\n")
    write_profile(params, read_profile(str(own)))
    after = params.read_text().splitlines()
    changed = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
    assert changed == [
        "-   epochs: 9",
        "+   epochs: 2   # ours",
        "-   examples: {queries: 6, k: 5}   # retrieval examples of the report",
        "+   examples: {queries: 6, k: 2}",
    ]


def test_replaced_mapping_leaves_aliases_whole(params: Path, tmp_path: Path) -> None:
    before = load(params)
    own = profile(
        tmp_path, "profile: {title: t, replaces: [defences]}\ndefences:\n  original:\n    method: original  # alone\n"
    )
    write_profile(params, read_profile(str(own)))
    after = load(params)
    assert after["defences"] == {"original": {"method": "original"}}
    assert {key: value for key, value in after.items() if key != "defences"} == {
        key: value for key, value in before.items() if key != "defences"
    }
    assert "method: original  # alone" in params.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  epoch: 2\n", r"unknown key 'train.epoch'; near it: epochs"),
        ("tran:\n  epochs: 2\n", r"unknown key 'tran'; near it: train"),
        ("score:\n  detectors: {nudnet: null}\n", r"unknown key 'score.detectors.nudnet'; near it: nudenet"),
        ("models:\n  difusion: hub/a/b\n", r"unknown key 'models.difusion'; near it: diffusion"),
        ("bucket_difficulty:\n  value: [0.5, 0.6]\n", r"unknown key 'bucket_difficulty.value'; near it: values"),
        ("train:\n  epochs: many\n", r"own.yaml over .*: train.epochs: expected int"),
        (
            "profile: {title: t, replaces: [defences]}\ntrain:\n  epochs: 2\n",
            "'defences' is no mapping of this profile",
        ),
        ("profile: {titel: t}\ntrain:\n  epochs: 2\n", "titel: unknown key"),
    ],
)
def test_wrong_profiles_leave_the_file(text: str, message: str, params: Path, tmp_path: Path) -> None:
    before = params.read_text()
    with pytest.raises(NearsafeError, match=message):
        write_profile(params, read_profile(str(profile(tmp_path, text))))
    assert params.read_text() == before
    assert not list(tmp_path.glob(".*.tmp"))


def test_unknown_profile_names_the_near_one() -> None:
    with pytest.raises(NearsafeError, match="did you mean paper-des"):
        read_profile("paper-dse", ROOT / "profiles")


def test_command_shows_without_a_change(params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = profile(tmp_path, "train:\n  epochs: 2\n")
    before = params.read_text()
    shown = CliRunner().invoke(app, ["profile", str(own), "--params", str(params), "--show"])
    assert shown.exit_code == 0
    assert shown.output == overlay(params, read_profile(str(own)))
    assert params.read_text() == before
    monkeypatch.chdir(ROOT)
    assert "paper-des" in CliRunner().invoke(app, ["profile"]).output


def test_lay_over_adds_keys_at_the_end_of_their_mapping() -> None:
    base = "a:\n  b: 1  # one\n\n# about c\nc:\n  d: 2\n"
    assert lay_over(base, "a:\n  e: 3  # three\nf: 4\n") == (
        "a:\n  b: 1  # one\n  e: 3  # three\n\n# about c\nc:\n  d: 2\nf: 4\n"
    )
