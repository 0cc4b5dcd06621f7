"""Batches from sources: the same for any number of processes, exact on resume, whole in spite of bad files."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from one_peace.data.decoding import PairDecoder
from one_peace.data.loading import GROUPED_STEPS, NoUsableData, Pair, PairLoader, _short_to_long
from one_peace.data.mixture import Mixture, Slots
from one_peace.data.opening import SourceRecipe, open_pairs
from one_peace.data.prefetch import PrefetchedPairs
from one_peace.data.shard_cache import ShardCache
from one_peace.data.shards import ShardSource
from one_peace.data.source import RawPair, UnusablePair
from one_peace.data.tables import TableSource
from one_peace.errors import InputError, OnePeaceError
from one_peace.modalities.audio import AudioConfig, AudioProcessor
from one_peace.modalities.image import ImageConfig, ImageProcessor
from one_peace.modalities.text import TextConfig, TextProcessor
from one_peace.modalities.tokenization import Tokenizer, train_tokenizer
from pair_files import caption, png, serving, wav, write_shards, write_table

SEED = 3407


@pytest.fixture(scope="module")
def text() -> TextProcessor:
    words = ["number", "and", "more", *map(str, range(60))]
    return TextProcessor(TextConfig(vocab_size=400), Tokenizer(train_tokenizer([f" {w}" for w in words] * 4, 400)))


def picture_decoder(text: TextProcessor, augmentation: float = 1.0) -> PairDecoder:
    return PairDecoder(text, "image", ImageProcessor(ImageConfig(16, 1, 1)), augmentation)


def sound_decoder(text: TextProcessor, augmentation: float = 0.0) -> PairDecoder:
    return PairDecoder(text, "audio", AudioProcessor(AudioConfig(max_seconds=4.0)), augmentation)


@pytest.fixture
def decoder(text: TextProcessor) -> PairDecoder:
    return picture_decoder(text)


@pytest.fixture
def two_sources(tmp_path: Path) -> dict[str, SourceRecipe]:
    table = write_table(tmp_path / "t.tsv", [png(n) for n in range(100)])
    shards = write_shards(tmp_path, 3, 20)
    return {"table": SourceRecipe(str(table), weight=0.6), "shards": SourceRecipe(shards, weight=0.4)}


def same(first: list[Pair], second: list[Pair]) -> bool:
    """Whether the batches are equal bit by bit."""
    if len(first) != len(second):
        return False
    sides = [sides for pair in zip(first, second, strict=True) for sides in zip(*pair, strict=True)]
    return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in sides)


def test_one_two_and_four_processes_draw_the_same_batches(
    two_sources: dict[str, SourceRecipe], decoder: PairDecoder, tmp_path: Path
) -> None:
    for step in (0, 7, 8, 31):
        whole = open_pairs(two_sources, decoder, SEED, ShardCache(tmp_path / "cache")).batch(16, SEED, step)
        for world in (2, 4):
            parts: list[Pair] = []
            for rank in range(world):
                process = open_pairs(two_sources, decoder, SEED, ShardCache(tmp_path / "cache"))
                parts += process.batch(16, SEED, step, rank, world)
            assert same(parts, whole)


def test_workers_and_a_resumed_run_draw_the_same_batches(
    two_sources: dict[str, SourceRecipe], decoder: PairDecoder, tmp_path: Path
) -> None:
    here = open_pairs(two_sources, decoder, SEED, ShardCache(tmp_path / "cache"))
    straight = [here.batch(8, SEED, step) for step in range(12)]
    before = torch.get_rng_state()
    with open_pairs(two_sources, decoder, SEED, ShardCache(tmp_path / "cache"), workers=2) as ahead:
        assert all(same(ahead.batch(8, SEED, step), straight[step]) for step in range(6))
        assert all(same(ahead.batch(8, SEED, step), straight[step]) for step in (9, 10, 3))  # jumps start anew
        assert 0 < ahead.report.waiting <= 1
    assert torch.equal(torch.get_rng_state(), before)  # the training's own random numbers are left alone
    with open_pairs(two_sources, decoder, SEED, ShardCache(tmp_path / "cache"), workers=1) as resumed:
        assert all(same(resumed.batch(8, SEED, step), straight[step]) for step in range(7, 12))


def test_augmentation_changes_from_epoch_to_epoch(decoder: PairDecoder, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.tsv", [png(n) for n in range(4)])
    pairs = open_pairs({"t": SourceRecipe(str(table))}, decoder, SEED, ShardCache(tmp_path / "cache"))
    seen = [partner["pixels"] for step in range(4) for _, partner in pairs.batch(4, SEED, step)]
    assert len({pixels.numpy().tobytes() for pixels in seen}) == 16
    assert all(pixels.shape == (3, 16, 16) and pixels.isfinite().all() for pixels in seen)


def test_without_augmentation_inputs_are_those_for_encoding(text: TextProcessor, tmp_path: Path) -> None:
    decoder = picture_decoder(text, augmentation=0.0)
    _, partner = decoder(RawPair("", "a text", png(9)), torch.Generator())
    assert torch.equal(partner["pixels"], decoder.partner(png(9))["pixels"])


def corrupt(content: bytes, kind: int) -> bytes:
    return [content[: len(content) // 2], b"", b"<html>404</html>"][kind % 3]


def test_thirty_percent_corrupt(decoder: PairDecoder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run goes on, always with full batches of good pairs; what was left out is counted and the first are named."""
    media = [corrupt(png(n), n) if n % 10 < 3 else png(n) for n in range(192)]
    texts = [" " if n % 10 == 3 else caption(n) for n in range(192)]
    table = write_table(tmp_path / "t.tsv", media, texts)
    pairs = open_pairs({"t": SourceRecipe(str(table))}, decoder, SEED, ShardCache(tmp_path / "cache"))
    for step in range(GROUPED_STEPS):
        batch = pairs.batch(8, SEED, step)
        assert len(batch) == 8
        assert all(example["pixels"].isfinite().all() for _, example in batch)
    dropped = pairs.report.dropped
    assert set(dropped.counts) == {"unreadable image", "no media", "empty text"}
    # One epoch meets each of the 78 bad pairs, and some again as replacements of others.
    assert 78 <= dropped.total <= 300
    assert len(dropped.named) == 10 and caplog.text.count("left out:") == 10
    assert "t.tsv, row " in caplog.text and "further ones are only counted" in caplog.text
    assert str(dropped).startswith(f"{dropped.total} pairs were left out: ")


def test_replacements_are_the_same_in_every_process(decoder: PairDecoder, tmp_path: Path) -> None:
    media = [b"" if n % 3 else png(n) for n in range(60)]
    table = write_table(tmp_path / "t.tsv", media)
    recipes = {"t": SourceRecipe(str(table))}
    whole = open_pairs(recipes, decoder, SEED, ShardCache(tmp_path / "cache")).batch(12, SEED, 3)
    parts = [
        open_pairs(recipes, decoder, SEED, ShardCache(tmp_path / "cache")).batch(12, SEED, 3, rank, 3)
        for rank in range(3)
    ]
    assert same([pair for part in parts for pair in part], whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_usable_is_one_clear_error(decoder: PairDecoder, tmp_path: Path, workers: int) -> None:
    table = write_table(tmp_path / "t.tsv", [b"broken"] * 30)
    with open_pairs(
        {"stamps": SourceRecipe(str(table))}, decoder, SEED, ShardCache(tmp_path / "c"), workers=workers
    ) as pairs:
        message = r"^stamps: nothing usable after \d+ attempts. \d+ pairs were left out: \d+ unreadable image. The last"
        with pytest.raises(NoUsableData, match=message):
            pairs.batch(4, SEED, 0)


def test_one_usable_pair_is_found(decoder: PairDecoder, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.tsv", [png(1) if n == 77 else b"x" for n in range(100)])
    pairs = open_pairs({"t": SourceRecipe(str(table))}, decoder, SEED, ShardCache(tmp_path / "cache"))
    assert len(pairs.batch(2, SEED, 0)) == 2


def test_remote_shards_with_dead_ones(decoder: PairDecoder, tmp_path: Path) -> None:
    pattern = write_shards(tmp_path, 6, 10)
    (tmp_path / "train-004.tar").unlink()
    with serving(tmp_path, cuts=1) as server:
        recipes = {"web": SourceRecipe(pattern.replace(str(tmp_path), server.url))}
        pairs = open_pairs(recipes, decoder, SEED, ShardCache(tmp_path / "cache"))
        batches = [pairs.batch(10, SEED, step) for step in range(8)]
    assert all(len(batch) == 10 for batch in batches)
    assert pairs.report.dropped.counts["shard not available"] >= 10
    assert any("train-004.tar" in message and "404" in message for message in pairs.report.dropped.named)


def test_a_shard_that_is_away_moves_no_other_pair(decoder: PairDecoder, tmp_path: Path) -> None:
    """Two processes of a run, one without a shard: all that it can read stands where the other has it."""
    table = TableSource(write_table(tmp_path / "t.tsv", [png(n) for n in range(100)]), "image", tmp_path / "cache")
    pattern = write_shards(tmp_path, 4, 50)

    def loader() -> tuple[PairLoader, ShardSource]:
        cache = ShardCache(tmp_path / "cache", retry_after=0.0)
        shards = ShardSource(pattern, ("png",), cache, pairs_per_shard=50)
        return PairLoader(Mixture([table, shards], SEED), decoder, "text"), shards

    def of_shard(slots: Slots) -> np.ndarray:
        return (slots.source == 1) & (slots.index // 50 == 2)

    whole = [loader()[0].slots(8, step) for step in range(GROUPED_STEPS)]
    shard = (tmp_path / "train-002.tar").rename(tmp_path / "away")
    without, source = loader()
    parted = [without.slots(8, step) for step in range(GROUPED_STEPS)]
    shard.rename(tmp_path / "train-002.tar")
    for one, other in zip(whole, parted, strict=True):
        assert np.array_equal(of_shard(one), of_shard(other))
        assert np.array_equal(one.numbers[~of_shard(one)], other.numbers[~of_shard(other)])
    # Back within the window it stays away: the other process has its pairs in another order.
    with pytest.raises(UnusablePair, match="train-002.tar: no such file"):
        source.read(100)
    without.slots(8, GROUPED_STEPS)
    assert source.read(100).text == caption(100)


@pytest.mark.parametrize("lengths", [np.arange(640) % 7, np.zeros(640, np.int64)])
def test_every_batch_has_its_share_of_every_part(lengths: np.ndarray) -> None:
    parts = np.random.default_rng(1).permutation(np.repeat([-1, 0, 1, 5], [320, 160, 140, 20]))
    order = _short_to_long((lengths, lengths), parts)
    assert sorted(order) == list(range(640))
    for place in range(0, 640, 32):
        counts = [np.sum(parts[order[place : place + 32]] == part) for part in (-1, 0, 1, 5)]
        assert np.abs(np.array(counts) - [16, 8, 7, 1]).max() <= 1
    for part in (-1, 0, 1, 5):
        assert (np.diff(lengths[order[parts[order] == part]]) >= 0).all()


class KillsItself(PairDecoder):
    """Dies as a process does that the system kills."""

    def __call__(self, raw: RawPair, generator: torch.Generator) -> Pair:
        if "number 33" in raw.text:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(raw, generator)


def test_a_killed_worker_is_one_clear_error(text: TextProcessor, tmp_path: Path) -> None:
    base = picture_decoder(text)
    deadly = KillsItself(base.text, base.partner_name, base.partner)
    table = write_table(tmp_path / "t.tsv", [png(n) for n in range(40)])
    with (
        open_pairs({"t": SourceRecipe(str(table))}, deadly, SEED, ShardCache(tmp_path / "cache"), workers=2) as pairs,
        pytest.raises(OnePeaceError, match=r"a data worker died \(process \d+: .*last checkpoint"),
    ):
        for step in range(2 * GROUPED_STEPS):
            pairs.batch(4, SEED, step)
    # With a decoder that lives, the run goes on at the step where it stopped.
    healthy = open_pairs({"t": SourceRecipe(str(table))}, base, SEED, ShardCache(tmp_path / "cache"), workers=1)
    with healthy as pairs:
        assert len(pairs.batch(4, SEED, 5)) == 4


def test_a_sigterm_to_every_process_leaves_the_run_its_workers(two_sources: Any, decoder: Any, tmp_path: Path) -> None:
    """As a scheduler sends it: the step at work and the state that follows need them."""
    others = set(multiprocessing.active_children())
    with open_pairs(two_sources, decoder, SEED, ShardCache(tmp_path / "cache"), workers=2) as pairs:
        for step in (0, 1):  # one of each worker
            pairs.batch(4, SEED, step)
        workers = set(multiprocessing.active_children()) - others
        for worker in workers:
            os.kill(worker.pid or 0, signal.SIGTERM)
        assert [len(pairs.batch(4, SEED, step)) for step in range(2, 8)] == [4] * 6
    for worker in workers:
        worker.join(60)
    assert len(workers) == 2 and not any(worker.is_alive() for worker in workers)


@pytest.mark.parametrize("error", [ConnectionResetError("reset by peer"), RuntimeError("a size of 3")])
def test_other_errors_are_no_dead_workers(
    error: Exception, text: TextProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*place: int) -> Iterator[Any]:
        raise error
        yield

    table = write_table(tmp_path / "t.tsv", [png(n) for n in range(8)])
    sources = {"t": SourceRecipe(str(table))}
    with open_pairs(sources, picture_decoder(text), SEED, ShardCache(tmp_path / "cache"), workers=1) as pairs:
        with monkeypatch.context() as patch:
            patch.setattr(PrefetchedPairs, "_start", lambda self, *place: broken(*place))
            with pytest.raises(type(error), match=str(error)):
                pairs.batch(4, SEED, 0)
        assert len(pairs.batch(4, SEED, 0)) == 4  # nothing of the broken one is left


def test_a_worker_that_dies_in_the_middle_of_a_message(
    text: TextProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read from it ends in a broken connection; the error tells which process it was and of what it died."""
    table = write_table(tmp_path / "t.tsv", [png(n) for n in range(8)])
    sources = {"t": SourceRecipe(str(table))}
    with open_pairs(sources, picture_decoder(text), SEED, ShardCache(tmp_path / "cache"), workers=1) as pairs:
        others = set(multiprocessing.active_children())
        pairs.batch(4, SEED, 0)
        (worker,) = set(multiprocessing.active_children()) - others

        def broken() -> Iterator[Any]:
            os.kill(worker.pid or 0, signal.SIGKILL)
            raise ConnectionResetError("reset by peer")
            yield

        monkeypatch.setattr(pairs, "_steps", broken())
        with pytest.raises(OnePeaceError, match=rf"a data worker died \(process {worker.pid}: signal 9, Killed\)"):
            pairs.batch(4, SEED, 1)


def test_a_dead_worker_raises_nothing_out_of_the_blue(text: TextProcessor, tmp_path: Path) -> None:
    """Only where the next batch is asked for: an error in the middle of a save would break it."""
    table = write_table(tmp_path / "t.tsv", [png(n) for n in range(8)])
    sources = {"t": SourceRecipe(str(table))}
    before = signal.getsignal(signal.SIGCHLD)
    with open_pairs(sources, picture_decoder(text), SEED, ShardCache(tmp_path / "cache"), workers=1) as pairs:
        others = set(multiprocessing.active_children())
        pairs.batch(4, SEED, 0)
        (worker,) = set(multiprocessing.active_children()) - others
        os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join()
        assert signal.getsignal(signal.SIGCHLD) == before
        with pytest.raises(OnePeaceError, match=f"process {worker.pid}: signal 9"):
            for step in range(1, 8):
                pairs.batch(4, SEED, step)


def test_batches_are_grouped_by_length(text: TextProcessor, tmp_path: Path) -> None:
    """Every pair once an epoch, less padding, and no order of length from step to step."""
    seconds = [1.0 + 0.05 * (n * 37 % 60) for n in range(64)]
    rows = []
    for number, length in enumerate(seconds):
        (tmp_path / f"{number}.wav").write_bytes(wav(length))
        rows.append(f"{number}.wav\t{caption(number)}\t{length}")
    table = tmp_path / "t.tsv"
    table.write_text("\n".join(["audio\ttext\tduration", *rows]))
    decoder = sound_decoder(text)
    grouped = open_pairs({"t": SourceRecipe(str(table))}, decoder, SEED, ShardCache(tmp_path / "cache"))
    mixed = PrefetchedPairs(PairLoader(grouped.loader.mixture, decoder), 0)
    longest, seen = [], []
    for step in range(GROUPED_STEPS):
        batch = grouped.batch(64 // GROUPED_STEPS, SEED, step)
        longest.append(max(partner["waveform"].shape[0] for _, partner in batch))
        seen += [partner["waveform"].shape[0] for _, partner in batch]
        mixed.batch(64 // GROUPED_STEPS, SEED, step)
    assert sorted(seen) == sorted(int(16000 * length) for length in seconds)
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)
    assert grouped.report.padding.partner < 0.1 < mixed.report.padding.partner
    assert mixed.report.padding.partner == pytest.approx(_padding(mixed, decoder), abs=1e-9)


class Lengths:
    """A source of pairs of random lengths."""

    sized_by_block = False

    def __init__(self, name: str, count: int) -> None:
        drawn = np.random.default_rng(0)
        self.name, self.blocks = name, np.array([0, count])
        self.lengths = np.stack([drawn.integers(10, 60, count), drawn.integers(10_000, 90_000, count)], axis=1)

    def __len__(self) -> int:
        return len(self.lengths)

    def sizes(self, indices: np.ndarray) -> np.ndarray:
        return self.lengths[indices]


@pytest.mark.parametrize(
    ("counts", "size", "distinct"), [((60,), 16, 12), ((200,), 64, 50), ((1000,), 64, 56), ((50_000, 200), 64, 56)]
)
def test_a_small_source_fills_no_batch_with_copies(
    decoder: PairDecoder, counts: tuple[int, ...], size: int, distinct: int
) -> None:
    sources: list[Any] = [Lengths(str(count), count) for count in counts]
    loader = PairLoader(Mixture(sources, SEED, {source.name: 1.0 for source in sources}), decoder, "text")
    slots = [loader.slots(size, step) for step in range(GROUPED_STEPS)]
    found = [len(np.unique(np.stack([batch.source, batch.index]), axis=1).T) for batch in slots]
    assert np.mean(found) >= distinct


def test_a_small_source_beside_a_large_one_does_not_end_grouping(decoder: PairDecoder) -> None:
    """Its copies are a tenth of each batch at most, whatever the window."""

    def padding(mixture: Mixture) -> float:
        batches = [mixture.sizes(PairLoader(mixture, decoder, "text").slots(512, step))[:, 0] for step in range(4)]
        return 1 - sum(float(sizes.mean() / sizes.max()) for sizes in batches) / len(batches)

    large, small = Lengths("large", 50_000), Lengths("small", 100)
    alone, both = Mixture([large], SEED), Mixture([large, small], SEED, {"large": 0.9, "small": 0.1})  # type: ignore[list-item]
    assert padding(both) < padding(alone) + 0.03


def test_captions_of_pictures_cost_little_padding(text: TextProcessor, tmp_path: Path) -> None:
    """Texts of 2 to 50 tokens beside 16 patches: in the joint sequence less than a tenth is padding."""
    words = [" ".join(["more"] * (1 + n * 29 % 48)) for n in range(256)]
    table = write_table(tmp_path / "t.tsv", [png(n) for n in range(256)], words)
    decoder = PairDecoder(text, "image", ImageProcessor(ImageConfig(64, 4, 4)), 0.0)
    grouped = open_pairs({"t": SourceRecipe(str(table))}, decoder, SEED, ShardCache(tmp_path / "cache"))
    mixed = PrefetchedPairs(PairLoader(grouped.loader.mixture, decoder), 0)
    for step in range(GROUPED_STEPS):
        grouped.batch(256 // GROUPED_STEPS, SEED, step)
        mixed.batch(256 // GROUPED_STEPS, SEED, step)
    assert grouped.report.padding.partner == 0 and grouped.report.padding.text < 0.15
    assert grouped.report.padding.total < 0.1 < 0.2 < mixed.report.padding.total
    assert grouped.summary()["padding"] == round(grouped.report.padding.total, 3)


def test_micro_batches_are_padded_on_their_own(text: TextProcessor, tmp_path: Path) -> None:
    words = ["more " * (1 + 8 * (n % 2)) for n in range(8)]
    table = write_table(tmp_path / "t.tsv", [png(n) for n in range(8)], words)
    found = []
    for micro in (None, 1, 2, 16):
        sources = {"t": SourceRecipe(str(table))}
        pairs = open_pairs(sources, picture_decoder(text, 0.0), SEED, ShardCache(tmp_path / "cache"), micro_batch=micro)
        pairs.batch(8, SEED, 0)
        found.append(pairs.report.padding)
    assert found[0] == found[3] and found[0].text > 0.3 and found[0].text_tokens == found[1].text_tokens
    assert found[1].total == 0 and found[2].text < found[0].text


def _padding(pairs: PrefetchedPairs, decoder: PairDecoder) -> float:
    """The share of padding counted by hand."""
    tokens = padded = 0
    for step in range(GROUPED_STEPS):
        lengths = [decoder.partner.length(partner) for _, partner in pairs.loader.load(64 // GROUPED_STEPS, step).pairs]
        tokens, padded = tokens + sum(lengths), padded + len(lengths) * max(lengths)
    return 1 - tokens / padded


def test_sounds_are_cut_and_augmented(text: TextProcessor) -> None:
    raw = RawPair("", "a dog", wav(6.0))
    plain = sound_decoder(text)
    assert plain(raw, torch.Generator())[1]["waveform"].shape == (64000,)
    augmented = sound_decoder(text, 1.0)
    first, second = (augmented(raw, torch.Generator().manual_seed(n))[1]["waveform"] for n in (0, 1))
    assert first.shape == second.shape == (64000,) and not torch.equal(first, second)
    again = augmented(raw, torch.Generator().manual_seed(0))[1]["waveform"]
    assert torch.equal(first, again)


@pytest.mark.parametrize("content", [wav(0.0), wav(0.001), wav(1.0)[:20], b"RIFF"])
def test_damaged_sounds(text: TextProcessor, content: bytes) -> None:
    with pytest.raises(InputError) as caught:
        sound_decoder(text, 1.0)(RawPair("clip 3", "a dog", content), torch.Generator())
    assert caught.value.source == "clip 3" and getattr(caught.value, "reason", "") == "unreadable audio"


def test_a_missing_file_is_named(decoder: PairDecoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row 3: .*gone\.png does not exist"):
        decoder(RawPair("row 3", "a dog", tmp_path / "gone.png"), torch.Generator())


def test_wrong_requests(two_sources: dict[str, SourceRecipe], decoder: PairDecoder, tmp_path: Path) -> None:
    pairs = open_pairs(two_sources, decoder, SEED, ShardCache(tmp_path / "cache"))
    with pytest.raises(ValueError, match="10 pairs cannot be divided among 4"):
        pairs.batch(10, SEED, 0, 0, 4)
    with pytest.raises(ValueError, match="seed 1"):
        pairs.batch(8, 1, 0)
    with pytest.raises(InputError, match="none.tsv"):
        open_pairs({"t": SourceRecipe(str(tmp_path / "none.tsv"))}, decoder, SEED, ShardCache(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"is no .tsv, .csv, .jsonl or .tar"):
        open_pairs({"t": SourceRecipe(str(tmp_path / "none.parquet"))}, decoder, SEED, ShardCache(tmp_path / "cache"))
    with pytest.raises(ValueError, match="missing or wrong: b"):
        table = two_sources["table"].path
        recipes = {"a": SourceRecipe(table, weight=1.0), "b": SourceRecipe(table)}
        open_pairs(recipes, decoder, SEED, ShardCache(tmp_path / "cache"))


def test_a_table_in_parts(decoder: PairDecoder, tmp_path: Path) -> None:
    for part in range(3):
        write_table(tmp_path / f"t{part}.tsv", [png(n) for n in range(4)], [f"number {part}"] * 4)
    pairs = open_pairs({"t": SourceRecipe(f"{tmp_path}/t{{0..2}}.tsv")}, decoder, SEED, ShardCache(tmp_path / "cache"))
    mixture: Mixture = pickle.loads(pickle.dumps(pairs.loader)).mixture
    slots = mixture.slots(0, 12)
    texts = sorted(mixture.read(int(s), int(i)).text for s, i in zip(slots.source, slots.index, strict=True))
    assert texts == sorted(np.repeat([f"number {part}" for part in range(3)], 4))
