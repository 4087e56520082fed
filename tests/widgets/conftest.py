"""A real browser for the widgets' tests: the Chromium of this machine, driven by Playwright."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SCREENSHOTS = Path(__file__).with_name("screenshots")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium. Without one the test is skipped, except in CI, where it must be there."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(f"no browser: none of {', '.join(NAMES)} is installed, and in CI one has to be")
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def keep() -> Callable[[Locator, str], None]:
    """Keep a screenshot of an element under a name, for people to look at."""
    def screenshot(element: Locator, name: str) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        element.screenshot(path=SCREENSHOTS / f"{name}.png")

    return screenshot
