"""OFA: one token at a time is the same as all at once; padding, rows and kinds do not leak into each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from one_peace.models.ofa.encoder import draw_patches
from one_peace.models.ofa.model import OfaModel
from tiny_ofa import CONFIG, tiny_model

TOKENS = torch.tensor([[0, 40, 41, 42, 2], [0, 50, 51, 2, 1], [0, 60, 2, 1, 1]])
PIXELS = torch.randn(3, 3, 48, 64, generator=torch.Generator().manual_seed(3))
PICTURED = torch.tensor([True, False, True])
PREVIOUS = torch.randint(4, 300, (3, 7), generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def model() -> OfaModel:
    return tiny_model()


def steps(model: OfaModel, sizes: list[int], codes: bool) -> Tensor:
    """The logits after each step of so many tokens."""
    cache = model.start(model.encode(TOKENS, PIXELS, PICTURED), codes)
    logits = [cache.step(part) for part in PREVIOUS.split(sizes, dim=1)]
    return torch.stack(logits, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize("sizes", [[1] * 7, [3, 1, 1, 2]])
def test_step_by_step_is_all_at_once(model: OfaModel, codes: bool, sizes: list[int]) -> None:
    rows = torch.full((3,), codes)
    full = model.decode(PREVIOUS, model.encode(TOKENS, PIXELS, PICTURED), rows)
    ends = torch.tensor(sizes).cumsum(0) - 1
    torch.testing.assert_close(steps(model, sizes, codes), full[:, ends], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_rows_that_are_rearranged_go_on_as_if_they_had_been_there(model: OfaModel) -> None:
    """Beams of all inputs, beams that change places, an input that leaves, rows of unequal number, growth."""
    encoded = model.encode(TOKENS, PIXELS, PICTURED)
    cache = model.start(encoded)
    written = [[[int(t)] for t in PREVIOUS[:, 0]]]  # of every row
    owners = [0, 1, 2]
    logits = cache.step(PREVIOUS[:, :1])
    rows_of_steps = [
        [0, 0, 1, 1, 2, 2],
        [1, 0, 3, 3, 5, 4],
        [0, 1, 4, 5],
        [0, 1, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [1, 2],
        [0, 1],
    ]
    for number, rows in enumerate(rows_of_steps):
        cache.reorder(torch.tensor(rows))
        owners = [owners[row] for row in rows]
        sequences = [written[-1][row] + [40 + number + place] for place, row in enumerate(rows)]
        written.append(sequences)
        logits = cache.step(torch.tensor(sequences)[:, -1:])
        expected = model.decode(torch.tensor(sequences), encoded.rows(torch.tensor(owners)))[:, -1]
        torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_cross_attention_is_kept_per_input_and_not_per_row(model: OfaModel) -> None:
    cache = model.start(model.encode(TOKENS))
    before = [pair[0].data_ptr() for pair in cache.inputs]
    cache.step(PREVIOUS[:, :1])
    cache.reorder(torch.arange(3).repeat_interleave(4))
    cache.step(PREVIOUS[:, :1].repeat_interleave(4, dim=0))
    cache.reorder(torch.tensor([1, 0, 3, 2, 4, 4, 5, 6, 8, 9, 11, 10]))
    assert [pair[0].data_ptr() for pair in cache.inputs] == before
    assert cache.inputs[0][0].shape[0] == 3


@torch.no_grad()
def test_longer_than_the_first_room(model: OfaModel) -> None:
    previous = torch.randint(4, 300, (2, 40), generator=torch.Generator().manual_seed(5))
    encoded = model.encode(TOKENS[:2])
    cache = model.start(encoded)
    for column in previous.split(1, dim=1):
        logits = cache.step(column)
    torch.testing.assert_close(logits, model.decode(previous, encoded)[:, -1], atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("first", [1, 65, 300, 520])
def test_as_long_as_the_positions_reach(first: int) -> None:
    """Room is doubled up to there, however many tokens come first."""
    model = tiny_model(text_positions=1026)
    previous = torch.randint(4, 300, (1, 1024), generator=torch.Generator().manual_seed(5))
    encoded = model.encode(TOKENS[:1])
    cache = model.start(encoded)
    cache.step(previous[:, :first])
    for part in previous[:, first:].split(8, dim=1):
        logits = cache.step(part)
    assert cache.kept.shape[4] == 1024
    torch.testing.assert_close(logits, model.decode(previous, encoded)[:, -1], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_fewer_positions_than_the_first_room() -> None:
    model = tiny_model(text_positions=7)
    encoded = model.encode(TOKENS)
    torch.testing.assert_close(
        model.start(encoded).step(PREVIOUS), model.decode(PREVIOUS, encoded)[:, -1], atol=2e-5, rtol=1e-4
    )


def test_a_wrong_number_of_rows_is_refused(model: OfaModel) -> None:
    cache = model.start(model.encode(TOKENS))
    with pytest.raises(ValueError, match="2 rows of tokens for 3 sequences"):
        cache.step(PREVIOUS[:2, :1])


def test_more_tokens_than_positions_are_refused(model: OfaModel) -> None:
    with pytest.raises(ValueError, match="70 tokens: this model has 66 text positions"):
        model.encode(torch.full((1, 70), 40))
    with pytest.raises(ValueError, match="9 x 4 cells do not fit"):
        model.encode(TOKENS[:1], torch.zeros(1, 3, 144, 64))


@torch.no_grad()
def test_padding_and_absent_pictures_change_nothing(model: OfaModel) -> None:
    """A row in a padded batch gives what it gives alone, whatever the pixels of an absent picture are."""
    encoded = model.encode(TOKENS, PIXELS, PICTURED)
    other = model.encode(TOKENS, torch.where(PICTURED[:, None, None, None], PIXELS, 7.0), PICTURED)
    torch.testing.assert_close(model.decode(PREVIOUS, encoded), model.decode(PREVIOUS, other))
    for row, (length, pixels) in enumerate([(5, PIXELS[:1]), (4, None), (3, PIXELS[2:])]):
        alone = model.encode(TOKENS[row : row + 1, :length], pixels)
        torch.testing.assert_close(
            model.decode(PREVIOUS[row : row + 1], alone),
            model.decode(PREVIOUS, encoded)[row : row + 1],
            atol=2e-5,
            rtol=1e-4,
        )


@torch.no_grad()
def test_codes_and_texts_in_one_batch(model: OfaModel) -> None:
    encoded = model.encode(TOKENS)
    mixed = model.decode(PREVIOUS, encoded, torch.tensor([True, False, True]))
    codes, texts = (model.decode(PREVIOUS, encoded, torch.full((3,), kind)) for kind in (True, False))
    expected = torch.stack([codes[0], texts[1], codes[2]])
    torch.testing.assert_close(mixed, expected, atol=2e-5, rtol=1e-4)
    assert (codes - texts).abs().max() > 0.1


@torch.no_grad()
def test_all_patches_in_another_order_are_the_same_picture(model: OfaModel) -> None:
    patches = draw_patches(3, 12, 100, torch.Generator().manual_seed(6))
    assert [sorted(row) for row in patches.tolist()] == [list(range(12))] * 3
    whole, shuffled = model.encode(TOKENS, PIXELS), model.encode(TOKENS, PIXELS, patches=patches)
    torch.testing.assert_close(model.decode(PREVIOUS, whole), model.decode(PREVIOUS, shuffled), atol=2e-5, rtol=1e-4)
    fewer = draw_patches(3, 12, 5, torch.Generator().manual_seed(6))
    assert fewer.shape == (3, 5) and all(len(set(row)) == 5 for row in fewer.tolist())


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_norm": False, "ffn_norm": False, "head_scale": False},
        {"residual_scale": True, "adapter_width": 5},
        {"text_norm": False, "image_norm": False, "code_norm": False, "types": False},
        {"encoder_entangled": True, "decoder_entangled": True, "interpolate_positions": 2},
    ],
    ids=["no inner norms", "scale and adapter", "bare embeddings", "entangled"],
)
def test_every_switch_trains_and_decodes(changes: dict[str, object]) -> None:
    """All parameters get a gradient, and decoding by steps agrees, whatever a checkpoint switches on or off."""
    model = tiny_model(**changes)
    codes = torch.tensor([True, False, False])
    model.train()
    model(TOKENS, PREVIOUS, PIXELS, PICTURED, codes).square().sum().backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # keys' biases move all logits of a row alike
    assert not {name for name in idle if not name.endswith("position_bias.key.bias")}
    model.eval()
    encoded = model.encode(TOKENS, PIXELS, PICTURED)
    with torch.no_grad():
        cache = model.start(encoded)
        for column in PREVIOUS.split(1, dim=1):
            logits = cache.step(column)
        torch.testing.assert_close(logits, model.decode(PREVIOUS, encoded)[:, -1], atol=1e-4, rtol=1e-4)


def test_dropout_and_dropped_branches_act_in_training_only() -> None:
    model = tiny_model(dropout=0.2, drop_path=0.5)
    first, second = (model(TOKENS, PREVIOUS, PIXELS) for _ in range(2))
    assert torch.equal(first, second)
    model.train()
    first, second = (model(TOKENS, PREVIOUS, PIXELS) for _ in range(2))
    assert not torch.equal(first, second)
    first.sum().backward()
    assert all(p.grad is not None for p in model.decoder.layers.parameters())


def test_fresh_weights_are_the_published_ones() -> None:
    model = OfaModel(CONFIG)
    assert not model.tokens.weight[1].any()
    for table in (model.tokens.weight, model.encoder.relative.image.tables[1], model.decoder.positions.text.weight):
        assert 0.018 < table.std() < 0.022
    assert not model.encoder.layers[0].ffn.up.bias.any() and (model.decoder.layers[0].cross.head_scale == 1).all()
