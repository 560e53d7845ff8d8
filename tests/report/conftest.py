"""The browser in which the page is opened."""

from tests.browser import chromium

__all__ = ["chromium"]
