"""The web pages in a real browser, at the width of a desk and of a phone. `make test-browser`.

Needs playwright and a chromium that is installed (Debian: apt-get install chromium; elsewhere SCDM_CHROMIUM names it).
Screenshots are written to SCDM_SCREENSHOTS, or to a temporary folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.documents import CampaignDocuments
from support.loops_demo import store_loop
from support.memory import memory_database
from support.pages_demo import store_demo
from support.pages_server import serving

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = os.environ.get("SCDM_CHROMIUM") or shutil.which("chromium")
WIDTHS = {"desk": 1440, "phone": 390}
BEST = "/candidates/demo-000000000000"
PAGES = {
    "browse": ("/", "12 candidates"),
    "browse-filtered": ("/?elements=Mo,S&max_e_above_hull=0.2&sort=-e_above_hull", "3 candidates"),
    "browse-unknown-field": ("/?layer_grup=78", "did you mean 'layer_group'?"),
    "candidate": (BEST, "surrogate energies, predicted by the energy model"),
    "candidate-unstable": ("/candidates/demo-000000000001", "Unstable: imaginary mode"),
    "candidate-without": ("/candidates/demo-000000000004", "No phonons"),
    "candidate-unknown": ("/candidates/demo-00000000000x", "did you mean"),
    "campaigns": ("/campaigns", "phonon-stable"),
    "campaign": ("/campaigns/demo", "3,378 (84.5 %)"),
    "compare": ("/compare", "843 of 2,000"),
    "nowhere": ("/nowhere", "No such page"),
}
PAGES_OF_LOOPS = {
    "loops": ("/loops", "small layers"),
    "loop": ("/loops/l", "GPAW did not converge"),
    "loop-unknown": ("/loops/ll", "did you mean 'l'?"),
}


@dataclass
class Watch:
    """What a page complained of and where it looked for things."""

    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def follow(self, page: Any, base: str) -> None:
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: self.errors.append(str(e)))
        page.on(
            "request",
            lambda r: None if r.url.startswith((base, "data:", "blob:")) else self.outside.append(r.url),
        )
        page.on("response", lambda r: self.refused.append(f"{r.status} {r.url}") if r.status >= 400 else None)

    def check(self) -> None:
        assert (self.errors, self.outside, self.refused) == ([], [], [])


@pytest.fixture(scope="module")
def base(campaign_documents: CampaignDocuments) -> Iterator[str]:
    database = memory_database()
    store_demo(database, campaign_documents)
    with serving(database) as address:
        yield address


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("no chromium is installed; apt-get install chromium, or name one in SCDM_CHROMIUM")
    with playwright.sync_playwright() as driver:
        # in a container root has no sandbox; software draws WebGL where there is no graphics card
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--enable-unsafe-swiftshader"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("SCDM_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _open(chromium: Any, base: str, width: int) -> tuple[Any, Watch]:
    page = chromium.new_context(viewport={"width": width, "height": 900}).new_page()
    page.set_default_timeout(20_000)
    watch = Watch()
    watch.follow(page, base)
    return page, watch


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_page_is_drawn(chromium: Any, base: str, screenshots: Path, name: str, width: str) -> None:
    path, words = PAGES[name]
    _drawn(chromium, base, path, words, WIDTHS[width], screenshots / f"{name}-{width}.png")


@pytest.mark.parametrize("width", WIDTHS)
def test_pages_of_loops_are_drawn(chromium: Any, screenshots: Path, width: str) -> None:
    database = memory_database()
    store_loop(database)
    with serving(database) as address:
        for name, (path, words) in PAGES_OF_LOOPS.items():
            _drawn(chromium, address, path, words, WIDTHS[width], screenshots / f"{name}-{width}.png")


def _drawn(chromium: Any, base: str, path: str, words: str, width: int, picture: Path) -> None:
    """Open a page that says these words, and look for complaints."""
    page, watch = _open(chromium, base, width)
    page.goto(base + path)
    page.get_by_text(words).first.wait_for()
    page.wait_for_load_state("networkidle")
    if page.locator(".js-plotly-plot").count():
        page.wait_for_function(
            "[...document.querySelectorAll('.graph')].every(g => g.querySelector('.main-svg, .gl-container'))"
        )
    page.screenshot(path=picture, full_page=True)
    # nothing is wider than the screen: a phone need not scroll sideways
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert page.title().endswith("scdm-flows")
    page.context.close()
    watch.check()


def test_the_figures_of_a_candidate_are_all_there(chromium: Any, base: str) -> None:
    page, watch = _open(chromium, base, 1440)
    page.goto(base + BEST)
    for label in ("structure of", "convex hull of", "phonon bands", "electronic bands", "parts of the score"):
        page.locator(f'.graph[aria-label^="{label}"] .js-plotly-plot').wait_for()
    assert page.locator(".gl-container canvas").count() >= 1  # 3D
    page.locator('.graph[aria-label^="structure of"] .updatemenu-button').first.click()  # from above
    page.wait_for_function("document.querySelector('.graph .js-plotly-plot').layout.scene.camera.eye.z > 1.5")
    picture = page.locator("img.layer")
    assert picture.evaluate("image => image.complete && image.naturalWidth > 0")
    page.context.close()
    watch.check()


def test_keyboard_filters_opens_and_goes_back(chromium: Any, base: str) -> None:
    page, watch = _open(chromium, base, 1440)
    page.goto(base + "/")
    page.get_by_text("12 candidates").wait_for()
    page.keyboard.press("Tab")  # the first stop leads past the menu
    assert page.evaluate("document.activeElement.className") == "skip"
    page.get_by_label("Molybdenum").focus()
    page.keyboard.press("Space")
    page.wait_for_url("**/?elements=Mo")
    assert page.get_by_label("Molybdenum").get_attribute("aria-pressed") == "true"
    page.get_by_label("Molybdenum").focus()
    page.keyboard.press("Tab")  # the next element
    assert page.evaluate("document.activeElement.title") == "Technetium"
    page.locator("#browse-max_e_above_hull").focus()
    page.keyboard.type("0.1")
    page.keyboard.press("Enter")
    page.get_by_text("2 candidates").wait_for()
    page.wait_for_url("**/?elements=Mo&max_e_above_hull=0.1")
    asked = page.url
    heading = page.locator('.ag-header-cell[col-id="e_above_hull"]')
    heading.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**&sort=e_above_hull")
    page.keyboard.press("Enter")
    page.wait_for_url("**&sort=-e_above_hull")
    page.locator('.ag-row[row-index="0"] [col-id="rank"]', has_text="3").wait_for()
    page.keyboard.press("ArrowDown")  # from the heading into the first row
    page.keyboard.press("Enter")
    page.wait_for_url("**/candidates/demo-000000000001")
    page.get_by_text("Unstable: imaginary mode").wait_for()
    page.go_back()
    page.get_by_text("2 candidates").wait_for()
    assert page.url == asked + "&sort=-e_above_hull"
    assert page.locator("#browse-max_e_above_hull").input_value() == "0.1"
    page.context.close()
    watch.check()


def test_a_link_asks_the_same_and_back_takes_filters_away(chromium: Any, base: str) -> None:
    page, watch = _open(chromium, base, 390)
    page.goto(base + "/?dynamically_stable=true&nelements=2")
    page.get_by_text("2 candidates").wait_for()  # SCDM's and UnSCDM's
    page.get_by_text("also nelements = 2").wait_for()
    page.get_by_role("link", name="(remove)").click()
    page.wait_for_url("**/?dynamically_stable=true")
    page.get_by_role("button", name="Tungsten").click()
    page.get_by_text("0 candidates").wait_for()
    page.go_back()
    page.get_by_text("2 candidates").wait_for()
    assert page.get_by_role("button", name="Tungsten").get_attribute("aria-pressed") == "false"
    with page.expect_download() as download:
        page.get_by_role("link", name="download CSV").click()
    assert len(Path(download.value.path()).read_text().splitlines()) == 3
    page.context.close()
    watch.check()
