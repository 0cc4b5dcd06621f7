"""Evaluation during training: it disturbs nothing, keeps the best, and goes on after a crash."""

from __future__ import annotations

import dataclasses
import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from one_peace.checkpoints.native import is_native
from one_peace.data.shard_cache import ShardCache
from one_peace.errors import InputError
from one_peace.models.one_peace.loading import from_pretrained
from one_peace.training.best import BestModel
from one_peace.training.distributed import Processes
from one_peace.training.ema import WeightAverage
from one_peace.training.pretraining.evaluation import Evaluator, open_evaluator
from one_peace.training.pretraining.forward_pass import PretrainingPass
from one_peace.training.pretraining.pretrain import Watch, pretrain
from one_peace.training.pretraining.recipe import EvaluationSchedule, PretrainRecipe
from pair_files import write_shards
from run_folders import log_of
from tiny_models import CAPTIONS
from training_runs import (
    PROCESSORS,
    RECIPE,
    batches,
    curve_of,
    evaluator_of,
    fresh,
    held_out,
    read_state,
    start,
)
from warm_processes import finish

WATCHED = dataclasses.replace(RECIPE, steps=6, evaluation=EvaluationSchedule(every=2))


def losses_of(folder: Path) -> list[dict[str, Any]]:
    return [row for row in log_of(folder) if "total" in row]


def evaluations_of(folder: Path) -> list[dict[str, Any]]:
    return [row for row in log_of(folder) if "total" not in row]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run with evaluations."""
    folder = tmp_path_factory.mktemp("watched")
    pretrain(fresh(), WATCHED, PROCESSORS, batches, folder, watch=Watch(evaluator=evaluator_of(WATCHED)))
    return folder


def test_looking_changes_nothing(tmp_path: Path, watched: Path) -> None:
    plain = dataclasses.replace(WATCHED, evaluation=EvaluationSchedule())
    pretrain(fresh(), plain, PROCESSORS, batches, tmp_path)
    expected = [(row["step"], row["total"], row["contrast"], row["grad_norm"]) for row in losses_of(watched)]
    assert curve_of(tmp_path) == expected
    a, b = read_state(watched), read_state(tmp_path)
    assert [name for name in a if not torch.equal(a[name], b[name])] == ["best"]


def test_the_best_model_is_kept_with_its_figures(watched: Path) -> None:
    rows = evaluations_of(watched)
    assert [row["step"] for row in rows] == [2, 4, 6]
    best = max(rows, key=lambda row: row["eval/recall"])
    record = json.loads((watched / "best" / "evaluation.json").read_text())
    assert record["step"] == best["step"] == rows[-1]["best_step"]
    assert record["eval/recall"] == best["eval/recall"] == read_state(watched)["best"][0].item()
    assert "eval/zero_shot@1" in record
    model, pictures = from_pretrained(watched / "best"), [pair[1] for pair in batches(5, 0, 999)]
    vectors = model._embed_views("image", pictures, None) @ model.encode_text(list(CAPTIONS)).t()
    found = (vectors.argmax(dim=1) == torch.arange(5)).float().mean().item()
    assert found == pytest.approx(record["eval/image_to_text@1"])
    assert not [path for path in watched.iterdir() if path.name.startswith(".best")]


class Interrupted(Exception):
    pass


def test_a_killed_run_has_the_same_evaluations_and_the_same_best(tmp_path: Path, watched: Path) -> None:
    def failing(size: int, seed: int, step: int) -> Any:
        if step == 5:  # the state is that of step 3, the evaluation of step 4 is in the log
            raise Interrupted
        return batches(size, seed, step)

    with pytest.raises(Interrupted):
        pretrain(fresh(), WATCHED, PROCESSORS, failing, tmp_path, watch=Watch(evaluator=evaluator_of(WATCHED)))
    assert [row["step"] for row in evaluations_of(tmp_path)] == [2, 4]
    pretrain(fresh(), WATCHED, PROCESSORS, batches, tmp_path, watch=Watch(evaluator=evaluator_of(WATCHED)))
    assert evaluations_of(tmp_path) == evaluations_of(watched)
    assert curve_of_losses(tmp_path) == curve_of_losses(watched)
    files = [(f / "best" / "evaluation.json").read_text() for f in (tmp_path, watched)]
    assert files[0] == files[1]


def curve_of_losses(folder: Path) -> list[tuple[float, float]]:
    return [(row["step"], row["total"]) for row in losses_of(folder)]


def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    settings = ("steps=2", "batch_size=4", "micro_batch=2", "save_every=2", "evaluation.every=1")
    finish(start(tmp_path / "one", settings=settings))
    finish(start(tmp_path / "two", settings=settings, count=2))
    one, two = evaluations_of(tmp_path / "one"), evaluations_of(tmp_path / "two")
    assert len(one) == 2 and one == two and is_native(tmp_path / "two" / "best")
    assert dict(curve_of_losses(tmp_path / "two")) == pytest.approx(dict(curve_of_losses(tmp_path / "one")), rel=1e-5)


def test_the_average_of_the_weights_is_what_is_measured() -> None:
    model = fresh(0.0)
    losses, evaluator = PretrainingPass(model, RECIPE.stage), evaluator_of(WATCHED)
    trained = list(model.named_parameters())
    average = WeightAverage(trained, 0.5)
    good = {name: p.detach().clone() for name, p in trained}
    expected = evaluator(losses)
    with torch.no_grad():
        for _, p in trained:
            p.fill_(float("nan"))
    assert evaluator(losses, average) == expected
    assert all(p.isnan().all() for _, p in trained) and losses.training
    assert all(torch.equal(average.averages[name], value) for name, value in good.items())
    assert evaluator(losses)["eval/recall"] != evaluator(losses)["eval/recall"]  # not a number


def test_only_a_better_and_finite_figure_replaces_the_best(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    best = BestModel(tmp_path, "recall", write, Processes())
    for step, value, kept in ((1, float("nan"), 0), (2, 0.3, 2), (3, 0.3, 2), (4, float("nan"), 2), (5, 0.4, 5)):
        best.offer(step, {"recall": value})
        assert best.step == kept
    assert json.loads((tmp_path / "best" / "evaluation.json").read_text())["step"] == 5
    # dead between the two renames, with a newer one half written
    (tmp_path / "best").rename(tmp_path / ".best-old")
    (tmp_path / ".best-new").mkdir()
    again = BestModel(tmp_path, "recall", write, Processes())
    again.restore(0.4, 5.0)
    assert (again.value, again.step) == (0.4, 5) and [p.name for p in tmp_path.iterdir()] == ["best"]
    other = BestModel(tmp_path, "image_to_text@1", write, Processes())
    other.restore(0.4, 5.0)  # chosen by another figure
    assert other.step == 0
    of_others = BestModel(tmp_path, "recall", write, Processes(), {"pairs": {"path": "harder.csv"}, "k": (1, 5)})
    of_others.restore(0.4, 5.0)  # a record without settings is of the present ones
    assert of_others.step == 5
    of_others.offer(6, {"recall": 0.5})
    for pairs, kept in (("harder.csv", 6), ("easier.csv", 0)):
        later = BestModel(tmp_path, "recall", write, Processes(), {"pairs": {"path": pairs}, "k": (1, 5)})
        later.restore(0.5, 6.0)
        assert later.step == kept
    (tmp_path / "best").rename(tmp_path / "elsewhere")
    lost = BestModel(tmp_path, "recall", write, Processes())
    lost.restore(0.4, 5.0)
    lost.offer(6, {"recall": 0.1})  # better than none
    assert lost.step == 6


def test_a_full_disk_costs_no_run_and_not_the_best_before(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        folder.mkdir()
        if best.step:
            raise OSError(errno.ENOSPC, "No space left on device")
        (folder / "config.json").write_text("{}")

    best = BestModel(tmp_path, "recall", write, Processes())
    assert best.offer(1, {"recall": 0.1}) is None
    assert "step 2, could not be saved" in (problem := best.offer(2, {"recall": 0.2}) or "")
    assert "No space left" in problem and "that of step 1 is kept" in problem
    assert (best.value, best.step) == (0.1, 1) and [p.name for p in tmp_path.iterdir()] == ["best"]


def test_a_figure_that_does_not_exist_cannot_decide() -> None:
    schedule = EvaluationSchedule(every=1, best_by="image_to_text@7")
    with pytest.raises(ValueError, match=r"best_by='image_to_text@7' .*: image_to_text@1, text_to_image@1, recall"):
        evaluator_of(dataclasses.replace(RECIPE, evaluation=schedule))


def test_labels_alone_are_decided_by_accuracy() -> None:
    evaluator = Evaluator(WATCHED, PROCESSORS, None, held_out(), "cpu", Processes())
    assert evaluator.best_by == "eval/zero_shot@1"


def test_prompts_are_averaged() -> None:
    schedule = EvaluationSchedule(every=1, prompts=("{}", "{}"))
    twice = evaluator_of(dataclasses.replace(WATCHED, evaluation=schedule))
    losses = PretrainingPass(fresh(0.0), RECIPE.stage)
    assert twice(losses) == evaluator_of(WATCHED)(losses)


def recipe_with(evaluation: dict[str, Any], **more: Any) -> PretrainRecipe:
    stage = dataclasses.asdict(RECIPE.stage)
    values = {"model": "nano", "stage": stage, "steps": 2, "batch_size": 4, "evaluation": evaluation}
    return PretrainRecipe.from_dict(values | more)


@pytest.mark.parametrize(
    ("evaluation", "more", "message"),
    [
        ({"evry": 5}, {}, "evaluation: unknown key 'evry'; the nearest is 'every'"),
        ({"pairs": {"pth": "x"}}, {}, "evaluation.pairs: unknown key 'pth'; the nearest is 'path'"),
        ({"every": 5}, {"files": {"a": {"path": "a.tsv"}}}, "set evaluation.pairs"),
        ({"prompts": ["a picture"]}, {}, "where the label stands"),
        ({"every": -1}, {}, "every is at least 0, not -1"),
        ({}, {"trackers": ["tensorbord"]}, "unknown 'tensorbord'; a list of some of tensorboard, wandb, trackio"),
    ],
)
def test_wrong_settings_are_answered(evaluation: dict[str, Any], more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe_with(evaluation, **more)


def test_what_is_trained_on_is_not_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(recipe: PretrainRecipe) -> None:
        open_evaluator(recipe, [], PROCESSORS, "cpu", Processes(), ShardCache(tmp_path / "cache"))

    monkeypatch.chdir(tmp_path)
    for number in range(3):
        Path(f"part-{number}.csv").write_text("path,text\na.png,a\n")
    Path("pairs.csv").symlink_to("part-0.csv")
    write_shards(tmp_path, 1, 2)
    for trained, evaluated, both in (
        (".", ".", "part-0.csv"),
        ("part-0.csv", "./part-0.csv", "part-0.csv"),
        (str(tmp_path / "part-0.csv"), "../" + tmp_path.name, "part-0.csv"),
        ("part-{0..1}.csv", "part-{1..2}.csv", "part-1.csv"),
        (f"file://{tmp_path}/train-000.tar", "train-000.tar", "train-000.tar"),
    ):
        recipe = recipe_with({"every": 1, "pairs": {"path": evaluated}}, files={"mine": {"path": trained}})
        with pytest.raises(ValueError, match=f"evaluation.pairs: {tmp_path}/{both} is also trained on"):
            opened(recipe)
    with pytest.raises(InputError, match="nowhere"):
        opened(recipe_with({"every": 1, "labels": {"path": "nowhere"}}))
    with pytest.raises(InputError, match="evaluation.pairs: there are no held-out pairs"):
        opened(recipe_with({"every": 1}))


def test_a_schedule_survives_being_written(tmp_path: Path) -> None:
    recipe = recipe_with({"every": 3, "labels": {"path": "l.csv"}, "prompts": ["a {}"]}, trackers=["tensorboard"])
    assert PretrainRecipe.from_dict(dataclasses.asdict(recipe)) == recipe
