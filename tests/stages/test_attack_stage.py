"""The command line of the attack stage."""

import shlex
from pathlib import Path

import pytest

from pipeline.attacks.settings import AttackParams
from pipeline.errors import run
from pipeline.params import section
from pipeline.tables import read_output
from stages import attack
from tests.attacks.test_run import SECTION
from tests.worldlet import PARAMS, make

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    worldlet = make(tmp_path_factory.mktemp("worldlet"))
    entries = "others:\n  quiet: {method: original}\n"
    worldlet.params.write_text(PARAMS + entries + SECTION.replace("attack:", "light:"))
    return worldlet


def line(made, **changes):
    data = made.data
    given = {
        "params": made.params, "defence": "quiet", "entries": "others", "section": "light", "seeds": 1,
        "prompts": data.prompts, "checkpoints": data.checkpoints("original"), "clip": made.model("clip"),
        "diffusion": made.model("diffusion"), "detector": made.model("detector"), "out": made.root / "out",
    }  # fmt: skip
    return [str(part) for name, value in {**given, **changes}.items() for part in (f"--{name}", value)]


def test_an_entry_of_another_section_is_attacked_for_the_seeds_asked(made, capsys):
    run(attack.main, attack.parser(), line(made))
    attacks, images = (read_output(made.root / "out", name).to_pylist() for name in ("attacks", "generations"))
    assert {(row["defence"], row["seed"]) for row in (*attacks, *images)} == {("quiet", 1)}
    printed = capsys.readouterr().out
    assert "attack: seed 1: suffix: similarity" in printed and "6 of 6 images" in printed


@pytest.mark.parametrize("text", [attack.__doc__, (ROOT / "docs/attacks.md").read_text()])
def test_the_command_that_is_printed_names_a_section_of_the_parameter_file(text):
    command = text[text.index("python -m stages.attack") :].split("\n\n")[0].replace("\\\n", " ")
    given = attack.parser().parse_args(shlex.split(command)[3:])
    section(f"{ROOT / given.params}:{given.section}", AttackParams)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"defence": "nobody"}, "unknown defence 'nobody'; known: quiet"),
        ({"section": "attack"}, "no section 'attack'"),
        ({"prompts": "nowhere"}, "nowhere: no manifest.json"),
        ({"clip": "nowhere"}, "nowhere: no such model folder"),
        ({"checkpoints": "nowhere"}, "nowhere: no manifest.json"),
        ({"diffusion": "nowhere"}, "nowhere"),
    ],
)
def test_what_is_wrong_is_one_line(made, capsys, changes, message):
    with pytest.raises(SystemExit) as stop:
        run(attack.main, attack.parser(), line(made, **{"out": made.root / "wrong", **changes}))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and message in error and error.count("\n") == 1
