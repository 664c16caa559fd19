import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reports.conftest import RUNS

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium, or a skip that says what is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium or chromedriver (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def show(browser: Any, path: Path, width: int, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(path.as_uri())


@pytest.mark.parametrize("width", [400, 700, 800, 1000, 1100, 1200])
@pytest.mark.parametrize("name", RUNS)
def test_the_page_fits_its_window(browser: Any, pages: dict[str, Path], name: str, width: int):
    show(browser, pages[name], width, "light")
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    # Nothing reaches out of the window either, where the page itself would not scroll.
    outside = """return [...document.querySelectorAll('body *')].filter(e => {
        const box = e.getBoundingClientRect();
        return box.width > 1 && !e.closest('pre, svg, thead') && box.right > innerWidth + 0.5;
    }).map(e => e.outerHTML.slice(0, 80))"""
    assert browser.execute_script(outside) == []
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("name", RUNS)
def test_the_images_are_decoded(browser: Any, pages: dict[str, Path], name: str):
    show(browser, pages[name], 1200, "light")
    count = "return document.images.length"
    broken = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert browser.execute_script(count) == (
        0 if name.endswith(("alone", "continual")) else 80 + 36
    )
    assert browser.execute_script(broken) == 0


def test_the_sections_are_seen_in_order(browser: Any, pages: dict[str, Path]):
    show(browser, pages["demo"], 400, "light")
    tops = browser.execute_script(
        "return [...document.querySelectorAll('main > section')]"
        ".map(s => [s.id, s.getBoundingClientRect().top])"
    )
    assert (tops[0][0], tops[-1][0]) == ("verdict", "manifest")
    assert [top for _, top in tops] == sorted(top for _, top in tops)


def test_a_dark_reader_gets_a_dark_page(browser: Any, pages: dict[str, Path]):
    ground = "return getComputedStyle(document.body).backgroundColor"
    curve = "return getComputedStyle(document.querySelector('#curves path[clip-path]')).stroke"
    seen = {}
    for scheme in ("light", "dark"):
        show(browser, pages["whole"], 1200, scheme)
        seen[scheme] = (browser.execute_script(ground), browser.execute_script(curve))
    assert seen["light"][0] == "rgb(255, 255, 255)"
    assert seen["dark"][0] == "rgb(16, 19, 24)"
    assert seen["light"][1] != seen["dark"][1]


def test_the_text_of_charts_is_large_enough_to_read(browser: Any, pages: dict[str, Path]):
    show(browser, pages["whole"], 400, "light")
    heights = browser.execute_script(
        "return [...document.querySelectorAll('svg text')]"
        ".map(text => text.getBoundingClientRect().height)"
    )
    assert heights
    assert min(heights) > 9
