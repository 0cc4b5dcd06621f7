"""Samples follow the distribution that they are drawn from."""

from __future__ import annotations

import pytest
import torch

from generation.toy_decoder import END, PAD, START, ToyDecoder, log_probabilities
from one_peace.generation.constraints import TokenRange, Trie
from one_peace.generation.sampling import sample
from one_peace.generation.settings import GenerationSettings, Hypothesis


def draw(inputs: int, samples: int, seed: int = 0, **options: object) -> list[list[Hypothesis]]:
    names = ("max_tokens", "min_tokens", "force_end", "temperature", "no_repeat_ngram")
    limits = {name: options.pop(name) for name in names if name in options}
    settings = GenerationSettings(END, PAD, **({"max_tokens": 3, "beams": samples} | limits))
    start = torch.full((inputs, 1), START)
    generators = [torch.Generator().manual_seed(100 * seed + index) for index in range(inputs)]
    return sample(ToyDecoder(inputs), start, settings, generators, **options)


def frequencies(hypotheses: list[Hypothesis], vocabulary: int = 8) -> torch.Tensor:
    first = torch.tensor([one.tokens[0] for one in hypotheses])
    return torch.bincount(first, minlength=vocabulary) / len(first)


def first_token(index: int, temperature: float = 1.0) -> torch.Tensor:
    decoder = ToyDecoder(2)
    logs = [log_probabilities(decoder, index, [token], temperature)[0] for token in range(8)]
    expected = torch.tensor(logs).exp()
    expected[[PAD, END]] = 0  # no padding ever, and no empty sequence
    return expected / expected.sum()


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_frequencies_are_probabilities(temperature: float) -> None:
    for index, hypotheses in enumerate(draw(2, 4000, temperature=temperature)):
        expected = first_token(index, temperature)
        deviation = (expected * (1 - expected) / 4000).sqrt()
        assert bool(((frequencies(hypotheses) - expected).abs() <= 4.5 * deviation + 1e-4).all())


def test_top_k_and_top_p_cut_the_tail() -> None:
    for index, hypotheses in enumerate(draw(2, 1000, top_k=3)):
        likely = first_token(index).topk(3).indices.tolist()
        assert set(frequencies(hypotheses).nonzero().flatten().tolist()) == set(likely)
    for index, hypotheses in enumerate(draw(2, 1000, top_p=0.6)):
        decoder = ToyDecoder(2)
        logs = torch.tensor([log_probabilities(decoder, index, [token])[0] for token in range(8)])
        logs[[PAD, END]] = -float("inf")
        values, places = logs.exp().sort(descending=True)
        count = int((values.cumsum(0) < 0.6).sum()) + 1
        assert 1 < count < 6
        assert set(frequencies(hypotheses).nonzero().flatten().tolist()) == set(places[:count].tolist())


def test_the_top_one_is_greedy_and_scores_are_not_cut() -> None:
    decoder = ToyDecoder(2)
    for index, hypotheses in enumerate(draw(2, 3, top_k=1)):
        assert len({tuple(one.tokens) for one in hypotheses}) == 1
        (first, *_) = hypotheses
        assert first.token_scores == pytest.approx(log_probabilities(decoder, index, first.tokens), rel=1e-5)
        assert first.score == pytest.approx(sum(first.token_scores) / len(first.tokens), rel=1e-5)


def test_lengths_order_and_the_generator() -> None:
    for hypotheses in draw(3, 20, max_tokens=6):
        assert len({len(one.tokens) for one in hypotheses}) > 1
        assert all(one.tokens[-1] == END and END not in one.tokens[:-1] and PAD not in one.tokens for one in hypotheses)
        assert [one.score for one in hypotheses] == sorted((one.score for one in hypotheses), reverse=True)
    assert draw(3, 4, seed=1) == draw(3, 4, seed=1) != draw(3, 4, seed=2)
    for hypotheses in draw(3, 20, max_tokens=2, force_end=False):
        assert all(len(one.tokens) <= 2 for one in hypotheses)
        assert any(END not in one.tokens for one in hypotheses)


def test_what_an_input_draws_does_not_depend_on_the_others() -> None:
    settings, together = GenerationSettings(END, PAD, max_tokens=6, beams=4), draw(3, 4, max_tokens=6)
    for index in range(3):
        alone = ToyDecoder(3)
        alone.state = alone.state[[index]]
        (found,) = sample(alone, torch.full((1, 1), START), settings, [torch.Generator().manual_seed(index)])
        assert [one.tokens for one in found] == [one.tokens for one in together[index]]


def test_constraint_and_prefix() -> None:
    codes = TokenRange(4, 7, specials_at_end=True)
    prefix = torch.tensor([[5, 4], [6, PAD]])
    first, second = draw(2, 30, max_tokens=4, constraint=codes, prefix=prefix)
    assert all(one.tokens[:2] == [5, 4] and set(one.tokens[:-1]) <= {4, 5, 6} for one in first)
    assert {one.tokens[1] for one in second} == {4, 5, 6}
    for wrong in ({"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}):
        with pytest.raises(ValueError, match="top_k must not be negative and top_p"):
            draw(1, 1, **wrong)


def test_a_trie_is_drawn_from_by_its_shares_though_samples_end_at_different_times() -> None:
    decoder = ToyDecoder(2)
    for index, hypotheses in enumerate(draw(2, 2000, constraint=Trie([[3, 4], [5]], END))):
        assert {tuple(one.tokens) for one in hypotheses} == {(3, 4, END), (5, END)}
        logs = torch.tensor([log_probabilities(decoder, index, [token])[0] for token in (3, 5)])
        assert float(frequencies(hypotheses)[3]) == pytest.approx(float(logs.softmax(0)[0]), abs=0.05)


@pytest.mark.parametrize("top_k", [0, 2])
def test_at_low_temperatures_the_likeliest_is_drawn_though_something_likelier_is_forbidden(top_k: int) -> None:
    for index, hypotheses in enumerate(draw(6, 3, temperature=0.005, top_k=top_k)):
        decoder = ToyDecoder(6)
        ways = {token: log_probabilities(decoder, index, [token])[0] for token in range(8) if token not in (PAD, END)}
        assert {one.tokens[0] for one in hypotheses} == {max(ways, key=ways.__getitem__)}


def test_samples_that_come_to_a_dead_end_are_none() -> None:
    """As in a beam search. Six tokens do not fill twenty places without a repetition; one sequence is too long."""
    assert draw(2, 3, max_tokens=20, min_tokens=20, no_repeat_ngram=1) == [[], []]
    for hypotheses in draw(2, 200, max_tokens=2, constraint=Trie([[3, 4, 5], [5]], END)):
        assert 0 < len(hypotheses) < 200 and {tuple(one.tokens) for one in hypotheses} == {(5, END)}
