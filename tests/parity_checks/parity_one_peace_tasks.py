"""The checks of `parity.py` for fine-tuned ONE-PEACE models: heads, their losses and the vision branch."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.loading import load_for_prediction
from one_peace.models.one_peace.prediction import OnePeaceForPrediction
from one_peace.models.one_peace.video_backbone import load_video_backbone
from one_peace.objectives.boxes import grounding_loss, valid_boxes
from one_peace.objectives.classification import classification_loss
from one_peace.objectives.hinge import answer_hinge
from one_peace.tasks.audio_question_answering import ChoiceAccuracy
from one_peace.tasks.classification import Accuracy
from one_peace.tasks.labels import LabelMap
from one_peace.tasks.task import Figures, TaskBatch
from one_peace.tasks.visual_question_answering import AnswerAccuracy
from parity import Check, Comparison
from parity_files import Fixture
from parity_one_peace import batches, load, read, reference_config
from parity_one_peace_files import check_vision_names
from parity_one_peace_pretraining import check_gradients


@torch.no_grad()
def check_classification(fixture: Fixture, compare: Comparison) -> None:
    """Scores, and every kind of target that the file has: losses and numbers of right answers."""
    checkpoint = read(fixture)
    model: OnePeaceForPrediction = load(OnePeaceForPrediction, checkpoint, reference_config(checkpoint))
    check_head(compare, model.config, fixture.meta["case"])
    inputs = batches(fixture)
    if "out.hinge_loss_sum" in fixture.tensors:  # a sound goes with each of the answers of its question
        choices = inputs["text"]["tokens"].shape[0] // inputs["audio"]["waveform"].shape[0]
        inputs["audio"] = {name: tensor.repeat_interleave(choices, 0) for name, tensor in inputs["audio"].items()}
    logits = model(inputs)
    compare.feature("scores", logits, fixture["out.logits"])
    if "out.hinge_loss_sum" in fixture.tensors:
        scores, target = logits.view(-1, choices), fixture["in.target"]
        compare.loss("hinge", answer_hinge(scores, target, published=True), fixture["out.hinge_loss_sum"])
        compare.loss("right answers", count_right(ChoiceAccuracy(), logits, target), fixture["out.n_correct"])
        return
    targets = {"ce": "hard", "soft": "soft", "bce": "multi"}
    for name in [name[len("out.loss_") : -len("_sum")] for name in fixture.tensors if name.startswith("out.loss_")]:
        kind, _, smoothing = name.partition("_ls")
        target, multiple = fixture[f"in.target_{targets[kind]}"], kind == "bce"
        loss = classification_loss(logits, target, multiple=multiple, smoothing=float(smoothing or 0))
        compare.loss(f"loss {name}", loss, fixture[f"out.loss_{name}_sum"])
        right = f"out.n_correct_{name}"
        if kind == "soft":
            compare.leave_out(right, "the right answers to expect of a distribution are no figure of ours")
            fixture.tensors.unread.discard(right)
            continue
        figures = AnswerAccuracy(LabelMap([str(k) for k in range(logits.shape[1])])) if multiple else Accuracy()
        compare.loss(f"right {name}", count_right(figures, logits, target), fixture[right])


def count_right(figures: Figures, scores: Tensor, target: Tensor) -> Tensor:
    """How many right answers the figures of a task count, float64."""
    figures.add(scores, TaskBatch([""] * len(target), {}, target, [{}] * len(target)))
    return torch.tensor(figures.result()["accuracy"] * len(target), dtype=torch.float64)


def check_head(compare: Comparison, config: OnePeaceConfig, case: dict[str, Any]) -> None:
    """The head that we find in a file is the one that it was made with."""
    head = config.head
    assert head is not None
    compare.exact("classes", head.outputs, case["classes"])
    compare.exact("attention pooling", head.pooling == "attention", case["attn_pooling"])
    compare.exact("pooler", head.pooler, case["use_pooler"])
    compare.exact("two pictures", head.pictures == 2, case.get("two", False))
    compare.exact("width of the hidden layer", head.hidden, int(case["scale"] * config.width))


def check_grounding(fixture: Fixture, compare: Comparison) -> None:
    """Boxes, their loss, and the gradients of the whole model."""
    checkpoint = read(fixture)
    model: OnePeaceForPrediction = load(OnePeaceForPrediction, checkpoint, reference_config(checkpoint))
    logits = model(batches(fixture))
    boxes = logits.sigmoid()
    loss = grounding_loss(boxes, fixture["in.target_boxes"], published=True)
    loss.backward()
    compare.feature("scores", logits, fixture["out.logits"])
    compare.feature("boxes", boxes, fixture["out.coords"])
    compare.exact("valid", valid_boxes(boxes.detach()), fixture["out.valid"])
    compare.loss("loss", loss, fixture["out.loss"])
    check_gradients(fixture, compare, model)


@torch.no_grad()
def check_vision_classifier(fixture: Fixture, compare: Comparison) -> None:
    """The published image classifier from its own file, and from the vision branch with the head put on top."""
    check_vision_names(fixture, compare)
    weights, branch = fixture.group("weights."), fixture.group("converted.")
    head = {name: t for name, t in weights.items() if name.startswith(("head.", "fc_norm.", "encoder.layer_norm."))}
    pixels = fixture["in.src_images"]
    compare.exact("size", pixels.shape[-1], fixture.meta["px"])
    for source, state in (("own file", weights), ("vision branch", branch | head)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "classifier.pth"
            torch.save(state, path)
            model, _ = load_for_prediction(path, image_size=pixels.shape[-1])
        head = model.config.head
        compare.exact("mean pooling", head is not None and head.pooling == "mean", fixture.meta["global_pool"])
        features, _ = model.features({"image": {"pixels": pixels}})
        compare.feature(f"features, {source}", features, fixture["out.features"])
        compare.feature(f"scores, {source}", model({"image": {"pixels": pixels}}), fixture["out.logits"])


@torch.no_grad()
def check_video_backbone(fixture: Fixture, compare: Comparison) -> None:
    """The published backbone of video recognition: cls of every frame."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.pth"
        torch.save(fixture.group("weights."), path)
        model = load_video_backbone(path)
    features = model.recognise(fixture["in.video"]).transpose(1, 2)
    compare.feature("features", features, fixture["out.features"].flatten(2))


CHECKS: dict[str, Check] = {
    "fixture4_classify": check_classification,
    "fixture5_grounding": check_grounding,
    "fixture9_video": check_video_backbone,
    "fixture9_vision_cls": check_vision_classifier,
}
