"""Training of OFA through the shared loop: every kind learns, restarts continue, losses get what recipes say."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from one_peace.cli.main import app
from one_peace.data.task_rows import WeightedRows
from one_peace.errors import CheckpointError
from one_peace.modalities.tokenization import Tokenizer, train_tokenizer
from one_peace.models import from_pretrained
from one_peace.models.ofa.interface import Ofa
from one_peace.models.ofa.model import OfaModel
from one_peace.models.ofa.presets import NANO, nano
from one_peace.models.ofa.processor import OfaProcessor
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.objectives.sequence import SequenceLoss, SequenceLossSettings, kept_tokens, token_loss
from one_peace.tasks.caption_metrics.cider import DocumentFrequency, reward_words
from one_peace.tasks.evaluation import run_evaluation
from one_peace.tasks.evaluation_recipe import load_evaluation
from one_peace.tasks.ofa.kinds import SEQUENCE_KINDS
from one_peace.training.finetuning.recipe import FinetuneRecipe, load_finetune_recipe
from one_peace.training.finetuning.run import finetune
from one_peace.training.ofa import update as sequence_update
from one_peace.training.ofa.self_critical import score_captions
from one_peace.training.ofa.start import starts_at_random
from one_peace.training.optimizer import learning_rate
from one_peace.training.recipe import OptimizerRecipe
from run_folders import check_continues, untimed_log
from tiny_ofa import BINS, CODES, CONFIG

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220), "white": (250, 250, 250)}
CORNERS = {"left": (2, 10, 20, 40), "right": (28, 10, 46, 40)}
EXAMPLES = [(colour, side) for colour in COLOURS for side in CORNERS]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh model, saved, with a vocabulary that has what it is asked and is to say as whole words."""
    asked = ["what does the image describe? yes no maybe", "which region does the text describe? a red left"]
    asked += [f"a {colour} {side} the {colour} one is it on" for colour in COLOURS for side in CORNERS]
    asked += ['can text1 " " imply text2 " "? what is the summary of article " "?', "what is the complete text of"]
    words = Tokenizer(train_tokenizer(asked * 9, 400))
    torch.manual_seed(0)
    changes = {"vocabulary": words.vocab_size + 1 + CODES + BINS, "text_positions": 130, "image_size": 32}
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    ofa = Ofa(OfaModel(config), OfaProcessor(config, OfaVocabulary(words, config)))
    return ofa.save_pretrained(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of a coloured thing on grey with everything that the kinds of tasks want to know of them."""
    folder = tmp_path_factory.mktemp("tables")
    columns = ["uniq_id", "image", "caption", "text", "region_coord", "question", "answer", "hypothesis", "label"]
    columns += ["codes", "source", "target", "sentence", "type", "objects"]
    lines = ["\t".join(columns)]
    for number, (colour, side) in enumerate(EXAMPLES):
        picture = Image.new("RGB", (48, 48), "grey")
        picture.paste(COLOURS[colour], CORNERS[side])
        picture.save(folder / f"{number}.png")
        box = ",".join(map(str, CORNERS[side]))
        values = [str(number), f"{number}.png", f"a {colour} {side}", f"the {colour} one", box, f"is it {side}"]
        values += [colour, f"it is {colour}", ["entailment", "contradiction", "neutral"][number % 3]]
        values += [
            " ".join(str((number * k) % 32) for k in range(1, 10)),
            f"{colour} on the {side}",
            f"{side} {colour}",
        ]
        values += [f"{colour} {side}", ["caption", "qa", "visual_grounding"][number % 3], colour]
        lines.append("\t".join(values))
    (folder / "all.tsv").write_text("\n".join(lines) + "\n")
    objects = [f"{number}.png\t{','.join(map(str, CORNERS[side]))},{c}" for number, (c, side) in enumerate(EXAMPLES)]
    (folder / "objects.tsv").write_text("\n".join(["image\tobjects", *objects]) + "\n")
    (folder / "labels.json").write_text(json.dumps(list(COLOURS)))
    return folder


def recipe(base: Path, folder: Path, task: dict[str, Any], **changes: Any) -> FinetuneRecipe:
    values: dict[str, Any] = {
        "task": task,
        "model": str(base),
        "tables": {"root": str(folder), "train": "all.tsv", "validation": "all.tsv"},
        "steps": 40,
        "batch_size": 8,
        "evaluate_every": 1000,
        "warmup": 0.1,
        "optimizer": {"lr": 6e-3, "clip_norm": 1.0, "weight_decay": 0.01, "schedule": "linear", "min_lr": 0.0},
        "log_every": 1,
        "save_every": 1000,
    }
    return FinetuneRecipe.from_dict(values | changes)


CONSTRAINED = {"answer": "label", "label": "other"}
KINDS: dict[str, tuple[dict[str, Any], int, float]] = {  # settings, updates, share of the first loss that is left
    "captioning": ({}, 6, 0.9),
    "referring": ({}, 6, 0.9),
    "picture-answering": ({}, 6, 0.9),
    "entailment": ({"captions": False, "decoding": "candidates"}, 3, 2.0),
    "labelling": ({"answers": "labels.json"}, 3, 2.0),
    "drawing": ({}, 6, 0.9),
    "text-infilling": ({}, 6, 0.9),
    "image-infilling": ({}, 6, 0.9),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_and_is_measured(kind: str, base: Path, tables: Path, tmp_path: Path) -> None:
    """Six updates tell; of three answers to choose from the loss begins low."""
    settings, steps, left = KINDS[kind]
    columns = CONSTRAINED if kind == "labelling" else {}
    held = {"root": str(tables), "train": "all.tsv", "validation": "all.tsv", "columns": columns}
    chosen = recipe(base, tables, {"kind": kind, **settings}, tables=held, steps=steps)
    figures = finetune(chosen, tmp_path, "cpu", lambda row: None)
    assert figures["unusable"] == 0.0 and figures["examples"] == 8.0
    assert 0.0 <= figures[str(figures["best_by"])] <= 10.0
    losses = [row["total"] for row in untimed_log(tmp_path) if "total" in row]
    assert losses[-1] < left * losses[0], losses


def test_eight_examples_are_nearly_known_by_heart(base: Path, tables: Path, tmp_path: Path) -> None:
    """Of texts, which is fast; written freely, six of the eight summaries are right."""
    figures = finetune(text_recipe(base, tables, steps=110), tmp_path, "cpu", lambda row: None)
    losses = [row["total"] for row in untimed_log(tmp_path) if "total" in row]
    assert losses[-1] < 0.1 * losses[0] and figures["rougeL"] > 0.5, (losses[::6], figures)


def test_answers_of_sentences_differ_in_their_first_token(base: Path, tmp_path: Path) -> None:
    """The only one that is trained: with a vocabulary that writes both with the same one there is nothing to learn."""
    lines = ["uniq_id\tsentence1\tsentence2\tlabel", "1\ta\tb\tentailment", "2\ta\tc\tnot_entailment"]
    (tmp_path / "rte.tsv").write_text("\n".join(lines) + "\n")
    held = {"root": str(tmp_path), "train": "rte.tsv", "validation": "rte.tsv"}
    task = {"kind": "sentences", "question": "rte", "prompt": "source"}
    changes = {"tables": held, "steps": 2, "batch_size": 2}
    figures = finetune(recipe(base, tmp_path, task, **changes), tmp_path / "run", "cpu", lambda row: None)
    assert figures["examples"] == 2 and 0 <= figures["f1"] <= 1
    assert from_pretrained(tmp_path / "run" / "model").config.prompt == "src"
    with pytest.raises(ValueError, match="begin with the same token"):
        finetune(recipe(base, tmp_path, task | {"question": "sst2"}), tmp_path, "cpu", lambda row: None)


def text_recipe(base: Path, folder: Path, **changes: Any) -> FinetuneRecipe:
    """Summaries: no picture, so fast."""
    return recipe(base, folder, {"kind": "summarization"}, **changes)


def test_an_interrupted_run_continues_to_the_bit(base: Path, tables: Path, tmp_path: Path) -> None:
    """With everything that has a state: batch norms, dropout, dropped branches, an average of the weights."""
    chosen = recipe(
        base,
        tables,
        {"kind": "captioning"},
        steps=4,
        batch_size=4,
        micro_batch=2,
        save_every=2,
        drop_path=0.2,
        sequence={"dropout": 0.1, "loss": {"smoothing": 0.1}},
        optimizer={"lr": 6e-3, "clip_norm": 1.0, "ema_decay": 0.5},
    )
    check_continues(lambda out, report: finetune(chosen, out, "cpu", report), tmp_path, step=3)


def test_a_folder_keeps_to_its_run(base: Path, tables: Path, tmp_path: Path) -> None:
    held = {"root": str(tables), "train": "all.tsv", "columns": CONSTRAINED}
    task = {"kind": "labelling", "answers": list(COLOURS)}
    finetune(recipe(base, tables, task, tables=held, steps=1), tmp_path, "cpu", lambda row: None)
    task["answers"] = [*COLOURS, "black"]
    with pytest.raises(CheckpointError, match=r"another recipe \(task.answers: .*'white'., now"):
        finetune(recipe(base, tables, task, tables=held, steps=1), tmp_path, "cpu", lambda row: None)


def test_micro_batches_change_nothing(base: Path, tables: Path, tmp_path: Path) -> None:
    """Also where they have different numbers of tokens."""
    for name, micro in (("one", None), ("four", 2)):
        finetune(text_recipe(base, tables, steps=3, micro_batch=micro), tmp_path / name, "cpu", lambda row: None)
    one, four = ([row["total"] for row in untimed_log(tmp_path / n) if "total" in row] for n in ("one", "four"))
    assert one == pytest.approx(four, rel=1e-4)


def test_losses_get_what_the_recipe_says(
    base: Path, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    original = sequence_update.sequence_loss

    def seen(logits: Tensor, target: Tensor, settings: SequenceLossSettings, **more: Any) -> SequenceLoss:
        found = original(logits, target, settings, **more)
        calls.append({"settings": settings, "target": target, "logits": logits, "tokens": found.tokens, **more})
        return found

    monkeypatch.setattr(sequence_update, "sequence_loss", seen)
    loss = {"smoothing": 0.1, "drop_worst": 0.5, "drop_worst_after": 1, "consistency": 2.0, "encourage": 0.75}
    task = {"kind": "picture-answering", "answers": list(COLOURS)}
    held = {"root": str(tables), "train": "scored.tsv"}
    lines = (tables / "all.tsv").read_text().replace("\tanswer\t", "\trefs\t").replace("\tred\t", "\tred|!+0.6\t")
    lines = lines.replace("\tgreen\t", "\tgreen|!+0.6\t").replace("\tblue\t", "\tblue|!+1\t")
    (tables / "scored.tsv").write_text(lines.replace("\twhite\t", "\twhite|!+1\t"))
    changes = {"tables": held, "steps": 2, "sequence": {"loss": loss, "dropout": 0.3}}
    finetune(recipe(base, tables, task, **changes), tmp_path, "cpu", lambda row: None)
    first, second = calls
    assert first["settings"] == SequenceLossSettings(**loss) and (first["update"], second["update"]) == (1, 2)
    assert len(first["target"]) == 16 and torch.equal(first["target"][:8], first["target"][8:])
    assert not torch.equal(first["logits"][:8], first["logits"][8:]), "the two passes have dropouts of their own"
    assert {round(value, 3) for value in first["confidence"].tolist()} == {0.6, 1.0}
    assert first["allowed"] is not None and int(first["allowed"][0, 0].sum()) < 10
    assert second["tokens"] == 2 * (first["tokens"] // 4)


@pytest.mark.parametrize("settings", [{}, {"drop_worst": 0.3}, {"drop_worst": 0.3, "consistency": 1.0}])
def test_kept_tokens_are_known_before(settings: dict[str, float]) -> None:
    made = SequenceLossSettings(**settings)  # type: ignore[arg-type]
    for tokens in (2, 8, 14):
        for update in (0, 5):
            scores = torch.randn(tokens, 9).log_softmax(1)
            loss = token_loss(scores, torch.zeros(tokens, dtype=torch.int64), made, update=update)
            assert kept_tokens(tokens, made, update) == loss.tokens


def test_what_is_frozen_stays(base: Path, tables: Path, tmp_path: Path) -> None:
    sequence = {"freeze_tokens": True, "freeze_norms": True}
    task = {"kind": "labelling", "answers": "labels.json"}
    held = {"root": str(tables), "train": "all.tsv", "columns": {"answer": "label", "label": "other"}}
    finetune(recipe(base, tables, task, steps=2, sequence=sequence, tables=held), tmp_path, "cpu", lambda row: None)
    before, after = (from_pretrained(place).model.state_dict() for place in (base, tmp_path / "model"))
    for name, value in before.items():
        kept = name == "tokens.weight" or ".norm" in name and "trunk" in name or "shortcut.1" in name
        if kept:
            assert torch.equal(value, after[name]), name
    assert not torch.equal(before["encoder.trunk.conv.weight"], after["encoder.trunk.conv.weight"])


def test_captions_are_weighed_by_their_reward(base: Path, tables: Path, tmp_path: Path) -> None:
    task = {"kind": "captioning", "references": True}
    sequence = {"self_critical": True, "beams": 2, "max_tokens": 4}
    chosen = recipe(base, tables, task, steps=2, micro_batch=4, sequence=sequence)
    finetune(chosen, tmp_path, "cpu", lambda row: None)
    logged = [row for row in untimed_log(tmp_path) if "total" in row]
    assert len(logged) == 2 and all("CIDEr-D" in row and abs(row["total"]) < 100 for row in logged)
    words = [[reward_words("a red apple"), reward_words("an apple, red")], [reward_words("two dogs")]]
    ((good, bad), (right, wrong)) = score_captions(
        [["a red apple", "a boat"], ["two dogs", "two"]], words, DocumentFrequency.of(words)
    )
    assert good > bad and right > wrong
    with pytest.raises(ValueError, match="references: true"):
        finetune(recipe(base, tables, {"kind": "captioning"}, sequence=sequence), tmp_path, "cpu", lambda row: None)


def test_pretraining_mixes_tables_and_a_second_batch(base: Path, tables: Path, tmp_path: Path) -> None:
    task = {"kind": "pretraining", "mixed": {"texts": "all.tsv", "pictures": "all.tsv", "objects": "objects.tsv"}}
    (tables / "again.tsv").write_text((tables / "all.tsv").read_text())
    held = {"root": str(tables), "train": {"all.tsv": 3, "again.tsv": 1}, "validation": "all.tsv"}
    chosen = recipe(base, tables, task, tables=held, steps=3, batch_size=4, sequence={"patches": 2})
    figures = finetune(chosen, tmp_path, "cpu", lambda row: None)
    assert 0 < figures["likelihood"] < 1 and figures["best_by"] == "likelihood"
    logged = [row for row in untimed_log(tmp_path) if "total" in row]
    assert ["total_second" in row for row in logged] == [True, False, True], "beside every eighth row"
    assert logged[0]["total"] == pytest.approx(logged[0]["total_first"] + logged[0]["total_second"], abs=1e-4)
    both = chosen.tables.open_training(("image",), tmp_path / "cache")
    assert isinstance(both, WeightedRows)
    drawn = [both.drawn(place, 1) for place in range(400)]
    assert sum(index < 8 for index in drawn) == 300
    assert sorted(index for index in drawn if index < 8)[::300] == [0] and len(set(drawn)) == 16
    with pytest.raises(ValueError, match="needs a weight above 0"):
        dataclasses.replace(chosen.tables, train={"all.tsv": 0})


def test_a_fresh_small_model_learns_its_words(tables: Path, tmp_path: Path) -> None:
    chosen = recipe(Path(NANO), tables, {"kind": "text-infilling"}, steps=1, sequence={"words": 300})
    chosen = dataclasses.replace(chosen, tables=dataclasses.replace(chosen.tables, validation=None))
    finetune(chosen, tmp_path, "cpu", lambda row: None)
    ofa = from_pretrained(tmp_path / "model")
    assert ofa.config.name == NANO and ofa.config.vocabulary <= 300 + 1 + 512 + 200
    assert ofa.processor.vocabulary.decode(ofa.processor.vocabulary.encode(" a red left")) == " a red left"


def test_the_small_model_is_its_shipped_weights_unless_it_learns_words(tables: Path, tmp_path: Path) -> None:
    settings = [f"data={tables / 'all.tsv'}", "steps=1", "batch_size=4"]
    shipped = load_finetune_recipe("ofa-nano-captions", [*settings, f"checkpoint={NANO}", "optimizer.lr=1e-9"])
    said: list[dict[str, Any]] = []
    finetune(shipped, tmp_path / "run", "cpu", said.append)
    assert said[0]["start"] == NANO
    ours, theirs = from_pretrained(NANO).model.state_dict(), from_pretrained(tmp_path / "run" / "model").model
    for name, tensor in theirs.state_dict().items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(tensor, ours[name], rtol=0, atol=1e-6)
    for fresh in (load_finetune_recipe("ofa-nano-drawings"), load_finetune_recipe("ofa-nano", folder="pretrain")):
        assert fresh.model == NANO and starts_at_random(fresh)
    assert not starts_at_random(load_finetune_recipe("ofa-nano-drawings", [f"checkpoint={NANO}"]))
    assert starts_at_random(load_finetune_recipe("ofa-nano-captions", [f"model={NANO}", "sequence.words=300"]))


def test_a_fresh_small_model_learns_the_words_of_sentences(tmp_path: Path) -> None:
    rows = ["sentence\tlabel", *(f"a red left {n}\t{n % 2}" for n in range(8))]
    (tmp_path / "cola.tsv").write_text("\n".join(rows) + "\n")
    settings = [f"data={tmp_path / 'cola.tsv'}", f"model={NANO}", "sequence.words=600", "steps=1", "batch_size=4"]
    chosen = load_finetune_recipe("ofa-cola", [*settings, "micro_batch=4"])
    said: list[dict[str, Any]] = []
    finetune(chosen, tmp_path / "run", "cpu", said.append)
    assert said[0]["start"] == f"random {NANO}"


def test_fine_tuned_models_are_measured_and_predict(base: Path, tables: Path, tmp_path: Path) -> None:
    task = {"kind": "picture-answering", "answers": [*COLOURS], "prompt": "open", "decoding": "candidates"}
    held = {"root": str(tables), "train": "all.tsv"}
    said: list[dict[str, Any]] = []
    finetune(recipe(base, tables, task, steps=1, tables=held), tmp_path / "run", "cpu", said.append)
    model = tmp_path / "run" / "model"
    assert from_pretrained(model).config.prompt == "prev_output"
    settings = [f"checkpoint={model}", f"data={tables / 'all.tsv'}", "published={}"]
    report = run_evaluation(load_evaluation("ofa-vqa", settings))
    (row,) = report.rows
    assert (row.figure, row.examples, row.constant) == ("accuracy", 8, 0.25) and row.shuffled is not None
    asked = ["0.png\tis it left\tred|!+1.0\tred&&red", "1.png\tis it left\t\tmauve&&mauve"]  # which cannot be given
    asked.append("2.png\tis it left\tmauve|!+1.0\t")  # nobody is known to have answered
    (tables / "refs.tsv").write_text("\n".join(["image\tquestion\trefs\tannotators", *asked]) + "\n")
    scored = run_evaluation(load_evaluation("ofa-vqa", [*settings, f"data={tables / 'refs.tsv'}"])).rows
    assert {(row.figure, row.examples) for row in scored} == {("accuracy", 3), ("consensus", 2)}
    assert scored[0].constant == pytest.approx(1 / 3) and all(row.value <= 0.5 for row in scored)
    beam = run_evaluation(load_evaluation("ofa-vqa-beam", settings)).rows[0]
    assert 0 <= beam.value <= 1
    said_so = CliRunner().invoke(app, ["predict", str(model), f"image={tables / '0.png'}", "question=is it left"])
    assert said_so.exit_code == 0, said_so.output
    assert json.loads(said_so.output)["answer"] in COLOURS
    wrong = CliRunner().invoke(app, ["evaluate", "ofa-refcoco", f"checkpoint={model}", f"data={tables / 'all.tsv'}"])
    assert wrong.exit_code == 1 and "was fine-tuned for picture-answering" in wrong.output


def test_what_cannot_be_learned_is_left_out_or_refused(base: Path, tables: Path, tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    held = {"root": str(tables), "train": "all.tsv"}
    task = {"kind": "picture-answering", "answers": ["red", "green"]}
    finetune(recipe(base, tables, task, steps=1, tables=held), tmp_path / "a", "cpu", said.append)
    assert "none of those that may be given" in said[-1]["warning"]
    for task, sequence, problem in (
        ({"kind": "classification"}, {}, "sequence is for captioning"),
        ({"kind": "referring"}, {"noise": 0.2}, "noise is for summarization"),
        ({"kind": "captioning"}, {"words": 5}, "words is at least 260"),
        ({"kind": "referring", "mixed": {}, "negatives": "x"}, {}, "are for pretraining"),
        ({"kind": "pretraining", "mixed": ["all.tsv"]}, {}, r"mixed has tables by texts, .* not \['all.tsv'\]"),
        ({"kind": "pretraining", "mixed": {"texts": 3}}, {}, r"mixed has tables by texts, .* not {'texts': 3}"),
        ({"kind": "pretraining", "mixed": {"text": "all.tsv"}}, {}, "mixed has tables by texts, .* not by 'text'"),
        ({"kind": "pretraining", "negatives": 2024}, {}, "negatives is a folder of lists, not 2024"),
        ({"kind": "labelling"}, {}, "needs answers"),
        ({"kind": "captioning", "prompt": "open"}, {}, "is given nothing before it writes"),
        ({"kind": "picture-answering", "decoding": "candidates"}, {}, "needs a list of answers"),
        ({"kind": "referring"}, {"beams": 1}, "at least 2"),
        ({"kind": "referring"}, {"drop": 1}, "unknown key 'drop'"),
    ):
        with pytest.raises(ValueError, match=problem):
            finetune(recipe(base, tables, task, sequence=sequence), tmp_path / "b", "cpu", lambda row: None)
    for changes in ({"freeze": True}, {"lora": {"rank": 2}}):
        with pytest.raises(ValueError, match="captioning has no head"):
            recipe(base, tables, {"kind": "captioning"}, **changes)


def test_boxes_reach_all_of_a_picture_or_are_refused(base: Path, tables: Path, tmp_path: Path) -> None:
    """A corner beyond them would be learnt as an unknown word."""
    mixture = {"kind": "pretraining", "mixed": {"objects": "objects.tsv"}}
    for task, changes in (({"kind": "referring"}, {"image_size": 64}), (mixture, {"sequence": {"code_grid": 4}})):
        with pytest.raises(ValueError, match="boxes reach 48 pixels, so pictures have at most as many, not 64"):
            finetune(recipe(base, tables, task, **changes), tmp_path, "cpu", lambda row: None)
    with pytest.raises(ValueError, match="boxes reach 48 pixels"):
        from_pretrained(base, image_size=64).locate(tables / "0.png", "the red one")
    shape = nano(300)
    assert shape.box_size >= max(shape.image_size, 2 * 8 * shape.code_grid), "those of the mixture, both batches"


@pytest.mark.parametrize(("kind", "column"), [("drawing", "caption"), ("summarization", "source"), ("pretraining", "")])
def test_texts_longer_than_the_model_reads_are_left_out(
    kind: str, column: str, base: Path, tables: Path, tmp_path: Path
) -> None:
    """In training, and in what is measured while it lasts; those beside a mixture are cut."""
    lines = [line.split("\t") for line in (tables / "all.tsv").read_text().splitlines()]
    long = lines[0].index(column or "text")
    lines[1][long] = "øæå" * 60
    (tables / "long.tsv").write_text("\n".join("\t".join(line) for line in lines) + "\n")
    held = {"root": str(tables), "train": "long.tsv", "validation": "long.tsv"}
    task: dict[str, Any] = {"kind": kind}
    if kind == "pretraining":
        task, held = {**task, "mixed": {"texts": "long.tsv"}}, {"root": str(tables), "train": "all.tsv"}
    said: list[dict[str, Any]] = []
    figures = finetune(recipe(base, tables, task, tables=held, steps=4), tmp_path / kind, "cpu", said.append)
    if column:
        assert "of which 128 can be read" in said[-1]["warning"]
        assert (figures["examples"], figures["unusable"]) == (7.0, 1.0)
    else:
        assert not any("warning" in row for row in said), "of texts to be filled in the end is used"


PUBLISHED = {  # rate, global batch, epochs or updates, drop path, image size
    "ofa-captions": (1e-5, 128, 2, 0.1, 480),
    "ofa-captions-cider": (1e-5, 64, 3, 0.0, 480),
    "ofa-refcoco": (3e-5, 128, 10, 0.2, 512),
    "ofa-vqa": (5e-5, 512, 40_000, 0.2, 480),
    "ofa-snli-ve": (2e-5, 256, 6, 0.2, 480),
    "ofa-imagenet": (5e-5, 256, 160_000, 0.1, 480),
    "ofa-drawing": (1e-3, 512, 40_000, 0.1, None),
    "ofa-gigaword": (1e-4, 1024, 6, 0.1, None),
}


@pytest.mark.parametrize("name", sorted(f.name for f in (files("one_peace.recipes") / "finetune").iterdir()))
def test_recipes_load_and_have_the_published_numbers(name: str) -> None:
    name = name.removesuffix(".yaml")
    if not name.startswith("ofa-"):
        return
    made = load_finetune_recipe(name)
    optimizer = made.optimizer
    assert made.kind in SEQUENCE_KINDS and optimizer.schedule == "linear" and optimizer.clip_norm == 1.0
    if name in PUBLISHED:
        length = made.steps or made.epochs
        assert (optimizer.lr, made.batch_size, length, made.drop_path, made.image_size) == PUBLISHED[name]
        assert optimizer.weight_decay == 0.01 and optimizer.decay_vectors and made.batch_size % made.micro_batch == 0


def test_the_rate_falls_in_a_line() -> None:
    settings = OptimizerRecipe(lr=1.0, min_lr=0.2, warmup_steps=2, schedule="linear")
    rates = [learning_rate(step, 10, settings) for step in range(12)]
    assert rates == pytest.approx([0.6, 1.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.2])
