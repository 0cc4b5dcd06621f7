"""The OFA checks of `parity.py` for self-critical training: rewards, loss, a whole step."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import load_file

import golden_ofa
from one_peace.generation.beam import beam_search
from one_peace.generation.settings import GenerationSettings
from one_peace.modalities.tokenization import BOS_ID, EOS_ID, PAD_ID
from one_peace.objectives.self_critical import leave_one_out, self_critical_loss
from one_peace.tasks.caption_metrics.cider import DocumentFrequency, cider_d, reward_words
from parity import Check, Comparison
from parity_files import Fixture
from parity_ofa_losses import close_enough, exactly


def check_self_critical(fixture: Fixture, compare: Comparison) -> None:
    """CIDEr-D rewards, the loss alone, and a whole step: search, rewards, loss, gradient."""
    facts = fixture.meta
    frequency = DocumentFrequency({tuple(run.split()): count for run, count in facts["df"].items()}, facts["ref_len"])
    per = len(facts["hyps"]) // len(facts["refs"])
    references = [[reward_words(text) for text in texts] for texts in facts["refs"] for _ in range(per)]
    scores = exactly(cider_d([reward_words(text) for text in facts["hyps"]], references, frequency))
    wanted = exactly(facts["cider_d_scores"])
    compare.loss("scores", scores, wanted)
    rewards = leave_one_out(wanted.view(-1, per)).flatten()
    compare.loss("rewards", rewards, exactly(facts["rewards_2_per_image"]))
    corpus = facts["corpus_mode"]
    words = [[text.split() for text in texts] for texts in facts["refs"]]
    alone = exactly(cider_d([text.split() for text in corpus["hyps"]], words))
    compare.loss("scores by their own references", alone, exactly(corpus["per"]))
    compare.loss("mean", alone.mean(), exactly(corpus["mean"]))
    check_step(compare, facts["model_step"], fixture, frequency)


def check_self_critical_loss(fixture: Fixture, compare: Comparison) -> None:
    """The loss of given log-probabilities."""
    facts = json.loads(fixture.path.with_name("scst.json").read_text(encoding="utf-8"))["scst_loss_fn"]
    loss, tokens = self_critical_loss(fixture["lprobs"], fixture["target"], fixture["reward"], PAD_ID)
    close_enough(compare, "loss", loss, facts["loss"], 1e-6)
    compare.exact("tokens", tokens, facts["ntokens"])


def check_step(compare: Comparison, step: dict[str, Any], fixture: Fixture, frequency: DocumentFrequency) -> None:
    model = golden_ofa.model(fixture.path.parent).requires_grad_(True)
    source = load_file(fixture.path.with_name("loss_inputs.safetensors"))
    batch = (source["src_tokens"], source["patch_images"], source["patch_masks"])
    settings = GenerationSettings(
        EOS_ID, PAD_ID, step["max_len_b"], beams=step["beam"], no_repeat_ngram=step["no_repeat_ngram_size"]
    )
    with torch.no_grad():
        decoder = model.start(model.encode(*batch))
        found = beam_search(decoder, torch.full((len(source["src_tokens"]), 1), BOS_ID), settings)
    tokens = [one.tokens for hypotheses in found for one in hypotheses]
    compare.exact("generated", tokens, step["gen_target"])
    compare.exact("sentences", len(tokens), step["nsentences"])
    compare.leave_out("model_step/target", "the references' ids, which enter nothing but their texts")
    beam = step["beam"]
    references = [[reward_words(text) for text in texts] for texts in step["gt_res"] for _ in range(beam)]
    hypotheses = [reward_words(text) for text in step["gen_res"]]
    scores = exactly(cider_d(hypotheses, references, frequency))
    compare.loss("scores of the generated", scores, exactly(step["scores"]))
    reward = leave_one_out(scores.view(-1, beam)).flatten()
    compare.feature("reward", reward, exactly(step["reward"]), 1e-7)
    close_enough(compare, "sum of scores", scores.sum(), step["score_sum"], 1e-6)
    longest = max(map(len, tokens))
    target = torch.tensor([one + [PAD_ID] * (longest - len(one)) for one in tokens])
    previous = torch.cat([torch.full((len(target), 1), BOS_ID), target[:, :-1]], dim=1)
    previous[previous == EOS_ID] = PAD_ID
    encoded = model.encode(*batch)
    rows = torch.arange(len(step["target"])).repeat_interleave(beam)
    loss, count = self_critical_loss(model.decode(previous, encoded.rows(rows)), target, reward, PAD_ID)
    compare.exact("tokens", float(count), step["sample_size"])
    close_enough(compare, "loss", loss, step["loss"], 1e-5, 1e-5)  # rewards add up to nothing: terms cancel
    loss.backward()
    norms = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
    close_enough(compare, "norm of the gradient", torch.stack(norms).norm(), step["total_grad_norm"], 1e-4)


CHECKS: dict[str, Check] = {
    "scst": check_self_critical,
    "scst_fn": check_self_critical_loss,
}
