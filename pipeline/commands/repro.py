"""nearsafe repro: run every stage that is out of date, with progress; then the table, and what moved."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.completing import stage_targets

if TYPE_CHECKING:
    from pipeline.repro import Outcome

SHOWN = 12  # of the numbers that moved


def repro(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="Stages (score@des), groups (score) or files (studies/dvc.yaml); default: all of dvc.yaml. "
            "After --, also options of `dvc repro`.",
            autocompletion=stage_targets,
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Run them even if nothing changed.")] = False,
) -> None:
    """Run every stage that is out of date; show what moved.

    DVC does the work, as `dvc repro` does. Each stage is shown with the time that is about left, and the run is
    written down in data/runs: `nearsafe query slowest_stages` asks it. Ctrl-C ends the stage that runs; the next
    call continues there.

    Exit status: 0 all is up to date; 1 a stage failed; 2 no such stage or option; 130 stopped.
    """
    from pipeline.repro import reproduce

    words = targets or []
    options = [word for word in words if word.startswith("-")]
    stages = [word for word in words if not word.startswith("-")]
    try:
        outcome = reproduce(Path(), stages, [*(["--force"] if force else []), *options], _show)
    except KeyboardInterrupt:
        print("cancelled: what had finished is kept; the next call continues", file=sys.stderr)
        raise typer.Exit(130) from None
    if outcome.state == "failed":
        _explain(outcome)
        raise typer.Exit(1)
    _conclude(outcome, whole=not words)


def _show(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


def _explain(outcome: "Outcome") -> None:
    failed = {name: done for name, done in outcome.stages.items() if done.state == "failed"}
    names = ", ".join(failed) or "no stage: DVC itself"
    print(f"failed: {names}; the reason is above. What had finished is kept.", file=sys.stderr)


def _conclude(outcome: "Outcome", whole: bool) -> None:
    """The table that ends a run of everything, or one that made it anew, and what moved."""
    from pipeline.layout import Results
    from pipeline.progress import duration

    table = Results().table
    if (whole or "results" in outcome.stages) and table.is_file():
        print(f"\n{table.read_text(encoding='utf-8')}", end="")
    ran = [name for name, done in outcome.stages.items() if done.state == "ran"]
    print(f"\n{len(ran)} of {len(outcome.stages)} stages ran, in {duration(outcome.seconds)}.", end="")
    print(f" {moved(outcome)}" if ran and outcome.before and outcome.after else "")


def moved(outcome: "Outcome") -> str:
    """What the run changed of the headline numbers: those beyond chance first, then by size."""
    from pipeline.runs import changes

    found = changes(outcome.before, outcome.after)
    differing = [row for row in found if row["before"] != row["after"]]
    if not differing:
        return f"The {len(found)} numbers in results/metrics.json are what they were."
    apart = sum(row["apart"] for row in differing)
    lines = [
        f"Of {len(found)} numbers in results/metrics.json {len(differing)} moved, {apart} of them so far that the "
        "95 % intervals do not overlap:"
    ]
    order = sorted(
        differing, key=lambda row: (not row["apart"], row["difference"] is None, -abs(row["difference"] or 0))
    )
    for row in order[:SHOWN]:
        old, new = ("-" if row[side] is None else f"{row[side]:.3f}" for side in ("before", "after"))
        mark = "  apart" if row["apart"] else ""
        lines.append(f"  {row['defence']}, seed {row['seed']}, {row['name']}: {old} -> {new}{mark}")
    if len(order) > SHOWN:
        lines.append(f"  and {len(order) - SHOWN} more: `dvc metrics diff` shows them")
    return "\n".join(lines)
