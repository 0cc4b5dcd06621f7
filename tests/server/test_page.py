"""The page in a real browser: typing, dropping, recording, the map, the keyboard, a phone, accessibility."""

from __future__ import annotations

import base64
import io
import os
import shutil
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import one_peace
from one_peace.cache import cache_folder
from one_peace.data.manifest import Item, load_manifest
from one_peace.search.library import Library
from one_peace.server.routes.page import page_folder
from one_peace.server.service import Service
from one_peace.server.settings import Settings
from one_peace.tasks.sample_library import STAMPS
from server import hostile
from server.conftest import COLORS, LIMITS, Running, colored_square, running
from tiny_ofa import tiny_ofa

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")


@pytest.fixture(scope="module")
def playwright() -> Iterator[Any]:
    with pytest.importorskip("playwright.sync_api").sync_playwright() as started:
        yield started


@contextmanager
def chromium(playwright: Any, microphone: Path) -> Iterator[Any]:
    """Headless Chromium whose microphone hears a sound file, once."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here; on Debian: apt-get install chromium")
    fake = (
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
    )
    sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()  # Chromium's own does not run as root
    opened = playwright.chromium.launch(executable_path=found, args=[*QUIET, *fake, *sandbox])
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def browser(playwright: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Its microphone hears the tone that the library has."""
    heard = tmp_path_factory.mktemp("microphone") / "tone.wav"
    heard.write_bytes(hostile.sound(440, 60.0))
    with chromium(playwright, heard) as opened:
        yield opened


@contextmanager
def opened_page(browser: Any, url: str, zone: str = "UTC") -> Iterator[Any]:
    """The page; no script error and no request to another host by its end."""
    size = {"width": 1100, "height": 900}
    context = browser.new_context(permissions=["microphone"], viewport=size, timezone_id=zone)
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened.on("request", lambda request: None if _own(request.url, url) else faults.append(request.url))
    opened.goto(url)
    opened.wait_for_selector("#filter-modality input", state="attached")
    yield opened
    context.close()
    assert faults == []


@pytest.fixture
def page(browser: Any, server: Running) -> Iterator[Any]:
    with opened_page(browser, server.url) as opened:
        yield opened


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


def test_what_is_transparent_in_a_large_picture_is_sent_white(page: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 4), np.uint8)  # its PNG has more than a MiB
    noise[..., 3] = 0
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    sent = page.evaluate(
        """async (data) => {
            const { partOfFile } = await import("/page/query.js");
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            return (await partOfFile(new File([bytes], "x.png", { type: "image/png" }), ["image"])).source;
        }""",
        base64.b64encode(file.getvalue()).decode(),
    )
    assert sent.startswith("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(sent.partition(",")[2]))) as picture:
        assert picture.convert("L").getextrema()[0] > 250


def test_a_large_picture_is_made_smaller_before_it_is_refused(page: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 32, (900, 900, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    assert len(file.getvalue()) > LIMITS.request_bytes
    drop(page, "photo.png", file.getvalue(), "image/png")
    page.wait_for_selector(".chip")
    first_answer(page)
    assert page.locator(".chip .label").inner_text() == "photo.png"
    drop(page, "half.png", file.getvalue()[:100] + bytes(LIMITS.request_bytes), "image/png")
    until(page, "document.querySelector('#status').textContent.startsWith('half.png is too large to search by, and')")
    drop(page, "long.wav", hostile.sound(440, 60.0), "audio/wav")
    until(page, "document.querySelector('#status').textContent === 'long.wav is too large to search by.'")
    assert page.locator(".chip").count() == 1


def test_a_picture_of_few_bytes_and_many_pixels_is_made_smaller(page: Any) -> None:
    file = io.BytesIO()
    Image.new("RGB", (2000, 1000), COLORS["blue"]).save(file, "PNG")
    assert LIMITS.pixels < 2000 * 1000 and len(file.getvalue()) < 20_000
    only_pictures(page)
    drop(page, "poster.png", file.getvalue(), "image/png")
    page.wait_for_selector(".chip")
    assert first_answer(page) == "blue"


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
    page.fill("#text", "yellow")
    first_answer(page)
    page.fill("input[name=caption]", "no such words")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#status').textContent === 'Nothing passes the filters.'")


def test_an_empty_library_has_no_filters_to_blame(browser: Any, tmp_path: Path, model: one_peace.OnePeace) -> None:
    Library(tmp_path / "library", model).add([])
    service = Service(model, tmp_path / "library", Settings(decoders=1))
    with running(service) as url, browser.new_page() as page:
        page.goto(url)
        page.fill("#text", "red")
        until(page, "document.querySelector('#status').textContent === 'Nothing found.'")


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


def test_a_double_click_records_once(page: Any) -> None:
    page.evaluate(
        """() => {
            window.heard = [];
            const devices = navigator.mediaDevices, ask = devices.getUserMedia.bind(devices);
            devices.getUserMedia = async (wanted) => {
                const stream = await ask(wanted);
                heard.push(...stream.getTracks());
                return stream;
            };
        }"""
    )
    page.dblclick("#microphone")
    until(page, "document.querySelector('#recorded').textContent === '1 s'")
    page.click("#microphone")
    page.wait_for_selector(".chip")
    assert page.evaluate("heard.map((track) => track.readyState)") == ["ended"]


def test_a_spoken_word_finds_its_picture(playwright: Any, tmp_path: Path, model: one_peace.OnePeace) -> None:
    """A recording of a word, through the microphone, among pictures that it was never paired with."""
    pictures, clip, name = spoken_word(model)
    for picture in pictures:
        (tmp_path / "media").mkdir(exist_ok=True)
        (tmp_path / "media" / f"{picture.group}{picture.path.suffix}").write_bytes(picture.path.read_bytes())
    Library(tmp_path / "library", model).index(tmp_path / "media", progress=False)
    waveform, rate = soundfile.read(clip)
    soundfile.write(tmp_path / "word.wav", waveform, rate, subtype="PCM_16")
    service = Service(model, tmp_path / "library", Settings(decoders=1))
    microphone = tmp_path / "word.wav"
    with running(service) as url, chromium(playwright, microphone) as browser, opened_page(browser, url) as page:
        heard: list[str | None] = []
        for _ in range(3):  # a browser on a busy machine loses samples of what it records
            page.click("#microphone")
            until(page, "document.querySelector('#recorded').textContent === '2 s'")
            page.click("#microphone")
            page.wait_for_selector(".chip")
            first_answer(page)
            heard += [page.locator(".card").nth(place).get_attribute("aria-label") for place in range(3)]
            if name in heard:
                break
            page.reload()
        assert name in heard


def spoken_word(model: one_peace.OnePeace, count: int = 60) -> tuple[list[Item], Path, str]:
    """Pictures of the sample library, a spoken word that the model knows well, and the name of its picture."""
    manifest = next(iter(sorted((cache_folder() / "library").glob("*/manifest.jsonl"))), None)
    if manifest is None:
        pytest.skip("the sample library is not here; ./run demo fetches it")
    items = [item for item in load_manifest(manifest, root=cache_folder()) if item.source == STAMPS]
    pictures = {i.group: i for i in items if i.kind == "image" and i.split == "train" and not i.symbol}
    chosen = list(pictures.values())[:count]
    known = [i for i in items if i.kind == "audio" and i.track == "speech" and not i.heldout_speaker]
    spoken = [i for i in known if i.group in {p.group for p in chosen}][:count]
    scores = model.encode_audio([i.path for i in spoken]) @ model.encode_image([p.path for p in chosen]).T
    right = torch.tensor([[p.group == i.group for p in chosen] for i in spoken])
    margins = scores.masked_fill(~right, -1).amax(1) - scores.masked_fill(right, -1).amax(1)
    best = spoken[int(margins.argmax())]
    return chosen, best.path, best.group


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


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_a_part_is_played_from_where_it_begins(page: Any, modality: str) -> None:
    def later(route: Any) -> None:  # as of a long recording
        answer = route.fetch()
        body = answer.json()
        body["results"] = [one | {"start": 0.5, "modality": modality} for one in body["results"]]
        route.fulfill(response=answer, json=body)

    page.route("**/v1/search", later)
    page.click("#filters summary")
    page.check("#filter-modality input[value=audio]")
    page.fill("#text", "a tone")
    first_answer(page)
    assert page.locator(f".card {modality}").first.get_attribute("src").endswith("/media#t=0.5")
    page.locator(".card").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(f"#viewer {modality}").get_attribute("src").endswith("/media#t=0.5")
    if modality == "audio":
        until(page, "document.querySelector('#viewer audio').currentTime === 0.5")


def test_days_are_those_of_the_visitor(browser: Any, server: Running) -> None:
    with opened_page(browser, server.url, "America/New_York") as page:
        page.fill("#text", "red")
        first_answer(page)
        page.click("#filters summary")
        page.fill("input[name=after]", "2024-03-10")  # of 23 hours
        with page.expect_request(lambda one: '"before"' in (one.post_data or "")) as sent:
            page.fill("input[name=before]", "2024-03-10")
    filters = sent.value.post_data_json["filters"]
    assert filters == {"after": "2024-03-10T05:00:00.000Z", "before": "2024-03-11T03:59:59.999999Z"}


def test_add_and_remove_a_file(page: Any, server: Running) -> None:
    data = hostile.picture((140, 0, 140), (70, 70))
    only_pictures(page)
    page.set_input_files("#add-input", {"name": "violet.png", "mimeType": "image/png", "buffer": data})
    until(page, "document.querySelector('#status').textContent.startsWith('1 added')")
    pictures = server.service.library.statistics()["image"]
    page.wait_for_selector(f"#filter-modality label:has-text('image ({pictures})')")
    assert page.is_checked("#filter-modality input[value=image]")
    page.click("#filters button[type=reset]")
    until(page, "!document.querySelector('#filter-modality :checked')")
    drop(page, "violet.png", data, "image/png")
    assert first_answer(page) == "violet"
    page.locator(".card .look").first.click()
    page.focus("#viewer .danger")
    page.keyboard.press("Enter")
    assert page.locator("#viewer [role=group]").get_attribute("aria-label") == "Remove it from the library?"
    page.keyboard.press("Enter")  # a second press keeps it
    assert page.inner_text("#viewer :focus") == "Remove from the library"
    assert any(item.caption == "violet" for item in server.service.library.items())
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#status').textContent.includes('no longer')")
    assert page.locator(".card[tabindex='0']").count() == 1, "the answers are still reached by Tab"
    assert all(item.caption != "violet" for item in server.service.library.items())


def test_more_files_are_added_than_a_request_may_have(page: Any, server: Running) -> None:
    assert LIMITS.upload_files == 4
    names = [f"shade {n}.png" for n in range(6)]
    files = [(name, hostile.picture((n, 90, 200), (70, 70))) for n, name in enumerate(names)]
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)  # two of them are above the limit
    for n in range(3):
        buffer = io.BytesIO()
        Image.fromarray(noise + np.uint8(n)).save(buffer, "PNG")
        files.append((f"noise {n}.png", buffer.getvalue()))
    files += [("huge.png", bytes(LIMITS.upload_bytes)), *((f"broken {n}.png", b"no picture") for n in range(2))]
    page.set_input_files("#add-input", [{"name": n, "mimeType": "image/png", "buffer": data} for n, data in files])
    until(page, "document.querySelector('#status').textContent.startsWith('9 added. huge.png is too large')")
    assert "broken 0.png" in page.inner_text("#status")
    added = [item for item in server.service.library.items() if item.caption.startswith(("shade", "noise"))]
    assert len(added) == 9
    for item in added:
        server.client.delete(f"/v1/items/{item.id}")


def test_nothing_waits_for_a_search_that_was_taken_back(page: Any) -> None:
    page.route("**/v1/search", lambda route: None)  # never answered
    page.fill("#text", "red")
    until(page, "document.querySelector('#results[aria-busy]')")
    page.fill("#text", "")
    until(page, "!document.querySelector('#results[aria-busy]')")


def test_what_cannot_be_used_is_said(page: Any) -> None:
    drop(page, "sheet.xls", b"\xd0\xcf\x11\xe0", "application/vnd.ms-excel")
    until(page, "document.querySelector('#status').textContent.includes('neither a picture nor a sound')")


def test_a_picture_is_described_and_a_thing_outlined(
    browser: Any, folder: Path, model: one_peace.OnePeace, page: Any
) -> None:
    only_pictures(page)
    page.fill("#text", "red")
    first_answer(page)
    page.locator(".card .look").first.click()
    page.wait_for_selector("dialog#viewer[open] img")
    assert page.locator("#viewer form").count() == 0, "without a model that describes there are no such buttons"
    service = Service(model, folder / ".one-peace", Settings(limits=LIMITS, decoders=1), ofa=tiny_ofa())
    with running(service) as url, opened_page(browser, url) as described:
        only_pictures(described)
        described.fill("#text", "red")
        first_answer(described)
        described.locator(".card .look").first.click()
        described.click("#viewer button:has-text('Describe')")
        until(described, "/\\w/.test(document.querySelector('#viewer .said').textContent)")
        described.fill("#viewer form input", "the red square")
        described.click("#viewer button:has-text('Where is it?')")
        described.wait_for_selector("#viewer .outline", state="attached")
        assert described.locator("#viewer .said").inner_text().startswith("the red square:")


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
    page.route("**/v1/items/*", lambda route: route.fulfill(status=204))  # removed, for all that the page knows
    with page.expect_request("**/v1/map"):  # and is not to stand there any longer
        page.click("#viewer .danger")
        page.click("#viewer .danger")  # which asks first
    gone = "new Response(JSON.stringify({error: {message: 'it is gone'}}), {status: 404})"  # removed by somebody else
    page.evaluate(f"() => {{ window.fetch = async () => {gone}; }}")
    page.focus("#map")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#status').textContent === 'It is gone'")


def test_the_key_is_asked_for_until_it_is_given(browser: Any, folder: Path, model: one_peace.OnePeace) -> None:
    key = "a-key-that-is-long-enough"
    settings = Settings(limits=LIMITS, decoders=1, keys=(key,), read_only=True)
    with running(Service(model, folder / ".one-peace", settings)) as url:
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector("#key-dialog[open]")
        page.keyboard.press("Escape")
        page.fill("#text", "red")
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", "a-key-that-is-not-the-one")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('#key-error').textContent.includes('no API key')")
        page.fill("#key", key)
        page.keyboard.press("Enter")
        first_answer(page)
        assert page.text_content("#key-error") == ""
        page.wait_for_selector("#filter-modality input", state="attached")  # it waited from the start
        until(page, "document.querySelector('.card img')?.naturalWidth > 0")
        page.context.close()


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
