"""Prefect's pages in a browser, as a person uses them."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser import launch, screenshot_path


@pytest.fixture
def page() -> Iterator[Page]:
    """A page that can reach this machine alone, of a browser of its own. A request to another is a failure."""
    outside: list[str] = []

    def loopback_only(route: Route) -> None:
        if urlsplit(route.request.url).hostname in ("127.0.0.1", "localhost"):
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    with launch() as browser:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.route("**/*", loopback_only)
        page = context.new_page()
        page.set_default_timeout(20_000)
        expect.set_options(timeout=30_000)
        yield page
        page.screenshot(path=screenshot_path("prefect-last"))  # where a failed test stopped
        context.close()
    assert outside == []


def press_run(page: Page, url: str) -> None:
    """Both deployments are listed; the button of one starts a run, whose page says that it has ended well."""
    page.goto(f"{url}/deployments")
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


def look_at_run(page: Page, stages: tuple[str, ...]) -> None:
    """Its stages by name, all of which ran, and what came of it."""
    page.get_by_text("Task Runs", exact=True).click()
    for stage in stages:
        expect(page.get_by_role("link", name=stage, exact=True)).to_be_visible()
    expect(page.get_by_text("Ran", exact=True)).to_have_count(len(stages))
    page.screenshot(path=screenshot_path("prefect-stages"))
    page.get_by_text("Artifacts", exact=True).click()
    expect(page.get_by_text("Results and changes")).to_be_visible()
    page.locator("a", has_text="Results and changes").first.click()
    expect(page.locator("th", has_text="defence").or_(page.get_by_text("defence", exact=True)).first).to_be_visible()
    page.screenshot(path=screenshot_path("prefect-results"))
