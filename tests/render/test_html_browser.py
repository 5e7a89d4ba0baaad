"""The HTML report in a real browser: Chromium, from a file, without a network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ckptdiff.gate.run import Run, single
from ckptdiff.render import render_run
from tests.render import runs

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

pytestmark = pytest.mark.browser
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    binary = next(filter(None, map(shutil.which, _BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1400,1000",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a run; at the end nothing may have gone wrong, and nothing may have been asked of a network."""

    def opened(run: Run, fragment: str = "") -> Any:
        path = tmp_path / "report.html"
        path.write_text(render_run("html", run), encoding="utf-8")
        browser.get(path.as_uri() + fragment)
        return browser

    browser.get("about:blank")
    browser.get_log("browser")
    yield opened
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)") == []
    assert browser.execute_script("return window.pwned") is None


def tree(browser: Any) -> Any:
    return browser.find_element(By.CSS_SELECTOR, "section:not([hidden]) .tree")


def names(browser: Any) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('section:not([hidden]) .tree-body .c-name')].map(name => name.title)"
    )
    return found


def shown(browser: Any) -> str:
    text: str = browser.find_element(By.CSS_SELECTOR, "section:not([hidden]) .shown").text
    return text


def press(browser: Any, *keys: str) -> None:
    webdriver.ActionChains(browser).send_keys(*keys).perform()


def wait(browser: Any, condition: Callable[[Any], object]) -> None:
    WebDriverWait(browser, 20).until(condition)


def button(browser: Any, text: str) -> Any:
    return next(
        found
        for found in browser.find_elements(By.CSS_SELECTOR, "section:not([hidden]) button")
        if found.text.split("\n")[0].startswith(text)
    )


def detail(browser: Any) -> str:
    text: str = browser.find_element(By.CSS_SELECTOR, "section:not([hidden]) .detail").text
    return text


def test_search_narrows_the_tree_and_escape_brings_it_back(show: Callable[..., Any]) -> None:
    browser = show(single(runs.failing()))
    assert shown(browser) == "156 keys"
    press(browser, "/")
    press(browser, "FC.")
    wait(browser, lambda b: shown(b) == "2 of 156 keys")
    assert names(browser) == ["Net", "fc", "fc.weight", "fc.bias"]
    press(browser, Keys.ESCAPE)
    wait(browser, lambda b: shown(b) == "156 keys")
    press(browser, "nothing like it")
    wait(browser, lambda b: shown(b) == "0 of 156 keys")
    assert names(browser) == []


def test_filters_by_status_and_rule_together(show: Callable[..., Any]) -> None:
    browser = show(single(runs.failing()))
    button(browser, "size mismatch").click()
    assert shown(browser) == "2 of 156 keys"
    button(browser, "no tensor").click()
    assert shown(browser) == "3 of 156 keys"
    button(browser, "size-mismatch").click()
    assert shown(browser) == "2 of 156 keys"
    assert button(browser, "size mismatch").get_attribute("aria-pressed") == "true"
    button(browser, "clear").click()
    assert shown(browser) == "156 keys"


def test_a_finding_leads_to_its_keys(show: Callable[..., Any]) -> None:
    browser = show(single(runs.failing()))
    browser.find_element(By.XPATH, "//summary[contains(., 'unexpected-key')]").click()
    button(browser, "show in the tree").click()
    assert shown(browser) == "32 of 156 keys"


def test_the_tree_is_worked_by_keys_alone(show: Callable[..., Any]) -> None:
    browser = show(single(runs.failing()))
    tree(browser).send_keys(Keys.ARROW_DOWN)

    def active() -> Any:
        row = browser.find_element(By.ID, tree(browser).get_attribute("aria-activedescendant"))
        return row.find_element(By.CSS_SELECTOR, ".c-name").get_attribute("title"), row

    assert active()[0] == "Net"
    press(browser, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    name, row = active()
    assert (name, row.get_attribute("aria-level"), row.get_attribute("aria-expanded")) == ("bn1", "2", "true")
    press(browser, Keys.ARROW_LEFT)
    assert active()[1].get_attribute("aria-expanded") == "false"
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert active()[0] == "bn1.weight"
    assert "numpy.ndarray" in detail(browser)
    press(browser, Keys.ARROW_LEFT)
    assert active()[0] == "bn1"
    press(browser, Keys.END)
    last = active()[0]
    press(browser, Keys.HOME)
    assert active()[0] == "Net"
    press(browser, Keys.ARROW_LEFT, Keys.END)
    assert active()[0] == "Net"
    assert last != "Net"
    focused = browser.execute_script("return document.activeElement.getAttribute('role')")
    assert focused == "treegrid"


def test_both_sides_stand_beside_each_other(show: Callable[..., Any]) -> None:
    browser = show(single(runs.failing()))
    press(browser, "/")
    press(browser, "fc.weight")
    wait(browser, lambda b: shown(b) == "1 of 156 keys")
    browser.find_element(By.CSS_SELECTOR, ".tree-body .row:last-child").click()
    marked = browser.execute_script("return [...document.querySelectorAll('.tree-body mark')].map(m => m.textContent)")
    assert marked == ["1000", "10"]
    rows = browser.execute_script(
        "return [...document.querySelectorAll('.sides tbody tr')]"
        ".map(r => [r.className, ...[...r.cells].map(c => c.textContent)])"
    )
    assert ["differs", "size 0", "1,000", "10"] in rows
    assert ["", "size 1", "512", "512"] in rows
    assert "checkpoint [1000, 512], model [10, 512]" in detail(browser)


def test_the_treemap_has_areas_in_proportion_and_goes_in_and_out(show: Callable[..., Any]) -> None:
    browser = show(single(runs.failing()))
    areas = dict(
        browser.execute_script(
            "return [...document.querySelectorAll('.cell:not(.group)')].map(c => {const b = c.getBoundingClientRect();"
            " return [c.getAttribute('aria-label').split(':')[0], b.width * b.height]})"
        )
    )
    ratio = areas["layer4.1.conv1.weight"] / areas["layer4.0.conv1.weight"]
    assert 1.8 < ratio < 2.2  # 512 * 512 and 512 * 256 filters
    group = next(
        c
        for c in browser.find_elements(By.CSS_SELECTOR, ".cell.group")
        if c.get_attribute("title").startswith("layer4:")
    )
    browser.execute_script("arguments[0].focus()", group)
    press(browser, Keys.ENTER)
    assert browser.find_element(By.CSS_SELECTOR, ".crumbs").text.split("\n")[:3] == ["Net", "›", "layer4"]
    assert "layer4" in detail(browser)
    press(browser, Keys.ARROW_RIGHT, Keys.ESCAPE)
    assert browser.find_element(By.CSS_SELECTOR, ".crumbs").text.split("\n")[0] == "Net"
    assert browser.find_element(By.CSS_SELECTOR, ".crumbs [aria-current]").text == "Net"


def test_cells_stay_within_the_map_and_apart(show: Callable[..., Any]) -> None:
    browser = show(single(runs.failing()))
    boxes = browser.execute_script(
        "const m = document.querySelector('.map').getBoundingClientRect();"
        "return [m.width, m.height, [...document.querySelectorAll('.cell:not(.group)')].map(c => {"
        " const b = c.getBoundingClientRect();"
        " return [b.left - m.left, b.top - m.top, b.right - m.left, b.bottom - m.top]})]"
    )
    width, height, cells = boxes
    assert len(cells) > 20
    for left, top, right, bottom in cells:
        assert left >= 0
        assert top >= 0
        assert right <= width + 1
        assert bottom <= height + 1
    for i, a in enumerate(cells):
        for b in cells[i + 1 :]:
            overlap = (min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1]))
            assert min(overlap) < 1


def test_light_and_dark(show: Callable[..., Any]) -> None:
    browser = show(single(runs.failing()))

    def light() -> bool:
        color = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        return int(color[4:].split(",")[0]) > 128

    for scheme in ("dark", "light"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        assert light() == (scheme == "light")
    toggle = browser.find_element(By.ID, "theme")
    seen = []
    for _ in range(3):
        toggle.click()
        seen.append((browser.execute_script("return document.documentElement.dataset.theme"), light()))
    assert seen == [("light", True), ("dark", False), ("auto", True)]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_one_target_at_a_time_the_first_that_does_not_pass_first(show: Callable[..., Any]) -> None:
    browser = show(runs.several())
    heading = "section:not([hidden]) h2"
    assert browser.find_element(By.CSS_SELECTOR, heading).text == "resnet18, new head"
    assert len(browser.find_elements(By.CSS_SELECTOR, ".tree")) == 1  # the others are not built
    browser.find_element(By.LINK_TEXT, "llama").click()
    wait(browser, lambda b: b.find_element(By.CSS_SELECTOR, heading).text == "llama")
    browser.find_element(By.LINK_TEXT, "resnet18").click()
    wait(browser, lambda b: b.find_element(By.CSS_SELECTOR, heading).text == "resnet18")
    assert len(browser.find_elements(By.CSS_SELECTOR, ".tree")) == 2
    browser = show(runs.several(), "#t3")
    assert browser.find_element(By.CSS_SELECTOR, heading).text == "accepted"


@pytest.mark.parametrize("run", [single(runs.hostile()), runs.hostile_run()], ids=["report", "run"])
def test_hostile_names_are_shown_and_do_nothing(show: Callable[..., Any], run: Run) -> None:
    browser = show(run)
    button(browser, "open all").click()
    listed = names(browser)
    assert "</script><script>window.pwned=1</script>.weight" in listed
    assert "__proto__.constructor.weight" in listed
    assert "\\x1b[31mred\\x1b[0m.weight" in listed
    for row in range(0, len(listed), 3):
        tree(browser).send_keys(*[Keys.ARROW_DOWN] * (3 if row else 1))
        assert detail(browser)
    assert (
        browser.execute_script("return document.querySelectorAll('img, iframe, object, link, script[src]').length") == 0
    )


def test_a_script_that_gets_in_is_not_run(browser: Any, show: Callable[..., Any]) -> None:
    show(single(runs.passing()))
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.pwned = 1'; document.body.append(s);"
        "const i = document.createElement('img'); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i)"
    )
    assert browser.execute_script("return window.pwned") is None
    refused = [entry["message"] for entry in browser.get_log("browser")]
    assert len(refused) == 2
    assert all("Content Security Policy" in message for message in refused)
    browser.execute_script("performance.clearResourceTimings()")  # what was refused is listed as well


def test_fifty_thousand_keys(show: Callable[..., Any]) -> None:
    browser = show(single(runs.huge()))
    assert shown(browser) == "55,000 keys"
    button(browser, "open all").click()
    assert int(tree(browser).get_attribute("aria-rowcount")) > 55_000
    assert len(names(browser)) < 150
    tree(browser).send_keys(Keys.END)
    assert names(browser)[-1] == "blocks.99.expert_list.49.w1.weight"
    press(browser, "/")
    press(browser, "blocks.7.experts.31.norm")
    wait(browser, lambda b: shown(b) == "2 of 55,000 keys")
    assert names(browser)[-1] == "blocks.7.experts.31.norm.bias"
    assert browser.execute_script("return document.querySelectorAll('*').length") < 5000


def test_on_paper_everything_found_is_open_and_the_rows_are_all_there(show: Callable[..., Any]) -> None:
    browser = show(single(runs.failing()))
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    rows = int(tree(browser).get_attribute("aria-rowcount")) - 1
    assert len(names(browser)) == rows > 60
    assert browser.execute_script("return document.querySelectorAll('.findings details:not([open])').length") == 0
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert len(names(browser)) < rows
    assert browser.execute_cdp_cmd("Page.printToPDF", {})["data"]


def test_without_scripts_what_is_found_can_be_read(browser: Any, show: Callable[..., Any]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(runs.several())
        text = browser.find_element(By.TAG_NAME, "body").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "The model's tree needs JavaScript." in text
    assert "missing-key" in text
    assert "The model took longer than 60 s." in text


@pytest.mark.parametrize("width", [360, 768, 1400])
def test_nothing_sticks_out_of_a_narrow_page(browser: Any, show: Callable[..., Any], width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        for run in (single(runs.hostile()), runs.several(), runs.hostile_run()):
            show(run)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_everything_that_can_be_pressed_has_a_name(show: Callable[..., Any]) -> None:
    browser = show(runs.several())
    nameless = browser.execute_script(
        "return [...document.querySelectorAll('button, input, a, summary, [role=treegrid], [role=group]')]"
        ".filter(e => !(e.textContent.trim() || e.getAttribute('aria-label'))).map(e => e.outerHTML)"
    )
    assert nameless == []
    roles = browser.execute_script(
        "return [...document.querySelectorAll('.tree-body .row')].every(r => r.ariaLevel && r.ariaPosInSet)"
    )
    assert roles


@pytest.mark.parametrize("width", [1400, 1200, 1000, 850])
def test_both_sides_of_a_tensor_fit_beside_each_other(show: Callable[..., Any], width: int) -> None:
    browser = show(single(runs.failing()))
    browser.set_window_size(width, 1000)
    try:
        script = "return [arguments[0].scrollWidth, arguments[0].clientWidth]"
        needed, there = browser.execute_script(script, tree(browser))
    finally:
        browser.set_window_size(1400, 1000)
    assert needed <= there
