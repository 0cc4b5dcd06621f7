"""`one-peace demo`: real pictures and sounds, indexed, searched in three ways, and the page to search them on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from one_peace.errors import InputError

if TYPE_CHECKING:
    from one_peace.data.manifest import Item
    from one_peace.search.library import Library

FOLDER = Path("demo")
ANSWERS = 10


@dataclass(frozen=True)
class Query:
    """One search of the demo. `sound` is the id of a clip in the sample library, `heard` what it says or is."""

    title: str
    sheet: str
    text: str | None = None
    sound: str | None = None
    heard: str | None = None


# All that changes when other searches are to be shown. These are ones that the shipped weights answer well; how often
# they do is measured, not shown here (`one-peace evaluate sample-library`).
QUERIES = (
    Query("a text finds pictures", "1-text.png", text="a strawberry"),
    Query(
        "a spoken word finds pictures",
        "2-spoken-word.png",
        sound="stamps/plants/flowers/yellow-flower_desc_fr#fr",
        heard='a French speaker says "Une fleur jaune." (a yellow flower)',
    ),
    Query(
        "a sound and a text together find pictures",
        "3-sound-and-text.png",
        sound="stamps/animals/mammals/bovines/sheep#effect",
        heard="a sheep bleats",
        text="a white animal",
    ),
)


def demo(
    no_serve: Annotated[bool, typer.Option("--no-serve", help="Open no page at the end.")] = False,
) -> None:
    """Fetch real pictures and sounds, index them, and search them by text, by a spoken word and by both."""
    from one_peace.data.sample_library.building import DEMO_SOURCES, build_sample_library
    from one_peace.models import from_pretrained
    from one_peace.search.library import Library

    clock = Clock()
    clock.say("1. the sample library: real pictures, sound effects and spoken words")
    samples = build_sample_library(None, DEMO_SOURCES, progress=lambda line: typer.echo(f"   {line}"))
    items = {item.id: item for item in samples.items}
    folder = FOLDER / "stamps"
    shown = [item for item in samples.items if is_shown(item)]
    lay_out(shown, folder)
    pictures = sum(item.kind == "image" for item in shown)
    typer.echo(f"   {pictures} pictures and {len(shown) - pictures} sound effects in {folder}/")

    clock.say("2. indexing them with one-peace-nano")
    library = Library(folder / ".one-peace", from_pretrained("one-peace-nano"), "one-peace-nano")
    typer.echo(f"   {library.index(folder)}")

    clock.say("3. searching")
    for query in QUERIES:
        _search(library, query, items)
    _say_what_next(clock)
    if not no_serve:
        _open_page(library.path, clock)


def _open_page(library: Path, clock: Clock) -> None:
    """Serves the page over the demo's library until it is stopped, in a browser where there is one."""
    import webbrowser

    from one_peace.cli.serve import say_address
    from one_peace.server.running import serve
    from one_peace.server.settings import Settings

    def announce(url: str) -> None:
        clock.say("the page, to search by typing, dropped files and the microphone")
        say_address(url)
        if sys.stdout.isatty():
            webbrowser.open(url)

    serve(library, Settings(port=0), announce=announce)


def is_shown(item: Item) -> bool:
    """Whether the demo indexes an item: pictures of things, not of letters and digits, and sounds that things make."""
    return not item.symbol and (item.kind == "image" or item.track == "effect")


def lay_out(items: Iterable[Item], folder: Path) -> None:
    """A folder like a user's own: links to pictures and sounds, the caption of `crow.png` in `crow.txt` beside it."""
    for item in items:
        name = item.id.removeprefix("stamps/").partition("#")[0]
        link = folder / f"{name}{item.path.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not (link.is_symlink() and Path(os.readlink(link)) == item.path):
            link.unlink(missing_ok=True)
            link.symlink_to(item.path)
        caption, beside = item.texts["en"][0], link.with_suffix(".txt")
        # Written once only: a new modification time would look like a change.
        if not beside.is_file() or beside.read_text(encoding="utf-8") != caption:
            beside.write_text(caption, encoding="utf-8")


def _search(library: Library, query: Query, items: dict[str, Item]) -> None:
    from one_peace.search.sheet import contact_sheet

    if query.sound is not None and query.sound not in items:
        raise InputError(query.sound, "this clip is not in the sample library that was fetched")
    sound = None if query.sound is None else items[query.sound].path
    results = library.search(text=query.text, audio=sound, k=ANSWERS, modality="image")
    asked = [part for part in (query.heard, query.text and f'the text "{query.text}"') if part]
    typer.echo(f"\n   {query.title}: {' + '.join(asked)}")
    for result in results[:5]:
        typer.echo(f"   {result.rank:3}  {result.score:.3f}  {result.caption[:60]}")
    sheet = contact_sheet(
        results,
        text=[] if query.text is None else [query.text],
        audio=[] if sound is None else [sound],
    )
    sheet.save(FOLDER / query.sheet)
    typer.echo(f"   all {len(results)} to look at: {FOLDER / query.sheet}")


def _say_what_next(clock: Clock) -> None:
    called = Path(sys.argv[0])
    command = "one-peace"
    if called.name == command and called.is_absolute() and called.is_relative_to(Path.cwd()):
        command = str(called.relative_to(Path.cwd()))
    clock.say("done. Next, type")
    typer.echo(f'   {command} search --library {FOLDER}/stamps --text "a yellow flower" --sheet answer.png')
    typer.echo(f"   {command} index ~/Pictures          # your own pictures, sounds and texts")
    typer.echo(f'   {command} search --library ~/Pictures --text "a dog"')
    typer.echo(f"   {command} --help")


class Clock:
    """Says things with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def say(self, line: str) -> None:
        typer.echo(f"\n[{time.monotonic() - self._start:4.0f} s] {line}")
