"""The command `nearsafe`: one group of subcommands, each a function of pipeline/commands, and what an error becomes.

Nothing heavy is imported before a command runs, so that help, completion and a mistyped option answer at once.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from pipeline.commands import doctor, export, fetch, flow, profile, query, report, repro
from pipeline.errors import NearsafeError, disk_error, printable

HELP = """Make CLIP and Stable-Diffusion-style models safer, and show what the safety cost.

Exit status: 0 all is well; 1 what was asked for failed (a stage, a check); 2 wrong use or input that cannot be used;
130 stopped with Ctrl-C.
"""


class Commands(TyperGroup):
    """A group whose commands end with one line and a status, not a traceback, where the user can mend the cause."""

    def invoke(self, ctx: typer.Context) -> Any:
        """Run the command that was asked for."""
        try:
            answer = super().invoke(ctx)
            sys.stdout.flush()
            return answer
        except NearsafeError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            raise typer.Exit(2) from None
        except BrokenPipeError:  # the reader has had enough (`| head`): no error, and nothing more to flush
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:
            if (told := disk_error(error, None, wrote=False)) is None:
                raise
            print(f"error: {printable(str(told))}", file=sys.stderr)
            raise typer.Exit(2) from None


app = typer.Typer(
    name="nearsafe",
    cls=Commands,
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text, and no rich to import
    pretty_exceptions_enable=False,  # Python's own traceback: it shows no values of variables
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(asked: bool) -> None:
    if asked:
        try:
            print(f"nearsafe {version('nearsafe')}")
        except PackageNotFoundError:
            raise NearsafeError("nearsafe is not installed here: run `make env`") from None
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


for command in (
    repro.repro,
    query.query,
    query.queries,
    query.views,
    query.table,
    report.report,
    export.export,
    fetch.fetch,
    doctor.doctor,
    profile.profile,
):
    app.command()(command)
app.add_typer(flow.app, name="flow")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script. Raises SystemExit for every status but 0."""
    try:
        get_command(app).main(args=None if argv is None else list(argv), prog_name="nearsafe")
    except SystemExit as end:
        if end.code:
            raise


if __name__ == "__main__":
    main()
