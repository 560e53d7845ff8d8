"""nearsafe query, queries, views, table: questions to the results of the pipeline."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from pipeline.commands.completing import named_queries
from pipeline.errors import NearsafeError
from pipeline.files import writing
from pipeline.layout import Data, Results

if TYPE_CHECKING:
    from pipeline.results.database import Batches

STANDARD_INPUT = "-"


class Format(StrEnum):
    """What an answer is written as."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


def query(
    sql: Annotated[
        str,
        typer.Argument(
            help="A named query (see `nearsafe queries`), a view, one SELECT, or - for standard input.",
            autocompletion=named_queries,
        ),
    ],
    data: Annotated[Path, typer.Option(help="Directory of all stages' outputs.")] = Path("data"),
    params: Annotated[Path, typer.Option(help="File whose defences are shown.")] = Path("params.yaml"),
    form: Annotated[
        Format | None, typer.Option("--format", help="Default: by the suffix of --out, else a table.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write the answer to.")] = None,
    variables: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A variable of the query: getvariable('NAME')."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long the query may work.")] = 300,
) -> None:
    """Answer a question in SQL over every table of the results, read-only.

    Examples: `nearsafe query leaderboard`; `nearsafe query "FROM scores WHERE metric = 'asr'" --out asr.csv`;
    `nearsafe query changes --set before=RUN --set after=RUN`.
    """
    from pipeline.results.confined import Request, ask

    chosen = form or _by_suffix(out)
    if chosen is Format.parquet and out is None and sys.stdout.isatty():
        raise NearsafeError("Parquet is binary: give --out FILE, or send standard output to a file or a program")
    asked = _sql(sys.stdin.read() if sql == STANDARD_INPUT else sql)
    request = Request(asked, str(data), _defences(data, params), _variables(variables or []))
    with ask(request, seconds) as answer, _target(out, binary=chosen is Format.parquet) as file:
        _write(chosen, answer, file)


def queries() -> None:
    """List the named queries: what each answers. `nearsafe query NAME` asks one."""
    from pipeline.results.database import questions

    _print([(name, _first_sentence(meaning)) for name, meaning in questions()])


def views() -> None:
    """List every view that can be asked, and what it holds."""
    from pipeline.results.database import catalogue

    _print(catalogue())


def table(results: Annotated[Path, typer.Option(help="Directory of the results.")] = Path("results")) -> None:
    """Print the results table."""
    file = Results(results).table
    try:
        print(file.read_text(encoding="utf-8"), end="")
    except OSError as error:
        raise NearsafeError(f"{file}: no results yet ({error.strerror}); `make repro` makes them") from error


def _write(form: Format, answer: "Batches", file: IO) -> None:
    from pipeline.results import formats

    if form is not Format.table:
        writers: dict[Format, Callable] = {
            Format.csv: formats.write_csv, Format.json: formats.write_json, Format.parquet: formats.write_parquet,
        }  # fmt: skip
        writers[form](answer, file)
        return
    on_screen = file is sys.stdout and sys.stdout.isatty()
    left_out = formats.write_table(answer, file, shutil.get_terminal_size().columns if on_screen else None)
    if left_out:
        more = f"{left_out:,}" if left_out < formats.TABLE_ROWS else f"{left_out:,} or more"
        print(f"{more} more rows: ask for less (WHERE, LIMIT), or use --out FILE", file=sys.stderr)


def _sql(text: str) -> str:
    """A bare word is the name of a view. Raises NearsafeError for one that there is not."""
    word = text.strip()
    if not re.fullmatch(r"\w+", word):
        return text
    import difflib

    from pipeline.results.database import catalogue

    names = [name for name, _ in catalogue()]
    if word in names:
        return f"FROM {word}"
    near = difflib.get_close_matches(word, names)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise NearsafeError(f"no query or view {word!r}{hint} (`nearsafe queries` and `nearsafe views` list them)")


def _defences(data: Path, params: Path) -> list[str] | None:
    """The defences that are asked for now; all of a study below data/studies, which has labels of its own, no world."""
    from pipeline.params import lookup

    return list(lookup(params, "defences")) if params.is_file() and Data(data).world.is_dir() else None


def _variables(given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise NearsafeError(f"--set {text}: expected NAME=VALUE")
        found[name] = value
    return found


def _by_suffix(out: Path | None) -> Format:
    suffix = out.suffix.removeprefix(".") if out else ""
    return Format(suffix) if suffix in list(Format) else Format.table


@contextmanager
def _target(out: Path | None, binary: bool) -> Iterator[IO]:
    """Standard output, or a file that is there whole or not at all. Raises NearsafeError where it cannot be written."""
    if out is None:
        yield sys.stdout.buffer if binary else sys.stdout
        return
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        file = temporary.open("wb") if binary else temporary.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise NearsafeError(f"{out}: cannot be written ({error.strerror})") from error
    try:
        with writing(out):
            with file:
                yield file
            os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.?])\s", text, maxsplit=1)[0]


def _print(entries: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in entries)
    for name, meaning in entries:
        print(f"{name.ljust(width)}  {meaning}")
