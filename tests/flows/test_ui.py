"""`make ui` in a browser: the deployments are listed, Run runs, stages appear by name, and Ctrl-C leaves nothing."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from pipeline.flows.home import environment
from pipeline.runs import read_runs
from tests.browser import chromium, screenshot_path
from tests.flows.repository import make

__all__ = ["chromium"]

START = 150  # seconds that Prefect may take to start on a busy machine
STAGES = ("base", "train@a", "train@b", "score@a", "score@b", "results")


@dataclass
class Ui:
    """`nearsafe flow ui`, running: what it said first, and its processes then."""

    root: Path
    process: subprocess.Popen[str]
    said: str
    url: str
    report: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory, chromium: Browser) -> Iterator[Ui]:
    """Started in a small repository, on free ports; ended by Ctrl-C. Without a browser it is not started."""
    root = make(tmp_path_factory.mktemp("ui") / "clone")
    ports = [free_port(), free_port()]
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "flow",
        "ui",
        "--port",
        str(ports[0]),
        "--report-port",
        str(ports[1]),
    ]
    process = subprocess.Popen(
        command, cwd=root, env=environment(root, None), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    timer = threading.Timer(START, process.terminate)
    timer.start()
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        timer.cancel()
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        yield Ui(root, process, "".join(lines), *urls)
    finally:
        timer.cancel()
        left = family(process, root)
        process.kill()
        for one in left:
            one.kill()
        process.wait(10)


def family(process: subprocess.Popen[str], root: Path) -> list[psutil.Process]:
    """The process, what it started, and whatever else works in the repository."""
    found = []
    for one in psutil.process_iter():
        try:
            mine = one.pid == process.pid or process.pid in [parent.pid for parent in one.parents()]
            if (mine or Path(one.cwd()).is_relative_to(root)) and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue
    return found


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page that can reach this machine alone. A request to another is a failure."""
    outside: list[str] = []

    def loopback_only(route: Route) -> None:
        if urlsplit(route.request.url).hostname in ("127.0.0.1", "localhost"):
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.route("**/*", loopback_only)
    page = context.new_page()
    page.set_default_timeout(20_000)
    expect.set_options(timeout=30_000)
    yield page
    page.screenshot(path=screenshot_path("prefect-last"))  # where a failed test stopped
    context.close()
    assert outside == []


def test_a_run_started_from_the_page_shows_its_stages(ui: Ui, page: Page) -> None:
    assert f"{ui.url}/deployments" in ui.said and ui.report in ui.said
    page.goto(f"{ui.url}/deployments")
    for name in ("manual", "nightly"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    page.screenshot(path=screenshot_path("prefect-deployments"))

    page.get_by_role("link", name="manual", exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Quick run", exact=True).click()
    page.locator('a[href*="/runs/flow-run/"]').first.click()
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible(timeout=60_000)
    expect(page.get_by_text("Running stage 'base':")).to_be_visible()
    page.screenshot(path=screenshot_path("prefect-run"))

    page.get_by_text("Task Runs", exact=True).click()
    for stage in STAGES:
        expect(page.get_by_role("link", name=stage, exact=True)).to_be_visible()
    expect(page.get_by_text("Ran", exact=True)).to_have_count(len(STAGES))
    page.screenshot(path=screenshot_path("prefect-stages"))

    page.get_by_text("Artifacts", exact=True).click()
    expect(page.get_by_text("Results and changes")).to_be_visible()
    page.locator("a", has_text="Results and changes").first.click()
    expect(page.locator("th", has_text="defence").or_(page.get_by_text("defence", exact=True)).first).to_be_visible()
    page.screenshot(path=screenshot_path("prefect-results"))

    (run,) = read_runs(ui.root / "data")
    assert (run["kind"], run["state"]) == ("flow", "completed")


def test_ctrl_c_leaves_no_process(ui: Ui) -> None:
    before = family(ui.process, ui.root)
    assert len(before) > 2, "itself, Prefect's server, the runner"
    ui.process.send_signal(signal.SIGINT)
    assert ui.process.wait(60) == 0
    deadline = time.monotonic() + 5
    while (left := family(ui.process, ui.root)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [one.cmdline() for one in left] == []
    assert not (ui.root / ".nearsafe/server.json").exists()
    assert not re.search("Traceback", ui.process.stdout.read())
