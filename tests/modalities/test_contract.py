"""Every registered modality keeps the contract of `one_peace.modalities.base`, and one defined here needs no more."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from one_peace.checkpoints.native import write_folder
from one_peace.errors import InputError
from one_peace.modalities import get_modality, list_modalities, register_modality
from one_peace.modalities.audio import AudioConfig, wave_convolutions
from one_peace.modalities.base import Adapter, Embedded, Example, Modality, Processor, SequencePositions
from one_peace.modalities.depth import DepthConfig
from one_peace.modalities.image import ImageConfig, patch_mask
from one_peace.modalities.normals import NormalsConfig
from one_peace.modalities.text import TextConfig
from one_peace.modalities.tokenization import Tokenizer, train_tokenizer
from one_peace.modalities.video import VideoConfig
from one_peace.models.one_peace.config import DecoderConfig, OnePeaceConfig
from one_peace.models.one_peace.interface import OnePeace
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.tasks.pretraining import PretrainingStage, collate_pairs, freeze_for_stage, pretraining_losses
from one_peace.training.finetuning.recipe import Tables

WIDTH, HEADS = 32, 2
VOCABULARY = 300
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
ROOT = Path(__file__).parents[2]


@dataclass
class Sample:
    """A modality's tiny config, a long and a short input, and one that it must refuse."""

    config: Any
    long: Any
    short: Any
    bad: Any


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


SAMPLES = {
    "text": Sample(TextConfig(vocab_size=VOCABULARY), " ".join(WORDS * 3), "seven", 7),
    "image": Sample(
        ImageConfig(64, 4, 4),
        (noise(90, 70, 3) * 255).astype(np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        b"no picture",
    ),
    "audio": Sample(
        AudioConfig(wave_convolutions(8), position_depth=2, position_width=6, position_groups=4, bias_buckets=16),
        0.1 * noise(48000),
        0.1 * noise(20000),
        b"no sound",
    ),
    "video": Sample(
        VideoConfig(64, 4),
        (noise(9, 40, 50, 3) * 255).astype(np.uint8),
        (noise(2, 16, 16, 3) * 255).astype(np.uint8),
        b"no video",
    ),
    "depth": Sample(DepthConfig(64, 4, 4), np.abs(noise(90, 70)) + 0.1, np.ones((8, 8)), b"no depth"),
    "normals": Sample(NormalsConfig(64, 4, 4), noise(90, 70, 3), np.ones((8, 8, 3)), b"no normals"),
}
REGISTERED = list_modalities()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    Tokenizer(train_tokenizer(WORDS * 4, VOCABULARY)).save(path / "tokenizer.json")
    return path


@pytest.fixture(params=REGISTERED)
def name(request: pytest.FixtureRequest) -> str:
    assert request.param in SAMPLES, f"add a sample of the modality {request.param!r} to this test"
    return str(request.param)


@pytest.fixture
def processor(name: str, folder: Path) -> Processor:
    return get_modality(name).processor(SAMPLES[name].config, folder)


@pytest.fixture
def adapter(name: str) -> Adapter:
    torch.manual_seed(0)
    made = get_modality(name).adapter(SAMPLES[name].config, WIDTH, HEADS, 2)
    for parameter in made.parameters():  # zero-initialised tables would hide that they are used
        nn.init.normal_(parameter, std=0.2)
    return made.eval()


def test_an_example_is_a_dict_of_tensors_with_a_length(name: str, processor: Processor) -> None:
    long, short = processor(SAMPLES[name].long), processor(SAMPLES[name].short)
    assert all(isinstance(value, Tensor) for value in long.values()) and long
    assert processor.length(long) >= processor.length(short) >= 1


def test_a_batch_embeds_to_as_many_tokens_as_the_processor_says(
    name: str, processor: Processor, adapter: Adapter
) -> None:
    examples = [processor(SAMPLES[name].long), processor(SAMPLES[name].short)]
    lengths = [processor.length(e) for e in examples]
    embedded = adapter.embed(processor.collate(examples))
    assert embedded.features.shape == (2, max(lengths), WIDTH)
    assert torch.tensor(embedded.layout).prod() == max(lengths)
    if lengths[0] != lengths[1]:
        assert embedded.padding is not None
        assert (~embedded.padding).sum(dim=1).tolist() == lengths
    elif embedded.padding is not None:
        assert not embedded.padding.any()


def test_tokens_have_cls_first_and_square_bias_per_table(name: str, processor: Processor, adapter: Adapter) -> None:
    batch = processor.collate([processor(SAMPLES[name].long)] * 2)
    tokens = adapter(batch)
    count = processor.length(processor(SAMPLES[name].long)) + 1
    assert tokens.features.shape == (2, count, WIDTH)
    assert len(tokens.bias) == 2
    assert all(bias.shape in {(1, HEADS, count, count), (2, HEADS, count, count)} for bias in tokens.bias)
    with torch.no_grad():
        adapter.cls += 1.0
    changed = (adapter(batch).features - tokens.features).abs().amax(dim=(0, 2)) > 0.5
    assert changed.tolist() == [True] + [False] * (count - 1)


def test_keeping_every_position_is_keeping_all(name: str, processor: Processor, adapter: Adapter) -> None:
    embedded = adapter.embed(processor.collate([processor(SAMPLES[name].long)]))
    everything = torch.arange(embedded.features.shape[1] + 1)[None]
    whole, kept = adapter.arrange(embedded), adapter.arrange(embedded, everything)
    torch.testing.assert_close(kept.features, whole.features)
    for a, b in zip(kept.bias, whole.bias, strict=True):
        torch.testing.assert_close(a, b.expand_as(a))


def test_kept_positions_take_their_features_and_bias_along(name: str, processor: Processor, adapter: Adapter) -> None:
    embedded = adapter.embed(processor.collate([processor(SAMPLES[name].long)]))
    keep = torch.tensor([[0, 2, 3, 7]])
    whole, kept = adapter.arrange(embedded), adapter.arrange(embedded, keep)
    assert kept.features.shape == (1, 4, WIDTH)
    assert kept.layout == whole.layout
    for a, b in zip(kept.bias, whole.bias, strict=True):
        torch.testing.assert_close(a, b[:, :, keep[0]][:, :, :, keep[0]].expand_as(a))
    if name != "audio":  # positions of sound are computed from its visible frames
        torch.testing.assert_close(kept.features, whole.features[:, keep[0]])


def test_the_decoder_has_a_position_for_every_token(name: str, processor: Processor, adapter: Adapter) -> None:
    layout = adapter.embed(processor.collate([processor(SAMPLES[name].long)])).layout
    positions = get_modality(name).decoder_positions(SAMPLES[name].config, 16)(layout)
    assert positions.shape == (processor.length(processor(SAMPLES[name].long)) + 1, 16)


@pytest.mark.parametrize("ratio", [0.15, 0.4, 0.75])
def test_masks_hide_the_ratio_asked_for(name: str, processor: Processor, ratio: float) -> None:
    example = processor(SAMPLES[name].long)
    generator = torch.Generator().manual_seed(1)
    masks = torch.stack([processor.mask(example, ratio, generator) for _ in range(20)])
    assert masks.dtype == torch.bool and masks.shape[1] == processor.length(example)
    assert masks.float().mean().item() == pytest.approx(ratio, abs=0.05)
    assert len(masks.unique(dim=0)) > 10, "a mask must be drawn anew each time"


def test_masks_depend_on_the_generator_alone(name: str, processor: Processor) -> None:
    example = processor(SAMPLES[name].long)

    def draw() -> Tensor:
        generator = torch.Generator().manual_seed(5)
        first = processor.mask(example, 0.5, generator)
        return torch.stack([first, processor.mask(example, 0.4, generator, first)])

    first = draw()
    torch.manual_seed(99)
    assert torch.equal(first, draw())


def test_a_short_input_is_its_own_only_view(name: str, processor: Processor) -> None:
    views = processor.views(SAMPLES[name].short)
    assert len(views) == 1
    whole = processor(SAMPLES[name].short)
    assert all(torch.equal(views[0][key], whole[key]) for key in whole)


def test_bad_input_is_an_input_error(name: str, processor: Processor) -> None:
    with pytest.raises(InputError):
        processor(SAMPLES[name].bad)


def test_processors_can_be_sent_to_another_process(name: str, processor: Processor) -> None:
    copy = pickle.loads(pickle.dumps(processor))
    here, there = processor(SAMPLES[name].long), copy(SAMPLES[name].long)
    assert all(torch.equal(here[key], there[key]) for key in here)


def test_training_varies_what_it_keeps_in_memory(name: str, processor: Processor, adapter: Adapter) -> None:
    loaded = processor.load(SAMPLES[name].long)
    for strength in (0.0, 1.0):
        example = processor.vary(loaded, torch.Generator().manual_seed(3), strength)
        again = processor.vary(loaded, torch.Generator().manual_seed(3), strength)
        assert all(torch.equal(example[key], again[key]) for key in example)
        assert adapter(processor.collate([example])).features.shape[1] == processor.length(example) + 1


def test_a_batch_is_varied_as_its_inputs_are(name: str, processor: Processor) -> None:
    loaded = processor.load(SAMPLES[name].long)
    alone = processor.vary(loaded, torch.Generator().manual_seed(3), 1.0)
    for example in processor.vary_batch([loaded], torch.Generator().manual_seed(3), 1.0):
        assert example.keys() == alone.keys() and all(torch.equal(example[key], alone[key]) for key in alone)
    assert len(processor.vary_batch([loaded] * 3, torch.Generator(), 1.0)) == 3


def test_inputs_that_are_not_kept_are_augmented_too(name: str, processor: Processor) -> None:
    limited = processor.limited(seconds=2.0, crop=(0.5, 0.6))
    source = SAMPLES[name].long
    for strength in (0.0, 1.0):
        example = limited.augmented(source, torch.Generator().manual_seed(3), strength)
        again = limited.augmented(source, torch.Generator().manual_seed(3), strength)
        assert all(torch.equal(example[key], again[key]) for key in example)
        assert limited.length(example) <= processor.length(processor(source))


def test_inputs_of_fixed_length_say_so(name: str, processor: Processor) -> None:
    short, long = (processor.length(processor(source)) for source in (SAMPLES[name].short, SAMPLES[name].long))
    assert get_modality(name).fixed_length == (short == long)


def test_the_longest_example_is_as_any_other(name: str, processor: Processor, adapter: Adapter) -> None:
    if (longest := processor.longest()) is None:
        return
    given = processor(SAMPLES[name].long)
    assert {key: value.dtype for key, value in longest.items()} == {key: value.dtype for key, value in given.items()}
    assert processor.length(longest) >= processor.length(given)
    assert adapter(processor.collate([longest, given])).features.shape[1] == 1 + processor.length(longest)


def test_limits_reach_those_that_have_them() -> None:
    picture, sound = (get_modality(n).processor(SAMPLES[n].config, None) for n in ("image", "audio"))
    cropped = picture.limited(seconds=1.0, crop=(0.2, 0.3))
    shown = [picture, cropped]
    whole, piece = (p.augmented(SAMPLES["image"].long, torch.Generator(), 0.0)["pixels"] for p in shown)
    assert torch.equal(whole, picture(SAMPLES["image"].long)["pixels"]) and not torch.equal(whole, piece)
    assert len(sound.limited(seconds=1.0, crop=(0.2, 0.3))(SAMPLES["audio"].long)["waveform"]) == 16000
    assert picture.limited() is picture and sound.limited() is sound


def test_a_broken_sound_is_nothing_to_learn_from() -> None:
    with pytest.raises(InputError, match="lasts only 100 samples"):
        get_modality("audio").processor(SAMPLES["audio"].config, None).augmented(
            torch.rand(100), torch.Generator(), 1.0
        )


def test_a_batch_changes_no_embedding(name: str, processor: Processor) -> None:
    config = OnePeaceConfig("tiny", WIDTH, 2, HEADS, 32, {name: SAMPLES[name].config}, layer_scale=1.0)
    torch.manual_seed(0)
    model = OnePeace(OnePeaceEncoder(config), {name: processor})
    sources = [SAMPLES[name].short, SAMPLES[name].long]
    together = model.encode_modality(name, sources, batch_size=2)
    apart = torch.cat([model.encode_modality(name, source) for source in sources])
    torch.testing.assert_close(together, apart, atol=2e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_long_sounds_are_covered_by_views(folder: Path) -> None:
    config = dataclasses.replace(SAMPLES["audio"].config, max_seconds=1.0)
    processor = get_modality("audio").processor(config, folder)
    views = processor.views(SAMPLES["audio"].long)  # three seconds
    assert len(views) >= 3
    assert all(len(v["waveform"]) <= 16000 for v in views)
    assert len(processor(SAMPLES["audio"].long)["waveform"]) == 16000


def test_unknown_modalities_are_named() -> None:
    with pytest.raises(ValueError, match="unknown modality 'smell'.*text, image, audio.*--import"):
        get_modality("smell")


# --- a modality that the library has never seen ---------------------------------------------------------------


@dataclass(frozen=True)
class Sensor:
    """What a channel measures, and its range."""

    unit: str
    range: tuple[float, float] = (-1.0, 1.0)


@dataclass(frozen=True)
class SeriesConfig:
    """Single-channel series, `window` samples to a token."""

    window: int = 4
    max_tokens: int = 12
    sensors: tuple[Sensor, ...] = (Sensor("V"),)
    spare: Sensor | None = None
    place: tuple[str, int] = ("roof", 3)


class SeriesAdapter(Adapter):
    def __init__(self, config: SeriesConfig, width: int) -> None:
        super().__init__(width)
        self.project = nn.Linear(config.window, width)
        self.positions = SequencePositions(config.max_tokens + 1, width)

    def embed(self, inputs: Mapping[str, Tensor]) -> Embedded:
        return Embedded(self.project(inputs["values"]), inputs["padding"], (inputs["values"].shape[1],))

    def place(self, visible: Tensor, padding: Tensor | None, kept: Tensor | None, layout: tuple[int, ...]) -> Tensor:
        positions = self.positions(layout)
        return positions if kept is None else positions[kept]


class SeriesProcessor(Processor):
    def __init__(self, config: SeriesConfig) -> None:
        self.config = config

    def __call__(self, source: Any) -> Example:
        values = torch.as_tensor(source, dtype=torch.float32)
        if values.dim() != 1 or len(values) < self.config.window:
            raise InputError(f"series of shape {tuple(values.shape)}", "needs one window at least")
        tokens = min(len(values) // self.config.window, self.config.max_tokens)
        return {"values": values[: tokens * self.config.window].view(tokens, -1)}

    def length(self, example: Example) -> int:
        return len(example["values"])

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        lengths = torch.tensor([self.length(e) for e in examples])
        values = nn.utils.rnn.pad_sequence([e["values"] for e in examples], batch_first=True)
        return {"values": values, "padding": torch.arange(values.shape[1]) >= lengths[:, None]}

    def mask(self, example: Example, ratio: float, generator: torch.Generator, avoid: Tensor | None = None) -> Tensor:
        return patch_mask(self.length(example), ratio, generator)


class Series(Modality):
    name = "series"
    Config = SeriesConfig

    def adapter(self, config: SeriesConfig, width: int, heads: int, tables: int) -> SeriesAdapter:
        return SeriesAdapter(config, width)

    def decoder_positions(self, config: SeriesConfig, width: int) -> SequencePositions:
        return SequencePositions(config.max_tokens + 1, width)

    def processor(self, config: SeriesConfig, folder: Path | None) -> SeriesProcessor:
        return SeriesProcessor(config)


@pytest.fixture
def series() -> Series:
    modality = Series()
    register_modality(modality)
    return modality


def test_a_new_modality_is_pretrained_and_encoded(series: Series, folder: Path) -> None:
    assert list_modalities() == (*REGISTERED, "series")
    text, partner = SAMPLES["text"].config, SeriesConfig(spare=Sensor("A"))
    config = OnePeaceConfig(
        "toy",
        WIDTH,
        2,
        HEADS,
        32,
        {"text": text, "series": partner},
        1.0,
        decoder=DecoderConfig(16, 1, 2, 32),
    )
    assert OnePeaceConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    torch.manual_seed(0)
    model = OnePeaceForPretraining(config)
    processors = {"text": get_modality("text").processor(text, folder), "series": SeriesProcessor(partner)}
    stage = PretrainingStage("series", False, partner_mask=0.5, joint_anchor_mask=0.4, joint_partner_mask=0.5)
    freeze_for_stage(model, stage)
    sources = [np.full(24 + 4 * n, n - 1.0) for n in range(3)]
    pairs = [(processors["text"](word), processors["series"](s)) for word, s in zip(WORDS[:3], sources, strict=True)]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    totals = []
    for _ in range(8):
        generator = torch.Generator().manual_seed(0)  # the same masks, so that totals compare
        losses = pretraining_losses(model, collate_pairs(pairs, stage, processors, generator), stage)
        assert {"contrast", "denoise_partner", "denoise_joint_anchor", "denoise_joint_partner"} <= set(losses)
        optimizer.zero_grad()
        losses["total"].backward()
        totals.append(losses["total"].item())
        optimizer.step()
    adapter = model.encoder.adapter("series")
    assert isinstance(adapter, SeriesAdapter)
    assert adapter.project.weight.grad is not None and adapter.project.weight.grad.abs().max() > 0
    assert totals[-1] < totals[0] - 0.1

    embedder = OnePeace(model.encoder, processors)
    vectors = embedder.encode_modality("series", sources)
    assert vectors.shape == (3, WIDTH)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(vectors[:1], embedder.encode_modality("series", sources[0]), atol=1e-5, rtol=0)
    skipped = embedder.encode_modality("series", [sources[0], np.zeros(2)], on_error="skip")
    assert skipped.kept == [0] and set(skipped.errors) == {1}


def test_a_new_modality_tells_other_programs_its_config(series: Series, tmp_path: Path) -> None:
    config = {
        "name": "toy",
        "width": 8,
        "layers": 1,
        "heads": 1,
        "ffn_width": 8,
        "modalities": {"series": {"window": 2}},
    }
    folder = write_folder(tmp_path / "model", config, {"a": [torch.zeros(2)]})
    told = json.loads((folder / "preprocessor_config.json").read_text())
    sensors = [{"unit": "V", "range": [-1.0, 1.0]}]
    assert told == {"series": {"window": 2, "max_tokens": 12, "sensors": sensors, "spare": None, "place": ["roof", 3]}}
    for wrong, message in [
        ({"sensors": [{"unti": "V"}]}, "modalities.series.sensors: unknown key 'unti'; the nearest is 'unit'"),
        ({"sensors": [3]}, r"sensors is a list, each a mapping of settings, not \[3\]"),
        ({"place": ["roof", "x"]}, "place is a list of 2, each a text or a whole number, not"),
    ]:
        with pytest.raises(ValueError, match=message):
            OnePeaceConfig.from_dict({**config, "modalities": {"series": wrong}})


def test_a_table_names_files_of_a_new_modality(series: Series, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("series,label\none.npy,still\n")
    tables = Tables("table.csv", root=str(tmp_path))
    assert tables.open("table.csv", ("series", "label"), tmp_path / "cache").row(0)[1] == {
        "series": tmp_path / "one.npy",
        "label": "still",
    }


def test_a_modality_needs_a_proper_name_and_config(series: Series) -> None:
    bad_name = type("Bad", (Series,), {"name": "time series"})()
    with pytest.raises(ValueError, match="identifier"):
        register_modality(bad_name)
    for name in ("weights", "items", "type", "training"):
        with pytest.raises(ValueError, match=f"called '{name}'"):
            register_modality(type("Bad", (Series,), {"name": name})())
    with pytest.raises(ValueError, match=r"'text' is the name of one_peace\.modalities\.text\.Text; take"):
        register_modality(type("Text", (Series,), {"name": "text"})())
    with pytest.raises(ValueError, match="'series' is the name of .*Series; take"):
        register_modality(type("Other", (Series,), {})())
    register_modality(type("Series", (Series,), {})())  # the same one again, as in a notebook
    no_dataclass = type("Bad", (Series,), {"name": "bad", "Config": dict})()
    with pytest.raises(TypeError, match="dataclass"):
        register_modality(no_dataclass)


def test_the_example_finds_motions_by_text() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "add_a_modality.py"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    found = re.search(r"(\d+)% of (\d+) new traces \(chance (\d+) %\)", done.stdout)
    assert found, done.stdout
    accuracy, _, chance = map(int, found.groups())
    assert accuracy >= 70 > 2 * chance
