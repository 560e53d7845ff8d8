"""The command itself: help, exit statuses, errors without a traceback, completion, and an instant start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from pipeline import cli
from pipeline.cli import app, main
from pipeline.commands import completing
from pipeline.errors import NearsafeError

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "diffusers", "prefect", "dvc", "duckdb", "pyarrow", "numpy", "rich", "jinja2")


def commands() -> list[tuple[str, ...]]:
    """Every command, as the words that call it."""
    top = get_command(app)
    found: list[tuple[str, ...]] = [()]
    for name, command in top.commands.items():
        found.append((name,))
        found += [(name, sub) for sub in getattr(command, "commands", {})]
    return found


def ended(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str, str]:
    """Status, standard output and standard error of a call."""
    try:
        main(words)
        status = 0
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_commands_are_those_that_users_were_promised():
    names = {words[0] for words in commands() if words}
    asking = {"query", "queries", "views", "table", "report"}
    assert names == {"repro", "flow", "doctor", "export", "fetch", "profile", *asking}
    assert {words[1] for words in commands() if len(words) == 2} == {"run", "status", "cancel", "ui"}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_and_option_has_help(capsys, words):
    status, out, err = ended(capsys, *words, "--help")
    assert status == 0 and not err
    assert f"Usage: nearsafe {' '.join(words)}".rstrip() in out
    command = get_command(app)
    for word in words:
        command = command.commands[word]
    assert command.help and command.help.strip()[0].isupper()
    assert [p.name for p in command.params if p.name != "help" and not getattr(p, "help", None)] == []


def test_exit_statuses_are_documented(capsys):
    _, out, _ = ended(capsys, "--help")
    assert "Exit status: 0 all is well; 1 " in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rpro"], "No such command 'rpro'. Did you mean 'repro'"),
        (["repro", "--frce"], "No such option: --frce"),
        (["export", "des"], "Missing option '--to'"),
        (["flow", "status", "--limit", "x"], "--limit"),
        (["table", "--results", "nowhere"], "error: nowhere/table.md: no results yet"),
    ],
)
def test_wrong_use_is_status_2_and_one_message(capsys, monkeypatch, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = ended(capsys, *words)
    assert status == 2 and message in err and "Traceback" not in err and not out


def test_without_a_command_there_is_help(capsys):
    status, out, err = ended(capsys)
    assert status == 2 and "Usage: nearsafe" in out + err


def test_version(capsys):
    status, out, _ = ended(capsys, "--version")
    assert status == 0 and out.startswith("nearsafe 0.")


def raising(error: BaseException):
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status"), [(NearsafeError("mend it"), 2), (KeyboardInterrupt(), 130), (BrokenPipeError(), 0)]
)
def test_how_commands_end(capfd, monkeypatch, error, status):
    monkeypatch.setattr(cli.os, "dup2", lambda *_: None)
    command = get_command(app)
    monkeypatch.setattr(command.commands["views"], "callback", raising(error))
    monkeypatch.setattr(cli, "get_command", lambda _: command)
    found, _, err = ended(capfd, "views")
    assert found == status
    assert ("error: mend it" in err) == isinstance(error, NearsafeError)


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    command = get_command(app)
    monkeypatch.setattr(command.commands["views"], "callback", raising(ZeroDivisionError("ours")))
    monkeypatch.setattr(cli, "get_command", lambda _: command)
    with pytest.raises(ZeroDivisionError):
        main(["views"])


@pytest.mark.parametrize("words", [["--help"], ["flow", "--help"], ["repro", "--nonsense"], ["--version"]])
def test_help_and_mistakes_are_instant(words):
    """Nothing heavy is imported before a command runs."""
    code = f"import sys\ntry:\n import pipeline.cli as c; c.main({words!r})\nexcept SystemExit: pass\n"
    code += f"print('loaded', [name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "loaded []" in done.stdout, done.stdout + done.stderr


def complete(*words: str, folder: Path = ROOT) -> list[str]:
    """What bash would offer for the last word."""
    line = ["nearsafe", *words]
    env = {**os.environ, "_NEARSAFE_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(line)}
    env |= {"COMP_CWORD": str(len(line) - 1), "PYTHONPATH": str(ROOT)}
    code = "import pipeline.cli as c; c.main()"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.split()


def test_the_shell_completes_commands_options_and_names():
    assert complete("re") == ["repro", "report"]
    assert complete("flow", "ca") == ["cancel"]
    assert "--force" in complete("repro", "--f")
    assert complete("export", "safe") == ["safe_clip", "safer_clip"]
    assert complete("repro", "mine_") == ["mine_pairs"]
    assert complete("flow", "run", "train@safer") == ["train@safer_clip"]


def test_completion_outside_of_a_clone_offers_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert completing.defences("") == completing.stage_targets("") == []
    (tmp_path / "dvc.yaml").write_text("stages: [oops")
    (tmp_path / "params.yaml").write_text("defences: 3")
    assert completing.defences("") == completing.stage_targets("") == []
    assert "leaderboard" in completing.named_queries("lead")


def test_a_completion_script_for_each_shell(capsys, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    status, out, _ = ended(capsys, "--show-completion", "bash")
    assert status == 0 and "_NEARSAFE_COMPLETE=complete_bash" in out
