"""`task.json` beside a fine-tuned model: which task it is for."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any, Self

from one_peace.configuration import build_dataclass
from one_peace.errors import InputError

TASK_FILE = "task.json"


class SavedSettings(ABC):
    """Of dataclasses of settings with a `kind`: into such a file and back."""

    @classmethod
    @abstractmethod
    def kinds(cls) -> Collection[str]:
        """The kinds of tasks that these settings are for."""

    def save(self: Any, folder: Path) -> None:
        """Writes `task.json`."""
        values = json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1)
        (folder / TASK_FILE).write_text(values + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The settings in a model's folder, None without any or with those of another kind of task. `InputError` for
        damaged ones."""
        path = folder / TASK_FILE
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            kind = values.get("kind") if isinstance(values, dict) else None
            if isinstance(kind, str) and kind not in cls.kinds():
                return None
            return build_dataclass(cls, values, TASK_FILE)
        except ValueError as error:
            raise InputError(str(path), f"is damaged: {error}") from error
