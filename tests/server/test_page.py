"""The page at / in a real browser: what it shows is what the server says, and nothing without a key."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import httpx2 as httpx
import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from serving import Server

LONG = {"prompt": "the cat sat on the mat", "max_tokens": 15_000, "ignore_eos": True, "stream": True}
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
Serve = Callable[..., Server]


class Page:
    """The page in the browser, by what a visitor sees and does."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> Page:
        self.driver.get(url)
        return self

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """Of the first such element; "" if there is none or it is not to be seen."""
        found = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found[0].text if found else ""

    def number(self, selector: str) -> int:
        """A count such as 2,048; -1 while there is none."""
        text = self.text(selector).replace(",", "")
        return int(text) if text.isdecimal() else -1

    def until(self, condition: Callable[[], Any]) -> Any:
        """What the condition gives once it holds."""
        # an element of before a reload is not what is asked about: it is looked up anew
        gone = [StaleElementReferenceException]
        return WebDriverWait(self.driver, 60, 0.05, ignored_exceptions=gone).until(lambda _: condition())

    def click(self, selector: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def type(self, selector: str, *keys: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).send_keys(*keys)

    def visible(self, selector: str) -> bool:
        return self.driver.find_element(By.CSS_SELECTOR, selector).is_displayed()

    def console(self) -> list[str]:
        """What the console has said since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def emulate(self, *, width: int | None = None, scheme: str = "light") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        if width is None:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        else:
            size = {"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": False}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def asked(self) -> list[list[float]]:
        """Begin and end of every request for /live."""
        script = """return performance.getEntriesByType("resource").filter((entry) => entry.name.endsWith("/live"))
          .map((entry) => [entry.startTime, entry.responseEnd])"""
        found: list[list[float]] = self.js(script)
        return found


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    chromium, chromedriver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("neither Chromium nor Chrome with its chromedriver is on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    made.set_window_size(1300, 1000)
    yield made
    made.quit()


@pytest.fixture
def page(driver: webdriver.Chrome) -> Iterator[Page]:
    made = Page(driver)
    made.emulate()
    made.console()
    yield made
    driver.get("about:blank")  # stops asking a server that ends


@contextmanager
def streaming(server: Server, times: int = 1) -> Iterator[None]:
    """So many long answers; their first frames are there."""
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(timeout=60))
        kept = []  # a generator that is dropped closes its stream
        for _ in range(times):
            response = stack.enter_context(client.stream("POST", f"{server.url}/v1/completions", json=LONG))
            kept.append(response.iter_lines())
            next(kept[-1])
        yield


def test_what_runs_is_shown_and_agrees_with_the_metrics(serve: Serve, page: Page) -> None:
    server = serve()
    page.open(server.url)
    page.until(lambda: page.text("#status") == "ok")
    assert page.number("#capacity") == server.metric("presize_kv_cache_capacity_tokens")
    assert page.visible("#nothing")
    with streaming(server, 3):
        page.until(lambda: page.number("#running") == 3 == server.metric("presize_num_requests_running"))
        page.until(lambda: len(page.driver.find_elements(By.CSS_SELECTOR, "#rows tr")) == 3)
        before = page.number("#rows td.number")
        page.until(lambda: page.number("#rows td.number") > before)
        assert page.number("#used") > 0
        assert "running" in page.driver.title
        page.until(lambda: page.number("#rate") > 0)
        bar = page.js("return document.querySelector('#rows [role=img]').getAttribute('aria-label')")
        assert "at most 15,000" in bar
        assert page.js("return document.querySelector('#band .mean').getAttribute('d').length") > 100
        colours = page.js("""return [...document.querySelectorAll("#rows .chip")]
          .map((chip) => getComputedStyle(chip).backgroundColor)""")
        assert len(set(colours)) == 3
    page.until(lambda: page.number("#running") == 0)
    page.until(lambda: page.number("#output-tokens") == server.metric("presize_generation_tokens_total") > 0)
    assert page.number("#used") == server.metric("presize_kv_cache_usage_perc") == 0
    assert page.text("#rows") == ""
    assert page.console() == []


def test_every_block_of_a_request_has_its_colour(serve: Serve, page: Page) -> None:
    server = serve()
    page.open(server.url)
    with streaming(server, 1):
        page.until(lambda: page.number("#used") > 200)
        found = page.until(
            lambda: page.js("""
          const canvas = document.getElementById("blocks");
          const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          const chip = document.querySelector("#rows .chip");
          if (!chip) return null;
          const pen = new OffscreenCanvas(1, 1).getContext("2d");
          pen.fillStyle = getComputedStyle(chip).backgroundColor;
          pen.fillRect(0, 0, 1, 1);
          const wanted = pen.getImageData(0, 0, 1, 1).data;
          let [same, painted] = [0, 0];
          for (let i = 0; i < data.length; i += 4) {
            painted += data[i + 3] === 255;
            same += data[i] === wanted[0] && data[i + 1] === wanted[1] && data[i + 2] === wanted[2];
          }
          const [used, capacity] = ["used", "capacity"].map((id) =>
            Number(document.getElementById(id).textContent.replaceAll(",", "")));
          return [same / painted, used / capacity];""")
        )
    assert found[0] == pytest.approx(found[1], abs=0.002)


def test_the_forecast_comes_before_the_answer(serve: Serve, page: Page) -> None:
    server = serve("--max-num-seqs", "1")
    page.open(server.url)
    page.until(lambda: page.text("#status") == "ok")
    page.js("document.getElementById('limit').value = 30")
    with streaming(server):
        page.type("#prompt", "the cat", Keys.ENTER)
        forecast = page.until(lambda: page.text(".prediction") if "tokens" in page.text(".prediction") else None)
        assert forecast.startswith("forecast: about ")
        assert page.text(".answer") == ""
        assert page.text(".outcome") == "waiting for the first token …"
        page.until(lambda: page.text("#rows .waits .state") == "asked here, waiting")
    page.until(lambda: page.visible("#send"))
    assert page.text(".prediction") == forecast
    assert page.js("return document.querySelector('.answer').textContent.length") > 0
    ended = server.metric("presize_request_generation_tokens_sum")
    page.until(lambda: page.text(".outcome").startswith(f"{ended:.0f} tokens, "))
    page.until(lambda: page.text("#answers") == "last 1 answers")
    assert page.console() == []


def test_stop_gives_the_request_up(serve: Serve, page: Page) -> None:
    server = serve("--max-num-seqs", "1")
    page.open(server.url)
    page.until(lambda: page.text("#status") == "ok")
    with streaming(server):
        page.type("#prompt", "the cat", Keys.ENTER)
        page.until(lambda: page.text(".prediction").startswith("forecast: "))
        page.click("#stop")
        page.until(lambda: page.text(".outcome").startswith("stopped after 0 tokens"))
        server.until(lambda: server.metric("presize_num_requests_waiting") == 0)
    page.until(lambda: page.visible("#send"))
    assert page.js("return document.getElementById('prompt').value") == "the cat"
    page.click("#clear")
    assert page.js("return document.querySelector('#talk').children.length") == 0


def test_what_the_server_refuses_is_said_in_its_words(server: Server, page: Page) -> None:
    page.open(server.url)
    page.until(lambda: page.text("#status") == "ok")
    page.js("document.getElementById('prompt').value = 'the cat sat '.repeat(1000)")
    page.click("#send")
    said = page.until(lambda: page.text(".outcome.error"))
    body = {"messages": [{"role": "user", "content": ("the cat sat " * 1000).strip()}], "max_tokens": 256}
    assert said == server.post("/v1/chat/completions", body).json()["error"]["message"]


def test_nothing_is_shown_without_the_key(serve: Serve, page: Page) -> None:
    server = serve("--api-key", "sesame", "--served-model-name", "secret-model")
    assert server.get("/").status_code == 200
    assert server.get("/live").status_code == 401
    page.open(server.url)
    page.until(lambda: page.visible("#key-form"))
    assert not page.visible("#picture")
    assert "secret-model" not in page.js("return document.documentElement.outerHTML")
    page.type("#key", "wrong", Keys.ENTER)
    page.until(lambda: page.text("#key-error") == "The server does not know this key.")
    assert not page.visible("#picture")
    page.type("#key", "sesame", Keys.ENTER)
    page.until(lambda: page.text("#status") == "ok" and page.visible("#picture"))
    assert not page.visible("#key-form")
    assert page.text("#model") == "secret-model"
    page.type("#prompt", "the cat", Keys.ENTER)
    page.until(lambda: "tokens, " in page.text(".outcome"))
    assert page.js("return [localStorage.length, document.cookie]") == [0, ""]
    page.driver.refresh()  # the tab still has it
    page.until(lambda: page.text("#model") == "secret-model")
    page.js("sessionStorage.clear()")  # as if the key were refused from now on: all goes
    page.until(lambda: page.visible("#key-form"))
    assert not page.visible("#picture")
    assert page.text("#model") == page.text("#choices") == ""
    assert all("/live" in line and "401" in line for line in page.console())


def test_a_narrow_screen_needs_no_sideways_scrolling(serve: Serve, page: Page) -> None:
    server = serve()
    page.emulate(width=360)
    page.open(server.url)
    page.until(lambda: page.text("#status") == "ok")
    fits = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert page.js(fits)
    with streaming(server, 2):
        page.until(lambda: page.number("#running") == 2 and page.text("#rows code"))
        assert page.js(fits)
        assert page.js("""const box = document.querySelector("#requests .scroll");
          return box.scrollWidth <= box.clientWidth""")
        assert page.js("return document.querySelector('#rows .length').clientWidth") > 60


@pytest.mark.parametrize(("scheme", "darkest", "lightest"), [("light", 0.7, 1.0), ("dark", 0.0, 0.1)])
def test_light_and_dark_are_what_they_are_called_and_legible(
    server: Server, page: Page, scheme: str, darkest: float, lightest: float
) -> None:
    page.open(server.url)
    page.until(lambda: page.text("#status") == "ok")
    script = """
      const pixel = document.getElementById("blocks").getContext("2d").getImageData(1, 1, 1, 1).data;
      return [`rgb(${pixel[0]}, ${pixel[1]}, ${pixel[2]})`, getComputedStyle(document.body).backgroundColor,
        ...["h1", "#pool", "#status"].map((selector) => getComputedStyle(document.querySelector(selector)).color)]"""

    def shades() -> list[float]:
        return [luminance(colour) for colour in page.js(script)]

    page.emulate(scheme=scheme)
    page.until(lambda: darkest <= shades()[0] <= lightest)  # a free block: the canvas was drawn anew
    _, paper, *texts = shades()
    assert darkest <= paper <= lightest
    assert all(contrast(paper, text) >= 4.5 for text in texts)


def luminance(colour: str) -> float:
    """Relative, as WCAG has it, of rgb(r, g, b)."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def test_it_asks_only_while_it_is_seen_and_one_question_at_a_time(server: Server, page: Page) -> None:
    page.open(server.url)
    page.until(lambda: len(page.asked()) >= 3)
    spans = page.asked()
    assert all(begin >= end for (_, end), (begin, _) in pairwise(spans))
    names = page.js("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(name.startswith(server.url) for name in names), names
    hide = """Object.defineProperty(document, "hidden", { value: arguments[0], configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
      return performance.now()"""
    hidden_at = page.js(hide, True)
    page.until(lambda: page.js("return performance.now()") > hidden_at + 2500)
    assert not [begin for begin, _ in page.asked() if begin > hidden_at]
    seen_at = page.js(hide, False)
    page.until(lambda: [begin for begin, _ in page.asked() if begin > seen_at])


def test_a_server_that_is_gone_and_comes_back(serve: Serve, page: Page) -> None:
    first = serve()
    page.open(first.url)
    page.until(lambda: page.text("#status") == "ok")
    first.stop()
    page.until(lambda: page.text("#status") == "unreachable")
    assert "has not answered since" in page.text("#notice")
    serve("--port", first.url.rpartition(":")[2])
    page.until(lambda: page.text("#status") == "ok")
    assert not page.visible("#notice")


def test_the_page_can_be_used_by_keyboard_and_its_pictures_have_names(server: Server, page: Page) -> None:
    page.open(server.url)
    page.until(lambda: page.text("#status") == "ok")
    nameless = page.js("""return [...document.querySelectorAll("svg, canvas, [role=img]")]
      .filter((node) => !node.getAttribute("aria-label")).map((node) => node.outerHTML)""")
    assert nameless == []
    reached = []
    for _ in range(12):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(page.js("return document.activeElement.id || document.activeElement.className"))
    assert [name for name in reached if name in ("prompt", "limit", "clear", "send")][:4] == [
        "prompt", "limit", "clear", "send",
    ]  # fmt: skip
