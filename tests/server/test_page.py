"""The page in a real browser: typing, dropping, recording, the map, the keyboard, a phone, accessibility."""

from __future__ import annotations

import base64
import os
import shutil
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from one_peace.server.routes.page import page_folder
from server import hostile
from server.conftest import COLORS, Running, colored_square

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium whose microphone hears the tone that the library has."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here; on Debian: apt-get install chromium")
    heard = tmp_path_factory.mktemp("microphone") / "tone.wav"
    heard.write_bytes(hostile.sound(440, 8.0))
    microphone = (
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={heard}",
    )
    sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()  # Chromium's own does not run as root
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=found, args=[*QUIET, *microphone, *sandbox])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, server: Running) -> Iterator[Any]:
    """The page, opened; no script error and no request to another host by its end."""
    context = browser.new_context(permissions=["microphone"], viewport={"width": 1100, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened.on("request", lambda request: None if _own(request.url, server.url) else faults.append(request.url))
    opened.goto(server.url)
    opened.wait_for_selector("#filter-modality input", state="attached")
    yield opened
    context.close()
    assert faults == []


def _own(url: str, server: str) -> bool:
    return url.startswith((server, "blob:", "data:"))


def until(page: Any, expression: str) -> None:
    """Waits for an expression to be true. Not `wait_for_function`: the page's policy forbids what that does in it."""
    end = time.monotonic() + 60
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(50)


def only_pictures(page: Any) -> None:
    page.click("#filters summary")
    page.check("#filter-modality input[value=image]")


def first_answer(page: Any, status: str = "answers") -> str:
    """The name of the first answer once there are some."""
    page.wait_for_selector(".card")
    until(page, "!document.querySelector('#results[aria-busy]')")
    return str(page.locator(".card").first.get_attribute("aria-label"))


def drop(page: Any, name: str, data: bytes, kind: str) -> None:
    """Drops a file on the page."""
    transfer = page.evaluate_handle(
        """([name, data, kind]) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: kind }));
            return transfer;
        }""",
        [name, base64.b64encode(data).decode(), kind],
    )
    page.dispatch_event("body", "dragover", {"dataTransfer": transfer})
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})


def test_type_a_word_and_see_its_picture(page: Any) -> None:
    only_pictures(page)
    page.fill("#text", "yellow")  # found while typing
    assert first_answer(page) == "yellow"
    page.keyboard.press("Enter")
    page.wait_for_selector(".chip")
    assert page.locator("#text").input_value() == "" and "q=yellow" in page.url
    until(page, "document.querySelector('.card img')?.naturalWidth > 0")
    assert page.locator(".card .why li").count() == page.locator(".card").count()
    page.locator(".chip button").click()
    until(page, "!document.querySelector('.card')")


def test_drop_a_picture_and_weigh_it_against_a_word(page: Any, tmp_path: Path) -> None:
    only_pictures(page)
    path = tmp_path / "blue.png"
    colored_square(COLORS["blue"]).save(path)
    drop(page, "my picture.png", path.read_bytes(), "image/png")
    assert first_answer(page) == "blue"
    page.fill("#text", "red")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('.card .why')[0]?.children.length === 2")
    page.locator(".chip input").first.fill("0.25")
    page.locator(".chip input").last.fill("2")
    until(page, "document.querySelector('.card')?.getAttribute('aria-label') === 'red'")


def test_the_microphone_finds_what_it_heard(page: Any) -> None:
    page.click("#filters summary")
    page.check("#filter-modality input[value=audio]")
    page.click("#microphone")
    until(page, "document.querySelector('#recorded').textContent === '2 s'")
    page.click("#microphone")
    page.wait_for_selector(".chip")
    assert first_answer(page) == "tone"
    assert page.locator(".card audio").count() == 2
    assert page.get_attribute("#microphone", "aria-pressed") == "false"


def test_keyboard_and_more_like_this(page: Any) -> None:
    only_pictures(page)
    page.locator("body").press("/")
    page.keyboard.type("black")
    assert first_answer(page) == "black"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("m")
    page.wait_for_selector(".chip")
    assert page.locator(".chip .label").inner_text() == f"like {second}"
    first_answer(page)
    page.locator(".card").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog#viewer[open] img")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog#viewer", state="hidden")


def test_add_and_remove_a_file(page: Any, server: Running) -> None:
    data = hostile.picture((140, 0, 140), (70, 70))
    page.set_input_files("#add-input", {"name": "violet.png", "mimeType": "image/png", "buffer": data})
    until(page, "document.querySelector('#status').textContent.startsWith('1 added')")
    drop(page, "violet.png", data, "image/png")
    assert first_answer(page) == "violet"
    page.locator(".card .look").first.click()
    page.click("#viewer .danger")
    until(page, "document.querySelector('#status').textContent.includes('no longer')")
    assert all(item.caption != "violet" for item in server.service.library.items())


def test_what_cannot_be_used_is_said(page: Any) -> None:
    drop(page, "sheet.xls", b"\xd0\xcf\x11\xe0", "application/vnd.ms-excel")
    until(page, "document.querySelector('#status').textContent.includes('neither a picture nor a sound')")


def test_map(page: Any, server: Running) -> None:
    page.click("#show-map")
    page.wait_for_selector("#legend li")
    drawn = """() => {
        const canvas = document.querySelector('#map');
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return pixels.some((value, i) => i % 4 < 3 && value > 60); // in color, too
    }"""
    until(page, drawn)
    assert str(len(server.service.library)) in page.inner_text("#map-note")
    page.focus("#map")
    page.keyboard.press("+")
    page.keyboard.press("Enter")  # opens what is nearest to the middle
    page.wait_for_selector("dialog#viewer[open] h2")


def test_phone_and_dark(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme="dark")
    page.fill("#text", "red")
    first_answer(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360  # nothing to scroll sideways
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(page: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.emulate_media(color_scheme=scheme)
    page.click("#filters summary")
    page.fill("#text", "red")
    page.keyboard.press("Enter")
    first_answer(page)
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_its_files_are_complete_and_go_into_the_wheel() -> None:
    """Whatever the page loads is there, and of a type that is served."""
    folder = page_folder()
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {"web": "one_peace/server/page"}
    text = (folder / "index.html").read_text(encoding="utf-8")
    named = [part.split('"')[0] for part in text.split("/page/")[1:]]
    assert named and all((folder / name).is_file() for name in named)
    for script in folder.glob("*.js"):
        for line in script.read_text(encoding="utf-8").splitlines():
            if line.startswith("import "):
                assert (folder / line.rsplit('"', 2)[1]).is_file(), line
