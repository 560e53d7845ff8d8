"""nearsafe: questions to the results of the pipeline.

nearsafe table                                     the results table
nearsafe views                                     every view that can be asked, and what it holds
nearsafe query "SELECT * FROM asr_by_rule"         one SELECT over the views, read-only
nearsafe query - --format csv < question.sql       the same, from standard input, as CSV
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import NearsafeError, run
from pipeline.layout import Data, Results
from pipeline.params import DEFAULT_FILE, lookup
from pipeline.results.database import catalogue, connect, query
from pipeline.results.report import markdown


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script; errors end with one line and status 2."""
    try:
        run(_dispatch, parser(), argv)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has had enough (`| head`): no error, and nothing more to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_table(results: Path) -> None:
    """Print the results table that the last stage wrote."""
    file = Results(results).table
    try:
        print(file.read_text(encoding="utf-8"), end="")
    except OSError as error:
        raise NearsafeError(f"{file}: no results yet ({error.strerror}); `make repro` makes them") from error


def show_views() -> None:
    """Print every view and what it answers."""
    entries = catalogue()
    width = max(len(name) for name, _ in entries)
    for name, meaning in entries:
        print(f"{name.ljust(width)}  {meaning}")


def answer(sql: str, data: Path, params: Path, form: Literal["table", "csv", "json"]) -> None:
    """Print the rows that a SELECT over the views gives."""
    # A study below data/studies has labels of its own, and no world.
    defences = list(lookup(params, "defences")) if params.is_file() and Data(data).world.is_dir() else None
    database = connect(data, defences)
    found = query(database, sys.stdin.read() if sql == "-" else sql)
    header, rows = found.columns, found.rows
    if form == "json":
        print(json.dumps([dict(zip(header, row, strict=True)) for row in rows], indent=1, default=str))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    else:
        print("\n".join(markdown(header, [[_text(value) for value in row] for row in rows])))


def parser() -> argparse.ArgumentParser:
    """The command line: one subcommand per question."""
    arguments = argparse.ArgumentParser(
        prog="nearsafe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = arguments.add_subparsers(required=True, metavar="command")
    table = commands.add_parser("table", help="print the results table")
    table.add_argument("--results", type=Path, default=Path("results"), help="directory of the results")
    table.set_defaults(command=show_table)
    views = commands.add_parser("views", help="list the views")
    views.set_defaults(command=show_views)
    ask = commands.add_parser("query", help="answer one SELECT over the views")
    ask.add_argument("sql", help="the SELECT, or - for standard input")
    ask.add_argument("--data", type=Path, default=Path("data"), help="directory of all stages' outputs")
    ask.add_argument("--params", type=Path, default=DEFAULT_FILE, help="file whose defences are shown")
    ask.add_argument("--format", dest="form", choices=("table", "csv", "json"), default="table")
    ask.set_defaults(command=answer)
    return arguments


def _dispatch(command: Any, **options: Any) -> None:
    command(**options)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
