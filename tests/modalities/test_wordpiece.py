"""Word pieces: limits, unhappy texts, vocabularies of one's own. The published ids are in the golden numbers."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from one_peace.errors import InputError
from one_peace.modalities.wordpiece import WordPieceProcessor, WordPieces, train_word_pieces

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "##s", "run", "'", "s", "."]


@pytest.fixture
def pieces(tmp_path: Path) -> WordPieces:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    found = WordPieces.find(tmp_path)
    assert found is not None
    return found


def test_ids_and_back(pieces: WordPieces) -> None:
    ids = pieces.encode("A DOG'S dogs rùn.", 20)
    assert ids == [2, 5, 6, 9, 10, 6, 7, 8, 11, 3]
    assert pieces.decode([*ids, 0, 0]) == "a dog's dogs run."
    assert pieces.encode("zebra", 20) == [2, 1, 3]


def test_a_whole_book_is_cut_to_the_same_ids(pieces: WordPieces) -> None:
    book = "dogs run " * 200_000
    assert pieces.encode(book, 8) == [2, 6, 7, 8, 6, 7, 8, 3]
    spaced = "dogs" + " " * 5000 + "run " + "dogs " * 1000
    assert pieces.encode(spaced, 6) == [2, 6, 7, 8, 6, 3]


def test_saved_and_pickled(pieces: WordPieces, tmp_path: Path) -> None:
    processor = WordPieceProcessor(pieces, 10)
    processor.save(tmp_path)
    again = WordPieces.find(tmp_path)
    assert again is not None
    for other in (again, pickle.loads(pickle.dumps(pieces))):
        assert other.encode("a dog's run", 20) == pieces.encode("a dog's run", 20)
        assert (other.first_id, other.last_id, other.mask_id) == (2, 3, 4)
    batch = processor.collate([processor("a"), processor("dogs run")])["tokens"]
    assert batch.tolist() == [[2, 5, 3, 0, 0], [2, 6, 7, 8, 3]]


def test_what_is_no_text(pieces: WordPieces) -> None:
    with pytest.raises(InputError, match="int"):
        pieces.encode(3, 20)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="surrogate"):
        pieces.encode("dog \ud800", 20)


def test_what_is_no_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"\[CLS\]"):
        WordPieces.from_vocabulary(tmp_path / "vocab.txt")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        WordPieces("{}")
    assert WordPieces.find(tmp_path / "nothing") is None


def test_training_is_repeatable() -> None:
    texts = ["a red cow", "two green dogs run", "one blue bird", "a dog that sings a song", "##x is no piece"]
    first = train_word_pieces(texts, 60)
    assert all(train_word_pieces(iter(texts), 60).to_json() == first.to_json() for _ in range(5))
    assert first.vocab_size <= 60
    assert first.decode(first.encode("bored dogs", 20)) == "bored dogs"  # of pieces that stand inside words
    assert first.encode("##e", 20) == first.encode("# # e", 20)  # their names in a text are only characters
    assert min(first.encode("red", 20)[1:-1]) >= 5
