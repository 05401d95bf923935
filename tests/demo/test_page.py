"""The page of the demo, in a real Chromium."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.demo.conftest import Demo

api = (
    pytest.importorskip("playwright.sync_api")
    if os.environ.get("CI") != "true"
    else __import__("playwright.sync_api").sync_api
)

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # the page is ours; a container has no namespaces for it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SWITCHED = ("audit", "analytics", "email")
EFFECTS = {*SWITCHED, "cache", "callables"}
FAST = re.compile(r"^[\d.]+ ms$")
"""How the page writes what takes less than a second."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The distribution's Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        missing = "there is no chromium on the PATH to look at the page with"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, demo: Demo) -> Iterator[Page]:
    """The page, opened where nothing but the demo can be reached; nothing may go wrong in it."""
    page = browser.new_page()
    strangers: list[str] = []
    troubles: list[str] = []

    def only_the_demo(route, request) -> None:  # noqa: ANN001 - Playwright's
        if request.url.startswith(demo.url):
            route.continue_()
        else:
            strangers.append(request.url)
            route.abort()

    page.route("**/*", only_the_demo)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on(
        "console", lambda message: troubles.append(message.text) if "Content Security Policy" in message.text else None
    )
    page.goto(demo.url)
    yield page
    page.unroute_all(behavior="ignoreErrors")
    page.close()
    assert (strangers, troubles) == ([], [])


def place(page: Page) -> None:
    """Press the button, and wait for the answer to have been shown."""
    page.get_by_role("button", name="Place order").click()
    api.expect(page.get_by_role("button", name="Place order")).to_be_enabled()


def turn(page: Page, sink: str, mode: str) -> None:
    """Turn the switch of that sink."""
    page.get_by_role("group", name=f"The receiver of {sink} is").get_by_role("radio", name=mode).check()


def landed(page: Page, sink: str):  # noqa: ANN201 - a locator
    """The row of that effect in the timeline, once it has been delivered."""
    return page.locator(f'#timeline [data-sink="{sink}"][data-state="landed"]')


def test_an_order_and_what_follows_it(page: Page) -> None:
    """After an order, the page shows the response, every effect landing after it, and what has arrived where."""
    place(page)
    api.expect(page.locator("#history")).to_have_text("POST /orders: 201, order 1, 24.50 €")
    api.expect(page.locator("#browser-ms")).to_have_text(FAST)
    api.expect(page.locator("#server-ms")).to_have_text(FAST)
    for sink in EFFECTS:
        api.expect(landed(page, sink)).to_contain_text("+")
    api.expect(page.get_by_role("status")).to_contain_text("5 effects after it, all delivered.")
    api.expect(page.locator("#audit tbody tr")).to_have_count(1)
    api.expect(page.locator("#audit tbody tr")).to_contain_text("order.place")
    api.expect(page.locator("#analytics li")).to_contain_text("Order Completed")
    api.expect(page.locator("#cache li")).to_have_text("orders:ada@example.org")
    api.expect(page.frame_locator("#mail").locator("body")).to_contain_text("Hello Ada Lovelace")
    api.expect(page.locator("#sinks tbody tr", has_text="email").locator("td").nth(2)).to_have_text("1")


@pytest.mark.parametrize("sink", SWITCHED)
@pytest.mark.contract("L01")
def test_a_hung_sink_holds_up_nobody(page: Page, sink: str) -> None:
    """With one receiver hung, the response is fast and the other effects land; released, it gets its event."""
    turn(page, sink, "hung")
    place(page)
    api.expect(page.locator("#browser-ms")).to_have_text(FAST)
    for other in EFFECTS - {sink}:
        api.expect(landed(page, other)).to_have_count(1)
    api.expect(page.locator(f'#timeline [data-sink="{sink}"]')).to_have_attribute("data-state", "waiting")
    turn(page, sink, "ok")
    api.expect(landed(page, sink)).to_have_count(1, timeout=30_000)


def test_slow_sinks_do_not_slow_the_response(page: Page) -> None:
    """With three receivers slow, the response is as fast as ever, and every effect lands."""
    for sink in SWITCHED:
        turn(page, sink, "slow")
    place(page)
    api.expect(page.locator("#browser-ms")).to_have_text(FAST)
    for sink in EFFECTS:
        api.expect(landed(page, sink)).to_have_count(1, timeout=30_000)


def test_failing_sinks_are_tried_again(page: Page) -> None:
    """With three receivers failing, the response is as fast as ever and the others deliver, while those are retried."""
    for sink in SWITCHED:
        turn(page, sink, "failing")
    place(page)
    api.expect(page.locator("#browser-ms")).to_have_text(FAST)
    for sink in EFFECTS - set(SWITCHED):
        api.expect(landed(page, sink)).to_have_count(1)
    for sink in SWITCHED:
        row = page.locator("#sinks tbody tr").filter(has=page.get_by_role("rowheader", name=sink))
        api.expect(row.locator("td").nth(5)).not_to_have_text("0", timeout=30_000)
        api.expect(landed(page, sink)).to_have_count(0)


def test_a_refused_order_has_effects_of_its_own(page: Page) -> None:
    """An order that ends in 409 is audited and tracked, and gets no mail."""
    page.get_by_label("Product").select_option("samovar")
    place(page)
    api.expect(page.locator("#history")).to_have_text("POST /orders: 409, samovar is sold out")
    api.expect(page.get_by_role("status")).to_contain_text("Answered 409")
    api.expect(page.get_by_role("status")).to_contain_text("2 effects after it, all delivered.")
    api.expect(page.locator("#audit tbody tr")).to_contain_text("failure")
    api.expect(page.locator("#mails-count")).to_have_text("0")


def test_what_a_customer_writes_stays_text(page: Page) -> None:
    """Markup in a name is shown as it was written, on the page and in the mail, and nothing of it runs."""
    name = '<img src="x" onerror="document.title=1"><b>Ada</b>'
    title = page.title()
    page.get_by_label("Name").fill(name)
    place(page)
    api.expect(page.frame_locator("#mail").locator("body")).to_contain_text(f"Hello {name}")
    api.expect(page.locator("#analytics li code")).to_contain_text("<b>Ada</b>")
    assert page.locator("img, b").count() == 0
    assert page.frame_locator("#mail").locator("img, b").count() == 0
    assert page.title() == title


def test_twenty_orders_at_a_press(page: Page) -> None:
    """The second button places twenty, so that there are quantiles to look at."""
    page.get_by_role("button", name="Place 20").click()
    api.expect(page.locator("#responses")).to_have_text(", last 20", timeout=30_000)
    api.expect(page.locator("#p99")).to_have_text(re.compile(r"[\d.]+ m?s"))
    api.expect(page.locator("#audit-count")).to_have_text("20")


@pytest.mark.contract("D02")
def test_it_ends_at_once_with_a_page_open_and_every_sink_hung(page: Page, demo: Demo, tmp_path: Path) -> None:
    """Ctrl-C ends it within seconds, lists what is left, leaves no file, and the page says that it has gone."""
    for sink in SWITCHED:
        turn(page, sink, "hung")
    place(page)
    api.expect(landed(page, "cache")).to_have_count(1)
    try:
        code, errors = demo.interrupt(timeout=8)  # less than any of the three waits for its receiver in a drain of 10 s
    except TimeoutExpired:
        pytest.fail("it was still running 8 s after Ctrl-C")
    assert code == 0
    assert "2 effect(s) were not finished at shutdown and are lost" in errors
    assert "sinks.audit: 1 event(s) stay in the journal" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
    api.expect(page.get_by_role("alert")).to_be_visible()


def test_it_ends_in_silence_where_all_is_well(page: Page, demo: Demo) -> None:
    """With nothing left to do, Ctrl-C ends it without a word on standard error."""
    place(page)
    for sink in EFFECTS:
        api.expect(landed(page, sink)).to_have_count(1)
    assert demo.interrupt() == (0, "")
