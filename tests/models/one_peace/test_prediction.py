"""Models with a head: pooling, padding, two pictures, and what they refuse."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from one_peace.models.one_peace.config import HeadConfig, OnePeaceConfig
from one_peace.models.one_peace.head import AttentionPooling, PredictionHead
from one_peace.models.one_peace.prediction import OnePeaceForPrediction
from tiny_models import CAPTIONS, CONFIG, tiny_pairs, tiny_processors


def model(head: HeadConfig, *modalities: str) -> OnePeaceForPrediction:
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIG.with_modalities(modalities), decoder=None, head=head)
    return OnePeaceForPrediction(config).eval()


def batch(*modalities: str) -> dict[str, dict[str, Tensor]]:
    processors = tiny_processors()
    made = {
        name: processors[name].collate([p for _, p in tiny_pairs(processors, name)])
        for name in modalities
        if name != "text"
    }
    return {"text": processors["text"].collate([processors["text"](c) for c in CAPTIONS]), **made}


def test_attention_pooling_is_softmax_of_the_query() -> None:
    torch.manual_seed(0)
    pooling = AttentionPooling(6, 2)
    features, padding = torch.randn(3, 5, 6), torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    pooled = pooling(features, padding)
    for row in range(3):
        kept = features[row, ~padding[row]]
        heads = []
        for head in range(2):
            part = slice(3 * head, 3 * head + 3)
            scores = pooling.key(kept)[:, part] @ pooling.query[0, 0, head]
            heads.append(scores.softmax(0) @ pooling.value(kept)[:, part])
        assert torch.allclose(pooled[row], pooling.out(torch.cat(heads)), atol=1e-6)


@pytest.mark.parametrize("pooling", ["attention", "cls", "mean"])
def test_padding_changes_nothing(pooling: str) -> None:
    made = model(HeadConfig(3, "text", pooling, hidden=16), "text")
    tokens = batch()["text"]["tokens"]
    assert (tokens[3] == 1).any()
    alone = tokens[3:4, : int((tokens[3] != 1).sum())]
    together = made({"text": {"tokens": tokens}})[3:4]
    assert torch.allclose(together, made({"text": {"tokens": alone}}), atol=1e-5)


def test_the_cls_position_is_pooled_only_as_cls() -> None:
    features, other = torch.randn(2, 4, 8), torch.randn(2, 1, 8)
    changed = torch.cat([other, features[:, 1:]], dim=1)
    for pooling in ("attention", "mean", "cls"):
        head = PredictionHead(HeadConfig(3, "text", pooling), 8, 2)
        assert torch.equal(head.pool(features, None), head.pool(changed, None)) == (pooling != "cls")


def test_order_of_two_pictures_matters_through_their_roles() -> None:
    made = model(HeadConfig(2, "text", hidden=16, pictures=2), "text", "image")
    inputs = batch("image")
    other = {"pixels": inputs["image"]["pixels"].flip(0)}
    forward = made({**inputs, "second_image": other})
    backward = made({"text": inputs["text"], "image": other, "second_image": inputs["image"]})
    assert forward.shape == (5, 2) and not torch.allclose(forward, backward)
    with torch.no_grad():
        made.roles["second_image"].normal_()
    assert not torch.allclose(made({**inputs, "second_image": other}), forward)


def test_every_parameter_learns() -> None:
    made = model(HeadConfig(2, "image", hidden=16, pooler=True, pictures=2), "text", "image").train()
    inputs = batch("image")
    made({**inputs, "second_image": {"pixels": inputs["image"]["pixels"].flip(0)}}).square().sum().backward()
    idle = {name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    # what follows the last attention of the texts leads to no score that is read from the pictures
    assert idle and all(n.startswith(("encoder.fusion.blocks.1.ffn.text.", "encoder.fusion.norms.text.")) for n in idle)


def test_missing_inputs_are_named() -> None:
    made = model(HeadConfig(2, "text", pictures=2), "text", "image")
    with pytest.raises(ValueError, match="missing: image, second_image"):
        made(batch())


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (dict(outputs=0, reads="text"), "outputs is at least 1, not 0"),
        (dict(outputs=2, reads="text", pooling="max"), "attention, cls, mean"),
        (dict(outputs=2, reads="text", pictures=3), r"pictures is in \[1, 2\], not 3"),
    ],
)
def test_heads_that_cannot_be(head: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeadConfig(**head)


def test_a_head_reads_a_modality_that_is_there() -> None:
    with pytest.raises(ValueError, match="reads 'audio'"):
        model(HeadConfig(2, "audio"), "text", "image")
    with pytest.raises(ValueError, match="'image'"):
        model(HeadConfig(2, "text", pictures=2), "text", "audio")
    with pytest.raises(ValueError, match="no head"):
        OnePeaceForPrediction(CONFIG)


def test_the_config_comes_back_from_its_dict() -> None:
    config = dataclasses.replace(CONFIG, decoder=None, head=HeadConfig(4, "image", "mean", pictures=1))
    assert OnePeaceConfig.from_dict(config.to_dict()) == config
    assert model(config.head, "image")({"image": batch("image")["image"]}).isfinite().all()
    values = config.to_dict()
    values["head"]["output"] = values["head"].pop("outputs")
    with pytest.raises(ValueError, match="'output'; the nearest is 'outputs'"):
        OnePeaceConfig.from_dict(values)
