"""Beam search against enumeration, and its rules one by one."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from generation.toy_decoder import END, PAD, START, ToyDecoder, log_probabilities
from one_peace.generation.beam import beam_search
from one_peace.generation.constraints import TokenRange, Trie
from one_peace.generation.settings import GenerationSettings, Hypothesis

VOCABULARY = 8
WORDS = [token for token in range(VOCABULARY) if token not in (PAD, END)]


def start(inputs: int) -> torch.Tensor:
    return torch.full((inputs, 1), START)


def settings(**changes: object) -> GenerationSettings:
    return dataclasses.replace(GenerationSettings(END, PAD, max_tokens=3), **changes)


def search(inputs: int = 3, **changes: object) -> list[list[Hypothesis]]:
    return beam_search(ToyDecoder(inputs), start(inputs), settings(**changes))


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0])
def test_enough_beams_find_the_best_of_all_sequences(penalty: float) -> None:
    decoder = ToyDecoder(2)
    found = beam_search(ToyDecoder(2), start(2), settings(beams=300, length_penalty=penalty, exhaustive=True))
    for index, hypotheses in enumerate(found):
        every = [list(words) + [END] for n in (1, 2, 3) for words in itertools.product(WORDS, repeat=n)]
        scored = {tuple(one): sum(log_probabilities(decoder, index, one)) / len(one) ** penalty for one in every}
        best = sorted(scored.items(), key=lambda item: -item[1])
        assert tuple(hypotheses[0].tokens) == best[0][0]
        assert [h.score for h in hypotheses[:20]] == pytest.approx([score for _, score in best[:20]], rel=1e-5)


def test_one_beam_takes_the_most_probable_token() -> None:
    decoder = ToyDecoder(3)
    for index, (hypothesis,) in enumerate(search(max_tokens=9, min_tokens=0)):
        assert hypothesis.token_scores == pytest.approx(log_probabilities(decoder, index, hypothesis.tokens), rel=1e-5)
        for place, token in enumerate(hypothesis.tokens[:9]):
            others = [t for t in range(VOCABULARY) if t != PAD]
            ways = {t: log_probabilities(decoder, index, hypothesis.tokens[:place] + [t])[-1] for t in others}
            assert token == max(ways, key=ways.__getitem__)


@pytest.mark.parametrize("exhaustive", [False, True])
@pytest.mark.parametrize("force_end", [False, True])
def test_a_batch_gives_what_its_inputs_give_alone(exhaustive: bool, force_end: bool) -> None:
    rules = settings(beams=4, max_tokens=7, no_repeat_ngram=2, exhaustive=exhaustive, force_end=force_end)
    together = beam_search(ToyDecoder(5), start(5), rules)
    assert len({len(h[0].tokens) for h in together}) > 1, "the inputs should end at different lengths"
    for index in range(5):
        alone = ToyDecoder(5)
        alone.reorder(torch.tensor([index]))
        (expected,) = beam_search(alone, start(1), rules)
        assert [h.tokens for h in together[index]] == [h.tokens for h in expected]
        assert [h.score for h in together[index]] == pytest.approx([h.score for h in expected], rel=1e-5)


def test_finished_inputs_are_computed_no_more() -> None:
    decoder = ToyDecoder(6)
    found = beam_search(decoder, start(6), settings(beams=2, max_tokens=12))
    lengths = [max(len(h.tokens) for h in hypotheses) for hypotheses in found]
    assert min(lengths) < max(lengths)
    assert decoder.rows[1] == 6 and decoder.rows[2] == 12 and decoder.rows[-1] < 12


@pytest.mark.parametrize("beams", [1, 4])
def test_lengths_and_repetition(beams: int) -> None:
    for hypotheses in search(beams=beams, min_tokens=4, max_tokens=6, no_repeat_ngram=2):
        assert len(hypotheses) == beams
        for one in hypotheses:
            assert 5 <= len(one.tokens) <= 7 and one.tokens[-1] == END and PAD not in one.tokens
            pairs = list(itertools.pairwise([START, *one.tokens]))
            assert len(set(pairs)) == len(pairs)
            assert one.score == pytest.approx(sum(one.token_scores) / len(one.tokens), rel=1e-5)
    assert any(
        len(set(itertools.pairwise(one.tokens))) < len(one.tokens) - 1
        for hypotheses in search(beams=beams, min_tokens=6, max_tokens=6)
        for one in hypotheses
    ), "nothing repeats even without the rule: this test shows nothing"


def test_without_a_forced_end_open_sequences_count_as_they_are() -> None:
    decoder = ToyDecoder(3)
    for index, hypotheses in enumerate(search(beams=3, max_tokens=4, force_end=False, exhaustive=True)):
        assert len(hypotheses) == 3 and all(len(one.tokens) <= 4 for one in hypotheses)
        for one in hypotheses:
            length = len(one.tokens) + (END not in one.tokens)  # the start, and no end token
            assert one.score == pytest.approx(sum(log_probabilities(decoder, index, one.tokens)) / length, rel=1e-5)
    assert any(END not in one.tokens for found in search(max_tokens=2, force_end=False) for one in found)


def test_temperature_divides_the_logits() -> None:
    decoder = ToyDecoder(1)
    ((warm,),) = search(1, temperature=2.5)
    assert warm.token_scores == pytest.approx(log_probabilities(decoder, 0, warm.tokens, 2.5), rel=1e-5)


def test_what_is_unknown_may_be_made_less_probable() -> None:
    ((plain,),) = search(1)
    token = plain.tokens[0]
    ((other,),) = search(1, unknown=token, unknown_penalty=50.0)
    assert token in plain.tokens[:-1] and token not in other.tokens
    ((same,),) = search(1, unknown=token, unknown_penalty=-1.0)
    assert same.tokens[0] == token and same.token_scores[0] == pytest.approx(plain.token_scores[0] + 1)


def test_prefixes_of_different_lengths_are_kept_and_scored() -> None:
    prefix = torch.tensor([[3, 4, 5], [6, PAD, PAD], [7, 7, PAD]])
    decoder = ToyDecoder(3)
    found = beam_search(decoder, start(3), settings(beams=3, max_tokens=5), prefix=prefix)
    assert decoder.rows[1:4] == [3, 3, 9], "beams are needed only behind the shortest prefix"
    for index, (given, hypotheses) in enumerate(zip([[3, 4, 5], [6], [7, 7]], found, strict=True)):
        assert len(hypotheses) == 3
        for one in hypotheses:
            assert one.tokens[: len(given)] == given
            assert one.token_scores == pytest.approx(log_probabilities(ToyDecoder(3), index, one.tokens), rel=1e-4)


@pytest.mark.parametrize("fewest", [0, 2, 4])
def test_fewest_tokens_hold_behind_the_longest_prefix(fewest: int) -> None:
    rules = settings(beams=300, max_tokens=4, min_tokens=fewest, exhaustive=True)

    def lengths(*prefixes: list[int]) -> list[set[int]]:
        found = beam_search(ToyDecoder(len(prefixes)), start(len(prefixes)), rules, prefix=torch.tensor(prefixes))
        return [{len(one.tokens) - 1 for one in hypotheses} for hypotheses in found]

    behind = set(range(max(3, fewest), 5))
    assert lengths([3, 4, 5], [3, PAD, PAD]) == [behind, {1, 2} | behind]
    assert lengths([3]) == [set(range(max(1, fewest), 5))]


def test_a_prefix_may_be_all_that_is_written() -> None:
    rules = settings(beams=3, force_end=False)
    for given, hypotheses in zip(
        ([3, 4, 5], [6, 7, 3]),
        beam_search(ToyDecoder(2), start(2), rules, prefix=torch.tensor([[3, 4, 5], [6, 7, 3]])),
        strict=True,
    ):
        assert [one.tokens for one in hypotheses] == [given]


def test_a_trie_allows_its_sequences_and_their_shares_add_up_to_one() -> None:
    sequences = [[3], [3, 4], [3, 4, 5], [6, 3], [7, 7, 7, 7]]
    rules = settings(beams=5, max_tokens=6, length_penalty=0.0)
    for hypotheses in beam_search(ToyDecoder(2), start(2), rules, constraint=Trie(sequences, END)):
        assert sorted(one.tokens[:-1] for one in hypotheses) == sorted(sequences)
        assert sum(torch.tensor(one.score).exp() for one in hypotheses) == pytest.approx(1, abs=1e-5)


def test_past_its_sequences_a_trie_allows_the_end_alone() -> None:
    trie = Trie([[3], [4, 5]], END)
    after = trie.follow(torch.tensor([0, 0]), torch.tensor([4, 6]))  # the second is none of them
    allowed = trie.children(after, VOCABULARY)
    assert [row.nonzero().flatten().tolist() for row in allowed] == [[5], [END]]


def test_fewer_sequences_than_beams() -> None:
    rules = settings(beams=4, max_tokens=6)
    for hypotheses in beam_search(ToyDecoder(2), start(2), rules, constraint=Trie([[5, 6], [5, 7]], END)):
        assert sorted(one.tokens for one in hypotheses) == [[5, 6, END], [5, 7, END]]


def test_a_range_with_and_without_an_early_end() -> None:
    rules = settings(beams=2, max_tokens=8, min_tokens=0)
    codes = TokenRange(4, 7, specials_at_end=True)
    for hypotheses in beam_search(ToyDecoder(4), start(4), rules, constraint=codes):
        assert all(len(one.tokens) == 9 and set(one.tokens[:-1]) <= {4, 5, 6} for one in hypotheses)
    some = beam_search(ToyDecoder(4), start(4), rules, constraint=TokenRange(4, 7))
    assert any(len(one.tokens) < 9 for hypotheses in some for one in hypotheses)


def test_what_cannot_be_is_refused() -> None:
    for wrong in ({"beams": 0}, {"min_tokens": 9}, {"temperature": 0.0}, {"max_tokens": 0}, {"no_repeat_ngram": -1}):
        with pytest.raises(ValueError, match="must"):
            settings(**wrong)
    with pytest.raises(ValueError, match="beams must be a whole number, got 2.5"):
        settings(beams=2.5)
    for prefix in ([[3, END]], [[PAD, 3]], [[3, 3, 3, 3]], [[3], [3]]):
        with pytest.raises(ValueError, match="prefix"):
            beam_search(ToyDecoder(1), start(1), settings(), prefix=torch.tensor(prefix))
    with pytest.raises(ValueError, match="start"):
        beam_search(ToyDecoder(1), torch.tensor([START]), settings())
    for sequences in ([], [[]], [[3, END]]):
        with pytest.raises(ValueError, match="trie"):
            Trie(sequences, END)
    with pytest.raises(ValueError, match="vocabulary"):
        beam_search(ToyDecoder(1), start(1), settings(), constraint=Trie([[VOCABULARY]], END))
    with pytest.raises(ValueError, match="vocabulary"):
        beam_search(ToyDecoder(1), start(1), settings(), constraint=TokenRange(4, VOCABULARY + 1))


def test_a_trie_goes_where_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[torch.device] = []
    monkeypatch.setattr(Trie, "to", lambda trie, device: moved.append(device) or trie)
    beam_search(ToyDecoder(1), start(1), settings(), constraint=Trie([[3, 4]], END))
    assert moved == [start(1).device]
