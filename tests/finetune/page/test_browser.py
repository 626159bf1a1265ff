"""The page in a real browser: two users who upload a video at the same time, and a broken file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait

from tests.finetune.page.stage import MOST_BYTES, app_of, ask, clips_of, served
from trichord.finetune.page.access import Access

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
ALONE = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--proxy-server=direct://"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)
PATIENCE_S = 60
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}


@contextmanager
def browser(profile: Path) -> Iterator[WebDriver]:
    """Open a browser that can reach only the page."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in (*ALONE, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def send(driver: WebDriver, path: Path) -> None:
    driver.find_element(By.ID, "file").send_keys(str(path))


def wait_for(driver: WebDriver, shown: str) -> str:
    """Wait until a part of the page is shown and no inference is running; return its text."""
    WebDriverWait(driver, PATIENCE_S).until(
        lambda _: (
            driver.find_element(By.CSS_SELECTOR, shown).is_displayed()
            and not driver.find_elements(By.CSS_SELECTOR, "[aria-busy]")
        )
    )
    return driver.find_element(By.CSS_SELECTOR, shown).text


def first_bar(driver: WebDriver) -> str:
    return driver.find_element(By.CSS_SELECTOR, ".bars .number").text


def percent(score: float) -> str:
    return f"{100 * score:.{1 if score < 0.0995 else 0}f} %"


needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver: apt-get install chromium-driver"
)


@needs_browser
def test_two_users_a_broken_file_a_search_and_a_recording(top: Path, page: str, tmp_path: Path) -> None:
    clips = clips_of(top / "clips", 2)
    for key, data in clips.items():
        (tmp_path / f"{key}.mp4").write_bytes(data)
    (tmp_path / "broken.mp4").write_bytes(b"\x00\x01\x02" * 5000)
    (tmp_path / "large.mp4").write_bytes(bytes(MOST_BYTES + 1))
    expected = [ask(f"{page}/api/look", data).content for data in clips.values()]
    with ExitStack() as both:
        people = [both.enter_context(browser(tmp_path / f"profile{number}")) for number in range(2)]
        for person, key in zip(people, clips, strict=True):
            person.get(page)
            WebDriverWait(person, PATIENCE_S).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, "#samples li"))
            send(person, tmp_path / f"{key}.mp4")
        for person, content in zip(people, expected, strict=True):
            assert content["actions"][0]["top"][0]["label"] in wait_for(person, "#actions")
            assert first_bar(person) == percent(content["actions"][0]["top"][0]["score"])
            assert len(person.find_elements(By.CSS_SELECTOR, "#map img")) == len(content["map"]["frames"])
            assert len(person.find_elements(By.CSS_SELECTOR, ".timeline svg")) == len(content["actions"][0]["top"])
        assert people[0].find_element(By.CSS_SELECTOR, "#nearest li").text

        one, other = people
        assert "mp4 or webm" in (send(one, tmp_path / "broken.mp4"), wait_for(one, "#trouble"))[1]
        assert not one.find_element(By.ID, "actions").is_displayed()
        assert "larger than 0.4 MB" in (send(one, tmp_path / "large.mp4"), wait_for(one, "#trouble"))[1]
        one.find_elements(By.CSS_SELECTOR, "#samples button")[0].click()
        wait_for(one, "#actions")
        assert not one.find_element(By.ID, "trouble").is_displayed()

        other.find_element(By.ID, "words").send_keys("<b>blue</b>\n")
        WebDriverWait(other, PATIENCE_S).until(
            lambda driver: "<b>blue</b>" in driver.find_element(By.CSS_SELECTOR, "#nearest .note").text
        )
        other.find_element(By.ID, "record").click()
        WebDriverWait(other, PATIENCE_S).until(
            lambda driver: driver.execute_script("return document.querySelector('#player').currentTime > 0.7")
        )
        other.find_element(By.ID, "record").click()
        WebDriverWait(other, PATIENCE_S).until(lambda driver: "of 640" in driver.find_element(By.ID, "status").text)

        other.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
        assert other.execute_script("return document.documentElement.scrollWidth") == PHONE["width"]
        for person in people:
            messages = [line["message"] for line in person.get_log("browser")]
            assert not [line for line in messages if "Content Security Policy" in line or "Uncaught" in line], (
                json.dumps(messages)
            )


@needs_browser
def test_an_address_with_the_token_is_opened_once(top: Path, tmp_path: Path) -> None:
    token = "0123456789abcdef"
    with served(app_of(top, Access(["127.0.0.1"], token))) as address, browser(tmp_path / "profile") as person:
        person.get(address)
        assert "this page asks for a token" in person.page_source
        for opened in (f"{address}/?token={token}", address):
            person.get(opened)
            WebDriverWait(person, PATIENCE_S).until(
                lambda driver: driver.execute_script(
                    "return [...document.querySelectorAll('#samples video')].some((each) => each.readyState > 0)"
                )
            )
            assert person.current_url == f"{address}/"
