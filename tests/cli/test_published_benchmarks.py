"""Every published benchmark in miniature, from its own files to its figure: prepare, finetune, evaluate.

The figures are computed again here, plainly, from what the fine-tuned model says of the original files.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor
from typer.main import get_command
from typer.testing import CliRunner

import one_peace
from one_peace.cli.main import app
from one_peace.models.one_peace.interface import OnePeace
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.tasks.predictor import Predictor
from pair_files import write_csv, write_json
from tiny_models import CONFIG, tiny_processors

WORDS = ["red", "apple", "tree", "boats", "old", "white", "horse", "runs", "lamp", "blue", "shoes", "floor"]
COMMAND = get_command(app)
ITEMS = 12  # of the evaluated split


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder whose embeddings differ enough to make a ranking, saved."""
    torch.manual_seed(1)
    encoder = OnePeaceEncoder(dataclasses.replace(CONFIG, decoder=None))
    return OnePeace(encoder, tiny_processors()).save_pretrained(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))


def invoke(*arguments: Any) -> Any:
    with patch("typer.testing._get_command", return_value=COMMAND):  # which builds all commands anew each time
        return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run(*arguments: Any) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: Any) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 1, result.output
    return " ".join(result.output.split())


def picture(path: Path, seed: Any, size: tuple[int, int] = (64, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(abs(hash(str(seed))) % 2**32).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(path)
    return path


def sound(path: Path, number: int, seconds: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(16000 * seconds)) / 16000
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 90 * 1.3**number * time), 16000)
    return path


def caption(seed: Any) -> str:
    return " ".join(random.Random(str(seed)).sample(WORDS, 4))


# retrieval: name -> (makes the source -> media of the test split in order with their captions, prepared folder)

Asked = list[tuple[Path, list[str]]]


def karpathy(name: str, root: Path) -> Asked:
    images, asked = [], []
    for split, count in (("train", 6), ("val", 4), ("test", ITEMS)):
        for k in range(count):
            path = picture(root / f"{split}{k}.png", (split, k))
            texts = [caption((split, k, number)) for number in range(5)]
            if (split, k) == ("test", 3):
                texts[0] = caption(("test", 2, 0))  # another picture has the same caption: only its own one is right
            sentences = [{"raw": text.capitalize() + "."} for text in texts]
            own = {"cocoid": 700 + len(images)} if name == "coco" else {}
            images.append({"filename": path.name, "imgid": len(images), "split": split, "sentences": sentences, **own})
            if split == "test":
                asked.append((path, [sentence["raw"] for sentence in sentences]))
    write_json(root / f"dataset_{name}.json", {"images": images})
    return asked


def audiocaps(root: Path) -> Asked:
    asked = []
    for split, count in (("train", 6), ("val", 4), ("test", ITEMS)):
        rows: list[list[Any]] = [["audiocap_id", "youtube_id", "start_time", "caption"]]
        for k in range(count):
            path = sound(root / split / f"{split}{k}.wav", k + 20 * (split != "train"))
            texts = [caption((split, k, number)) for number in range(1 if split == "train" else 5)]
            rows += [[len(rows), path.stem, 30, text] for text in texts]
            if split == "test":
                asked.append((path, texts))
        write_csv(root / f"{split}.csv", rows)
    return asked


def clotho(root: Path) -> Asked:
    asked = []
    for split, count in (("development", 2), ("validation", 4), ("evaluation", ITEMS)):
        rows: list[list[Any]] = [["file_name", *(f"caption_{number}" for number in range(1, 6))]]
        for k in range(count):
            path = sound(root / split / f"{k}.wav", k, 1.0 + 0.1 * (k % 3))
            texts = [caption((split, k, number)) for number in range(5)]
            rows.append([path.name, *texts])
            if split == "evaluation":
                asked.append((path, texts))
        write_csv(root / f"clotho_captions_{split}.csv", rows)
    return asked


RETRIEVAL: dict[str, tuple[str, Callable[[Path], Asked]]] = {
    "coco": ("image", lambda root: karpathy("coco", root)),
    "flickr30k": ("image", lambda root: karpathy("flickr30k", root)),
    "audiocaps": ("audio", audiocaps),
    "clotho": ("audio", clotho),
}


def recalls(queries: Tensor, candidates: Tensor, right: list[set[int]]) -> dict[int, float]:
    """recall@1, 5, 10 by sorting each query's candidates; of equal ones the earlier comes first."""
    hits = {1: 0, 5: 0, 10: 0}
    for query, answers in zip(queries, right, strict=True):
        scores = (candidates @ query).tolist()
        ranking = sorted(range(len(scores)), key=lambda number: (-scores[number], number))
        for k in hits:
            hits[k] += any(number in answers for number in ranking[:k])
    return {k: count / len(right) for k, count in hits.items()}


def figures_of(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["split"], row["figure"]): row for row in json.loads(path.read_text())["rows"]}


PUBLISHED_FILES = {
    "coco": "finetune_coco.pt",
    "flickr30k": "finetune_flickr.pt",
    "audiocaps": "finetune_al_retrieval.pt",
    "clotho": "finetune_al_retrieval.pt",
    "fsd50k": "finetune_fsd50k.pt",
    "vggsound": "finetune_vggsound.pt",
    "avqa": "finetune_aqa.pt",
    "vqa": "finetune_vqa.pt",
    "refcoco": "finetune_refcoco.pt",
    "refcocog": "finetune_refcocog.pt",
    "nlvr2": "finetune_nlvr2.pt",
}


def published(saved: Path, folder: Path, name: str) -> list[str]:
    """A fine-tuned model in the official container, where its published name is looked for -> what says so: nothing,
    or for a benchmark without a published file its path."""
    path = folder / "cache" / PUBLISHED_FILES.get(name, "model.pt")
    path.parent.mkdir(exist_ok=True)
    run("convert", saved, path)
    return [] if name in PUBLISHED_FILES else [f"checkpoint={path}"]


@pytest.mark.parametrize("name", RETRIEVAL)
def test_retrieval(name: str, base: Path, tmp_path: Path) -> None:
    modality, make = RETRIEVAL[name]
    asked = make(tmp_path / "source")
    tables, out = tmp_path / "tables", tmp_path / "figures.json"
    run("prepare", name, tables, "--from", tmp_path / "source")
    settings = ["engine={}", "batch_size=4", "epochs=0.5", "optimizer.lr=1e-3", "drop_path=0.1", "image_size=64"]
    given = [f"data={tables}", f"checkpoint={base}", *settings]
    run("finetune", name, *given, "--out", tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert any(f"eval/{modality}_to_text@1" in row for row in log)
    assert not any(key.startswith("denoise") for row in log for key in row)

    saved = tmp_path / "run/model"
    said = run("evaluate", name, f"data={tables}", f"checkpoint={saved}", "dtype=float32", "--out", out)
    model = one_peace.from_pretrained(saved)
    assert model.config.per_layer_bias and model.config.decoder is None
    media = model.encode_modality(modality, [path for path, _ in asked])
    texts = model.encode_text([text for _, some in asked for text in some])
    owner = [number for number, (_, some) in enumerate(asked) for _ in some]
    of_media = [{k for k, own in enumerate(owner) if own == number} for number in range(len(asked))]
    expected = {
        f"{modality}_to_text": (recalls(media, texts, of_media), len(media), len(texts)),
        f"text_to_{modality}": (recalls(texts, media, [{own} for own in owner]), len(texts), len(media)),
    }
    rows = figures_of(out)
    assert len(rows) == 6
    for direction, (values, queries, candidates) in expected.items():
        assert 0 < values[10] < 1, "a figure that could be wrong"
        for k, value in values.items():
            row = rows["test", f"{direction}@{k}"]
            assert (row["value"], row["examples"], row["candidates"]) == (pytest.approx(value), queries, candidates)
            assert row["low"] <= value <= row["high"] and 0 < row["shuffled"] < 1
    as_published = published(saved, tmp_path, name)
    run("evaluate", name, f"data={tables}", *as_published, "dtype=float32", "--out", tmp_path / "again.json")
    assert figures_of(tmp_path / "again.json") == rows

    figure = {"coco": 0.841, "flickr30k": 0.976, "audiocaps": 0.51, "clotho": 0.271}[name]
    row = rows["test", f"{modality}_to_text@1"]
    assert row["published"] == figure
    assert f"| test | {modality}_to_text@1 | {row['value']:.4f}" in said and f"| {figure:.4f} |" in said


def test_zero_shot_labels_by_fold(base: Path, tmp_path: Path) -> None:
    """ESC-50: the published prompt, and the layout of the published table, whose ids are the numbers of classes."""
    root, names = tmp_path / "source", ["dog", "rain", "sea_waves"]
    header = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    listed = [[f"{k % 5 + 1}-{k}-A-{k % 3}.wav", k % 5 + 1, k % 3, names[k % 3], False, k, "A"] for k in range(15)]
    write_csv(root / "meta/esc50.csv", [header, *listed])
    paths = [sound(root / "audio" / row[0], k) for k, row in enumerate(listed)]
    run("prepare", "esc50", tmp_path / "tables", "--from", root)
    model = one_peace.from_pretrained(base)
    texts = model.encode_text([f"this is a sound of {name.replace('_', ' ')}" for name in names])
    best = (model.encode_audio(paths) @ texts.t()).argmax(dim=1).tolist()
    right = [found == row[2] for found, row in zip(best, listed, strict=True)]

    own = tmp_path / "tables/esc50.tsv"
    lines = [f"{row[2]}\t{path}\tsomething\t5" for row, path in zip(listed, paths, strict=True)]
    (tmp_path / "tables/published.tsv").write_text("\n".join(["uniq_id\taudio\ttext\tduration", *lines]) + "\n")
    for table, folds in ((own, True), (tmp_path / "tables/published.tsv", False)):
        out = tmp_path / "figures.json"
        split = f"tables.splits={{esc50: {table.name}}}"
        run("evaluate", "esc50", f"data={table.parent}", f"checkpoint={base}", split, "dtype=float32", "--out", out)
        rows = figures_of(out)
        overall = rows["esc50", "accuracy"]
        assert overall["value"] == pytest.approx(sum(right) / 15) and overall["candidates"] == 3
        assert overall["constant"] == pytest.approx(1 / 3) and overall["published"] == 0.918
        for fold in range(1, 6) if folds else ():
            mine = [hit for hit, row in zip(right, listed, strict=True) if row[1] == fold]
            assert rows[f"esc50, fold {fold}", "accuracy"]["value"] == pytest.approx(sum(mine) / len(mine))
        assert len(rows) == (7 if folds else 2)


# tasks with a head: each makes its source, and tells the right answers by the key of a row of its split


def imagenet(root: Path) -> dict[str, Any]:
    right = {}
    for split, count in (("train", 2), ("val", 4)):
        for number, name in enumerate(("n01", "n02", "n03")):
            for k in range(count):
                path = picture(root / split / name / f"{name}_{split}{k}.JPEG", (name, split, k), (80, 50))
                if split == "val":
                    right[f"{name}/{path.name}"] = number
    return right


def vggsound(root: Path) -> dict[str, Any]:
    names, rows, right = ["dog barking", "playing harp", "rain"], [], {}
    for split, count in (("train", 6), ("test", ITEMS)):
        for k in range(count):
            rows.append([f"{split}{k}", k, names[k % 3], split])
            right[sound(root / f"{split}{k}_{k:06d}.wav", k).stem] = k % 3
    write_csv(root / "vggsound.csv", rows)
    return right


def fsd50k(root: Path) -> dict[str, Any]:
    names, right = ["Bark", "Dog", "Rain", "Silence"], {}  # nothing in the test split is silent
    write_csv(root / "FSD50K.ground_truth/vocabulary.csv", [[k, name, f"/m/{k}"] for k, name in enumerate(names)])
    for table, split, count in (("dev", "train", 6), ("eval", "", ITEMS)):
        rows: list[list[Any]] = [["fname", "labels", "mids", "split"][: 4 if split else 3]]
        for k in range(count):
            own = {k % 3, (k // 2) % 3}
            stem = str(1000 * len(split) + k)
            rows.append([stem, ",".join(names[n] for n in own), "", *([split] if k else ["val"])][: 4 if split else 3])
            sound(root / f"FSD50K.{table}_audio/{stem}.wav", k)
            right[stem] = own
        write_csv(root / f"FSD50K.ground_truth/{table}.csv", rows)
    return right


def avqa(root: Path) -> dict[str, Any]:
    right = {}
    for split, count in (("train", 4), ("val", ITEMS)):
        records = []
        for k in range(count):
            sound(root / f"audio/{split}{k}.wav", k)
            choices = random.Random(k).sample(WORDS, 4)
            question = {"question_text": f"What is heard, {k}?", "multi_choice": choices, "answer": k % 4}
            records.append({"id": f"{split}{k}", "video_name": f"{split}{k}", **question})
            right[f"{split}{k}"] = choices[k % 4]
        write_json(root / f"{split}_qa.json", records)
    return right


def vqa(root: Path) -> dict[str, Any]:
    right: dict[str, Any] = {}
    for split, count in (("train", 12), ("val", ITEMS)):
        name, questions, annotations = f"{split}2014", [], []
        for k in range(count):
            number = k + 100 * (split == "val")
            picture(root / name / f"COCO_{name}_{number:012d}.jpg", number)
            questions.append({"question_id": number, "image_id": number, "question": f"Is it {WORDS[k]}?"})
            given = [["yes"] * 7 + ["no"] * 3, ["no"] * 8 + ["maybe"] * 2, ["yes"] * 2 + ["no"] * 8][k % 3]
            if number == 100 + ITEMS - 1:
                given = ["maybe"] * 10  # none of the answers that can be given: counted as answered wrongly
            answers = [{"answer": answer} for answer in given]
            annotations.append({"question_id": number, "multiple_choice_answer": given[0], "answers": answers})
            right[str(number)] = given
        write_json(root / f"v2_OpenEnded_mscoco_{name}_questions.json", {"questions": questions})
        write_json(root / f"v2_mscoco_{name}_annotations.json", {"annotations": annotations})
    write_json(root / "trainval_ans2label.json", {"yes": 0, "no": 1})
    return right


def refcoco(root: Path) -> dict[str, Any]:
    references, annotations, images, right = [], [], [], {}
    for split, count in (("train", 4), ("val", 6), ("testA", 6), ("testB", 6)):
        for _ in range(count):
            k = len(references)
            picture(root / f"train2014/{k}.png", k, (90, 60))
            box = [5 + k, 6, 45, 40]
            sentence = {"sent_id": k, "sent": f"the {WORDS[k % 12]} thing"}
            references.append({"ref_id": k, "ann_id": k, "image_id": k, "split": split, "sentences": [sentence]})
            annotations.append({"id": k, "bbox": box})
            images.append({"id": k, "file_name": f"{k}.png"})
            right[str(k)] = (box[0], box[1], box[0] + box[2], box[1] + box[3])
    (root / "refs(unc).p").write_bytes(pickle.dumps(references))
    write_json(root / "instances.json", {"annotations": annotations, "images": images})
    return right


def nlvr2(root: Path) -> dict[str, Any]:
    right = {}
    for split, count in (("train", 4), ("dev", ITEMS), ("test1", ITEMS)):
        lines = []
        for k in range(count):
            identifier, label = f"{split}-{k}-0-0", str(k % 3 == 0)
            lines.append(json.dumps({"identifier": identifier, "sentence": caption((split, k)), "label": label}))
            for side in (0, 1):
                picture(root / f"{split}/{split}-{k}-0-img{side}.png", (split, k, side))
            right[identifier] = label
        root.joinpath(f"{split}.json").write_text("\n".join(lines) + "\n")
    return right


def accuracy(scores: dict[str, list[float]], right: dict[str, Any]) -> float:
    return sum(right[key] == values.index(max(values)) for key, values in scores.items()) / len(scores)


def mean_average_precision(scores: dict[str, list[float]], right: dict[str, Any]) -> float:
    precisions = []
    for label in range(4):
        positive = {key for key in scores if label in right[key]}
        if positive:  # the area under the steps: at each score that is reached, precision times the recall it adds
            area = recall = 0.0
            for level in sorted({values[label] for values in scores.values()}, reverse=True):
                taken = {key for key, values in scores.items() if values[label] >= level}
                found = len(taken & positive) / len(positive)
                area, recall = area + (found - recall) * len(taken & positive) / len(taken), found
            precisions.append(area)
    return sum(precisions) / len(precisions)


def answers_of_candidates(scores: dict[str, list[float]], right: dict[str, Any]) -> float:
    candidates = {f"val{k}": random.Random(k).sample(WORDS, 4) for k in range(ITEMS)}
    return sum(candidates[k][v.index(max(v))] == right[k] for k, v in scores.items()) / len(scores)


def soft_accuracy(scores: dict[str, list[float]], right: dict[str, Any]) -> float:
    given = {0: 0.0, 1: 0.3, 2: 0.6, 3: 0.9}
    best = {key: ("yes", "no")[values.index(max(values))] for key, values in scores.items()}
    return sum(given.get(right[key].count(answer), 1.0) for key, answer in best.items()) / len(scores)


def found_boxes(scores: dict[str, list[float]], right: dict[str, Any]) -> float:
    found = 0
    for key, values in scores.items():
        x0, y0, x1, y1 = (1 / (1 + np.exp(-v)) * side for v, side in zip(values, (90, 60, 90, 60), strict=True))
        a0, b0, a1, b1 = right[key]
        width, height = min(x1, a1) - max(x0, a0), min(y1, b1) - max(y0, b0)
        inside = width * height if width > 0 and height > 0 else 0.0
        found += inside / ((x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - inside) >= 0.5
    return found / len(scores)


def true_or_false(scores: dict[str, list[float]], right: dict[str, Any]) -> float:
    return sum((values[0] >= values[1]) == (right[key] == "True") for key, values in scores.items()) / len(scores)


Score = Callable[[dict[str, list[float]], dict[str, Any]], float]
HEADS: dict[str, tuple[str, Callable[[Path], dict[str, Any]], Score, str, list[str]]] = {
    "imagenet-384": ("imagenet", imagenet, accuracy, "accuracy", ["val"]),
    "vggsound": ("vggsound", vggsound, accuracy, "accuracy", ["test"]),
    "fsd50k": ("fsd50k", fsd50k, mean_average_precision, "map", ["test"]),
    "avqa": ("avqa", avqa, answers_of_candidates, "accuracy", ["val"]),
    "vqa": ("vqa", vqa, soft_accuracy, "accuracy", ["val"]),
    "refcoco": ("refcoco", refcoco, found_boxes, "accuracy", ["val", "testA", "testB"]),
    "nlvr2": ("nlvr2", nlvr2, true_or_false, "accuracy", ["dev", "test1"]),
}


@pytest.mark.parametrize("name", HEADS)
def test_tasks_with_a_head(name: str, base: Path, tmp_path: Path) -> None:
    source, make, score, figure, splits = HEADS[name]
    right = make(tmp_path / "source")
    tables, out, saved = tmp_path / "tables", tmp_path / "figures.json", tmp_path / "run/model"
    run("prepare", source, tables, "--from", tmp_path / "source")
    settings = ["engine={}", "batch_size=3", "micro_batch=null", "epochs=0.5", "image_size=64", "optimizer.lr=1e-3"]
    without = "tables.validation=null"  # it is evaluated below
    given = [f"data={tables}", f"checkpoint={base}", *settings, without]
    run("finetune", name, *given, "--out", tmp_path / "run")
    said = run("evaluate", name, f"data={tables}", f"checkpoint={saved}", "dtype=float32", "--out", out)
    predictor, rows = Predictor.from_pretrained(saved, batch_size=1), figures_of(out)
    for split in splits:
        lines = list(csv.DictReader((tables / f"{split}.tsv").open(), delimiter="\t"))
        media = ("image", "image1", "image2", "audio")
        read = [(r["uniq_id"], {k: Path(v) if k in media else v for k, v in r.items()}) for r in lines]
        scores = {batch.keys[0]: made.flatten().tolist() for made, batch in predictor.scored(read)}
        row = rows[split, figure]
        assert row["value"] == pytest.approx(score(scores, right), abs=1e-6)
        assert row["examples"] == len(lines) and row["shuffled"] is not None
        assert (row["constant"] is None) == (figure == "map") and (row["low"] is None) == (figure == "map")
        assert f"| {split} | {figure} | {row['value']:.4f}" in said
    as_published = published(saved, tmp_path, name)
    run("evaluate", name, f"data={tables}", *as_published, "dtype=float32", "--out", tmp_path / "again.json")
    assert figures_of(tmp_path / "again.json") == rows
    if name == "vqa":
        assert 0 < rows["val", "consensus"]["value"] <= 1
        assert rows["val", "accuracy"]["constant"] == pytest.approx((4 * 0.9 + 4 * 1.0 + 3 * 1.0) / 12)
    if name == "nlvr2":
        assert rows["dev", "accuracy"]["constant"] == pytest.approx(8 / 12)


# what cannot be used


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A table of four captioned pictures."""
    lines = ["path,caption"] + [f"{picture(tmp_path / f'{k}.png', k).name},{caption(k)}" for k in range(4)]
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "mine.csv"


def test_a_table_of_ones_own(base: Path, pictures: Path, tmp_path: Path) -> None:
    """Pairs without any captions file: equal captions are one text, a file in two rows is one picture."""
    with pictures.open("a") as file:
        file.write(f"0.png,{caption('more')}\n3.png,{caption(2).upper()}!\n")
    out = tmp_path / "results" / "figures.json"
    run("evaluate", "retrieval", f"data={pictures}", f"checkpoint={base}", "--out", out)
    model = one_peace.from_pretrained(base)
    media = model.encode_image([tmp_path / f"{k}.png" for k in range(4)])
    texts = model.encode_text([caption(k) for k in (0, 1, 2, 3, "more")])
    of_media = [{0, 4}, {1}, {2}, {2, 3}]
    rows = figures_of(out)
    for k, value in recalls(media, texts, of_media).items():
        assert rows["mine", f"image_to_text@{k}"]["value"] == pytest.approx(value)
    for k, value in recalls(texts, media, [{0}, {1}, {2, 3}, {3}, {0}]).items():
        assert rows["mine", f"text_to_image@{k}"]["value"] == pytest.approx(value)


def test_rows_that_cannot_be_used_are_refused_or_left_out(base: Path, pictures: Path, tmp_path: Path) -> None:
    given = ["evaluate", "retrieval", f"data={pictures}", f"checkpoint={base}"]
    (tmp_path / "1.png").write_bytes(b"junk")
    assert "mine.csv, row 2: column 'image'" in refused(*given)
    run(*given, "--skip", "--out", tmp_path / "figures.json")
    made = json.loads((tmp_path / "figures.json").read_text())
    assert [row["examples"] for row in made["rows"]] == [3] * 6 and [row["candidates"] for row in made["rows"]] == [
        3
    ] * 6
    assert len(made["left_out"]) == 1 and "row 2" in made["left_out"][0]
    (tmp_path / "1.png").unlink()
    with pictures.open("a") as file:
        file.write("2.png,\n")
    assert "mine.csv, row 5: column 'caption' is empty" in refused(*given)
    with pictures.open("a") as file:
        file.write("3.png\n")
    run(*given, "--skip", "--out", tmp_path / "figures.json")
    said = json.loads((tmp_path / "figures.json").read_text())["left_out"]
    assert [problem.partition(": ")[0].rpartition(" ")[2] for problem in said] == ["5", "6", "2"]


@pytest.mark.parametrize(
    ("rows", "captions", "message"),
    [
        (["7,0.png", "8,1.png"], {"7": ["a"]}, "row 2 (8): column 'image_id': '8' is not in the file of captions"),
        (["7,0.png", "7,1.png"], {"7": ["a", "b"]}, "row 2 (7): has the image_id of"),
        (["7,0.png"], {"7": ["a", "?"]}, "'7': has an empty caption"),
        (["7,0.png"], {"7": []}, "'7': has no list of captions"),
        (["7,0.png"], ["a"], "is no JSON object such as"),
        (["7,0.png"], {"7": ["a"]}, "has less than two texts"),
    ],
)
def test_captions_that_do_not_fit(
    rows: list[str], captions: Any, message: str, base: Path, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "test.csv").write_text("\n".join(["image_id,image", *rows]) + "\n")
    write_json(tmp_path / "texts.json", captions)
    given = [
        f"data={tmp_path}",
        f"checkpoint={base}",
        "tables.splits={test: test.csv}",
        "tables.texts={test: texts.json}",
    ]
    assert message in refused("evaluate", "coco", *given)
    if "row 2 (8)" in message:  # what is left is too little
        assert f"the last row left out: {tmp_path / 'test.csv'}, row 2 (8)" in refused(
            "evaluate", "coco", *given, "--skip"
        )


def test_captions_of_other_keys_are_left_out_and_told(base: Path, pictures: Path, tmp_path: Path) -> None:
    """Clips that nobody can download any more leave their captions in the file."""
    (tmp_path / "test.csv").write_text("image_id,image\n7,0.png\n8,1.png\n")
    write_json(tmp_path / "texts.json", {"7": [caption(0)], "9": ["gone"], "8": [caption(1), caption(5)]})
    given = [
        f"data={tmp_path}",
        f"checkpoint={base}",
        "tables.splits={test: test.csv}",
        "tables.texts={test: texts.json}",
    ]
    run("evaluate", "coco", *given, "dtype=float32", "--out", tmp_path / "figures.json")
    made = json.loads((tmp_path / "figures.json").read_text())
    assert {(row["examples"], row["candidates"]) for row in made["rows"]} == {(2, 3), (3, 2)}
    assert made["left_out"] == [f"captions of 1 keys that {tmp_path / 'test.csv'} does not have, '9' first"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["tables.texts={val: texts.json}"], "tables.texts: there is no split 'val'; known: test"),
        (["tables.splits={}"], "tables.splits: no table is named"),
        (["task.modality=smell"], "no modality 'smell'"),
        (["task.modlity=image"], "unknown key 'modlity'; the nearest is 'modality'"),
        (["task={kind: zero-shot, labels: [a], prompts: a photo}"], "'a photo' has not exactly one {}"),
        (["task.kind=grounding"], "has no prediction head"),
        (["checkpoint=./nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_settings_that_do_not_fit(
    settings: list[str], message: str, base: Path, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "test.csv").write_text(pictures.read_text())
    if "grounding" in settings[0]:
        settings = ["task={kind: grounding}"]
    assert message in refused("evaluate", "retrieval", f"data={tmp_path}", f"checkpoint={base}", *settings)


def test_fine_tuning_for_retrieval_has_no_head_to_train_alone(base: Path, pictures: Path, tmp_path: Path) -> None:
    given = ["finetune", "retrieval", f"data={pictures}", f"checkpoint={base}", "--out", tmp_path / "run"]
    assert "retrieval has no head" in refused(*given, "freeze=true")


def test_validation_passes_over_what_cannot_be_read(base: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"junk")
    with pictures.open("a") as file:
        file.write("2.png,\n2.png,...!\n")
    given = ["finetune", "retrieval", f"data={pictures}", f"checkpoint={base}", "tables.validation=mine.csv"]
    said = run(*given, "epochs=1", "batch_size=2", "--out", tmp_path / "run")
    assert said.count("mine.csv left out: ") == 2 and "row 2: column 'image'" in said  # of training, of validation
    assert said.count("row 5: column 'caption' is empty") == 2
    assert said.count("row 6: column 'caption' has nothing in it but punctuation") == 2
    recorded = json.loads((tmp_path / "run/model/evaluation.json").read_text())
    assert recorded["best_by"] == "eval/image_to_text@1"
