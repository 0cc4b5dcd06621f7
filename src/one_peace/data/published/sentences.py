"""Texts alone: the tasks of GLUE, and Gigaword's summaries; and SNLI-VE, statements about pictures."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from one_peace.data.published.conversion import Converted, SplitRow, find, need, one_line, read_json_lines, read_lines
from one_peace.errors import InputError


@dataclass(frozen=True)
class GlueFiles:
    """A GLUE task's files: the folder, columns under their names there -> under ours, splits -> files, and what its
    labels are called in our tables where they are called otherwise."""

    folder: str
    columns: Mapping[str, str]
    splits: Mapping[str, str]
    labels: Mapping[str, str]
    header: tuple[str, ...] = ()


_USUAL = {"train": "train.tsv", "val": "dev.tsv", "test": "test.tsv"}
_MNLI_SPLITS = {"train": "train.tsv", "val": "dev_matched.tsv", "val_mismatched": "dev_mismatched.tsv"}
_IMPLIES = {"sentence1": "sentence1", "sentence2": "sentence2"}

GLUE: Mapping[str, GlueFiles] = {
    "cola": GlueFiles(
        "CoLA",
        {"sentence": "sentence"},
        {"train": "train.tsv", "val": "dev.tsv"},
        {},
        ("source", "label", "star", "sentence"),
    ),
    "sst2": GlueFiles("SST-2", {"sentence": "sentence"}, _USUAL, {}),
    "qqp": GlueFiles("QQP", {"question1": "question1", "question2": "question2", "is_duplicate": "label"}, _USUAL, {}),
    "qnli": GlueFiles("QNLI", {"question": "question", "sentence": "sentence"}, _USUAL, {}),
    "mrpc": GlueFiles("MRPC", {"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label"}, _USUAL, {}),
    "rte": GlueFiles("RTE", _IMPLIES, _USUAL, {}),
    "mnli": GlueFiles(
        "MNLI",
        {"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"},
        _MNLI_SPLITS,
        {"neutral": "0", "entailment": "1", "contradiction": "2"},  # as OFA's tables number them
    ),
}


def glue(name: str, source: Path) -> Converted:
    """The folder of one GLUE task as GLUE gives it out (`SST-2/train.tsv`, ...), in `source` or its files themselves.
    Without a label, as in the test files, a row can only be predicted."""
    files = GLUE[name]

    def rows() -> Iterator[SplitRow]:
        for split, file in files.splits.items():
            try:
                path = find(source / files.folder if (source / files.folder).is_dir() else source, file)
            except InputError:
                if split == "train":
                    raise
                continue
            for number, values in enumerate(_tsv(path, files.header), 2 - bool(files.header)):
                place = f"{path}, line {number}"
                wanted = (
                    dict(files.columns) if "label" in files.columns.values() else {**files.columns, "label": "label"}
                )
                if split == "test":
                    wanted = {theirs: ours for theirs, ours in wanted.items() if ours != "label"}
                row = {ours: one_line(need(values, theirs, place)) for theirs, ours in wanted.items()}
                if files.labels and "label" in row:
                    row["label"] = files.labels.get(row["label"], "")
                    if not row["label"]:
                        continue  # annotators did not agree
                yield SplitRow(split, {"uniq_id": f"{split}/{number}", **row}, ())

    return Converted(rows())


GLUE_CONVERTERS: Mapping[str, Callable[[Path], Converted]] = {name: partial(glue, name) for name in GLUE}


def _tsv(path: Path, header: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Rows of a file without quoting. Lines with another number of columns are those that annotators' extra labels
    make longer, or a quote cut in two; these are left out, as the published readers do."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = list(header) or next(lines, [])
        for line in lines:
            if len(line) >= len(names):
                yield dict(zip(names, line, strict=False))


def gigaword(source: Path) -> Converted:
    """`train.src.txt` and `train.tgt.txt`, a line each, and likewise `dev` and `test`."""

    def rows() -> Iterator[SplitRow]:
        for split, stem in {"train": "train", "val": "dev", "test": "test"}.items():
            try:
                paths = [find(source, f"{stem}.{side}.txt", f"{stem}.{side}") for side in ("src", "tgt")]
            except InputError:
                if split == "train":
                    raise
                continue
            articles, summaries = map(read_lines, paths)
            if len(articles) != len(summaries):
                problem = f"has {len(articles)} lines, {paths[1].name} {len(summaries)}: each article has one summary"
                raise InputError(str(paths[0]), problem)
            for number, (article, summary) in enumerate(zip(articles, summaries, strict=True), 1):
                if article.strip() and summary.strip():
                    values = {"uniq_id": f"{split}/{number}", "source": one_line(article), "target": one_line(summary)}
                    yield SplitRow(split, values, ())

    return Converted(rows())


def snli_ve(source: Path) -> Converted:
    """`snli_ve_{train,dev,test}.jsonl` and Flickr30k's pictures, in `source`, `flickr30k-images` or `images`. The
    premise of the text-only task is the picture's caption."""

    def rows() -> Iterator[SplitRow]:
        for split, stem in {"train": "train", "val": "dev", "test": "test"}.items():
            records = read_json_lines(find(source, f"snli_ve_{stem}.jsonl"))
            for number, (place, record) in enumerate(records, 1):
                picture = f"{need(record, 'Flickr30K_ID', place)}.jpg"
                folders = ("flickr30k-images/", "images/", "")
                folder = next((f for f in folders if (source / f / picture).is_file()), folders[0])
                values = {
                    "uniq_id": str(record.get("pairID", f"{split}/{number}")),
                    "image": f"{folder}{picture}",
                    "hypothesis": one_line(need(record, "sentence2", place)),
                    "caption": one_line(need(record, "sentence1", place)),
                    "label": str(need(record, "gold_label", place)),
                }
                yield SplitRow(split, values, ("image",))

    return Converted(rows())
