"""The network on tensors: joint encoding, padding, branches, other picture sizes, bf16, gradients, drop path."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from one_peace.modalities.base import Example
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.encoder import joint_bias
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.nn.block import Block
from one_peace.tasks.pretraining import AUDIO_TEXT, IMAGE_TEXT, collate_pairs, freeze_for_stage, pretraining_losses
from tiny_models import CONFIG, tiny_model, tiny_processors

Batches = dict[str, dict[str, Tensor]]
JOINT = [("text", "image"), ("text", "audio"), ("image", "audio"), ("text", "image", "audio")]
PROCESSORS = tiny_processors()
PUBLISHED_PADDING = dataclasses.replace(CONFIG.modalities["audio"], exact_padding=False)


def random_encoder(config: OnePeaceConfig = CONFIG, seed: int = 0) -> OnePeaceEncoder:
    """Nothing is zero or one in it, so that no term can hide."""
    torch.manual_seed(seed)
    model = OnePeaceEncoder(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def encoder() -> OnePeaceEncoder:
    return random_encoder()


def texts(*captions: str) -> list[Example]:
    return [PROCESSORS["text"](caption) for caption in captions]


def clips(*samples: int) -> list[Example]:
    generator = torch.Generator().manual_seed(0)
    return [{"waveform": torch.randn(n, generator=generator)} for n in samples]


def pictures(count: int, height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


EXAMPLES = {
    "text": texts("lamp", "the old white horse runs"),
    "image": [{"pixels": p} for p in pictures(2)],
    "audio": clips(16000, 24000),
}


def batches(names: Sequence[str], rows: Sequence[int] = (0, 1)) -> Batches:
    return {name: PROCESSORS[name].collate([EXAMPLES[name][row] for row in rows]) for name in names}


def positions(name: str, row: int) -> int:
    """Tokens of an example, cls included."""
    return 1 + PROCESSORS[name].length(EXAMPLES[name][row])


@pytest.mark.parametrize("names", JOINT, ids="+".join)
def test_joint_encoding_has_every_token_of_every_modality(encoder: OnePeaceEncoder, names: tuple[str, ...]) -> None:
    features = encoder(batches(names))
    assert list(features) == list(names)
    for name in names:
        assert features[name].shape == (2, max(positions(name, row) for row in (0, 1)), CONFIG.width)
        assert features[name].isfinite().all()
        assert encoder.project(name, features[name]).norm(dim=1).allclose(torch.ones(2))


@pytest.mark.parametrize("names", JOINT, ids="+".join)
def test_every_modality_of_a_joint_encoding_attends_to_the_others(
    encoder: OnePeaceEncoder, names: tuple[str, ...]
) -> None:
    inputs = batches(names, [1])
    joint = encoder(inputs)
    for other in names:
        changed = encoder(inputs | batches([other], [0]))
        for name in set(names) - {other}:
            assert (joint[name] - changed[name]).abs().max() > 1e-3, f"{name} does not see {other}"


def test_a_joint_sequence_keeps_each_modalitys_own_bias(encoder: OnePeaceEncoder) -> None:
    tokens = encoder.arrange(encoder.embeddings(batches(tuple(CONFIG.modalities), [1])))
    bias = joint_bias(list(tokens.values()), None, torch.float32)[0]
    assert bias is not None
    expected = [torch.block_diag(*(t.bias[0][0, head] for t in tokens.values())) for head in range(CONFIG.heads)]
    assert torch.equal(bias[0], torch.stack(expected))
    assert all(t.bias[0].any() for t in tokens.values())


@pytest.mark.parametrize("names", JOINT, ids="+".join)
def test_padding_changes_no_joint_encoding(encoder: OnePeaceEncoder, names: tuple[str, ...]) -> None:
    together = encoder(batches(names))
    for row in (0, 1):
        alone = encoder(batches(names, [row]))
        for name in names:
            real = together[name][row, : positions(name, row)]
            torch.testing.assert_close(real, alone[name][0], atol=2e-5, rtol=1e-4)


def test_the_order_of_the_arguments_does_not_matter(encoder: OnePeaceEncoder) -> None:
    inputs = batches(("text", "image", "audio"))
    usual, other = encoder(inputs), encoder(dict(reversed(inputs.items())))
    for name in inputs:
        assert torch.equal(usual[name], other[name])


def test_an_unknown_modality_is_refused(encoder: OnePeaceEncoder) -> None:
    with pytest.raises(ValueError, match="no modality 'smell'.*text, image, audio"):
        encoder({"smell": {"tokens": torch.zeros(1, 1)}})
    with pytest.raises(ValueError, match="at least one modality"):
        OnePeaceEncoder(dataclasses.replace(CONFIG, modalities={}))


@pytest.mark.parametrize(
    ("name", "examples"),
    [
        ("text", texts("lamp", "two boats", "the old white horse runs on the floor")),
        ("audio", clips(16000, 16300, 31111, 48000)),
    ],
    ids=["text", "audio"],
)
def test_padding_changes_no_embedding(encoder: OnePeaceEncoder, name: str, examples: list[Example]) -> None:
    collate = PROCESSORS[name].collate
    together = encoder.embed(name, collate(examples))
    apart = torch.cat([encoder.embed(name, collate([example])) for example in examples])
    torch.testing.assert_close(together, apart, atol=5e-6, rtol=0)
    assert (apart[0] - apart[1]).abs().max() > 1e-2


def test_what_stands_in_padded_samples_does_not_matter(encoder: OnePeaceEncoder) -> None:
    batch = PROCESSORS["audio"].collate(clips(16000, 32000))
    clean = encoder.embed("audio", batch)
    batch["waveform"][0, 16000:] = 7.0
    torch.testing.assert_close(encoder.embed("audio", batch), clean, atol=5e-6, rtol=0)


def test_the_published_padding_leaks(encoder: OnePeaceEncoder) -> None:
    """Kept to reproduce the published numbers; if this fails the exact padding tests prove nothing."""
    config = dataclasses.replace(CONFIG, modalities=CONFIG.modalities | {"audio": PUBLISHED_PADDING})
    published = OnePeaceEncoder(config).eval()
    published.load_state_dict(encoder.state_dict())
    collate, examples = PROCESSORS["audio"].collate, clips(16000, 32000)
    together, alone = published.embed("audio", collate(examples)), published.embed("audio", collate(examples[:1]))
    assert (together[:1] - alone).abs().max() > 1e-4
    torch.testing.assert_close(alone, encoder.embed("audio", collate(examples[:1])))


@pytest.mark.parametrize("size", [(64, 32), (32, 96), (16, 16), (96, 96), (128, 80)], ids=str)
def test_other_picture_sizes_are_encoded(encoder: OnePeaceEncoder, size: tuple[int, int]) -> None:
    height, width = size
    features = encoder({"image": {"pixels": pictures(2, height, width)}})["image"]
    assert features.shape == (2, 1 + height * width // 256, CONFIG.width)
    assert features.isfinite().all()


@pytest.mark.parametrize("size", [(64, 32), (32, 96)], ids=str)
def test_height_and_width_are_told_apart(encoder: OnePeaceEncoder, size: tuple[int, int]) -> None:
    """The same patches as a tall and as a wide picture differ, though they are equally many."""
    height, width = size
    patch = pictures(1, 16, 16)
    tall, wide = patch.repeat(1, 1, height // 16, width // 16), patch.repeat(1, 1, width // 16, height // 16)
    first, second = (encoder.embed("image", {"pixels": p}) for p in (tall, wide))
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(64, 60), (60, 64), (8, 8), (0, 64)], ids=str)
def test_picture_sides_that_are_no_multiple_of_a_patch_are_refused(
    encoder: OnePeaceEncoder, size: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} pixels.*multiples of 16"):
        encoder.embed("image", {"pixels": torch.zeros(1, 3, *size)})


def test_a_text_longer_than_the_position_table_is_refused(encoder: OnePeaceEncoder) -> None:
    rows = CONFIG.modalities["text"].max_positions
    encoder.embed("text", {"tokens": torch.full((1, rows - 1), 5)})
    with pytest.raises(ValueError, match=f"{rows + 1} positions.*has {rows}"):
        encoder.embed("text", {"tokens": torch.full((1, rows), 5)})


@pytest.mark.parametrize("name", list(CONFIG.modalities))
def test_a_branch_equals_its_part_of_the_full_model(encoder: OnePeaceEncoder, name: str) -> None:
    branch = OnePeaceEncoder(CONFIG.with_modalities([name])).eval().requires_grad_(False)
    own = branch.state_dict()
    branch.load_state_dict({key: encoder.state_dict()[key] for key in own})  # strict: all of it comes from the whole
    assert len(own) < len(encoder.state_dict())
    inputs = batches([name])
    assert torch.equal(branch.embed(name, inputs[name]), encoder.embed(name, inputs[name]))
    assert torch.equal(branch(inputs)[name], encoder(inputs)[name])
    for other in set(CONFIG.modalities) - {name}:
        with pytest.raises(ValueError, match=f"no modality '{other}'"):
            branch.embed(other, batches([other])[other])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", list(CONFIG.modalities))
def test_half_precision_is_close_to_float32(encoder: OnePeaceEncoder, name: str, dtype: torch.dtype) -> None:
    inputs = batches([name])[name]
    exact = encoder.embed(name, inputs)
    rounded = random_encoder().to(dtype).embed(name, inputs)
    assert rounded.dtype == dtype
    assert (rounded.float() * exact).sum(dim=1).min() > 0.995
    assert not torch.equal(rounded.float(), exact)


@pytest.mark.parametrize("name", list(CONFIG.modalities))
def test_autocast_is_close_to_float32(encoder: OnePeaceEncoder, name: str) -> None:
    inputs = batches([name])[name]
    exact = encoder.embed(name, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder.embed(name, inputs)
    assert (mixed.float() * exact).sum(dim=1).min() > 0.995
    assert not torch.equal(mixed.float(), exact)


def test_bfloat16_joint_encoding(encoder: OnePeaceEncoder) -> None:
    inputs = batches(tuple(CONFIG.modalities))
    exact, rounded = encoder(inputs), random_encoder().bfloat16()(inputs)
    for name, features in rounded.items():
        assert features.dtype == torch.bfloat16 and features.isfinite().all()
        assert torch.cosine_similarity(features[:, 0].float(), exact[name][:, 0]).min() > 0.99


def test_pretraining_sends_a_gradient_to_every_parameter() -> None:
    """Both stages together, with nothing frozen."""
    model = tiny_model().train()
    generator = torch.Generator().manual_seed(0)
    captions = texts("lamp", "two boats", "the old white horse runs", "blue shoes on the floor")
    partners = {
        "image": (IMAGE_TEXT, [{"pixels": p} for p in pictures(4)]),
        "audio": (AUDIO_TEXT, clips(16000, 20000, 24000, 28000)),
    }
    for stage, examples in partners.values():
        freeze_for_stage(model, stage)
        model.requires_grad_(True)
        batch = collate_pairs(list(zip(captions, examples, strict=True)), stage, PROCESSORS, generator)
        pretraining_losses(model, batch, stage)["total"].backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_pretraining_under_autocast_has_finite_gradients_near_the_exact_ones() -> None:
    captions, sounds = texts("lamp", "two boats", "blue shoes"), clips(16000, 20000, 24000)
    grads = []
    for mixed in (False, True):
        model = tiny_model().train()
        generator = torch.Generator().manual_seed(0)
        batch = collate_pairs(list(zip(captions, sounds, strict=True)), AUDIO_TEXT, PROCESSORS, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = pretraining_losses(model, batch, AUDIO_TEXT)["total"]
        loss.backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    front_end = [name for name in grads[0] if "frames.convs" in name]
    assert len(front_end) == 8 and grads[0].keys() == grads[1].keys()
    for name in front_end:
        exact, rounded = grads[0][name].flatten(), grads[1][name].flatten()
        assert rounded.dtype == torch.float32
        assert torch.cosine_similarity(exact, rounded, dim=0) > 0.97, name


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_duplicate_is_equal_and_apart(duplicate: Callable[[OnePeaceEncoder], OnePeaceEncoder]) -> None:
    model, inputs = random_encoder(), batches(tuple(CONFIG.modalities))
    before = {name: features.clone() for name, features in model(inputs).items()}
    other = duplicate(model)
    assert all(torch.equal(features, before[name]) for name, features in other(inputs).items())
    for parameter in other.parameters():
        parameter.zero_()
    assert all(torch.equal(features, before[name]) for name, features in model(inputs).items())


def test_drop_path_acts_in_training_only() -> None:
    dropping = random_encoder(dataclasses.replace(CONFIG, drop_path=0.5))
    plain = random_encoder()
    inputs = batches(["text"])["text"]
    assert torch.equal(dropping.embed("text", inputs), plain.embed("text", inputs))
    dropping.train()
    torch.manual_seed(1)
    draws = [dropping.embed("text", inputs) for _ in range(8)]
    assert any(not torch.equal(draws[0], draw) for draw in draws[1:])
    plain.train()  # without drop path training is deterministic
    assert torch.equal(plain.embed("text", inputs), plain.embed("text", inputs))


def test_drop_path_rises_with_depth() -> None:
    model = OnePeaceEncoder(dataclasses.replace(CONFIG, layers=4, drop_path=0.3))
    rates = [block.drop_path.rate for block in model.fusion.blocks if isinstance(block, Block)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_the_temperature_stays_within_its_bounds() -> None:
    model = random_encoder()
    for value, expected in ((-3.0, 1.0), (2.0, 7.389056), (9.0, 100.0)):
        model.logit_scale.fill_(value)
        assert model.temperature().item() == pytest.approx(expected, rel=1e-5)
    assert model.logit_scale.item() == pytest.approx(4.6051702)
