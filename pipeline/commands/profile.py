"""nearsafe profile: set the parameters of a paper, or of your own file, in params.yaml."""

from pathlib import Path
from typing import Annotated

import typer


def profile(
    name: Annotated[str | None, typer.Argument(help="A profile of profiles/, or a file; none lists them.")] = None,
    params: Annotated[Path, typer.Option(help="Parameter file to change.")] = Path("params.yaml"),
    show: Annotated[bool, typer.Option("--show", help="Print the changed file and change nothing.")] = False,
) -> None:
    """Lay a profile over params.yaml: what it sets changes, with its comments; everything else stays.

    `git diff params.yaml` shows what changed, `git checkout params.yaml` goes back. `nearsafe doctor --profile NAME`
    says before any work what is missing and how long it takes.
    """
    from pipeline.profiles import names, overlay, read_profile, write_profile

    if name is None:
        for known in names():
            print(f"{known:<20}{read_profile(known).head.title}")
        return
    found = read_profile(name)
    if show:
        print(overlay(params, found), end="")
    elif write_profile(params, found):
        print(f"{params}: {found.head.title or found.path}")
        print(f"`git diff {params}` shows what changed, `git checkout {params}` goes back")
    else:
        print(f"{params}: as {found.path} has it already")
