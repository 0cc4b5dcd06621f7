"""The check of `parity.py` for OFA's dataset items: rows in, token ids, masks and pictures out."""

from __future__ import annotations

import base64
import dataclasses
import io
from typing import Any

import torch
from PIL import Image

from one_peace.models.ofa.presets import preset
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.tasks.ofa.answering import Answering
from one_peace.tasks.ofa.captioning import Captioning
from one_peace.tasks.ofa.drawing import Drawing
from one_peace.tasks.ofa.entailment import Entailment
from one_peace.tasks.ofa.example import PromptKind, SequenceExample
from one_peace.tasks.ofa.referring import Referring
from one_peace.tasks.ofa.sentences import QUESTIONS, SentenceAnswering
from one_peace.tasks.ofa.summarization import Summarization
from one_peace.tasks.ofa.task import PictureForm, SequenceTask
from parity import Check, Comparison
from parity_files import Fixture
from parity_one_peace_tokens import published_words

COLUMNS = {
    "caption": ("uniq_id", "image", "caption"),
    "refcoco": ("uniq_id", "image", "text", "region_coord"),
    "vqa_gen": ("uniq_id", "image", "question", "answers", "objects"),
    "snli_ve": ("uniq_id", "image", "hypothesis", "caption", "label"),
    "image_gen": ("uniq_id", "caption", "codes"),
    "gigaword": ("source", "target"),
    "qnli": ("question", "sentence", "label"),
}
PROMPTS: dict[str, PromptKind] = {"none": "none", "src": "source", "prev_output": "open"}


def vocabulary(**changes: Any) -> OfaVocabulary:
    """The published vocabulary."""
    return OfaVocabulary(published_words(), dataclasses.replace(preset("ofa-tiny"), **changes))


def task_of(item: dict[str, Any], words: OfaVocabulary, size: int) -> SequenceTask:
    """The task that an item was made by."""
    options = item["options"]
    kind = item["name"].split("/")[0]
    form = PictureForm(options.get("patch_image_size", size), imagenet=options.get("mean_std") == "imagenet")
    prompt = PROMPTS[options.get("prompt_type", "none")]
    if kind == "caption":
        references = options["scst"] or options["split"] != "train"
        return Captioning(words, form, references=references, max_words=options["max_tgt_length"])
    if kind == "refcoco":
        words.box_size, words.bins = options["max_image_size"], options["num_bins"]
        return Referring(words, form)
    if kind == "vqa_gen":
        answers = options["answers"]
        return Answering(words, form, answers=answers, objects=options["add_object"], prompt=prompt)
    if kind == "snli_ve":
        return Entailment(words, form, captions=options["add_caption"], prompt=prompt)
    if kind == "image_gen":
        return Drawing(words, (options["code_image_size"] // 8) ** 2)
    if kind == "gigaword":
        return Summarization(words)
    # The items were made with these answers, whatever the labels are called.
    answers = ["no", "yes", "maybe"] if kind == "mnli" else ["no", "yes"]
    return SentenceAnswering(words, QUESTIONS[kind], prompt=prompt, answers=answers)


def row_of(item: dict[str, Any]) -> dict[str, Any]:
    """The item's row by column, with its picture decoded."""
    kind = item["name"].split("/")[0]
    names = COLUMNS.get(kind) or (*QUESTIONS[kind].columns, "label")
    row = dict(zip(names, item["row"], strict=True))
    if "image" in row:
        row["image"] = Image.open(io.BytesIO(base64.urlsafe_b64decode(row["image"])))
    return row


def compare_item(compare: Comparison, name: str, ours: SequenceExample, item: dict[str, Any], size: int) -> None:
    compare.exact(f"{name}: source", ours.source.tolist(), item["source"])
    compare.exact(f"{name}: target", ours.target.tolist(), item["target"])
    compare.exact(f"{name}: previous", ours.previous.tolist(), item["prev_output_tokens"])
    if "decoder_prompt" in item:
        compare.exact(f"{name}: prompt", list(ours.prompt), item["decoder_prompt"])
    if "patch_mask" in item:
        compare.exact(f"{name}: picture", ours.pixels is not None, item["patch_mask"][0])
    if "code_mask" in item:
        compare.exact(f"{name}: codes", ours.codes, item["code_mask"][0])
    if "conf" in item:
        compare.exact(f"{name}: confidence", [ours.confidence], item["conf"])
    if "ref_dict" in item:
        known = ours.facts.get("scores") or {ours.facts["answer"]: 1.0}
        compare.exact(f"{name}: references", known, item["ref_dict"])
    if "constraint_mask_true_ids" in item:
        allowed = ours.allowed(size)
        assert allowed is not None
        ids = [mask.nonzero().squeeze(1).tolist() for mask in allowed]
        compare.exact(f"{name}: allowed", ids, item["constraint_mask_true_ids"])
    if "w_resize_ratio" in item:
        ratios = [item["w_resize_ratio"], item["h_resize_ratio"]]
        compare.exact(f"{name}: ratios", ours.facts["ratios"].tolist(), ratios)
        compare.exact(f"{name}: box", ours.facts["box"].tolist(), item["region_coord"])
    if "target_str" in item:
        compare.exact(f"{name}: reference", ours.facts["reference"], item["target_str"])


def check_items(fixture: Fixture, compare: Comparison) -> None:
    """Every item, and boxes to tokens and back."""
    pictures = [tensor for name, tensor in fixture.tensors.items() if name.endswith(".patch_image")]
    size = pictures[0].shape[-1]
    for index, item in enumerate(fixture.meta["items"]):
        words = vocabulary()
        ours = task_of(item, words, size).example(row_of(item), item["name"])
        name = f"{index} {item['name']}"
        compare_item(compare, name, ours, item, words.size)
        if "patch_image" in item:
            assert ours.pixels is not None
            compare.feature(f"{name}: pixels", ours.pixels, fixture[item["patch_image"]])
    boxes = fixture.meta["boxes"]
    words = vocabulary(box_size=boxes["max_image_size"])
    words.bins = boxes["num_bins"]
    for index, case in enumerate(boxes["cases"]):
        width, height = case["image_wh"]
        tall, wide = case["resized_hw"]
        ratios = torch.tensor([wide / width, tall / height] * 2)
        ids = words.boxes_to_ids(torch.tensor(case["box"]) * ratios)
        compare.exact(f"box {index}", ids.tolist(), case["token_ids"])
        compare.exact(f"bins of box {index}", (ids - words.first_bin).tolist(), case["bins"])
        compare.exact(f"picture of box {index}", [tall, wide], [boxes["patch_image_size"]] * 2)
        back = words.ids_to_boxes(ids) / ratios
        compare.feature(f"box {index} back", back, torch.tensor(case["decoded_box"]), 1e-3)


CHECKS: dict[str, Check] = {"dataset_items": check_items}
