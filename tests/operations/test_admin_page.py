"""The admin page in a real Chromium, on a real gateway."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.conftest import REPOSITORY, Server, StartServer

CHROMIUM = Path("/usr/bin/chromium")
PICTURES = REPOSITORY / ".cache" / "screenshots"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
TABS = ("Models", "Activity", "Cache", "Logs", "Connect", "Keys")

pytestmark = pytest.mark.operations


@pytest.fixture
def server(start_server: StartServer, tiny_folder: Path) -> Server:
    return start_server("--model", str(tiny_folder))


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, server: Server) -> Iterator[Page]:
    assert CHROMIUM.exists(), "Chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(color_scheme=request.param)
        page.set_default_timeout(15_000)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{server.url}/admin/")
        yield page
        browser.close()
    assert not errors


def test_every_tab_is_shown_and_models_are_evicted_loaded_and_pinned(
    page: Page, request: pytest.FixtureRequest
) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in TABS:
        page.get_by_role("tab", name=name).click()
        expect(page.get_by_role("tabpanel", name=name).locator("section").first).to_be_visible()
        page.screenshot(path=PICTURES / f"{name.lower()}-{request.node.callspec.id}.png", full_page=True)
    page.get_by_role("tab", name="Models").click()
    page.get_by_role("button", name="Pin tiny").click()
    page.get_by_role("button", name="Unpin tiny").click()
    page.get_by_role("button", name="Evict tiny").click()
    page.get_by_role("button", name="Load tiny").click()
    expect(page.get_by_role("button", name="Evict tiny")).to_be_visible()
    page.get_by_role("tab", name="Connect").click()
    page.get_by_role("button", name="Test", exact=True).click()
    expect(page.locator("#test-result")).to_contain_text("It answered in")


def test_nothing_stands_beyond_the_edge_at_200_percent(page: Page) -> None:
    page.set_viewport_size({"width": 640, "height": 500})  # 1280 wide at 200 %
    for name in TABS:
        page.get_by_role("tab", name=name).click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


def test_a_dead_server_is_told(page: Page, server: Server) -> None:
    server.stop()
    expect(page.locator("#dead")).to_contain_text("does not answer")
