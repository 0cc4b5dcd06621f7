"""The sample library on a tiny tree of packages made here: no network, no package client."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from one_peace.data.manifest import (
    Item,
    keep_captions_apart,
    load_manifest,
    normalise_caption,
    split_of,
    write_manifest,
)
from one_peace.data.sample_library import building as sample_library
from one_peace.data.sample_library import clipart, emoji, packages, stamps
from one_peace.data.sample_library.packages import Fetched, Package, fetch, package_folder, unpack_tar
from one_peace.data.sample_library.rasters import LONGEST_SIDE, likeness_vector, open_raster, pixel_hash, prepare
from one_peace.data.speech.speech_synthesis import RENDERS, choose_voice
from one_peace.errors import DownloadError, InputError

RED, BLUE = (200, 20, 20, 255), (20, 20, 200, 255)


def disc(path: Path, color: tuple[int, int, int, int], size: tuple[int, int] = (60, 40)) -> None:
    """A coloured rectangle in the middle of a transparent picture."""
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    image.paste(color, (10, 10, size[0] - 10, size[1] - 10))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def tone(path: Path, pitch: float, *, gain: float = 0.5, rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, gain * np.sin(np.arange(rate // 4) * pitch * 2 * np.pi / rate), rate)


def stamp(folder: Path, name: str, texts: str, color: tuple[int, int, int, int] = RED) -> None:
    disc(folder / f"{name}.png", color)
    (folder / f"{name}.txt").write_text(texts, encoding="utf-8")


def caption_of(split: str, avoid: tuple[str, ...] = ()) -> str:
    """Some caption whose group falls on the side asked for."""
    captions = (f"A thing number {n}." for n in range(1000))
    return next(c for c in captions if split_of(normalise_caption(c)) == split and c not in avoid)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache that already holds a small package of stamps."""
    package = package_folder(stamps.PACKAGE, tmp_path)
    folder = package / "files" / "usr" / "share" / "tuxpaint" / "stamps"
    stamp(folder, "animals/crow", "A crow.\nfr.utf8=Un corbeau.\nes.utf8=Un cuervo.\npt_BR.utf8=Um corvo.\n")
    stamp(folder, "animals/raven", "A raven.\nfr.utf8=Un grand corbeau.\n", BLUE)
    stamp(folder, "symbols/a_filled", "The letter A.\nfr.utf8=La lettre A.\n")
    stamp(folder, "symbols/a_outline", "The letter A.\nfr.utf8=La lettre A.\n", BLUE)
    (folder / "animals" / "lonely.txt").write_text("No picture.\n")
    disc(folder / "animals" / "wordless.png", RED)
    tone(folder / "animals" / "crow.ogg", 300)
    tone(folder / "animals" / "raven.ogg", 0, gain=0)
    tone(folder / "animals" / "crow_desc.ogg", 400)
    tone(folder / "animals" / "crow_desc_fr.ogg", 410)
    tone(folder / "animals" / "crow_desc_es.ogg", 420)
    tone(folder / "animals" / "crow_desc_pt_BR.wav", 430)
    tone(folder / "animals" / "nobody_desc_fr.ogg", 440)
    tone(folder / "symbols" / "a_filled.ogg", 500)
    tone(folder / "symbols" / "a_filled_zh_tw.ogg", 510)
    (folder / "symbols" / "a_outline_zh_tw.ogg").write_bytes((folder / "symbols" / "a_filled_zh_tw.ogg").read_bytes())
    stamp_file = {"name": stamps.PACKAGE.name, "version": "1.0", "sha256": "ab" * 32}
    (package / "package.json").write_text(json.dumps(stamp_file))
    return tmp_path


def test_stamps_with_captions_sounds_and_speakers(cache: Path) -> None:
    library = sample_library.build_sample_library(cache)
    items = {item.id: item for item in library.items}
    assert set(items) == {
        "stamps/animals/crow",
        "stamps/animals/raven",
        "stamps/symbols/a_filled",
        "stamps/symbols/a_outline",
        "stamps/animals/crow#effect",
        "stamps/animals/crow_desc#en",
        "stamps/animals/crow_desc_es#es",
        "stamps/animals/crow_desc_fr#fr",
        "stamps/animals/crow_desc_pt_BR#pt_BR",
        "stamps/symbols/a_filled#en",
        "stamps/symbols/a_filled_zh_tw#zh_TW",
    }
    crow = items["stamps/animals/crow"]
    assert crow.texts == {
        "en": ["A crow."],
        "fr": ["Un corbeau."],
        "es": ["Un cuervo."],
        "pt_BR": ["Um corvo."],
    }
    assert (crow.group, crow.category, crow.symbol) == ("crow", "animals", False)
    assert items["stamps/symbols/a_filled"].symbol
    effect, french = items["stamps/animals/crow#effect"], items["stamps/animals/crow_desc_fr#fr"]
    assert (effect.track, effect.language, effect.speaker) == ("effect", None, None)
    assert (french.track, french.language, french.item) == ("speech", "fr", crow.id)
    assert french.texts == crow.texts and french.split == crow.split
    assert french.duration == pytest.approx(0.25, abs=0.01)
    held_out = {item.language for item in library.items if item.heldout_speaker}
    assert held_out == {"en", "es"}
    assert all(item.path.is_file() for item in library.items)


def test_pictures_are_cropped_white_and_small(cache: Path, tmp_path: Path) -> None:
    library = sample_library.build_sample_library(cache)
    with Image.open(library.items[0].path) as picture:
        assert picture.mode == "RGB"
        assert picture.size == (44, 24)  # 40 x 20 visible, and a margin of 4 % of 40 on every side
        assert picture.getpixel((0, 0)) == (255, 255, 255)
        assert picture.getpixel((20, 10)) == RED[:3]
    disc(tmp_path / "large.png", RED, (1000, 3000))
    assert max(prepare(open_raster(tmp_path / "large.png"), "large").size) == LONGEST_SIDE
    with pytest.raises(InputError, match="nothing.png: the picture is empty"):
        prepare(Image.new("RGBA", (5, 5), (0, 0, 0, 0)), "nothing.png")


def test_two_builds_give_the_same_bytes(cache: Path) -> None:
    first = sample_library.build_sample_library(cache).manifest.read_bytes()
    sample_library.clean(cache / "nowhere")
    manifest = sample_library.build_sample_library(cache).manifest
    manifest.with_name("packages.json").unlink()  # as after an interruption: built anew
    assert sample_library.build_sample_library(cache).manifest.read_bytes() == first
    moved = cache / "moved"
    moved.mkdir()
    for part in ("packages", "library"):
        (cache / part).rename(moved / part)
    items = load_manifest(moved / "library" / "stamps" / "manifest.jsonl")
    assert items[0].path.is_relative_to(moved) and items[0].path.is_file()


def test_clean_removes_library_and_packages_only(cache: Path) -> None:
    sample_library.build_sample_library(cache)
    (cache / "models").mkdir()
    sample_library.clean(cache)
    assert [path.name for path in cache.iterdir()] == ["models"]


def test_unknown_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stampz.*stamps, clipart, emoji, speech"):
        sample_library.build_sample_library(tmp_path, ["stampz"])


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one-peace samples"):
        load_manifest(tmp_path / "manifest.jsonl", root=tmp_path)
    (tmp_path / "manifest.jsonl").write_text('{"id": "x", "path": "y"}\n')
    with pytest.raises(InputError, match="line 1"):
        load_manifest(tmp_path / "manifest.jsonl", root=tmp_path)


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing_and_decides_the_split(caption: str) -> None:
    group = normalise_caption(caption)
    if group and not group.startswith(("a ", "an ", "the ", "some ")):  # of two articles only one goes
        assert normalise_caption(group) == group
        assert split_of(normalise_caption(f"  The {group}! ".upper().lower())) in ("train", "val", "test")


def test_normalised_captions() -> None:
    for variant in ("A red apple.", "red apple", "The Red, apple!", "a  red_apple"):
        assert normalise_caption(variant) == "red apple"
    assert normalise_caption("A") == "a"
    assert normalise_caption("+") != normalise_caption("-")


def test_split_sizes() -> None:
    sides = [split_of(f"caption {n}") for n in range(5000)]
    assert sides.count("train") / 5000 == pytest.approx(0.8, abs=0.03)
    assert sides.count("val") / 5000 == pytest.approx(0.1, abs=0.02)


def item(name: str, texts: dict[str, list[str]], **more: object) -> Item:
    group = normalise_caption(texts["en"][0])
    fields: dict[str, object] = {"id": name, "kind": "image", "path": Path(name), "group": group}
    fields |= {"split": split_of(group), "source": "s", "version": "1", "licence": "l", "texts": texts}
    return Item(**(fields | more))  # type: ignore[arg-type]


def test_no_caption_crosses_the_split_in_any_language() -> None:
    held_out, training = caption_of("test"), caption_of("train")
    kept = keep_captions_apart(
        [
            item("held", {"en": [held_out], "fr": ["Un avion."]}),
            item(
                "train",
                {"en": [training, held_out], "fr": ["Un avion!"], "de": ["Ein Ding"]},
                tags=[held_out, "t"],
            ),
            item("said-fr", {"en": [training], "fr": ["un avion"]}, kind="audio", track="speech", language="fr"),
            item(
                "said-en",
                {"en": [training], "fr": ["un avion"]},
                kind="audio",
                track="speech",
                language="en_GB",
            ),
        ]
    )
    by_name = {entry.id: entry for entry in kept}
    assert by_name["held"].texts == {"en": [held_out], "fr": ["Un avion."]}
    assert by_name["train"].texts == {"en": [training], "de": ["Ein Ding"]}
    assert by_name["train"].tags == ["t"]
    assert "said-fr" not in by_name and by_name["said-en"].texts == {"en": [training]}


def test_a_group_keeps_its_caption_though_a_held_out_item_has_it_too() -> None:
    held_out, training = caption_of("val"), caption_of("train")
    kept = keep_captions_apart([item("held", {"en": [held_out, training]}), item("train", {"en": [training]})])
    assert kept[1].texts == {"en": [training]}


def test_identical_recordings_stay_on_the_held_out_side(tmp_path: Path) -> None:
    tone(tmp_path / "one.wav", 300)
    soundfile.write(tmp_path / "two.flac", *soundfile.read(tmp_path / "one.wav"))  # other bytes, same samples
    sounds = [
        item("a", {"en": [caption_of("train")]}, kind="audio", track="effect", path=tmp_path / "one.wav"),
        item("b", {"en": [caption_of("test")]}, kind="audio", track="effect", path=tmp_path / "two.flac"),
    ]
    assert [sound.id for sound in stamps.drop_repeated_recordings(sounds)] == ["b"]


def test_captions_of_sounds_are_written_once(tmp_path: Path) -> None:
    texts = {"en": ["A crow."]}
    items = [
        item("crow", texts, path=tmp_path / "crow.png"),
        item("caw", texts, path=tmp_path / "caw.ogg", kind="audio", track="effect", item="crow", duration=1.5),
    ]
    write_manifest(items, tmp_path / "manifest.jsonl", tmp_path)
    assert (tmp_path / "manifest.jsonl").read_text().count("A crow.") == 1
    assert load_manifest(tmp_path / "manifest.jsonl", root=tmp_path) == items


def test_pixel_hash_and_likeness(tmp_path: Path) -> None:
    disc(tmp_path / "a.png", RED)
    disc(tmp_path / "b.webp", RED)
    red = prepare(open_raster(tmp_path / "a.png"), "a")
    lossless = red.copy()
    assert pixel_hash(red) == pixel_hash(lossless)
    assert pixel_hash(red) != pixel_hash(red.transpose(Image.Transpose.ROTATE_90))
    larger = red.resize((88, 48))
    assert float(likeness_vector(red) @ likeness_vector(larger)) > 0.97
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8))
    assert abs(float(likeness_vector(red) @ likeness_vector(noise))) < 0.3


def test_titles_of_drawings() -> None:
    def titled(title: str) -> str:
        return f"<svg><dc:title>{title}</dc:title></svg>"

    assert clipart.drawing_title(titled("An Apple (B and W)"), "x") == "An Apple"
    assert clipart.drawing_title(titled("glace_4_bw"), "x") == "glace"
    assert clipart.drawing_title(titled("Clipart by Nicu Buculei - bee"), "mushroom") == "mushroom"
    assert clipart.drawing_title("<dc:title/><dc:title>The artist</dc:title>", "tree_02") == "tree"
    assert clipart.drawing_title(titled("Rock &amp;amp; roll"), "x") == "Rock & roll"
    for useless in ("gramastar", "Lemon SVG theme", "Etiquette Icons", "card", "7"):
        assert clipart.drawing_title(titled(useless), "123") is None
    drawing = "<dc:subject><rdf:Bag><rdf:li>plant</rdf:li><rdf:li/><rdf:li>plant</rdf:li></rdf:Bag></dc:subject>"
    assert clipart.drawing_tags(drawing) == ["plant"]


def test_emoji_of_two_styles(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    names, annotations = tmp_path / "names", tmp_path / "annotations"

    def write(path: Path, content: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    rooster = {"hexcode": "1F413", "emoji": "\U0001f413", "label": "rooster", "tags": ["bird"], "group": 0}
    heart = {"hexcode": "2764-FE0F", "emoji": "\u2764\ufe0f", "label": "red heart", "group": 1}
    letter = {"hexcode": "1F1E6", "emoji": "\U0001f1e6", "label": "regional indicator A"}
    for language in emoji._LANGUAGES.values():
        write(names / "package" / language / "data.json", [rooster, heart, letter])
    write(names / "package" / "meta" / "groups.json", {"groups": {"0": "animals-nature", "1": "symbols"}})
    for language in emoji._FURTHER_LANGUAGES:
        rows = {"\u2764": {"tts": ["cor vermell"]}}
        write(
            annotations / "package" / "annotations" / language / "annotations.json",
            {"annotations": {"annotations": rows}},
        )
    drawn = tmp_path / "noto"
    write(drawn / "package" / "chars.json", {"1f413": "rooster", "2764": "heart"})
    body = '<path fill="#a00" d="M10 10h90v90h-90z"/>'
    icons = {"rooster": {"body": body}, "heart": {"body": body.replace("h90", "h40")}}
    write(drawn / "package" / "icons.json", {"width": 128, "height": 128, "icons": icons})
    rendered = tmp_path / "fluent"
    disc(rendered / "package" / "assets" / "2764-fe0f.webp", RED)
    fetched = [
        Fetched(package.client, package.name, package.licence, "1", "00", folder)
        for package, folder in (
            (emoji.NAMES, names),
            (emoji.ANNOTATIONS, annotations),
            (emoji.DRAWN[0], drawn),
            (emoji.RENDERED, rendered),
        )
    ]
    items = {entry.id: entry for entry in emoji.emoji_items(fetched, tmp_path / "media")}
    assert set(items) == {"emoji/noto/1f413", "emoji/noto/2764", "emoji/fluent-emoji-3d/2764"}
    red_heart = items["emoji/noto/2764"]
    assert red_heart.texts["ca"] == ["cor vermell"] and red_heart.texts["es"] == ["red heart"]
    assert red_heart.symbol and not items["emoji/noto/1f413"].symbol
    assert items["emoji/noto/1f413"].tags == ["bird"]


def test_voices_vary_and_repeat() -> None:
    takes = [choose_voice("es", "Un cuervo.", take) for take in range(RENDERS["es"])]
    assert takes == [choose_voice("es", "Un cuervo.", take) for take in range(RENDERS["es"])]
    assert len(set(takes)) == len(takes)
    voices = {choose_voice("fr", f"Un {n}", 0)[0] for n in range(300)}
    assert len(voices) > 25 and all(voice.split("+")[0] == "fr" for voice in voices)


# --- packages


TARBALL = Package("npm", "@scope/pictures", "MIT")


def tarball(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def npm(monkeypatch: pytest.MonkeyPatch) -> list[Package]:
    """npm's part played here; the list grows with every download."""
    downloads: list[Package] = []

    def download(package: Package, folder: Path) -> Path:
        downloads.append(package)
        members = {"package/package.json": b'{"version": "1.2.3"}', "package/a.txt": b"hello"}
        return tarball(folder / "a.tgz", members)

    monkeypatch.setitem(packages._DOWNLOADERS, "npm", download)
    return downloads


def test_fetching_happens_once(tmp_path: Path, npm: list[Package]) -> None:
    lines: list[str] = []
    fetched = fetch(TARBALL, tmp_path, progress=lines.append)
    assert (fetched.files / "package" / "a.txt").read_text() == "hello"
    assert (fetched.version, len(fetched.sha256)) == ("1.2.3", 64)
    assert fetch(TARBALL, tmp_path, progress=lines.append) == fetched
    assert len(npm) == 1 and len(lines) == 1


def test_an_interrupted_unpacking_leaves_nothing_behind(
    tmp_path: Path, npm: list[Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(package: Package, archive: Path, files: Path) -> str:
        (files / "half").write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(packages._UNPACKERS, "npm", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(TARBALL, tmp_path)
    folder = package_folder(TARBALL, tmp_path)
    assert list(folder.parent.iterdir()) == []
    (folder / "files").mkdir(parents=True)  # what a power cut may leave: files without a stamp
    assert (fetch(TARBALL, tmp_path).files / "package" / "a.txt").is_file()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "package/../../evil", "a\\..\\evil"])
def test_a_member_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    archive = tarball(tmp_path / "bad.tgz", {name: b"x"})
    with pytest.raises(DownloadError, match="refused"):
        unpack_tar(archive, tmp_path / "out")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_link_or_device_is_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        info = tarfile.TarInfo("package/link")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DownloadError, match="neither a file nor a folder"):
        unpack_tar(tmp_path / "bad.tar", tmp_path / "out")


def test_a_wheel_is_unpacked_and_its_hostile_twin_refused(tmp_path: Path) -> None:
    package = Package("pypi", "voice", "MIT")
    wheel = tmp_path / "voice-0.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("voice/data.bin", b"x")
    assert packages._unpack_pypi(package, wheel, tmp_path / "out") == "0.2"
    assert (tmp_path / "out" / "voice" / "data.bin").read_bytes() == b"x"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("../evil", b"x")
    with pytest.raises(DownloadError, match="refused"):
        packages._unpack_pypi(package, wheel, tmp_path / "out")


def test_a_missing_client_and_a_failing_one_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DownloadError, match="@scope/pictures: `npm` is not installed; .*apt-get install npm"):
        fetch(TARBALL, tmp_path / "cache")

    def failing(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 100, "", "E: Unable to locate package\n")

    monkeypatch.setattr(packages.subprocess, "run", failing)
    with pytest.raises(DownloadError, match="no-such: `apt-get` failed: E: Unable to locate package; check"):
        fetch(Package("debian", "no-such", "MIT"), tmp_path / "cache")
