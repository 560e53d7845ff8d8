"""nearsafe flow: the pipeline as a Prefect flow, for those without a browser, and the server for those with one."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.completing import stage_targets

if TYPE_CHECKING:
    from pipeline.flows.control import RunInfo

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Run stages side by side, watched and scheduled by Prefect.",
)
_WORDS = {"ran": "ran", "cached": "restored from the cache", "up_to_date": "up to date", "not_run": "not run"}


@app.command()
def run(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="Stages (score@des), groups (score) or files (studies/dvc.yaml); default: all of dvc.yaml.",
            autocompletion=stage_targets,
            show_default=False,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A parameter for this run alone (train.epochs=3); repeat for more. It runs as an experiment in a "
            "clone of its own, and params.yaml stays as it is.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Run them even if nothing changed.")] = False,
    devices: Annotated[
        str | None,
        typer.Option(metavar="IDS", help="GPUs to use, such as 0,1; default: CUDA_VISIBLE_DEVICES, or all."),
    ] = None,
) -> None:
    """Bring stages up to date, independent ones at once. Plain `nearsafe repro` does the same one by one.

    Exit status: 0 all is up to date; 1 a stage failed; 2 no such stage or parameter; 130 stopped.
    """
    from pipeline.flows.run import run_flow

    outcome = run_flow(Path(), targets or (), overrides or (), force=force, devices=devices)
    for name, state in outcome.stages.items():
        if state != "up_to_date":
            print(f"{name}: {_word(state, outcome.state)}")
    print(outcome.message)
    for label, value in (("experiment", outcome.experiment), ("its files", outcome.workspace), ("page", outcome.url)):
        if value:
            print(f"{label}: {value}")
    if outcome.state != "completed":
        raise typer.Exit(130 if outcome.state == "cancelled" else 1)


@app.command()
def status(
    limit: Annotated[int, typer.Option(min=1, help="How many runs to show.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for a program.")] = False,
) -> None:
    """List the latest flows, and those that wait on the server."""
    from pipeline.flows.control import recent
    from pipeline.results.report import markdown

    runs = recent(Path(), limit)
    if as_json:
        print(json.dumps([asdict(run) for run in runs], indent=1))
    elif not runs:
        print("no flow has run here yet: `nearsafe flow run`, or `nearsafe flow ui` for the pages")
    else:
        header = ("run", "state", "started", "took", "stages", "targets", "experiment")
        print("\n".join(markdown(header, [_cells(run) for run in runs])))


@app.command()
def cancel(
    run: Annotated[str | None, typer.Argument(help="Its id, as `status` shows it; default: the one that runs.")] = None,
) -> None:
    """Stop a flow and every process of its stages. What had finished is kept.

    Exit status: 0 it is stopped; 2 nothing runs, or not that one.
    """
    from pipeline.flows.control import cancel as stop

    print(stop(Path(), run))


@app.command()
def ui(
    port: Annotated[int | None, typer.Option(help="Port of Prefect's pages; default 4200, or a free one.")] = None,
    report_port: Annotated[int | None, typer.Option(help="Port of the report; default 4201, or a free one.")] = None,
) -> None:
    """Start Prefect's pages, on this machine alone (`make ui`).

    With the deployments `manual` (press Run) and `nightly`, and the report. Prints the addresses and runs until
    Ctrl-C, which ends all of it.
    """
    from pipeline.flows.server import serve

    serve(Path(), port, report_port)


def _word(stage: str, run: str) -> str:
    """What became of a stage; one that had not ended when its run was cancelled did not fail of itself."""
    return "stopped" if stage == "failed" and run == "cancelled" else _WORDS.get(stage, stage)


def _cells(run: "RunInfo") -> list[str]:
    from pipeline.progress import duration

    counted = ", ".join(f"{number} {_word(state, run.state)}" for state, number in run.stages.items())
    took = "" if run.seconds is None else duration(run.seconds)
    return [run.run, run.state, run.started or "", took, counted, run.targets or "all", run.experiment or ""]
