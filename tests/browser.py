"""A headless Chromium for tests of pages: the installed one, else Debian's package, else a skip with its reason.

Use it in a test folder by importing the fixture into its conftest.py:

    from tests.browser import chromium

    __all__ = ["chromium"]
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from playwright.sync_api import Browser, Error, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
BUILD = Path(__file__).parents[1] / "build"
INSTALL_SECONDS = 300
_LOCK = Path(tempfile.gettempdir()) / "nearsafe-tests-chromium.lock"


def find_chromium() -> str | None:
    """The path of an installed browser, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@cache
def install_chromium() -> str:
    """Install Debian's `chromium` where that is possible, once for all test processes; "" or the reason why not."""
    if not Path("/etc/debian_version").is_file() or not shutil.which("apt-get"):
        return f"no {', '.join(NAMES)} on the PATH, and this is no Debian on which it could be installed"
    if os.geteuid() != 0:
        return f"no {', '.join(NAMES)} on the PATH; `sudo apt-get install chromium` gives one"
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]
    try:
        with FileLock(_LOCK, timeout=INSTALL_SECONDS):
            if find_chromium():  # another process has just installed it
                return ""
            for command in (["apt-get", "update", "-qq"], install):
                environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=INSTALL_SECONDS, env=environment, check=False
                )
    except (Timeout, subprocess.TimeoutExpired, OSError) as error:
        return f"chromium could not be installed: {error}"
    reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return "" if find_chromium() else f"chromium could not be installed: {reason}"


def screenshot_path(name: str) -> Path:
    """Where a test's screenshot goes: the build output, which git ignores."""
    BUILD.mkdir(exist_ok=True)
    return BUILD / f"{name}.png"


@contextmanager
def launch() -> Iterator[Browser]:
    """A running headless browser, or a skip. Until its end nothing else in this thread can call asyncio.run."""
    reason = "" if find_chromium() else install_chromium()
    if reason:
        pytest.skip(reason)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"{find_chromium()} does not start: {error.message.splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One for a module; a test opens its own page or context in it."""
    with launch() as browser:
        yield browser
