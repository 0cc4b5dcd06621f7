"""`recipe.yaml` in a run folder: the whole recipe, and which run the folder's state and model are of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from one_peace.atomic_files import write_whole
from one_peace.checkpoints.native import is_native
from one_peace.errors import CheckpointError
from one_peace.training.distributed import Processes
from one_peace.training.state import complete_states, has_state

KEPT = "recipe.yaml"
LESSONS = "lessons"  # in a run folder: what is learned ahead of its updates
SHOWN = 60  # characters of a value in a message
MAY_CHANGE = {
    "steps",
    "epochs",
    "patience",
    "evaluate_every",
    "evaluation",
    "log_every",
    "save_every",
    "workers",
    "micro_batch",
    "engine",
    "trackers",
}
"""Keys by which a run goes on longer, elsewhere or watched in another way, and is still the same run."""

GONE = {"first_items": 0, "all_items_by": 0}
"""Keys of `data` in recipes of earlier versions, with the values that change nothing."""


def without_gone(recipe: Any) -> Any:
    """A recipe as plain values without keys that are `GONE`; anything else as it is."""
    if not isinstance(recipe, Mapping) or not isinstance(recipe.get("data"), Mapping):
        return recipe
    return {**recipe, "data": {k: v for k, v in recipe["data"].items() if (k, v) not in GONE.items()}}


def keep_recipe(out: Path, values: Mapping[str, Any], processes: Processes) -> None:
    """Writes the recipe of the run in `out`, given as plain values; the one before stays until it is whole. Every
    process calls it, before anything else is written there.

    Raises:
        CheckpointError: `out` holds a run of another recipe, whose weights would be taken for those of this one.
        OSError: the recipe cannot be written; names it.
    """
    text = yaml.safe_dump(dict(values), sort_keys=False)
    if problem := processes.share(_other_run(out, yaml.safe_load(text)) if processes.first else None):
        raise CheckpointError(problem)
    if processes.first:
        out.mkdir(parents=True, exist_ok=True)
        if not (out / KEPT).is_file() or (out / KEPT).read_bytes() != text.encode():
            write_whole(out / KEPT, text.encode())


def goes_on(out: Path, processes: Processes) -> bool:
    """Whether the run in `out` has begun, so that its settings, tokenizer and kept values are those of `out/model`.

    Raises:
        CheckpointError: a state without the model that it goes on from; a new one's values would not fit it.
    """
    begun = processes.any(is_native(out / "model"))
    if not begun and processes.any(has_state(out / "state")):
        raise CheckpointError(
            f"{out}: holds a state to go on from, but not the model that the run began with (model/config.json). "
            f"Put {out / 'model'} back, or remove {out / 'state'} to begin anew"
        )
    return begun


def unfinished(model: Path) -> str | None:
    """How far the run in the folder above `model` has come, if it is unfinished: until the end, `model` is what it
    began with."""
    path, done = model.parent / KEPT, max(complete_states(model.parent / "state"), default=None)
    if model.name != "model" or done is None or not path.is_file():
        return None
    try:
        kept = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError):  # a damaged one says nothing of the model, which may be used all the same
        return None
    steps = kept.get("steps") if isinstance(kept, dict) else None
    return f"{done} of {steps} updates" if isinstance(steps, int) and done < steps else None


def _other_run(out: Path, values: dict[str, Any]) -> str | None:
    """The error message if `out` holds a run of another recipe, else None."""
    path = out / KEPT
    begun = has_state(out / "state") or is_native(out / "model") or (out / LESSONS).is_dir()
    if not path.is_file() or not begun:
        return None
    try:
        kept = without_gone(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        return f"{path}: cannot be read ({error}); remove it to go on with the run in {out}"
    before, now = dict(_leaves(kept)), dict(_leaves(values))
    changed = [key for key in before | now if before.get(key) != now.get(key) and key.split(".")[0] not in MAY_CHANGE]
    if not changed:
        return None
    shown = [f"{key}: {_shown(before.get(key))}, now {_shown(now.get(key))}" for key in changed[:3]]
    more = [f"and {len(changed) - 3} more"] if len(changed) > 3 else []
    return (
        f"{out}: holds a run of another recipe ({'; '.join(shown + more)}); choose another --out, or remove the folder "
        f"to start again. Without {KEPT} in it that run goes on with the recipe given now"
    )


def _leaves(values: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Dotted key -> value of all that is no mapping."""
    if not isinstance(values, dict):
        yield ".".join(above), values
        return
    for key, value in values.items():
        yield from _leaves(value, (*above, str(key)))


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."
