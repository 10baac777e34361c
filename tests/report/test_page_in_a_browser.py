"""The page's script in a browser, where there is one: Chromium with its driver, and selenium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="an extra")
webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="no Chromium with its driver"),
]

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path]) -> Iterator[Any]:
    """A report over 60 runs, open."""
    from tcl_train.commands.report import make_report

    folder = tmp_path_factory.mktemp("browser")
    for number in range(60):
        result = {"top1": 50 + (7 * number) % 60 / 2}
        keys = {"loss": "tcl", "k1": number // 2, "seed": number % 2 + 1, "lines": 0}
        write_run(folder / "runs" / f"{number}", result=result, **keys)
    make_report([str(folder / "runs")], folder / "out")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=DRIVER, env=dict(os.environ))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.get((folder / "out" / "report.html").as_uri())
        driver.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        yield driver
        errors = [e for e in driver.get_log("browser") if e["level"] == "SEVERE"]
        assert errors == []
    finally:
        driver.quit()


ROWS = """
return [...document.querySelectorAll('details .paged tbody tr')].filter(row => !row.hidden)
    .map(row => [...row.cells].map(cell => cell.textContent.trim()))
"""


def heads(page: Any) -> list[Any]:
    return page.find_elements("css selector", "details .paged th")


def test_a_table_is_sorted_by_numbers_both_ways(page):
    column = [head.text.split(" ")[0] for head in heads(page)].index("top-1")
    for click in (1, 2):
        heads(page)[column].click()
        values = [float(row[column]) for row in page.execute_script(ROWS)]
        assert values == sorted(values, reverse=click == 2)
        assert len(values) == 50  # a page of the 60 runs


def test_rows_are_filtered_and_all_are_shown(page):
    box = page.find_element("css selector", "details .paged input")
    box.send_keys("k1=29 seed=2")
    assert len(page.execute_script(ROWS)) == 1
    box.clear()
    box.send_keys(" ")
    page.find_element("css selector", "details .paged [data-count] button").click()
    assert len(page.execute_script(ROWS)) == 60


def test_a_command_is_copied(page):
    origin = page.current_url
    page.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    button = page.find_element("css selector", "details td.command button")
    command = button.find_element("xpath", "following-sibling::code").text
    page.execute_script("arguments[0].scrollIntoView({inline: 'center'})", button)
    button.click()
    copied = page.execute_async_script(
        "const done = arguments[0]; navigator.clipboard.readText().then(done, e => done('' + e))"
    )
    assert copied == command
    assert command.startswith("tcl-train loss=tcl k1=")
    assert page.current_url == origin
