"""nearsafe doctor: what is there, what is missing, and how to get it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

NAME_WIDTH = 24


def doctor(
    params: Annotated[Path, typer.Option(help="Parameter file to check.")] = Path("params.yaml"),
    profile: Annotated[
        str | None, typer.Option(help="A profile (docs/profiles.md): what it lacks, and how large and how long it is.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for a program.")] = False,
) -> None:
    """Say what is missing, how to get it, and how long a run takes.

    Checks Python, packages, devices, disk, git, DVC, model folders, prompt files, defences and stages, offline, and
    changes nothing. With --profile, of the run that the profile asks for: missing files, sizes, and the time of each
    stage on this machine, from a minute of measurements.

    Exit status: 0 nothing is missing; 1 something is.
    """
    from pipeline.doctor import examine

    checks = examine(Path(), params)
    if profile is not None:
        from pipeline.doctor_profile import examine_profile

        checks = examine_profile(Path(), params, profile)
    found = []
    for check in checks:
        found.append(check)
        if not as_json:
            print(f"{check.state:<8}{check.name:<{NAME_WIDTH}}{check.text}", flush=True)
            if check.fix:
                print(f"{'':<{8 + NAME_WIDTH}}-> {check.fix}", flush=True)
    missing, warned = (sum(check.state == state for check in found) for state in ("missing", "warn"))
    if as_json:
        print(json.dumps([asdict(check) for check in found], indent=1))
    else:
        print(f"\n{len(found)} checks: {missing or 'nothing'} missing, {warned or 'nothing'} to look at")
    if missing:
        raise typer.Exit(1)
