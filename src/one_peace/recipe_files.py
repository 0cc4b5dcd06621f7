"""Recipes as files: YAML, found by name or path, with settings of a command line put in."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

SHORTHANDS = {"data": "tables.root", "checkpoint": "model"}
"""Paths on the command line -> the keys that they are settings of, in recipes of tasks."""


class _Loader(yaml.SafeLoader):
    """YAML as PyYAML reads it, but `2e-3` is a number and not a text, and a key is a text and stands once.

    Keys are looked at as they are written, before `<<` puts those of another mapping beside them.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        keys: list[Any] = []
        for key_node, _ in node.value:
            merges = key_node.tag == "tag:yaml.org,2002:merge"
            key = key_node.value if merges else self.construct_object(key_node, deep=True)
            wrong = f"the key {key!r} is no text; write it in quotes" if not isinstance(key, str) else None
            if wrong is None and key in keys:
                wrong = f"the key {key!r} stands twice"
            if wrong:
                raise yaml.constructor.ConstructorError(None, None, wrong, key_node.start_mark)
            keys.append(key)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_recipe(kind: str, name_or_path: str, settings: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a recipe of one kind (a folder of `recipes/`), with settings applied; dotted keys reach inside."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: the recipe cannot be read ({getattr(error, 'strerror', error)})") from error
    else:
        shipped = files("one_peace.recipes") / kind
        names = sorted(f.name.removesuffix(".yaml") for f in shipped.iterdir() if f.name.endswith(".yaml"))
        if name_or_path not in names:
            raise ValueError(f"no {kind} recipe {name_or_path!r}; shipped: {', '.join(names)}, or give a .yaml file")
        text = (shipped / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    values = _yaml(text, name_or_path)
    if not isinstance(values, dict):
        raise ValueError(f"{name_or_path}: a recipe is a mapping of settings")
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"setting {setting!r} is not of the form key=value")
        *parents, leaf = key.split(".")
        target = values
        for parent in parents:
            inner = target.get(parent, {})
            if not isinstance(inner, dict):
                raise ValueError(f"setting {setting!r}: {parent} is a plain value and holds no settings")
            target[parent] = inner = dict(inner)  # aliases of it in the file stay what they are
            target = inner
        target[leaf] = _yaml(value, f"setting {setting!r}")
    return values


def text_setting(key: str, text: object) -> str:
    """The setting of a key to a text as it stands, whatever YAML would make of it: a folder may be called 2024."""
    return f"{key}={json.dumps(str(text), ensure_ascii=False)}"


def written_out(setting: str) -> str:
    """A setting in place of one of `SHORTHANDS`, others as they are."""
    key, equals, path = setting.partition("=")
    return text_setting(SHORTHANDS[key], path) if equals and key in SHORTHANDS else setting


def follow_modality(values: dict[str, Any], settings: Sequence[str]) -> None:
    """With another `task.modality` among the settings, and no `tables.columns`, the column `path`, which a recipe takes
    for the media of its own modality, is that of this one. Changes `values`."""
    if not any(setting.startswith("task.modality=") for setting in settings):
        return
    columns = values["tables"].get("columns") if isinstance(values.get("tables"), dict) else None
    if isinstance(columns, dict) and "path" in columns and not any(s.startswith("tables.columns") for s in settings):
        columns["path"] = values["task"]["modality"]


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"{where}: is no YAML ({problem})") from error


def plain_values(value: Any) -> Any:
    """The same with lists in place of tuples, as YAML and JSON have it."""
    if isinstance(value, dict):
        return {k: plain_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(v) for v in value]
    return value
