"""Files of several parts: videos, long sounds, documents; and files of modalities that are registered."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

import fake_encoder
from fake_encoder import FakeEncoder
from one_peace.errors import InputError, ReadingFault
from one_peace.modalities import registry
from one_peace.search import file_kinds, videos
from one_peace.search.bulk import embed_folder
from one_peace.search.documents import LONGEST_PASSAGE, passages_of
from one_peace.search.filters import Filters
from one_peace.search.indexing import Indexing
from one_peace.search.library import Library

RED, GREEN, BLUE = (220, 10, 10), (10, 200, 10), (10, 10, 220)


def write_video(path: Path, colors: list[tuple[int, int, int]], hertz: float | None = 440, seconds: int = 4) -> None:
    """Each color for some seconds, and a tone."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=2)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=16_000, layout="mono") if hertz else None
        for n, color in enumerate(color for color in colors for _ in range(2 * seconds)):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), color))
            frame.pts = n
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        if sound is not None:
            wave = 0.4 * np.sin(2 * np.pi * hertz * np.arange(16_000 * seconds * len(colors)) / 16_000)
            for start in range(0, len(wave), 1024):
                block = av.AudioFrame.from_ndarray(
                    wave[None, start : start + 1024].astype(np.float32), format="fltp", layout="mono"
                )
                block.rate, block.pts = 16_000, start
                container.mux(sound.encode(block))
            container.mux(sound.encode())


@pytest.fixture
def opened(tmp_path: Path, encoder: FakeEncoder) -> Library:
    return Library(tmp_path / "library", encoder)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    return folder


def test_a_video_is_found_by_its_frames_and_by_its_sound(opened: Library, media: Path) -> None:
    write_video(media / "film.mp4", [RED, GREEN, RED])
    (media / "film.txt").write_text("A film.")
    assert str(opened.index(media)) == "1 added" and len(opened) == 1
    assert sorted((row.branch, row.label) for row in opened.entries()) == [
        ("audio", "sound track"),
        ("image", "frame at 0:01"),
        ("image", "frame at 0:05"),
    ]
    [found] = opened.search(text="green", k=5)
    assert (found.modality, found.label, found.caption) == ("video", "frame at 0:05", "A film.")
    assert found.start == pytest.approx(5, abs=1.1) and found.duration == pytest.approx(12, abs=0.2)
    assert found.thumbnail is not None
    [heard] = opened.search(audio=media / "film.mp4", k=5, filters=Filters(branch=("audio",)))
    assert heard.label == "sound track" and heard.score > 0.99 and heard.thumbnail is not None
    assert opened.search(text="green", modality="image") == []
    assert str(opened.index(media)) == "1 unchanged"


def test_a_video_that_loses_parts(opened: Library, media: Path) -> None:
    write_video(media / "film.mp4", [RED, GREEN])
    opened.index(media)
    assert len(opened.entries()) == 3
    (media / "film.mp4").rename(media / "movie.mp4")
    assert str(opened.index(media)) == "1 renamed" and len(opened.entries()) == 3
    write_video(media / "movie.mp4", [BLUE], hertz=None)
    assert str(opened.index(media)) == "1 changed"
    assert [(row.part, row.parts, row.label) for row in opened.entries()] == [(0, 1, "frame at 0:00")]
    (media / "movie.mp4").unlink()
    assert opened.index(media).removed == 1 and opened.entries() == []


def test_videos_that_are_not_whole(opened: Library, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(media / "film.mp4", [RED])
    (media / "text.mp4").write_text("no video")

    def damaged(path: Path) -> np.ndarray:
        raise InputError(str(path), "is a damaged or truncated sound track")

    monkeypatch.setattr(videos, "decode_sound", damaged)
    report = opened.index(media)
    assert "without a part of it, which is a damaged" in report.problems[str(media / "film.mp4")]
    assert str(media / "text.mp4") in report.problems and str(report) == "1 added, 1 not readable, 1 read in part"
    assert [row.branch for row in opened.entries()] == ["image"]


def test_rows_that_a_crash_left_are_put_right(
    opened: Library, media: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(media / "film.mp4", [RED, GREEN])
    opened.index(media)
    write_video(media / "film.mp4", [BLUE], hertz=None)
    with monkeypatch.context() as patch:  # killed after the new rows were written, before the old ones were removed
        patch.setattr(type(opened.store), "delete", lambda self, ids: None)
        opened.index(media)
    assert len(opened.entries()) == 3
    Library(opened.path, encoder).index(media)
    assert len(opened.entries()) == 1
    write_video(media / "film.mp4", [RED, GREEN])
    opened.index(media)
    opened.store.delete([opened.entries()[-1].id])  # a store that does not write a call's rows all at once
    assert str(opened.index(media)) == "1 changed" and len(opened.entries()) == 3


def test_a_long_sound_is_found_where_it_fits(opened: Library, media: Path) -> None:
    rate = 16_000
    tones = [np.sin(2 * np.pi * hertz * np.arange(31 * rate) / rate) for hertz in (200, 3000, 200, 200)]
    soundfile.write(media / "long.flac", 0.5 * np.concatenate(tones), rate)
    opened.index(media)
    rows = opened.entries()
    assert [row.start for row in rows] == [0, 31, 62, 93] and {row.duration for row in rows} == {124.0}
    query = (0.5 * np.sin(2 * np.pi * 3000 * np.arange(rate) / rate)).astype(np.float32)
    [found] = opened.search(audio=(query, rate), k=3)
    assert (found.label, found.start) == ("from 0:31", 31.0)


def test_documents_are_cut_in_passages(opened: Library, media: Path) -> None:
    sentences = [f"Sentence number {n} speaks of thing {n}." for n in range(40)]
    (media / "plain.txt").write_text("\n\n".join(" ".join(sentences[i : i + 10]) for i in range(0, 40, 10)))
    page = "".join(f"<p>{line} Caf&eacute; &amp; bar.</p>" for line in sentences)
    (media / "page.html").write_text(f"<title>T</title><script>var x = 'unseen';</script><style>p{{}}</style>{page}")
    (media / "list.md").write_text("---\nfront: matter\n---\n# Head\n" + "".join(f"* **{s}**\n" for s in sentences))
    opened.index(media)
    assert len(opened) == 3
    for name in ("plain.txt", "page.html", "list.md"):
        passages = passages_of(media / name)
        assert len(passages) > 3 and max(map(len, passages)) <= LONGEST_PASSAGE
        joined = " ".join(passages)
        assert all(sentence in joined for sentence in sentences)
        assert "unseen" not in joined and "front" not in joined and "**" not in joined
    assert "Caf\u00e9 & bar." in passages_of(media / "page.html")[0]
    (media / "list.md").write_text("Something else.")
    opened.index(media)
    wanted = passages_of(media / "plain.txt")[2]
    best = opened.search(text=wanted, k=1)[0]
    assert best.path.name == "plain.txt" and best.score == pytest.approx(1, abs=1e-5)
    assert best.label.startswith("passage 3 of ") and best.caption == wanted
    assert len(opened.search(text=wanted, k=10)) == 3  # each document once


def test_markup_is_read_as_it_is_shown(media: Path) -> None:
    (media / "page.html").write_text("<p>won<b>der</b>ful<br>end</p><div>next</div>last")
    assert passages_of(media / "page.html")[0].split() == ["wonderful", "end", "next", "last"]
    code = "```python\nencode('cat')\n```\n\n    indented()\n\n<p>raw</p>\n"
    (media / "code.md").write_text("Words that make it long. " * LONGEST_PASSAGE + f"\n\nCall it:\n\n{code}")
    assert " ".join(passages_of(media / "code.md")).split()[-5:] == [
        "Call",
        "it:",
        "encode('cat')",
        "indented()",
        "raw",
    ]


@pytest.mark.parametrize("text", ["\u6c34" * 1000, "x" * 1000, "a " * 1000, "\n" * 50 + "end" + "\n" * 500])
def test_texts_without_ends_are_cut_too(media: Path, text: str) -> None:
    (media / "a.txt").write_text(text, encoding="utf-8")
    passages = passages_of(media / "a.txt")
    assert max(map(len, passages)) <= LONGEST_PASSAGE
    assert "".join("".join(passages).split()) == "".join(text.split())


def test_the_time_grows_with_the_text_alone(media: Path) -> None:
    (media / "a.txt").write_text("word " * 1_500_000)
    started = time.process_time()
    assert set(" ".join(passages_of(media / "a.txt")).split()) == {"word"}
    assert time.process_time() - started < 20  # a sentence without end took minutes


@pytest.mark.parametrize("sign", ["<a ", '<a b="', "</a ", "<!--", "<![CDATA[", "<!doctype [", "<?php "])
def test_a_page_that_breaks_off_ends_there(media: Path, sign: str) -> None:
    (media / "a.html").write_text("<p>before</p>" + sign * 2000)
    assert passages_of(media / "a.html") == ["before"]


def test_sections_of_unknown_names_are_not_shown(media: Path) -> None:
    (media / "a.html").write_text("<p>before<![if ie]> and<![endif]></p><![later[x]]><p>after</p>")
    assert passages_of(media / "a.html") == ["before and after"]


def test_a_page_without_words_is_refused(media: Path) -> None:
    (media / "a.html").write_text("<script>x</script>")
    with pytest.raises(InputError, match="holds no text"):
        passages_of(media / "a.html")


class _Smell:
    """A modality that search knows by its contract alone."""

    name = "smell"
    endings = ".smell"

    def picture(self, source: Path) -> Image.Image:
        return Image.new("RGB", (8, 8), RED)


class _Nose(FakeEncoder):
    modalities = ("text", "smell")  # type: ignore[assignment]

    def encode_modality(self, name: str, inputs: list, /, **options: object) -> object:
        if name == "smell":
            inputs, name = [Path(path).read_text() for path in inputs], "text"
        return super().encode_modality(name, inputs, **options)


@pytest.fixture
def smell() -> None:
    registry._REGISTRY["smell"] = _Smell()  # type: ignore[assignment]


def test_files_of_a_registered_modality(smell: None, media: Path, tmp_path: Path) -> None:
    (media / "a.smell").write_text("red")
    (media / "a.txt").write_text("Of roses.")
    (media / "b.smell").write_text("blue")
    (media / "c.png").write_bytes(b"not for this model")
    opened = Library(tmp_path / "library", _Nose())
    assert str(opened.index(media)) == "2 added"
    best = opened.search(text="red", k=1, modality="smell")[0]
    assert (best.path.name, best.caption, best.modality) == ("a.smell", "Of roses.", "smell")
    assert best.thumbnail is not None
    assert file_kinds.kind_of(Path("x.smell"), file_kinds.kinds_for(("smell",))) == "smell"
    assert file_kinds.has_pictures("smell") and file_kinds.has_pictures("depth") and file_kinds.has_pictures("audio")
    assert not file_kinds.has_pictures("text") and not file_kinds.has_pictures("unheard of")


@pytest.mark.parametrize("place", ["picture", "processor"])
def test_a_fault_of_a_reader_costs_one_file_and_not_the_run(
    place: str, smell: None, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty_picture(self: _Smell, source: Path) -> Image.Image:
        if source.name == "b.smell":
            raise RuntimeError("too strong")
        return Image.new("RGB", (8, 8), RED)

    def faulty_processor(name: str, source: str) -> np.ndarray:
        if source == "b":
            raise ReadingFault("b.smell", "reading it failed (RuntimeError: too strong)")
        return features(name, source)

    features = fake_encoder._features
    if place == "picture":
        monkeypatch.setattr(_Smell, "picture", faulty_picture)
    else:
        monkeypatch.setattr(fake_encoder, "_features", faulty_processor)
    for name in ("a", "b", "c"):
        (media / f"{name}.smell").write_text(name)
    opened = Library(tmp_path / "library", _Nose())
    for _ in range(2):  # the fault may be gone the next time, so the file is tried again
        [(path, problem)] = opened.index(media).problems.items()
        assert path.endswith("b.smell") and "RuntimeError: too strong" in problem
    assert len(opened) == 2
    pytest.importorskip("pyarrow")
    report = embed_folder(media, tmp_path / "out", _Nose(), "nose")
    assert (report.items, report.rows, report.problems) == (3, 2, 1)


def test_a_batch_holds_several_kinds(media: Path, opened: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    (media / "a.txt").write_text("one")
    Image.new("RGB", (9, 9), RED).save(media / "b.png")
    batches: list[int] = []
    commit = Indexing._commit
    monkeypatch.setattr(Indexing, "_commit", lambda self, batch: batches.append(len(batch)) or commit(self, batch))
    opened.index(media)
    assert batches == [2]
