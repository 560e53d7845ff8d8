"""`nearsafe report`: the page of the results, of one run or of two."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the page. [default: report; build/report for a page that DVC does not make]"),
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="REV", help="Put the results of a git revision beside this run's.")
    ] = None,
    show_flagged: Annotated[
        bool, typer.Option("--show-flagged", help="Do not pixelate flagged images: for your own eyes.")
    ] = False,
    studies: Annotated[bool, typer.Option("--studies", help="Add the studies that have been run.")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    data: Annotated[Path, typer.Option(help="Directory of all stages' outputs.")] = Path("data"),
    results: Annotated[Path, typer.Option(help="Directory of the results stage.")] = Path("results"),
    params: Annotated[Path, typer.Option(help="Its defences are shown, in order.")] = Path("params.yaml"),
) -> None:
    """Write the page of the results, report/index.html, from what is finished: one file that loads nothing."""
    from pipeline.layout import Report
    from pipeline.params import lookup
    from pipeline.report.compare import Revision, section
    from pipeline.report.page import write_report
    from pipeline.report.run import open_run
    from pipeline.report.studies import sections

    first = [section(Revision(compare, results))] if compare else []
    last = sections(data, params) if studies else []
    run = open_run(data, results, list(lookup(params, "defences")), show_flagged)
    # What `dvc repro report` makes is tracked and may be pushed: a page with more in it lies elsewhere.
    own = compare or studies or show_flagged
    page = Report(out or Path("build/report" if own else "report"))
    write_report(run, page, first, last)
    typer.echo(f"{page.page} written ({page.page.stat().st_size / 1e6:.1f} MB)")
    if show_flagged:
        typer.echo("It shows flagged images: do not share it.", err=True)
    if open_page:
        typer.launch(page.page.resolve().as_uri())
