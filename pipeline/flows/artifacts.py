"""What a flow run shows in Prefect's pages: every stage's state, the results, what changed, and a picture."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact
from prefect.exceptions import PrefectException

from pipeline.flows.home import live_server
from pipeline.flows.job import Job
from pipeline.flows.summary import Ended, changed_section, results_section, stage_rows
from pipeline.layout import Report, Results

LARGEST = 2_000_000  # bytes of a picture that is put into Prefect's database


@contextmanager
def shown_if_possible() -> Iterator[None]:
    """Pages are a help: where Prefect's server is gone, or refuses, the stages go on without."""
    try:
        yield
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("not shown in Prefect's pages: %s", str(error) or type(error).__name__)


def show_stages(job: Job, ended: Mapping[str, Ended], message: str) -> None:
    """A table of all stages of the targets, also of those that were up to date."""
    create_table_artifact(stage_rows(job.plan.stages, ended), key="stages", description=message)


def show_results(job: Job, before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> None:
    """The results table, what changed since the last run, a link to the report, and the trade-off picture."""
    table = job.place / Results().table
    text = table.read_text(encoding="utf-8") if table.is_file() else ""
    head = f"Experiment `{job.experiment}`, compared with the repository." if job.experiment else ""
    sections = [head, changed_section(before, after), results_section(text, _report(job))]
    create_markdown_artifact("\n\n".join(filter(None, sections)), key="results", description="Results and changes")
    picture = job.place / Report().frontier
    if picture.is_file() and picture.stat().st_size <= LARGEST:
        # In the artifact itself: it shows without the report's server, and stays what it was at this run.
        url = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")
        create_image_artifact(url, key="frontier", description="Safety against utility")


def _report(job: Job) -> str | None:
    """Where the report is: an address while `make ui` runs (it serves the repository's own), else the file."""
    page = job.place / Report().page
    if not page.is_file():
        return None
    server = None if job.experiment else live_server(job.request.root)
    return server.report if server else str(page.resolve())
