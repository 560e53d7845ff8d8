"""Command lines of the generate and score stages: what a user sees when the input is wrong."""

import pytest

from pipeline.errors import run
from stages import generate, score
from tests.worldlet import make


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("worldlet"))


def arguments(made, stage, **changes):
    data = made.data
    given = {
        "params": made.params, "defence": "original", "prompts": data.prompts,
        "checkpoints": data.checkpoints("original"), "diffusion": made.model("diffusion"), "out": made.root / "out",
    }  # fmt: skip
    if stage is score:
        given["world"] = data.world
        given |= {"nsfwcaps": data.nsfwcaps, "clip": made.model("clip"), "detector": made.model("detector")}
        given["generations"] = data.generations("original")
        given.pop("diffusion")
    return [str(part) for name, value in {**given, **changes}.items() for part in (f"--{name}", value)]


def fails(stage, line, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["stage", *line])
    with pytest.raises(SystemExit) as stop:
        run(stage.main, stage.parser())
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"defence": "nobody"}, "unknown defence 'nobody'; known: original"),
        ({"diffusion": "nowhere"}, "nowhere"),
        ({"checkpoints": "nowhere"}, "nowhere: no manifest.json"),
        ({"prompts": "nowhere"}, "nowhere: no manifest.json"),
        ({"section": "study"}, "no section 'study': top level has"),
        ({"entries": "ablations"}, "ablations: unknown defence 'original'; known: none"),
        ({"params": "nowhere.yaml"}, "nowhere.yaml: cannot be read"),
    ],
)
def test_generate_says_what_is_wrong(made, monkeypatch, capsys, changes, message):
    assert message in fails(generate, arguments(made, generate, **changes), monkeypatch, capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip": "nowhere"}, "nowhere: no such model folder"),
        ({"detector": "nowhere"}, "nowhere: no such model folder"),
        ({"generations": "nowhere"}, "nowhere: no manifest.json"),
        ({"nsfwcaps": "nowhere"}, "nowhere: no manifest.json"),
        ({"prompts": "nowhere"}, "nowhere: no manifest.json"),
        ({"section": "image_study.score"}, "no section 'image_study.score': top level has"),
        ({"paraphrases": "nowhere"}, "nowhere: no manifest.json"),
        ({"replies": "nowhere"}, "--replies needs --text-detector"),
    ],
)
def test_score_says_what_is_wrong(made, monkeypatch, capsys, changes, message):
    assert message in fails(score, arguments(made, score, **changes), monkeypatch, capsys)


def test_an_unknown_knob_is_named(made, tmp_path, monkeypatch, capsys):
    wrong = tmp_path / "params.yaml"
    wrong.write_text(made.params.read_text().replace("steps: 2", "stepz: 2"))
    error = fails(generate, arguments(made, generate, params=wrong), monkeypatch, capsys)
    assert "generate.stepz: unknown key; known: steps, guidance" in error
