"""The OFA checks of `parity.py`: generated sequences, scores of given answers."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import golden_ofa
from one_peace.generation.beam import beam_search
from one_peace.generation.candidates import score_candidates
from one_peace.generation.constraints import Constraint, TokenRange, Trie
from one_peace.generation.sampling import sample
from one_peace.generation.settings import GenerationSettings, Hypothesis
from one_peace.modalities.tokenization import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from one_peace.models.ofa.encoder import Encoded
from one_peace.models.ofa.model import OfaModel
from parity import Check, Comparison
from parity_files import Fixture
from parity_ofa import close

TEXT_ONLY = ("_text", "maxlen_a", "_codes")  # in the names of the cases that see no picture
OPTIONS = {
    "min_len": "min_tokens",
    "no_repeat_ngram_size": "no_repeat_ngram",
    "len_penalty": "length_penalty",
    "unk_penalty": "unknown_penalty",
}


def inputs(fixture: Fixture) -> dict[str, Tensor]:
    """The source of all cases."""
    return load_file(fixture.path.with_name("loss_inputs.safetensors"))


def encode(model: OfaModel, source: dict[str, Tensor], *, pictures: bool = True) -> Encoded:
    """Encoder states, with or without the pictures."""
    if not pictures:
        return model.encode(source["src_tokens"])
    return model.encode(source["src_tokens"], source["patch_images"], source["patch_masks"])


def settings_of(case: dict[str, Any], source_length: int) -> GenerationSettings:
    """The published options in our words."""
    options = dict(case["opts"])
    options.pop("gen_code", None)
    limit = int(options.pop("max_len_a", 0) * source_length + options.pop("max_len_b", 200))
    normalised = options.pop("normalize_scores", True)
    values = {OPTIONS.get(name, name): value for name, value in options.items()}
    if not normalised:
        values["length_penalty"] = 0.0
    return GenerationSettings(EOS_ID, PAD_ID, limit, beams=case["beam"], unknown=UNK_ID, **values)


def constraint_of(case: dict[str, Any], answers: list[list[int]]) -> Constraint | None:
    if case["trie"]:
        return Trie(answers, EOS_ID)
    if case["constraint_range"]:
        first, last = (int(part) for part in case["constraint_range"].split(","))
        return TokenRange(first, last, specials_at_end=bool(case["opts"].get("gen_code")))
    return None


def check_hypotheses(compare: Comparison, name: str, ours: list[Hypothesis], theirs: list[dict[str, Any]]) -> None:
    """The same tokens with the same scores, in the same order."""
    compare.exact(f"{name}: tokens", [one.tokens for one in ours], [one["tokens"] for one in theirs])
    for rank, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        close(compare, f"{name}.{rank}: score", torch.tensor(one.score), torch.tensor(other["score"]))
        if "positional_scores" in other:
            ours_by_token, by_token = torch.tensor(one.token_scores), torch.tensor(other["positional_scores"])
            compare.feature(f"{name}.{rank}: scores of tokens", ours_by_token, by_token, 3e-5)


def check_generation(fixture: Fixture, compare: Comparison) -> None:
    """Every case, through the cache."""
    model, source = golden_ofa.model(fixture.path.parent), inputs(fixture)
    words = golden_ofa.manifest(fixture.path.parent)["vocab"]
    compare.exact("first code", words["code0"], fixture.meta["code_first_id"])
    start = torch.full((len(source["src_tokens"]), 1), BOS_ID)
    with torch.no_grad():
        seen = {pictures: encode(model, source, pictures=pictures) for pictures in (True, False)}
    for name, case in fixture.meta["cases"].items():
        settings = settings_of(case, source["src_tokens"].shape[1])
        prefix = None if case["prefix_tokens"] is None else torch.tensor(case["prefix_tokens"])
        constraint = constraint_of(case, fixture.meta["trie_answers"])
        decoder = model.start(seen[not any(word in name for word in TEXT_ONLY)], codes="_codes" in name)
        compare.exact(f"{name}: a strategy that is known", case["strategy"] in ("BeamSearch", "Sampling"), True)
        if case["strategy"] == "Sampling":  # among the one most probable: the fixtures hold no random numbers
            unused = [torch.Generator()] * len(start)
            found = sample(decoder, start, settings, unused, top_k=1, prefix=prefix, constraint=constraint)
        else:
            found = beam_search(decoder, start, settings, prefix=prefix, constraint=constraint)
        for row, (ours, theirs) in enumerate(zip(found, case["hyps"], strict=True)):
            check_hypotheses(compare, f"{name} {row}", ours, theirs)


def check_candidates(fixture: Fixture, compare: Comparison) -> None:
    """Every given answer's score, with the same prompt for all inputs and with prompts of several lengths."""
    model, source = golden_ofa.model(fixture.path.parent), inputs(fixture)
    with torch.no_grad():
        seen = encode(model, source)
    answers = fixture.meta["answers"]
    for name, case in fixture.meta["cases"].items():
        for rows in (1, 1024):  # in as many groups as possible, and in one
            scores = score_candidates(
                lambda: model.start(seen), case["decoder_prompts"], answers, end=EOS_ID, max_rows=rows
            )
            compare.feature(f"{name}: scores", scores, torch.tensor(case["scores"]), 3e-5)
            best = [str(answers[place]) for place in scores.argmax(dim=1).tolist()]
            compare.exact(f"{name}: answers", best, case["answers"])


CHECKS: dict[str, Check] = {"generation": check_generation, "allcand": check_candidates}
